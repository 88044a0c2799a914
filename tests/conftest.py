"""Every test starts from the same seed, in float32, on one thread; and so do the processes that it begins."""

import gc
import os

import pytest
import torch


def pytest_addoption(parser):
    parser.addoption("--accept", action="store_true", help="keep generated code as it is now, as golden")


@pytest.fixture
def accept(request):
    return request.config.getoption("--accept")


def pytest_configure():
    """Let processes of tests run on one thread: those of two workers would wait for each other's."""
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    if not torch.cuda.is_available():
        # after an export to ONNX, the first backward pass of a process would begin threads, and no fork of it
        # could compute gradients any more; so that pass is done before
        torch.ones((), requires_grad=True).backward()


@pytest.hookimpl(wrapper=True)
def pytest_collection():
    """Look for no garbage while tests are imported: hardly any is made."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.enable()


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items):
    """Begin with what takes longest: so no worker is left alone with it at the end."""
    items.sort(key=lambda item: item.get_closest_marker("slow") is None)


def pytest_collection_finish():
    """Let the collector of garbage pass over what the tests have imported: it is there to the end.

    What they import later it would look through again and again: so it comes more seldom.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(10_000, 20, 20)


@pytest.fixture(autouse=True)
def _same_start():
    torch.manual_seed(0)
    torch.set_num_threads(1)
    yield
    torch.set_default_dtype(torch.float32)
