import os
from unittest.mock import patch

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch is imported: every worker of pytest has one core

import pytest
import torch

from policykd import native
from policykd.native import kernels


@pytest.fixture(autouse=True)
def one_thread():
    """Torch on one thread, as in training: the native kernels serve float32 networks then, and tests are faster."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(autouse=True, scope="module")
def on_the_processor(request):
    """``device="auto"`` is the processor on every machine, in child processes, too, but for the tests of the GPU."""
    with pytest.MonkeyPatch.context() as patch:
        if request.module.__name__ != "test_cuda":
            patch.setattr(torch.cuda, "is_available", lambda: False)
            patch.setenv("CUDA_VISIBLE_DEVICES", "")
        yield


@pytest.fixture(autouse=True)
def seeded():
    """Torch's own generator begins every test alike, whichever ran before it."""
    torch.manual_seed(0)


@pytest.fixture(autouse=True)
def environment():
    """What a test leaves in the process's environment, as ``--plugins`` does for workers, ends with it."""
    with patch.dict(os.environ):
        yield


@pytest.fixture(params=["native", "torch"])
def path(request, monkeypatch):
    """Networks with the native kernels, where they can be had, and without."""
    if request.param == "torch":
        monkeypatch.setattr(kernels, "available", lambda: False)
    elif native.reason():
        pytest.skip(f"no native kernels: {native.reason()}")
    return request.param
