"""Labels of earlier frames carried to the current one along a graph of the most similar pixels."""

import torch
import torch.nn.functional as F
from torch import Tensor
from torch_geometric.nn import MessagePassing

_TILE = 12


class LabelPropagation(MessagePassing):
    r"""The label propagation of the `"Space-Time Correspondence as a Contrastive Random Walk"
    <https://arxiv.org/abs/2006.14613>`_ paper, Eq. 7 over whole frames and for all objects at once.

    .. math::
        \mathbf{y}_i = \sum_{(r,j) \in \mathcal{N}(i)}
        \frac{\exp(\mathbf{k}_i \cdot \mathbf{k}^r_j / \tau)}
        {\sum_{(s,l) \in \mathcal{N}(i)} \exp(\mathbf{k}_i \cdot \mathbf{k}^s_l / \tau)} \, \mathbf{y}^r_j

    where :math:`\mathbf{y}` are the shares of the background and of every object in a pixel, which sum to 1, so that
    objects compete for it; :math:`\mathcal{N}(i)` are the :obj:`top_k` most similar pixels of the memory, and of a
    local frame only those not further than :obj:`radius` pixels from :math:`i`, along and across. Keys have length 1.
    Labels may be :math:`s` times as fine as keys: then :math:`\mathbf{y}_i` are those of all :math:`s^2` parts of
    pixel :math:`i`, so that outlines, and objects smaller than a pixel of the keys, are carried along.

    Args:
        top_k (int): The number of neighbors of each pixel. (default: :obj:`10`)
        radius (int): The radius of the neighborhood in local frames. (default: :obj:`12`)
        temperature (float): The temperature :math:`\tau`. (default: :obj:`0.07`)

    Shapes:
        - **input:** key :math:`(C, h, w)`, memory keys :math:`(R, C, h, w)`, memory labels
          :math:`(R, L, s h, s w)`, local frames :math:`(R)`
        - **output:** labels :math:`(L, s h, s w)`
    """

    def __init__(self, top_k: int = 10, radius: int = 12, temperature: float = 0.07):
        super().__init__(aggr="sum", node_dim=0)
        self.top_k, self.radius, self.temperature = top_k, radius, temperature

    def forward(self, key: Tensor, memory_keys: Tensor, memory_labels: Tensor, local: Tensor) -> Tensor:
        r"""The labels of the current frame.

        Args:
            key (torch.Tensor): The current keys [C, h, w].
            memory_keys (torch.Tensor): The keys [R, C, h, w] of R memory frames, at least one.
            memory_labels (torch.Tensor): Their labels [R, L, s h, s w].
            local (torch.Tensor): Which of them [R] are looked at near a pixel only.
        """
        height, width = key.shape[-2:]
        edge_index, edge_weight = self.neighbors(key, memory_keys, local)
        detail = memory_labels.shape[-1] // width
        labels = F.pixel_unshuffle(memory_labels, detail).movedim(1, -1).flatten(0, 2)
        size = (len(labels), height * width)
        found = self.propagate(edge_index, x=(labels, None), edge_weight=edge_weight.to(labels), size=size)
        return F.pixel_shuffle(found.T.reshape(-1, height, width), detail)

    def neighbors(self, key: Tensor, memory_keys: Tensor, local: Tensor) -> tuple[Tensor, Tensor]:
        r"""The edges [2, E] from memory pixels to current ones, in order of those, and their weights [E]."""
        height, width = key.shape[-2:]
        pixels = height * width
        place = torch.arange(pixels, device=key.device).view(height, width)
        near, whole = torch.nonzero(local.cpu())[:, 0].tolist(), torch.nonzero(~local.cpu())[:, 0].tolist()
        side = max(height, width)
        looks = ((near, self.radius, _TILE), (whole, side, side))
        found = [self._look(key, memory_keys, frames, place, *reach) for frames, *reach in looks if frames]
        best, source = (torch.cat(parts, dim=2) for parts in zip(*found, strict=True))
        best, index = best.topk(min(self.top_k, best.shape[2]), dim=2)
        source = source.gather(2, index)
        weight = (best.float() / self.temperature).softmax(dim=2)
        target = place[..., None].expand_as(source)
        return torch.stack([source.flatten(), target.flatten()]), weight.flatten()

    def _look(
        self, key: Tensor, memory_keys: Tensor, frames: list[int], place: Tensor, radius: int, tile: int
    ) -> tuple[Tensor, Tensor]:
        """The largest logits [h, w, k] of every pixel with those of ``frames`` that are near, and where they are.

        Tile by tile, as a tile is compared with its surroundings alone."""
        height, width = place.shape
        memory = memory_keys[frames].to(key)
        scores = key.new_full((height, width, min(self.top_k, len(frames) * place.numel())), -torch.inf)
        sources = place.new_zeros(scores.shape)
        for top in range(0, height, tile):
            for left in range(0, width, tile):
                own = slice(top, top + tile), slice(left, left + tile)
                around = (
                    slice(max(top - radius, 0), top + tile + radius),
                    slice(max(left - radius, 0), left + tile + radius),
                )
                query, cells = key[(slice(None), *own)], place[around]
                logits = query.flatten(1).T @ memory[(..., *around)].flatten(2)
                if radius < max(height, width):
                    logits.masked_fill_(self._far(place[own], cells, width, radius), -torch.inf)
                logits = logits.movedim(0, 1).flatten(1)
                best, index = logits.topk(min(scores.shape[2], logits.shape[1]), dim=1)
                cell = torch.cat([cells.flatten() + frame * place.numel() for frame in frames])
                shape = (*place[own].shape, -1)
                scores[own][..., : best.shape[1]] = best.view(shape)
                sources[own][..., : best.shape[1]] = cell[index].view(shape)
        return scores, sources

    @staticmethod
    def _far(own: Tensor, around: Tensor, width: int, radius: int) -> Tensor:
        """Which pairs of pixels are further than ``radius`` from each other, along or across."""
        a, b = own.flatten()[:, None], around.flatten()[None]
        return ((a // width - b // width).abs() > radius) | ((a % width - b % width).abs() > radius)

    def message(self, x_j: Tensor, edge_weight: Tensor) -> Tensor:
        return edge_weight[:, None] * x_j

    def __repr__(self) -> str:
        return f"{self.__class__.__name__}(top_k={self.top_k}, radius={self.radius}, temperature={self.temperature})"
