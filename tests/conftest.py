"What every test shares: the book's scripts on the path, one thread, one hypothesis profile, a copy of the repository."
import shutil
import sys
from pathlib import Path

import pytest
import torch
from hypothesis import settings

ROOT = Path(__file__).resolve().parent.parent
NOT_SOURCE = shutil.ignore_patterns(".git", ".venv", ".drafts", ".*_cache", ".hypothesis", ".ipynb_checkpoints", "_build",
                                    "_proc", "build", "dist", "*.egg-info", "__pycache__")

sys.path.insert(0, str(ROOT/"book"))
torch.set_num_threads(1)
settings.register_profile("gn_nb", derandomize=True, database=None, deadline=None, max_examples=50)
settings.load_profile("gn_nb")


@pytest.fixture
def copy(tmp_path):
    "The repository's source files in a folder that a test may write to; what is built stays behind."
    return Path(shutil.copytree(ROOT, tmp_path/"gn_nb", ignore=NOT_SOURCE))
