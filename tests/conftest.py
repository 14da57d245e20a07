"What tests share: the book's scripts on the path, one thread, a hypothesis profile, copies of the repository, a wheel."
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from hypothesis import settings

ROOT = Path(__file__).resolve().parent.parent
NOT_SOURCE = shutil.ignore_patterns(".git", ".venv", ".drafts", ".*_cache", ".hypothesis", ".ipynb_checkpoints",
                                    "_build", "_proc", "build", "dist", "*.egg-info", "__pycache__")

sys.path.insert(0, str(ROOT/"book"))
torch.set_num_threads(1)
settings.register_profile("gn_nb", derandomize=True, database=None, deadline=None, max_examples=50)
settings.load_profile("gn_nb")


def copy_to(folder):
    "The repository's source files in a folder that a test may write to; what is built stays behind."
    return Path(shutil.copytree(ROOT, folder/"gn_nb", ignore=NOT_SOURCE))


@pytest.fixture(scope="session")
def wheel(tmp_path_factory):
    "The wheel, built in a copy so that neither build/ nor an egg-info appears in the repository."
    folder = copy_to(tmp_path_factory.mktemp("source"))
    subprocess.run([sys.executable, "-m", "build", "--wheel", "--no-isolation", "-o", folder/"dist"], cwd=folder,
                   check=True, capture_output=True)
    built, = (folder/"dist").glob("*.whl")
    return built
