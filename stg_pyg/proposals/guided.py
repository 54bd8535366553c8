"""Proposals of an object from different evidence, segmented by the Q-guided network."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from stg_pyg.ops.boxes import box_center_size, boxes_from_center_size, masks_to_boxes, masks_to_boxes_inside
from stg_pyg.ops.crops import crop_resize, crop_windows, normalize_image, paste, paste_extents
from stg_pyg.ops.regions import windows_of_boxes
from stg_pyg.proposals.appearance import ColourModel
from stg_pyg.proposals.base import Proposals
from stg_pyg.utils.timing import stage

CROPS_AT_ONCE = 64
MAX_SEARCH_WINDOWS = 64


@dataclass
class Evidence:
    """Where to look for an object and what it roughly looks like there, M pieces."""

    windows: Tensor
    """[M, 4] windows of the frame."""
    q: Tensor
    """[M, S, S] rough masks in the windows, zeros where none is known."""
    origin: list[str] = field(default_factory=list)
    """M names."""

    @classmethod
    def cat(cls, parts: Sequence[Evidence]) -> Evidence:
        """All evidence, in order."""
        origin = [name for part in parts for name in part.origin]
        return cls(torch.cat([part.windows for part in parts]), torch.cat([part.q for part in parts]), origin)

    def only(self, names: Sequence[str]) -> Evidence:
        """The pieces of these names, in order."""
        return self.at([i for i, name in enumerate(self.origin) if name in names])

    def at(self, kept: list[int]) -> Evidence:
        """The pieces at these positions."""
        return Evidence(self.windows[kept], self.q[kept], [self.origin[i] for i in kept])


@dataclass
class ObjectView:
    """What a video remembers of an object, as needed to look for it in a frame."""

    p: Tensor
    """[4] predicted box."""
    warped: dict[int, Tensor]
    """Masks [H, W] of the frames t - k, warped to t, by k."""
    last_mask: Tensor
    """[H, W] the latest mask that was not empty."""
    first_mask: Tensor
    """[H, W] mask of the first frame."""
    colours: ColourModel | None = None
    recalled: Tensor | None = None
    """[s, s] what the memory says in the window of p."""
    scene: Tensor | None = None
    """[H, W] share of the object by the memory of whole frames."""


class GuidedProposer:
    """Turns evidence into proposals with a Q-guided segmentation network.

    Args:
        net: (normalised crops [M, 3, S, S], Q [M, S, S]) -> mask logits [M, S, S] and quality logits [M]. One with
            ``encode`` and ``decode``, as :class:`~stg_pyg.nn.backbones.guided_unet.GuidedUNet`, makes X of its masks.
        size: S.
        margin: margin of the windows, share of the box.
        mixed_precision: run the network in bfloat16.
    """

    def __init__(self, net: nn.Module, size: int, margin: float, mixed_precision: bool = False):
        self.net: Any = net
        self.size, self.margin, self.mixed_precision = size, margin, mixed_precision
        self._shares = hasattr(net, "encode")

    def look(self, image: Tensor, view: ObjectView) -> Evidence:
        """The evidence for one object in an image [3, H, W].

        - ``q1``, ``q2``, ... : the box of each warped mask, and that mask;
        - ``p``: the predicted box, and the mask of the previous frame warped;
        - ``blank``: the predicted box and no mask, so that drift is not repeated;
        - ``moved``, ``first``: the latest and the first mask, moved to the predicted box;
        - ``colour``: the predicted box and the colours of the object's first frame;
        - ``memory``: the predicted box and what the memory says there;
        - ``scene``: the box of what the memory of whole frames says, and that.
        """
        return self.look_all(image, [view])[0]

    @stage("look")
    def look_all(self, image: Tensor, views: Sequence[ObjectView]) -> list[Evidence]:
        """:meth:`look` for all objects of a frame, which waits for the device once."""
        gaps = [sorted(view.warped) for view in views]
        warped = [torch.stack([view.warped[gap] for gap in own]) for view, own in zip(views, gaps, strict=True)]
        boxes = [masks_to_boxes(masks) for masks in warped]
        seen = (torch.cat(boxes)[:, 2] > 0).cpu().split([len(own) for own in gaps])
        flags = [part.tolist() for part in seen]
        return [self._evidence(image, *parts) for parts in zip(views, gaps, warped, boxes, flags, strict=True)]

    def _evidence(
        self, image: Tensor, view: ObjectView, gaps: list[int], warped: Tensor, boxes: Tensor, seen: list[bool]
    ) -> Evidence:
        known = zip(gaps, boxes, warped, seen, strict=True)
        full = [(box, mask, f"q{gap}") for gap, box, mask, visible in known if visible]
        full.append((view.p, warped[0], "p"))
        if view.colours is not None:
            full.append((view.p, (view.colours.posterior(image) > 0.6).to(image.dtype), "colour"))
        if view.scene is not None:
            (box,) = masks_to_boxes(view.scene[None], 0.5)
            full.append((torch.where(box[2] > box[0], box, view.p), view.scene, "scene"))
        windows = crop_windows(torch.stack([box for box, _, _ in full]), self.margin)
        owner = torch.arange(len(full), device=image.device)
        q = crop_resize(torch.stack([mask for _, mask, _ in full])[:, None], windows, self.size, owner)[:, 0]
        at_p = crop_windows(view.p[None], self.margin)
        moved = torch.stack([view.last_mask, view.first_mask])
        own_windows = crop_windows(masks_to_boxes(moved), self.margin)
        shapes = crop_resize(moved[:, None], own_windows, self.size, torch.arange(2, device=image.device))[:, 0]
        at_p_masks, names = [shapes, torch.zeros_like(shapes[:1])], ["moved", "first", "blank"]
        if view.recalled is not None:
            shape = (self.size, self.size)
            recalled = F.interpolate(view.recalled[None, None], shape, mode="bilinear", align_corners=False)
            at_p_masks.append(recalled[0])
            names.append("memory")
        return Evidence(
            torch.cat([windows, at_p.expand(len(names), 4)]),
            torch.cat([q, *at_p_masks]),
            [name for _, _, name in full] + names,
        )

    def look_at(self, boxes: Tensor, q: Tensor) -> Evidence:
        """The windows of boxes [N, 4] that were given, guided by Q [H, W]."""
        windows = crop_windows(boxes, self.margin)
        rough = crop_resize(q[None, None], windows, self.size)[:, 0]
        return Evidence(windows, rough, ["box"] * len(boxes))

    def search(self, height: int, width: int, size: Tensor) -> Evidence:
        """A grid of windows over the frame for a lost object of ``size`` [2] (width, height) pixels, no masks known."""
        step = size * 0.6
        step = step * max(1.0, (height * width / float(step.prod()) / MAX_SEARCH_WINDOWS) ** 0.5)
        columns, rows = max(round(width / float(step[0])), 1), max(round(height / float(step[1])), 1)
        xs = torch.linspace(0, width, columns + 2, device=size.device)[1:-1]
        ys = torch.linspace(0, height, rows + 2, device=size.device)[1:-1]
        centers = torch.cartesian_prod(xs, ys)
        windows = crop_windows(boxes_from_center_size(centers, size.expand_as(centers)), self.margin)
        q = torch.zeros(len(windows), self.size, self.size, device=size.device)
        return Evidence(windows, q, ["search"] * len(windows))

    def around(self, mask: Tensor, size: Tensor) -> Evidence:
        """Where an object of ``size`` [2] (width, height) pixels may be of which the part ``mask`` [H, W] is known.

        A window has the part in its middle, and others have it at either end, across and along, where it is less than
        three quarters as wide or high as the object. Each comes with the part as rough mask and with none."""
        (center,), (part,) = box_center_size(masks_to_boxes(mask[None]))
        size = torch.maximum(size.to(part), part)
        shift = (size - part) / 2
        moves = [torch.zeros_like(shift)]
        for axis in torch.nonzero(part < 0.75 * size)[:, 0].tolist():
            along = torch.zeros_like(shift)
            along[axis] = shift[axis]
            moves += [along, -along]
        centers = center + torch.stack(moves)
        windows = crop_windows(boxes_from_center_size(centers, size.expand_as(centers)), self.margin)
        q = crop_resize(mask[None, None].to(windows.dtype), windows, self.size)[:, 0]
        names = ["around"] * (2 * len(windows))
        return Evidence(torch.cat([windows, windows]), torch.cat([q, torch.zeros_like(q)]), names)

    def closer(self, masks: Tensor, name: str) -> Evidence:
        """The windows of masks [N, H, W] that were found, guided by themselves."""
        windows = crop_windows(masks_to_boxes(masks), self.margin)
        owner = torch.arange(len(masks), device=masks.device)
        return Evidence(windows, crop_resize(masks[:, None], windows, self.size, owner)[:, 0], [name] * len(masks))

    def segment(self, image: Tensor, evidence: Evidence) -> tuple[Tensor, Tensor]:
        """Soft masks [M, S, S] in the windows and expected IoU [M] of an image [3, H, W]."""
        return self.look_into(image, evidence)[:2]

    @stage("segment")
    @torch.no_grad()
    def look_into(self, image: Tensor, evidence: Evidence) -> tuple[Tensor, Tensor, Tensor | None]:
        """:meth:`segment`, and X [M, F] of the masks where the network makes it; RGB of a window is seen once."""
        self.net.eval()
        normal = normalize_image(image)[None]
        masks, scores, feats = [], [], []
        for start in range(0, len(evidence.windows), CROPS_AT_ONCE):
            chunk = slice(start, start + CROPS_AT_ONCE)
            windows, q = evidence.windows[chunk], evidence.q[chunk]
            with torch.autocast(image.device.type, dtype=torch.bfloat16, enabled=self.mixed_precision):
                if self._shares:
                    windows, window_of = windows.unique(dim=0, return_inverse=True)
                    crops = crop_resize(normal, windows, self.size)
                    if self.net.stem is None:
                        maps = [x[window_of] for x in self.net.encode(crops)]
                    else:
                        maps = self.net.encode(crops[window_of], q)
                    output = self.net.decode(crops[window_of], maps, q)
                else:
                    output = self.net(crop_resize(normal, windows, self.size), q)
            masks.append(output.logits.sigmoid())
            if self._shares:
                feats.append(self.net.features(maps, masks[-1][:, None])[:, 0])
            scores.append(output.quality.sigmoid())
        return torch.cat(masks), torch.cat(scores), torch.cat(feats) if feats else None

    def compared(self, proposals: Proposals, anchors: Tensor, own: int) -> Proposals:
        r"""Proposals of object ``own`` whose scores are multiplied by
        :math:`s_{own} / \max_k s_k`, the IoU that X lets expect with each of K objects with X ``anchors`` [K, F]."""
        if proposals.feats is None or not self._shares:
            return proposals
        with torch.no_grad():
            likeness = self.net.same(proposals.feats, anchors)
        return replace(proposals, scores=proposals.scores * (likeness[:, own] / likeness.amax(dim=1)))

    def same(self, scores: Tensor, feats: Tensor | None, anchor: Tensor | None) -> Tensor:
        """Expected IoU [M] of masks with X ``feats`` [M, F] with the object of X ``anchor`` [F]; ones like ``scores``
        [M] where one of them is not known."""
        if feats is None or anchor is None or not self._shares:
            return torch.ones_like(scores)
        with torch.no_grad():
            return self.net.same(feats, anchor[None])[:, 0]

    def propose(self, image: Tensor, evidence: Sequence[Evidence]) -> list[Proposals]:
        """Proposals of every object from its evidence, all crops of all objects in one batch."""
        height, width = image.shape[-2:]
        merged = Evidence.cat(evidence)
        crops, scores, feats = self.look_into(image, merged)
        with stage("paste"):
            extents = paste_extents(merged.windows, height, width)
            masks = paste(crops, merged.windows, height, width, extents)
            sizes = [len(part.origin) for part in evidence]
            around = windows_of_boxes(extents, sizes, height, width)
            parts = zip(masks.split(sizes), around, strict=True)
            boxes = torch.cat([masks_to_boxes_inside(part, window) for part, window in parts])
            boxes = torch.where(boxes[:, 2:3] <= boxes[:, 0:1], merged.windows, boxes)
            return Proposals(boxes, masks, scores, feats, merged.origin, extent=extents).split(sizes)


def median_size(boxes: Sequence[Tensor]) -> Tensor:
    """Median (width, height) [2] of boxes [4]."""
    return box_center_size(torch.stack(list(boxes)))[1].median(dim=0).values
