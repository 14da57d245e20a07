"What tests share: the book's scripts on the path, one thread, a hypothesis profile, a wheel."
import sys
from pathlib import Path

import pytest
import torch
from hypothesis import settings

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT/"book"))
from execute import install  # noqa: E402
from execute import wheel as build_wheel  # noqa: E402

torch.set_num_threads(1)
settings.register_profile("gn_nb", derandomize=True, database=None, deadline=None, max_examples=50)
settings.load_profile("gn_nb")


@pytest.fixture(autouse=True)
def flags_may_be_set():
    "torch's own test library, once imported, forbids to set flags of torch.backends in this process."
    yield
    torch.backends.flags_frozen.__globals__["__allow_nonbracketed_mutation_flag"] = True


@pytest.fixture(scope="session")
def wheel(tmp_path_factory): return build_wheel(tmp_path_factory.mktemp("wheel"))


@pytest.fixture(scope="session")
def installed(wheel, tmp_path_factory):
    "A folder to import the package from, with what is in the wheel and nothing else."
    folder = tmp_path_factory.mktemp("installed")
    install(wheel, folder)
    return folder
