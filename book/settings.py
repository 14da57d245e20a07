"What settings.ini says, for the scripts that build and check the book."
from configparser import ConfigParser
from pathlib import Path

root = Path(__file__).resolve().parent.parent


def settings():
    "The values of settings.ini, with %(...)s filled in."
    parser = ConfigParser(delimiters=["="])
    parser.read(root/"settings.ini", encoding="utf-8")
    return parser["DEFAULT"]
