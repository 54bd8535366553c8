"""The trial of layers that are not ours."""

import pytest
import torch
from own_layers import Blend, Plain
from torch import nn
from torch.nn import functional as F
from torch_geometric.nn import GCN, GCNConv, MessagePassing
from torch_geometric.utils import scatter

from stg_pyg import InputError
from stg_pyg.nn import EdgeMLPPropagation, MaskPropagation, resolve_spatial_conv


class Own(nn.Module):
    """A layer that makes whatever it is told to."""

    def __init__(self, result):
        super().__init__()
        self.result = result

    def forward(self, x, edge_index, edge_weight=None, batch=None, edge_attr=None):
        return self.result(x, edge_index, edge_weight, edge_attr)


class Cached(Own):
    def forward(self, x, edge_index, edge_weight=None, batch=None, edge_attr=None):
        if not hasattr(self, "weight"):
            self.weight = edge_weight
        return super().forward(x, edge_index, self.weight)


class Rows(MessagePassing):
    """Forgets node_dim=0, so that rows of pixels exchange messages in the place of proposals."""

    def forward(self, x, edge_index, edge_weight=None, batch=None, edge_attr=None):
        return x + self.propagate(edge_index, x=x)


class Half(MaskPropagation):
    def regions(self, *args, **kwargs):
        found = super().regions(*args, **kwargs)
        found.flat.mul_(0.5)
        return found


class Conv(nn.Module):
    """Looks at neighbouring pixels, as it may, and wants features of a certain number."""

    feat_channels = 3

    def __init__(self):
        super().__init__()
        self.look = nn.Conv2d(1, 1, 3, padding=1)
        self.feat = nn.Linear(3, 1)

    def forward(self, x, edge_index, edge_weight=None, batch=None, edge_attr=None, feat=None):
        return (self.look(x) + self.feat(feat)[:, :, None, None]).sigmoid()


def arrived(x, edge_index, weight):
    return scatter(x[edge_index[0]] * weight.view(-1, 1, 1, 1), edge_index[1], dim=0, dim_size=len(x))


def mean_of_neighbours(x, edge_index, *_):
    count = torch.bincount(edge_index[1], minlength=len(x)).view(-1, 1, 1, 1)
    return arrived(x, edge_index, torch.ones_like(edge_index[0]).to(x)) / count


class Counting(Own):
    """Makes something else from its 30th call on."""

    calls = 0

    def forward(self, x, edge_index, edge_weight=None, batch=None, edge_attr=None):
        self.calls += 1
        return x if self.calls < 30 else 0 * x


class Lazy(nn.Module):
    def __init__(self):
        super().__init__()
        self.gate = nn.LazyLinear(1)

    def forward(self, x, edge_index, edge_weight=None, batch=None, edge_attr=None):
        return x + arrived(x, edge_index, self.gate(edge_attr))


class Unstored(nn.Module):
    """Draws a number that is no parameter."""

    def __init__(self):
        super().__init__()
        self.share = torch.rand(())

    def forward(self, x, edge_index, edge_weight=None, batch=None, edge_attr=None):
        return x * self.share.to(x)


def test_a_layer_that_no_checkpoint_can_hold():
    with pytest.raises(InputError, match=r"made again .* another layer; keep all that it draws in parameters"):
        resolve_spatial_conv(Unstored)
    assert isinstance(resolve_spatial_conv(Lazy), Lazy)


@pytest.mark.parametrize("layer", [Blend(), Plain(), Conv(), Lazy(), Own(lambda x, *_: x)])
def test_passes(layer):
    before = torch.get_rng_state()
    assert resolve_spatial_conv(layer) is layer and layer.training
    assert torch.equal(before, torch.get_rng_state())


@pytest.mark.parametrize(
    "layer, message",
    [
        (Own(lambda x, *_: x.mean(dim=0)), r"it makes \[1, 7, 5\] of masks \[4, 1, 7, 5\]; return one mask a proposal"),
        (Own(lambda x, *_: None), "it makes NoneType of masks"),
        (Own(lambda x, *_: x > 0.5), "it makes torch.bool of masks"),
        (Own(lambda x, *_: x / 0), "not finite"),
        (Own(lambda x, e, w, a: x + arrived(x, e, w.sqrt())), "not finite; weights may be negative"),
        (Own(mean_of_neighbours), "not finite; weights may be negative, and a proposal alone"),
        (Own(lambda x, *_: x + 0 * x.sum(dim=0)), None),
        (Own(lambda x, *_: x + x.mean(dim=0)), "it mixes the objects of a frame"),
        (Own(lambda x, *_: x.cumsum(dim=0)), "it depends on the order of the proposals"),
        (Own(lambda x, e, w, a: x + a.sum() * 0 + F.linear(a, a.new_zeros(3, 3)).sum()), "it fails on masks"),
        (Own(lambda x, *_: x.double().float()), "it makes torch.float32 of masks of torch.float64"),
        (Own(lambda x, e, w, a: x + arrived(x, e, (w * w).sqrt())), "gradients are not finite"),
        (Cached(lambda x, e, w, a: x + arrived(x, e, w)), "kept of an earlier call|fails when it is called again"),
        (GCNConv(1, 1, cached=True), r"turn its cache off \(cached=False\)"),
        (GCN(5, 8, 2, 5), "dimension 0"),
        (GCN(6, 8, 2, 6), "it fails on masks"),
        (Rows(), "send messages along dimension 0"),
        (Own(lambda x, *_: x + torch.rand_like(x)), "draws random numbers, which only training may"),
        (Own(lambda x, *_: x.mul_(0.5)), "writes into the masks"),
        (Counting(None), "changes its buffers or numbers in evaluation mode"),
        (Half(), "its regions and its forward differ"),
        (EdgeMLPPropagation(3), "edges have 2 attributes .* give edge_dim=2"),
        (nn.Conv2d(1, 1, 1), "takes neither edge_weight nor edge_attr"),
    ],
)
def test_what_goes_wrong_is_said_before_any_work(layer, message):
    if message is None:
        return resolve_spatial_conv(layer)
    with pytest.raises(InputError, match=message) as error:
        resolve_spatial_conv(layer)
    assert "\n" not in str(error.value) and "docs/layers.md" in str(error.value)
