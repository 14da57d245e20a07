"Before a commit: notebooks clean and with their first cell, package exported, README written."
import re

import nbformat
from nbdev.clean import nbdev_clean
from nbdev.config import add_init
from nbdev.export import nb_export
from settings import root, settings

# The first cell of every chapter. A bare numba-cuda would bring the libraries of the newest CUDA beside torch's own.
COLAB_CELL = f'''\
import sys
%precision %.4g
if "google.colab" in sys.modules:  # elsewhere: pip install "gn_nb[lab]"
    import torch
    cuda = (torch.version.cuda or "").split(".")[0]  # the compiler of GPU kernels must be for the CUDA of torch
    extras = {{"12": "lab,cuda12", "13": "lab,cuda13"}}.get(cuda, "lab")
    %pip install -q "gn_nb[{{extras}}]=={settings()["version"]}"
    from importlib.metadata import version
    print(*(f"{{name}} {{version(name)}}" for name in ("gn_nb", "numpy", "numba", "torch")), sep=", ")
    if torch.cuda.is_available(): print("GPU:", torch.cuda.get_device_name())
    else: print("No GPU: every cell still runs; to time GPU kernels choose Runtime > Change runtime type > T4 GPU.")'''
GPU = {"accelerator": "GPU", "colab": {"gpuType": "T4"}}        # metadata: Colab opens these with a card
ON_GPU = ("08_cuda_steps", "09_cuda", "10_torch", "12_how_fast")


def chapters(): return sorted((root/"nbs").glob("*.ipynb"))


def export():
    "Write gn_nb/ from nbs/: what nbdev_export does, less an index of documentation links that this book does not use."
    for path in chapters(): nb_export(path, lib_path=root/"gn_nb")
    add_init(root/"gn_nb")


def cleaned(notebook, name):
    "The notebook without outputs and counts, its first code cell the one that installs the package in Colab."
    for cell in notebook.cells:
        if cell.cell_type == "code": cell.outputs, cell.execution_count = [], None
    first = next((i for i, c in enumerate(notebook.cells) if c.cell_type == "code"), len(notebook.cells))
    cell = nbformat.v4.new_code_cell(COLAB_CELL, metadata={"tags": ["colab"]}, id="colab")
    is_colab = first < len(notebook.cells) and "colab" in notebook.cells[first].metadata.get("tags", [])
    notebook.cells[first:first + is_colab] = [cell]
    notebook.metadata = (GPU if name in ON_GPU else {}) | {
        "kernelspec": {"display_name": "python3", "language": "python", "name": "python3"}}
    notebook.nbformat, notebook.nbformat_minor = 4, 5
    return notebook


PASSES = (("forward", "float32"), ("backward", "float32"), ("silu", "float32"), ("silu", "bfloat16"))


def speed_table():
    "What the figures of the front page say of contiguous layers, from the same records, as Markdown."
    from gn_nb.lab.records import peer_means, read, speedups  # exported above
    head = "machine", "pass", "dtype", "times faster than torch", "torch is ahead on"
    rows = [head, ["---"]*len(head)]
    for file in (root/"results/cpu.json", *sorted((root/"results").glob("gpu-*.json"))):
        record = read(file)
        machine, means = record["machine"], peer_means(record, "torch")
        name = machine.get("gpu") or f"{machine['cpu']}, {machine['cores']} cores"
        for mode, dtype in PASSES:
            if (mode, dtype, "contiguous") not in means: continue
            ratios = speedups(record, "torch", mode, dtype, "contiguous").values()
            mean, behind = means[mode, dtype, "contiguous"][0], sum(r < 1 for r in ratios)
            rows.append((name, "forward with SiLU" if mode == "silu" else mode, dtype, f"{mean:.1f}",
                         f"{behind} of {len(ratios)}"))
    lines = ["| " + " | ".join(row) + " |" for row in rows]
    return "\n".join([*lines, "", "Geometric means over the layers of the records in `results/`, contiguous."])


def readme():
    """README.md: the text and code of nbs/index.ipynb. Links lead to the site: what it is made of is not whole without
    the build, and the README stands on the package's page, too."""
    parts, site = [], f"{settings()['lib_url']}/nbs/"
    for cell in nbformat.read(root/"nbs/index.ipynb", 4).cells:
        tags = cell.metadata.get("tags", [])
        if "speed" in tags: parts.append(speed_table())
        elif cell.cell_type == "markdown":
            parts.append(re.sub(r"\]\((\w+)\.(?:ipynb|md)", rf"]({site}\1.html", cell.source))
        elif not {"colab", "figure"} & set(tags):
            parts.append(f"```python\n{cell.source}\n```")
    return "\n\n".join(parts) + "\n"


def prepare():
    for path in chapters(): nbformat.write(cleaned(nbformat.read(path, 4), path.stem), path)
    nbdev_clean()
    export()
    (root/"README.md").write_text(readme(), encoding="utf-8")


if __name__ == "__main__": prepare()
