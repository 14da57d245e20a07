"Build the book: export the package, execute the chapters, write the site, check its pages."
import argparse
import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from check import problems
from execute import environment, execute, install, wheel
from extension import translate
from prepare import chapters, export
from settings import root, settings

BUILT = root/"_build"
SITE, CACHE = BUILT/"html", BUILT/".jupyter_cache"
CODE = "gn_nb/**/*.py", "results/*.json*", "constraints.txt", "settings.ini"       # what a chapter's result depends on
PAGES = *CODE, "nbs/*", "book/**/*", "_*.yml", "references.bib"                    # what the site depends on


def key(patterns):
    "Changes when one of these files does, or Python."
    files = sorted({f for pattern in patterns for f in root.glob(pattern) if f.is_file() and f.suffix != ".pyc"})
    parts = [part for f in files for part in (str(f.relative_to(root)).encode(), f.read_bytes())]
    return hashlib.sha256(b"\0".join(parts) + sys.version.encode()).hexdigest()


def has(stamp, patterns): return stamp.exists() and stamp.read_text() == key(patterns)


def run_chapters():
    "Execute what has changed; sentences: what went wrong where."
    stamp, package = BUILT/".key", BUILT/"package"
    if not (package.exists() and has(stamp, CODE)):
        for old in (CACHE, package): shutil.rmtree(old, ignore_errors=True)
        with tempfile.TemporaryDirectory() as folder: install(wheel(folder), package)
        stamp.write_text(key(CODE))
    home, read = BUILT/"run", BUILT/"read"
    for old in (home, read): shutil.rmtree(old, ignore_errors=True)
    shutil.copytree(root/"results", home/"results")           # beside the folder of every chapter, as beside nbs/
    read.mkdir()
    for path in chapters():                                   # as Sphinx reads it, or it would not know it in the cache
        (read/path.name).write_text(json.dumps(translate(json.loads(path.read_text("utf-8")))), "utf-8")
    return execute(sorted(read.glob("*.ipynb")), CACHE, package, home)


def sphinx(*options):
    "Run jupyter-book on the whole book, whose chapters come executed from the cache; the exit status."
    command = [str(Path(sys.executable).with_name("jupyter-book")), "build", ".", "-W", "-n", "--keep-going", *options]
    return subprocess.run(command, cwd=root, env=os.environ | environment(BUILT/"package", BUILT/"ipython")).returncode


def build(quiet):
    "Build the site; the exit status: 0 only if every cell ran, nothing warned and every page passes its checks."
    start = time.perf_counter()
    export()
    BUILT.mkdir(exist_ok=True)
    stamp, done = BUILT/".site", f"{settings()['title']}: {SITE/'index.html'}"
    if SITE.exists() and has(stamp, PAGES):
        print(done, "is up to date")
        return 0
    stamp.unlink(missing_ok=True)
    found = run_chapters()
    if found:
        print(*found, sep="\n\n", file=sys.stderr)
        return 1
    for old in (BUILT/".doctrees", SITE): shutil.rmtree(old, ignore_errors=True)
    status = sphinx(*["-q"]*quiet)
    if status: return status
    found = problems(SITE)
    for problem in found: print(problem, file=sys.stderr)
    if not found:
        stamp.write_text(key(PAGES))
        print(f"{done} ({time.perf_counter() - start:.0f} s)")
    return int(bool(found))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quiet", action="store_true", help="only warnings and errors")
    sys.exit(build(parser.parse_args().quiet))
