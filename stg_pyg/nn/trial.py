"""The trial of layers that are not ours, before any work is spent on them."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor

from stg_pyg.errors import InputError
from stg_pyg.graph.spatial import EDGE_DIM, fully_connected_edge_index
from stg_pyg.nn.made import line_of, parameter_of
from stg_pyg.nn.spatial.calls import call_spatial_conv, call_spatial_regions, computes_regions
from stg_pyg.ops.regions import RegionLayout

_FEATURES = 8
_SIZES = ((7, 5), (9, 6))
"""(H, W) of the frames."""
_NODES = ("x", "feat", "boxes")
_REPEATED = (
    "called again it makes something else: it uses what it has kept of an earlier call, so turn its cache off "
    "(cached=False), or it draws random numbers, which only training may"
)
_HELP = "see 'Your own layer' in docs/layers.md"

Call = dict[str, Tensor]


class Refused(Exception):
    """What is wrong with a layer, and what to do about it."""


def check_spatial_layer(layer: torch.nn.Module, name: str) -> None:
    r"""Calls copies of a layer on two objects, of three proposals and of one, which has no edges.

    It has to make masks of the shape and dtype that it gets, of frames of every size, finite also where edge weights
    are negative, each object's from its own proposals alone, whatever their order, and those of one frame
    whatever edges it has seen before; inside of windows as on whole frames; in float32 and float64, with finite
    gradients.

    Neither the layer nor the state of the random numbers changes. A layer that asks for ``feat`` of a certain number
    of features says so by its attribute ``feat_channels``.

    Args:
        layer: for :func:`stg_pyg.nn.call_spatial_conv`.
        name: of it, for the message.

    Raises:
        InputError: it does not pass.
    """
    with forked_random(layer):
        try:
            if getattr(layer, "edge_dim", None) not in (None, EDGE_DIM):
                raise Refused(f"edges have {EDGE_DIM} attributes (cosine, IoU); give edge_dim={EDGE_DIM}")
            with torch.no_grad():
                _check_values(layer)
                _run(_fresh(layer).double(), _call(layer, double=True), "in float64")
            with torch.enable_grad():
                trial, call = _fresh(layer).train(), _call(layer)
                leaves = [call[key].requires_grad_() for key in ("x", "edge_weight", "edge_attr", "feat")]
                check_gradients(_run(trial, call, "while it is trained"), [*leaves, *trial.parameters()])
        except Refused as error:
            raise InputError(f"{name} does not fit: {error}; {_HELP}") from error


@torch.no_grad()
def check_made_again(layer: torch.nn.Module, twin: torch.nn.Module, name: str) -> None:
    """Sees to it that a layer made anew with the same arguments and weights is the same, as checkpoints need.

    Args:
        layer: that has passed the trial.
        twin: made as ``layer`` was; it gets the weights.
        name: of it, for the message.

    Raises:
        InputError: it is another.
    """
    call = _call(layer)
    with forked_random(layer):
        try:
            twin.load_state_dict(layer.state_dict())
            _same(_run(_fresh(twin), call, "when it is made again"), _run(_fresh(layer), call, "on masks"), "")
        except (Refused, RuntimeError) as error:
            raise InputError(
                f"{name} does not fit: made again with the same arguments and weights it is another layer; keep all "
                f"that it draws in parameters or buffers; {_HELP}"
            ) from error


def forked_random(layer: torch.nn.Module) -> contextlib.AbstractContextManager[None]:
    """Where the layer may draw random numbers that nobody misses."""
    device = parameter_of(layer).device
    return torch.random.fork_rng([device] if device.type == "cuda" else [])


def random_like(layer: torch.nn.Module, seed: int, double: bool = False) -> Callable[..., Tensor]:
    """``torch.rand`` by itself, of the dtype of a layer and on its device."""
    generator, like = torch.Generator().manual_seed(seed), parameter_of(layer)
    like = like.double() if double else like
    return lambda *shape: torch.rand(*shape, generator=generator, dtype=torch.float64).to(like)


def check_gradients(out: Tensor, tensors: Iterable[Tensor]) -> None:
    """Raises:
    Refused: the gradients of some tensors are not finite.
    """
    if out.requires_grad:
        out.square().sum().backward()
    if not all(bool(tensor.grad.isfinite().all()) for tensor in tensors if tensor.grad is not None):
        raise Refused("its gradients are not finite; keep roots and divisions off 0")


def _check_values(layer: torch.nn.Module) -> None:
    used = _fresh(layer)
    for number in range(len(_SIZES)):
        call = _call(layer, number)
        out = _run(_fresh(layer), call, f"on masks {list(call['x'].shape)}")
        if number:
            again = [_run(used, call, "when it is called again, with other edges and sizes")]
        else:
            torch.manual_seed(0)  # for what a lazy layer draws
            first = _run(used, call, "at first")
            kept = _state(used)
            again = [first, _run(used, call, "when it is called again")]
        for other in again:
            _same(other, out, _REPEATED)
        order = torch.tensor([2, 0, 1, 3], device=out.device)
        turned = call | {key: call[key][order] for key in _NODES}
        turned["edge_index"] = order.argsort()[call["edge_index"]]
        found = _run(_fresh(layer), turned, "on proposals in another order")
        _same(found, out[order], "it depends on the order of the proposals; send messages along dimension 0")
        for nodes in (slice(0, 3), slice(3, 4)):
            alone = _run(_fresh(layer), _part(call, nodes), f"on an object of {nodes.stop - nodes.start} proposals")
            _same(alone, out[nodes], "it mixes the objects of a frame; keep to the edges, or use batch")
    if _state(used) != kept:
        raise Refused("a call changes its buffers or numbers in evaluation mode; keep nothing between calls")
    _run(_fresh(layer), _part(call, slice(0, 0)), "without proposals")
    if computes_regions(type(layer)):
        layout = RegionLayout.whole((3, 1), *out.shape[-2:])
        try:
            del call["boxes"]
            inside = call_spatial_regions(_fresh(layer), layout=layout, **call).to_frame()
        except Exception as error:
            raise Refused(f"its regions fail ({line_of(error)[:120]})") from error
        _same(inside, out, "its regions and its forward differ; override both, or forward alone")


def _fresh(layer: torch.nn.Module) -> torch.nn.Module:
    """A copy that has not been called; what it draws when it is first called is the same for all of them."""
    torch.manual_seed(0)
    return copy.deepcopy(layer).eval()


def _state(layer: torch.nn.Module) -> list[Any]:
    """Buffers and numbers of a layer and its parts."""
    buffers = [(name, value.tolist()) for name, value in layer.named_buffers()]
    parts = [(name, vars(module)) for name, module in layer.named_modules()]
    numbers = [(name, key, v) for name, own in parts for key, v in own.items() if isinstance(v, bool | int | float)]
    return [*buffers, *numbers]


def _run(layer: torch.nn.Module, call: Call, where: str) -> Tensor:
    x = call["x"]
    given = x.detach().clone()
    try:
        out: Any = call_spatial_conv(layer, **call)
    except Exception as error:
        raise Refused(f"it fails {where} ({line_of(error)[:120]})") from error
    if not isinstance(out, Tensor) or out.shape != x.shape:
        got = list(out.shape) if isinstance(out, Tensor) else type(out).__name__
        raise Refused(f"it makes {got} of masks {list(x.shape)}; return one mask a proposal")
    if out.dtype != x.dtype:
        raise Refused(f"it makes {out.dtype} of masks of {x.dtype}; return their dtype")
    if not torch.equal(x, given):
        raise Refused("it writes into the masks that it is given; return new ones")
    if not bool(out.isfinite().all()):
        raise Refused(f"{where} it makes values that are not finite; weights may be negative, and a proposal alone")
    return out


def _same(out: Tensor, other: Tensor, problem: str) -> None:
    if not torch.allclose(out, other, rtol=1e-4, atol=1e-5):
        raise Refused(problem)


def _call(layer: torch.nn.Module, number: int = 0, double: bool = False) -> Call:
    """Arguments for an object with three proposals and one with a single proposal, where the layer is."""
    random, (height, width) = random_like(layer, number, double), _SIZES[number]
    channels = getattr(layer, "feat_channels", _FEATURES)
    x = random(4, 1, height, width)
    x[:, :, :2] = (x[:, :, :2] > 0.5).to(x)
    edges = fully_connected_edge_index(3, device=x.device)[:, :5]  # one is left out, as min_edge_iou does
    attributes = 2 * random(edges.size(1), EDGE_DIM) - 1
    attributes[:, 1] = attributes[:, 1].abs()
    weight = 0.7 * attributes[:, 0] + 0.3 * attributes[:, 1]
    weight[:2] = weight.new_tensor([-0.3, 0.0])
    return {
        "x": x,
        "edge_index": edges,
        "edge_weight": weight.clamp(min=-0.4),
        "edge_attr": attributes,
        "batch": torch.tensor([0, 0, 0, 1], device=x.device),
        "feat": random(4, channels if isinstance(channels, int) and channels > 0 else _FEATURES),
        "boxes": x.new_tensor([0, 0, width, height]).repeat(4, 1),
    }


def _part(call: Call, nodes: slice) -> Call:
    """The object of some proposals alone."""
    kept = (call["edge_index"][1] >= nodes.start) & (call["edge_index"][1] < nodes.stop)
    part = {key: call[key][nodes] for key in _NODES}
    part |= {key: call[key][kept] for key in ("edge_weight", "edge_attr")}
    batch = torch.zeros_like(call["batch"][nodes])
    return call | part | {"edge_index": call["edge_index"][:, kept] - nodes.start, "batch": batch}
