"Run chapters as Colab would: fresh environment, its versions, the package as a wheel, a folder with nothing else."
import argparse
import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

import nbformat
from execute import wheel
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from settings import root, settings

LIST = root/"book/colab-2026-08-19.txt"
HOME = root/"_build/colab"
WANTED = ("numpy", "numba", "torch", "ipython", "ipykernel")      # shown in the table's head; the first three are ours


def image():
    "{package: version} of Colab's image, `python` among them."
    lines = (line.split("#")[0].strip() for line in LIST.read_text(encoding="utf-8").splitlines())
    return dict(line.split("==") for line in lines if line)


def requirements(*extras):
    "What the package needs, with these extras."
    names = ["requirements", *(f"{extra}_requirements" for extra in extras)]
    return [Requirement(word) for name in names for word in settings()[name].split()]


def pinned(name):
    "The version of constraints.txt."
    return re.search(rf"^{name}==([^\s;]+)", (root/"constraints.txt").read_text(encoding="utf-8"), re.M)[1]


def constraints(torch):
    "pip constraints: Colab's versions, but for what needs a card."
    ours = {name: v for name, v in image().items() if not name.startswith(("python", "triton", "cuda-", "numba-cuda"))}
    return ours | {"torch": torch}


def interpreter():
    "A Python and its torch: of Colab's minor version, if one has a torch without CUDA, which is gigabytes less."
    minor, cpu = ".".join(image()["python"].split(".")[:2]), f"{pinned('torch')}+cpu"
    for path in (shutil.which(f"python{minor}"), *Path.home().glob(f".pyenv/versions/{minor}.*/bin/python"),
                 sys.executable):
        if path and not subprocess.run([path, "-m", "pip", "install", "--dry-run", "--no-deps", "-q", "--target", HOME,
                                        f"torch=={cpu}"], capture_output=True).returncode: return path, cpu
    return sys.executable, pinned("torch")


def environment():
    "Set up the environment anew; its Python."
    python = HOME/"venv/bin/python"
    shutil.rmtree(HOME, ignore_errors=True)
    HOME.mkdir(parents=True)
    base, torch = interpreter()
    subprocess.run([base, "-m", "venv", HOME/"venv"], check=True)
    pins = HOME/"constraints.txt"
    pins.write_text("".join(f"{name}=={v}\n" for name, v in constraints(torch).items()), encoding="utf-8")
    def run(*command):
        found = subprocess.run([*map(str, command)], cwd=HOME, capture_output=True, text=True)
        if found.returncode: sys.exit(found.stderr)
    run(python, "-m", "pip", "install", "-q", "--disable-pip-version-check", "-c", pins, f"{wheel(HOME)}[lab]",
        "ipykernel", "ipython", "setuptools")
    run(python, "-m", "ipykernel", "install", "--sys-prefix", "--name", "colab")
    return python


def installed(python, names):
    "{name: version, or 'missing'} in that environment."
    code = ("import sys; from importlib.metadata import version, PackageNotFoundError\n"
            "for n in sys.argv[1:]:\n"
            "    try: print(version(n))\n"
            "    except PackageNotFoundError: print('missing')")
    out = subprocess.run([python, "-c", code, *names], capture_output=True, text=True, check=True).stdout
    return dict(zip(names, out.split()))


def table(rows):
    widths = [max(len(str(row[k])) for row in rows) for k in range(len(rows[0]))]
    return "\n".join("  ".join(str(v).ljust(w) for v, w in zip(row, widths)).rstrip() for row in rows)


def run(path):
    "Execute one chapter in a folder of its own: (result, seconds)."
    folder = HOME/"run"/path.stem
    folder.mkdir(parents=True, exist_ok=True)
    start = time.perf_counter()
    try:
        NotebookClient(nbformat.read(path, 4), timeout=1200, kernel_name="colab",
                       resources={"metadata": {"path": str(folder)}}).execute()
        result = "ok"
    except CellExecutionError as e: result = f"FAILED: {e.ename}: {e.evalue}".splitlines()[0][:90]
    return result, time.perf_counter() - start


def main(numbers):
    paths = [p for p in sorted((root/"nbs").glob("*.ipynb")) if not numbers or p.name.startswith(tuple(numbers))]
    if not paths: sys.exit(f"no chapter begins with {' or '.join(numbers)}")
    python = environment()
    os.environ |= {"JUPYTER_PATH": str(HOME/"venv/share/jupyter"), "PYDEVD_DISABLE_FILE_VALIDATION": "1"}
    has, there = subprocess.run([python, "-V"], capture_output=True, text=True).stdout.split()[1], image()
    versions = installed(python, [canonicalize_name(n) for n in there if n in WANTED])
    print(table([("package", f"in Colab, {LIST.stem[6:]}", "here"), ("python", there["python"], has),
                 *((n, there[n], v) for n, v in versions.items())]), end="\n\n", flush=True)
    rows = [("chapter", "seconds", "result")]
    for path in paths:
        result, seconds = run(path)
        rows.append((path.stem, f"{seconds:.0f}", result))
        print(*rows[-1], flush=True)
    print("\n" + table(rows))
    return int(any(row[2] != "ok" for row in rows[1:]))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("numbers", nargs="*", help="chapters, such as 00 03; all if none is named")
    sys.exit(main(parser.parse_args().numbers))
