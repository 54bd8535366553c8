"""Stock convolutions of PyTorch Geometric as spatial layers."""

from __future__ import annotations

import copy
import inspect
import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch_geometric.typing import OptTensor

from stg_pyg.errors import InputError
from stg_pyg.graph.spatial import EDGE_DIM, fully_connected_edge_index
from stg_pyg.nn.made import line_of, parameter_of

LEAST_WEIGHT = 1e-4
"""Least edge weight that a convolution gets: roots of degrees, and their gradients, stay finite."""
_SHARE = 0.1
_SHARPNESS = 4.0
REMEDY = "take another name, or write a layer of your own around it (docs/layers.md)"


class ConvAdapter(torch.nn.Module):
    r"""A stock convolution of PyTorch Geometric as a spatial layer: all pixels share the graph, a pixel is a channel.

    .. math::
        (\mathbf{h}^v)^{\prime} = (1 - s) \, \mathbf{h}^v + s \, \sigma(4 \, \mathrm{conv}(\mathbf{h})^v - 2)

    Masks [N, *] become :math:`(P, N, 1)` node features of a static graph, one for each of the :math:`P` pixels. The
    share :math:`s` is learned and begins at 0.1, near the identity; the soft threshold :math:`\sigma` keeps masks in
    [0, 1]. ``edge_weight``, raised to at least 1e-4, else ``edge_attr``, and ``batch`` are passed by keyword where
    ``forward`` takes them.

    Args:
        conv (torch.nn.Module): The convolution, of one input and one output channel.

    Raises:
        InputError: the convolution does not fit; found here, by its signature and by a trial on three nodes.
    """

    def __init__(self, conv: torch.nn.Module):
        super().__init__()
        name = type(conv).__name__
        self.edge_argument = edge_argument_of(conv.forward, name)
        self.takes_batch = "batch" in inspect.signature(conv.forward).parameters
        for key in ("in_channels", "out_channels"):
            if getattr(conv, key, 1) not in (1, (1, 1)):
                raise InputError(
                    f"{name} does not fit: {key} is {getattr(conv, key)}, a mask has 1 channel; give {key}=1"
                )
        if getattr(conv, "edge_dim", None) not in (None, EDGE_DIM):
            raise InputError(f"{name} does not fit: edges have {EDGE_DIM} attributes; give edge_dim={EDGE_DIM}")
        self.conv = conv
        self.share = torch.nn.Parameter(torch.empty(()))
        _check_static_graph(self)
        self.to(parameter_of(conv))
        self._reset_share()

    def reset_parameters(self) -> None:
        r"""Resets the share and the convolution."""
        self._reset_share()
        if callable(reset := getattr(self.conv, "reset_parameters", None)):
            reset()

    def _reset_share(self) -> None:
        torch.nn.init.constant_(self.share, math.log(_SHARE / (1 - _SHARE)))

    def forward(
        self,
        x: Tensor,
        edge_index: Tensor,
        edge_weight: OptTensor = None,
        batch: OptTensor = None,
        edge_attr: OptTensor = None,
    ) -> Tensor:
        r"""Runs the convolution on masks ``x`` [N, *]; the output has the same shape."""
        if x.numel() == 0:
            return x
        candidate = (_SHARPNESS * self._convolve(x, edge_index, edge_weight, batch, edge_attr) - 2).sigmoid()
        return torch.lerp(x, candidate.to(x.dtype), self.share.sigmoid().to(x.dtype))

    def _convolve(
        self, x: Tensor, edge_index: Tensor, edge_weight: OptTensor, batch: OptTensor, edge_attr: OptTensor
    ) -> Tensor:
        """What the convolution itself makes of masks ``x`` [N, *]."""
        kwargs: dict[str, OptTensor] = {"edge_attr": edge_attr}
        if self.edge_argument == "edge_weight":
            kwargs = {"edge_weight": None if edge_weight is None else edge_weight.clamp(min=LEAST_WEIGHT)}
        if self.takes_batch:
            kwargs["batch"] = batch
        pixels = x.reshape(x.size(0), math.prod(x.shape[1:])).t().unsqueeze(2)
        out: Tensor = self.conv(pixels, edge_index, **kwargs)
        if out.shape != pixels.shape:
            raise ValueError(f"it makes {list(out.shape)} of node features {list(pixels.shape)}")
        return out.squeeze(2).t().reshape(x.shape)


def edge_argument_of(forward: Callable[..., Any], name: str) -> str:
    """What a convolution takes of the edges.

    Raises:
        InputError: nothing.
    """
    for argument in ("edge_weight", "edge_attr"):
        if argument in inspect.signature(forward).parameters:
            return argument
    raise InputError(f"{name} does not fit: its forward takes neither edge_weight nor edge_attr; {REMEDY}")


def _check_static_graph(adapter: ConvAdapter) -> None:
    """Runs a copy on two pixels together and one by one; a layer without static graphs fails or mixes them."""
    name = type(adapter.conv).__name__
    trial = copy.deepcopy(adapter).eval()
    like = parameter_of(trial.conv)
    x = torch.tensor([[0.1, 0.9], [0.4, 0.2], [0.8, 0.3]]).to(like)
    edges = fully_connected_edge_index(3, device=like.device)
    weight = torch.linspace(0.2, 0.9, 6).to(like)
    inputs = (edges, weight, torch.zeros_like(edges[0, :3]), weight.unsqueeze(1).repeat(1, EDGE_DIM))
    try:
        with torch.no_grad():
            both = trial._convolve(x, *inputs)
            single = [trial._convolve(part, *inputs) for part in x.split(1, dim=1)]
    except Exception as error:
        # What a stock layer says of shapes inside of it helps nobody.
        own = "" if type(adapter.conv).__module__.startswith("torch_geometric.") else f" ({line_of(error)})"
        raise InputError(
            f"{name} does not fit: it cannot run on node features [pixels, nodes, 1], all pixels at once{own}; {REMEDY}"
        ) from error
    if not torch.allclose(both, torch.cat(single, dim=1), atol=1e-5):
        raise InputError(f"{name} does not fit: it mixes the pixels of node features [pixels, nodes, 1]; {REMEDY}")
