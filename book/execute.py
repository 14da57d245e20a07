"Run chapters as a reader has them, with the package as a wheel, each in a folder with nothing else, several at a time."
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from jupyter_cache import get_cache
from jupyter_cache.executors import load_executor
from settings import root

TIMED = ("07_cpu", "10_torch", "12_how_fast", "13_converting")     # these time something, alone on the machine
NOT_SOURCE = shutil.ignore_patterns(".git", ".venv", ".drafts", ".*_cache", ".hypothesis", ".ipynb_checkpoints",
                                    "_build", "_proc", "build", "dist", "*.egg-info", "__pycache__")


def copy_to(folder):
    "The repository's source files in a folder that may be written to; what is built stays behind."
    return Path(shutil.copytree(root, Path(folder)/"gn_nb", ignore=NOT_SOURCE))


def wheel(folder):
    "The wheel, in this folder; built from a copy, so that neither build/ nor an egg-info appears in the repository."
    with tempfile.TemporaryDirectory() as other:
        subprocess.run([sys.executable, "-m", "build", "--wheel", "--no-isolation", "-o", folder], cwd=copy_to(other),
                       check=True, capture_output=True)
    built, = Path(folder).glob("*.whl")
    return built


def install(built, folder):
    "The wheel alone, unpacked into a folder to import from."
    subprocess.run([sys.executable, "-m", "pip", "install", "-q", "--disable-pip-version-check", "--no-deps",
                    "--no-index", "--target", folder, built], check=True)


def environment(package, folder):
    """Variables for kernels: where they import the package from; a profile of their own, in a folder.

    The profile silences all but errors, and keeps the folder for temporary files what it is at this moment.
    """
    profile, temporary = Path(folder)/"profile_default", tempfile.gettempdir()
    profile.mkdir(parents=True, exist_ok=True)
    (profile/"ipython_kernel_config.py").write_text(
        "import os, tempfile\n"
        f"os.environ['TMPDIR'] = tempfile.tempdir = {temporary!r}\n"
        "c.IPKernelApp.log_level = 40\n")
    return {"PYTHONPATH": str(package), "IPYTHONDIR": str(folder), "PYDEVD_DISABLE_FILE_VALIDATION": "1"}


def execute(
    paths,       # of notebooks
    cache,       # folder; what it has is not run again
    package,     # folder to import the package from
    home,        # folder in which each notebook is given one of its own
):               # sentences: what went wrong in which notebook
    "Run notebooks and keep them in the cache, where the build of the book finds them."
    kept, before, home, found = get_cache(cache), dict(os.environ), Path(home), []
    home.mkdir(parents=True, exist_ok=True)
    os.environ |= environment(package, home/"ipython") | {"TMPDIR": str(home)}
    tempfile.tempdir = None                                                       # it is looked up again
    try:
        for path in paths: kept.add_nb_to_project(str(path))
        for kind, alone in (("temp-serial", True), ("temp-parallel", False)):
            uris = [str(path) for path in paths if (path.stem in TIMED) == alone]
            done = load_executor(kind, kept).run_and_cache(filter_uris=uris, timeout=600) if uris else None
            for uri in done.excepted + done.errored if done else ():
                reason = kept.get_project_record(uri).traceback or "it could not be read or kept"
                found.append(f"{Path(uri).name}: {reason[-3000:]}")
    finally:
        os.environ.clear(); os.environ.update(before)
        tempfile.tempdir = None
    return found
