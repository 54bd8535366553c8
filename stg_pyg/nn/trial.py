"""The trial of spatial layers that are not ours, before any work is spent on them."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor

from stg_pyg.errors import InputError
from stg_pyg.graph.spatial import EDGE_DIM, fully_connected_edge_index
from stg_pyg.nn.made import line_of
from stg_pyg.nn.spatial.calls import call_spatial_conv, call_spatial_regions, computes_regions
from stg_pyg.ops.regions import RegionLayout

_FEATURES = 8
_SIZES = ((7, 5), (9, 6))
"""(H, W) of the frames."""
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
    parameter = next((p for p in layer.parameters() if p.is_floating_point()), torch.empty(0))
    with torch.random.fork_rng([parameter.device] if parameter.is_cuda else []):
        try:
            if getattr(layer, "edge_dim", None) not in (None, EDGE_DIM):
                raise Refused(f"edges have {EDGE_DIM} attributes (cosine, IoU); give edge_dim={EDGE_DIM}")
            _check_values(layer, parameter)
            _check_double(layer, parameter)
            _check_gradients(layer, parameter)
        except Refused as error:
            raise InputError(f"{name} does not fit: {error}; {_HELP}") from error


@torch.no_grad()
def _check_values(layer: torch.nn.Module, like: Tensor) -> None:
    used = _fresh(layer)
    for number, size in enumerate(_SIZES):
        call = _call(layer, like, size, seed=number)
        out = _run(_fresh(layer), call, f"on masks {list(call['x'].shape)}")
        if number:
            again = _run(used, call, "when it is called again, with other edges and sizes")
            _same(again, out, _REPEATED)
        else:
            torch.manual_seed(0)  # for what a lazy layer draws
            first = _run(used, call, "at first")
            kept = _state(used)
            for again in (first, _run(used, call, "when it is called again")):
                _same(again, out, _REPEATED)
        order = torch.tensor([2, 0, 1, 3], device=like.device)
        turned = _run(_fresh(layer), _reordered(call, order), "on proposals in another order")
        _same(turned, out[order], "it depends on the order of the proposals; send messages along dimension 0")
        for nodes in (slice(0, 3), slice(3, 4)):
            alone = _run(_fresh(layer), _part(call, nodes), f"on an object of {nodes.stop - nodes.start} proposals")
            _same(alone, out[nodes], "it mixes the objects of a frame; keep to the edges, or use batch")
    if _state(used) != kept:
        raise Refused("a call changes its buffers or numbers in evaluation mode; keep nothing between calls")
    _run(_fresh(layer), _part(call, slice(0, 0)), "without proposals")
    if computes_regions(type(layer)):
        _check_regions(layer, call, out)


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
    parameter = next((p for p in layer.parameters() if p.is_floating_point()), torch.empty(0))
    call = _call(layer, parameter, _SIZES[0], seed=0)
    with torch.random.fork_rng([parameter.device] if parameter.is_cuda else []):
        try:
            twin.load_state_dict(layer.state_dict())
            _same(_run(_fresh(twin), call, "when it is made again"), _run(_fresh(layer), call, "on masks"), "")
        except (Refused, RuntimeError) as error:
            raise InputError(
                f"{name} does not fit: made again with the same arguments and weights it is another layer; keep all "
                f"that it draws in parameters or buffers; {_HELP}"
            ) from error


def _check_regions(layer: torch.nn.Module, call: Call, out: Tensor) -> None:
    (height, width), rest = out.shape[-2:], {key: value for key, value in call.items() if key != "boxes"}
    x, edge_index = rest.pop("x"), rest.pop("edge_index")
    try:
        regions = call_spatial_regions(_fresh(layer), x, edge_index, RegionLayout.whole((3, 1), height, width), **rest)
        inside = regions.to_frame()
    except Exception as error:
        raise Refused(f"its regions fail ({line_of(error)[:120]})") from error
    _same(inside, out, "its regions and its forward differ; override both, or forward alone")


@torch.no_grad()
def _check_double(layer: torch.nn.Module, like: Tensor) -> None:
    call = _call(layer, like.double(), _SIZES[0], seed=0)
    _run(_fresh(layer).double(), call, "in float64")


@torch.enable_grad()
def _check_gradients(layer: torch.nn.Module, like: Tensor) -> None:
    trial = _fresh(layer).train()
    call = _call(layer, like, _SIZES[0], seed=0)
    leaves = [call[key].requires_grad_() for key in ("x", "edge_weight", "edge_attr", "feat")]
    _run(trial, call, "while it is trained").square().sum().backward()
    gradients = [leaf.grad for leaf in [*leaves, *trial.parameters()]]
    if not all(bool(gradient.isfinite().all()) for gradient in gradients if gradient is not None):
        raise Refused("its gradients are not finite; keep roots and divisions off 0")


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


def _call(layer: torch.nn.Module, like: Tensor, size: tuple[int, int], seed: int) -> Call:
    """Arguments for an object with three proposals and one with a single proposal, where the layer is."""
    generator = torch.Generator().manual_seed(seed)

    def random(*shape: int) -> Tensor:
        return torch.rand(*shape, generator=generator, dtype=torch.float64).to(like)

    channels = getattr(layer, "feat_channels", _FEATURES)
    edges = fully_connected_edge_index(3, device=like.device)[:, :5]  # one is left out, as min_edge_iou does
    x = random(4, 1, *size)
    x[:, :, :2] = (x[:, :, :2] > 0.5).to(x)
    attributes = 2 * random(edges.size(1), EDGE_DIM) - 1
    attributes[:, 1] = attributes[:, 1].abs()
    weight = 0.7 * attributes[:, 0] + 0.3 * attributes[:, 1]
    weight[:2] = weight.new_tensor([-0.3, 0.0])
    frame = x.new_tensor([0, 0, size[1], size[0]])
    return {
        "x": x,
        "edge_index": edges,
        "edge_weight": weight.clamp(min=-0.4),
        "edge_attr": attributes,
        "batch": torch.tensor([0, 0, 0, 1], device=like.device),
        "feat": random(4, channels if isinstance(channels, int) and channels > 0 else _FEATURES),
        "boxes": frame.repeat(4, 1),
    }


def _reordered(call: Call, order: Tensor) -> Call:
    """The same frame with its proposals in another order."""
    place = order.argsort()
    nodes = {key: call[key][order] for key in ("x", "feat", "boxes")}
    return call | nodes | {"edge_index": place[call["edge_index"]]}


def _part(call: Call, nodes: slice) -> Call:
    """The object of some proposals alone."""
    kept = (call["edge_index"][1] >= nodes.start) & (call["edge_index"][1] < nodes.stop)
    part = {key: call[key][nodes] for key in ("x", "feat", "boxes")}
    part |= {key: call[key][kept] for key in ("edge_weight", "edge_attr")}
    batch = torch.zeros_like(call["batch"][nodes])
    return call | part | {"edge_index": call["edge_index"][:, kept] - nodes.start, "batch": batch}
