"Build the book: export the package, execute the chapters, write the site, check its pages."
import argparse
import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from check import problems
from execute import environment, execute, install, wheel
from prepare import chapters, export
from settings import root, settings

BUILT = root/"_build"
SITE, CACHE = BUILT/"html", BUILT/".jupyter_cache"


def key():
    "Changes when a chapter's result may change though its text did not."
    files = [*sorted((root/"gn_nb").rglob("*.py")), *sorted((root/"results").glob("*.json*")), root/"constraints.txt",
             root/"settings.ini"]
    return hashlib.sha256(b"".join(f.read_bytes() for f in files) + sys.version.encode()).hexdigest()


def run_chapters():
    "Execute what has changed; sentences: what went wrong where."
    keyfile, package = BUILT/".key", BUILT/"package"
    if not (package.exists() and keyfile.exists() and keyfile.read_text() == key()):
        for old in (CACHE, package): shutil.rmtree(old, ignore_errors=True)
        with tempfile.TemporaryDirectory() as folder: install(wheel(folder), package)
        keyfile.write_text(key())
    home = BUILT/"run"
    shutil.rmtree(home, ignore_errors=True)
    shutil.copytree(root/"results", home/"results")           # beside the folder of every chapter, as beside nbs/
    return execute(chapters(), CACHE, package, home)


def sphinx(*options):
    "Run jupyter-book on the whole book, whose chapters come executed from the cache; the exit status."
    command = [str(Path(sys.executable).with_name("jupyter-book")), "build", ".", "-W", "-n", "--keep-going", *options]
    return subprocess.run(command, cwd=root, env=os.environ | environment(BUILT/"package", BUILT/"ipython")).returncode


def build(quiet):
    "Build the site; the exit status: 0 only if every cell ran, nothing warned and every page passes its checks."
    start = time.perf_counter()
    export()
    BUILT.mkdir(exist_ok=True)
    found = run_chapters()
    if found:
        print(*found, sep="\n\n", file=sys.stderr)
        return 1
    for old in (BUILT/".doctrees", SITE): shutil.rmtree(old, ignore_errors=True)
    status = sphinx(*["-q"]*quiet)
    if status: return status
    found = problems(SITE)
    for problem in found: print(problem, file=sys.stderr)
    if not found: print(f"{settings()['title']}: {SITE/'index.html'} ({time.perf_counter() - start:.0f} s)")
    return int(bool(found))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quiet", action="store_true", help="only warnings and errors")
    sys.exit(build(parser.parse_args().quiet))
