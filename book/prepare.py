"Before a commit: notebooks clean and with their first cell, package exported, README written."
import re

import nbformat
from nbdev.clean import nbdev_clean
from nbdev.config import add_init
from nbdev.export import nb_export
from settings import root

COLAB_CELL = '''\
import sys
if "google.colab" in sys.modules:  # elsewhere: pip install "gn_nb[lab]"
    %pip install -q "gn_nb[lab]"
    import torch
    if not torch.cuda.is_available():
        print("No GPU: every cell still runs; to time GPU kernels choose Runtime > Change runtime type > T4 GPU.")'''


def chapters(): return sorted((root/"nbs").glob("*.ipynb"))


def export():
    "Write gn_nb/ from nbs/: what nbdev_export does, less an index of documentation links that this book does not use."
    for path in chapters(): nb_export(path, lib_path=root/"gn_nb")
    add_init(root/"gn_nb")


def cleaned(notebook):
    "The notebook without outputs and counts, its first code cell the one that installs the package in Colab."
    for cell in notebook.cells:
        if cell.cell_type == "code": cell.outputs, cell.execution_count = [], None
    first = next((i for i, c in enumerate(notebook.cells) if c.cell_type == "code"), len(notebook.cells))
    cell = nbformat.v4.new_code_cell(COLAB_CELL, metadata={"tags": ["colab"]}, id="colab")
    is_colab = first < len(notebook.cells) and "colab" in notebook.cells[first].metadata.get("tags", [])
    notebook.cells[first:first + is_colab] = [cell]
    notebook.metadata = {k: v for k, v in notebook.metadata.items() if k in ("accelerator", "colab")} | {
        "kernelspec": {"display_name": "python3", "language": "python", "name": "python3"}}
    notebook.nbformat, notebook.nbformat_minor = 4, 5
    return notebook


def readme():
    "README.md: the text and code of nbs/index.ipynb; links lead from the top folder."
    parts = []
    for cell in nbformat.read(root/"nbs/index.ipynb", 4).cells:
        tags = cell.metadata.get("tags", [])
        if cell.cell_type == "markdown":
            parts.append(re.sub(r"\]\((?=\w+\.ipynb)", "](nbs/", cell.source))
        elif not {"colab", "figure"} & set(tags):
            parts.append(f"```python\n{cell.source}\n```")
    return "\n\n".join(parts) + "\n"


def prepare():
    for path in chapters(): nbformat.write(cleaned(nbformat.read(path, 4)), path)
    nbdev_clean()
    export()
    (root/"README.md").write_text(readme(), encoding="utf-8")


if __name__ == "__main__": prepare()
