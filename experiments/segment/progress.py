"""Progress of learning from the given frames of somebody's own video."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

from torch import nn
from torch.nn.modules.module import register_module_forward_hook
from tqdm import tqdm


@contextlib.contextmanager
def progress_of(net: nn.Module, steps: int) -> Iterator[None]:
    """A bar that advances whenever a network of this kind is run."""
    with tqdm(total=steps, desc="learning the given masks", unit="step", dynamic_ncols=True, disable=None) as bar:

        def advance(module: nn.Module, inputs: Any, output: Any) -> None:
            if type(module) is type(net):
                bar.update()

        hook = register_module_forward_hook(advance)
        try:
            yield
        finally:
            hook.remove()
