"Package metadata: everything that can change stands in settings.ini."
from configparser import ConfigParser
from pathlib import Path

from setuptools import find_packages, setup

root = Path(__file__).parent
parser = ConfigParser(delimiters=["="])
with open(root/"settings.ini", encoding="utf-8") as f: parser.read_file(f)
cfg = parser["DEFAULT"]
extras = {name: cfg[f"{name}_requirements"].split()
          for name in ("cuda12", "cuda13", "onnx", "lab", "cluster", "bench", "dev")}
setup(
    name=cfg["lib_name"], version=cfg["version"], description=cfg["description"], keywords=cfg["keywords"].split(),
    author=cfg["author"], author_email=cfg["author_email"], url=cfg["git_url"],
    project_urls={"Book": cfg["lib_url"], "Source": cfg["git_url"]},
    license_expression="Apache-2.0", license_files=["LICENSE"], python_requires=f">={cfg['min_python']}",
    packages=find_packages(include=["gn_nb", "gn_nb.*"]), package_data={"gn_nb": ["py.typed"]},
    include_package_data=False, zip_safe=False,
    entry_points={"console_scripts": cfg["console_scripts"].split()},
    install_requires=cfg["requirements"].split(), extras_require=extras,
    long_description=(root/"README.md").read_text(encoding="utf-8"), long_description_content_type="text/markdown",
    classifiers=["Development Status :: 3 - Alpha", "Intended Audience :: Science/Research",
                 "Programming Language :: Python :: 3", "Topic :: Scientific/Engineering :: Artificial Intelligence"])
