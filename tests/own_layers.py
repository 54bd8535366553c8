"""Layers of somebody's own, in a module that can be imported."""

import torch
from torch import nn
from torch_geometric.utils import scatter


class Blend(nn.Module):
    """Half of a mask comes from what arrives at it; ``share`` of that is kept, at first."""

    def __init__(self, share=0.5, kind="mean"):
        super().__init__()
        self.kind = kind
        self.share = nn.Parameter(torch.tensor(share))

    def forward(self, x, edge_index, edge_weight=None, batch=None, edge_attr=None):
        source, target = edge_index
        arrived = scatter(x[source], target, dim=0, dim_size=len(x), reduce=self.kind)
        return torch.lerp(x, arrived, 0.5 * self.share)


class Halved(nn.Module):
    """A temporal layer: ``share`` of a mask comes from the mean of its memory."""

    def __init__(self, share: float = 0.5):
        super().__init__()
        self.share = share

    def forward_graph(self, masks, keys, memory_masks, memory_keys, edge_index):
        source, target = edge_index
        refined = masks.clone()
        for node in target.unique().tolist():
            refined[node] = torch.lerp(masks[node], memory_masks[source[target == node]].mean(dim=0), self.share)
        return refined


class Plain(Blend):
    """A layer whose constructor has no arguments."""

    def __init__(self):
        super().__init__(0.25)
