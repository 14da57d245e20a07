"Build the book: export the package, execute the chapters, write the site, check its pages."
import argparse
import hashlib
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

from check import problems
from prepare import export
from settings import root, settings

SITE = root/"_build/html"


def key():
    "Changes when a chapter's result may change though its text did not."
    files = [*sorted((root/"gn_nb").rglob("*.py")), *sorted((root/"results").glob("*.json*")), root/"constraints.txt",
             root/"settings.ini"]
    return hashlib.sha256(b"".join(f.read_bytes() for f in files) + sys.version.encode()).hexdigest()


def sphinx(*options):
    "Run jupyter-book on the whole book; the exit status. Chapters that have not changed come executed from the cache."
    profile = root/"_build/ipython/profile_default"        # of our own: nobody's startup files, and errors only
    profile.mkdir(parents=True, exist_ok=True)
    (profile/"ipython_kernel_config.py").write_text("c.IPKernelApp.log_level = 40\n")
    command = [str(Path(sys.executable).with_name("jupyter-book")), "build", ".", "-W", "-n", "--keep-going", *options]
    return subprocess.run(command, cwd=root, env=os.environ | {"IPYTHONDIR": str(profile.parent)}).returncode


def build(quiet):
    "Build the site; the exit status: 0 only if every cell ran, nothing warned and every page passes its checks."
    start = time.perf_counter()
    export()
    keyfile = root/"_build/.key"
    if not keyfile.exists() or keyfile.read_text() != key():
        shutil.rmtree(root/"_build/.jupyter_cache", ignore_errors=True)
        keyfile.parent.mkdir(exist_ok=True)
        keyfile.write_text(key())
    for old in (root/"_build/.doctrees", SITE): shutil.rmtree(old, ignore_errors=True)
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
