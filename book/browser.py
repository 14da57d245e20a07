"A chromium: where it is, and its installation where none is. The tests of the site and the printed book need one."
import os
import shutil
import subprocess
import sys

NAMES = ("chromium", "chromium-browser", "google-chrome")
MISSING = "no chromium here: `make browser` installs Debian's"


def chromium():
    "The path of the machine's chromium, or None."
    return next(filter(None, map(shutil.which, NAMES)), None)


def install():
    "Debian's package, where none is there; the exit status."
    if chromium(): return 0
    apt = shutil.which("apt-get")
    if not apt: sys.exit(f"no chromium and no apt-get here: install one of {', '.join(NAMES)} yourself")
    root = [] if os.geteuid() == 0 else ["sudo", "-n"]
    print("installing chromium ...")
    for command in (["update", "-qq"], ["install", "-y", "-qq", "--no-install-recommends", "chromium"]):
        done = subprocess.run([*root, apt, *command], env=os.environ | {"DEBIAN_FRONTEND": "noninteractive"},
                              capture_output=True, text=True)
        if done.returncode: sys.exit(f"{' '.join(done.args)}\n{done.stdout}{done.stderr}")
    return 0 if chromium() else sys.exit("apt-get installed chromium, but none of its names is on the path")


if __name__ == "__main__": sys.exit(install())
