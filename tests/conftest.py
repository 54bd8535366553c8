"""Shared set-up: import paths, one thread, fixed seeds, and a run without torch-scatter on request."""

import os
import sys
from collections.abc import Iterator
from pathlib import Path

os.environ["OMP_NUM_THREADS"] = "1"  # of the processes that tests start, too: threads of several wait for one another

import pytest
import torch
import torch_geometric.typing
from torch_geometric import seed_everything

TESTS = Path(__file__).resolve().parent
for folder in (TESTS, TESTS.parent):
    if str(folder) not in sys.path:
        sys.path.insert(0, str(folder))

torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def seed() -> None:
    seed_everything(0)


@pytest.fixture(params=[True, False], ids=["scatter", "no_scatter"])
def with_scatter(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[bool]:
    """Runs a test with torch-scatter, if it is installed, and again with PyG's own fallbacks."""
    if request.param and not torch_geometric.typing.WITH_TORCH_SCATTER:
        pytest.skip("torch-scatter is not installed")
    monkeypatch.setattr(torch_geometric.typing, "WITH_TORCH_SCATTER", request.param)
    yield request.param
