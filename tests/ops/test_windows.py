"""A frame inside the windows of its objects: what is known of them changes nothing but the work."""

import pytest
import torch
from torch.testing import assert_close
from torch_geometric.data import Batch

from stg_pyg.graph.spatial import batch_of_views, build_spatial_graph
from stg_pyg.model.selection import region_selection_scores, selection_scores_batched
from stg_pyg.model.stgnet import proposal_regions
from stg_pyg.ops.boxes import masks_to_boxes, masks_to_boxes_inside
from stg_pyg.ops.crops import add_pasted, crop_resize, crop_resize_masks, crop_windows, paste, paste_extents
from stg_pyg.ops.masks import paired_mask_iou, region_mask_iou
from stg_pyg.ops.regions import MaskRegions, RegionLayout, graphs_of
from stg_pyg.proposals.base import Proposals

HEIGHT, WIDTH = 20, 32
WINDOWS = ((4, 2, 14, 11), (0, 0, 0, 0), (20, 5, 32, 20))
SIZES = (3, 0, 2)


def masks_inside(seed=0, dtype=torch.float32):
    generator = torch.Generator().manual_seed(seed)
    masks = []
    for (x0, y0, x1, y1), size in zip(WINDOWS, SIZES, strict=True):
        part = torch.zeros(size, HEIGHT, WIDTH, dtype=dtype)
        part[:, y0:y1, x0:x1] = torch.rand(size, y1 - y0, x1 - x0, generator=generator, dtype=dtype)
        masks.append(part)
    return masks


def graphs_of_objects(masks, known):
    graphs = []
    for k, part in enumerate(masks):
        feats, boxes = torch.arange(4.0 * len(part)).view(-1, 4).sin(), masks_to_boxes(part)
        window = WINDOWS[k] if known else None
        graphs.append(build_spatial_graph(part, boxes, feats, obj_id=k + 1, mask_iou=True, window=window))
    return graphs


@pytest.mark.parametrize("known", [True, False])
def test_windows_of_a_batch_and_edges_without_them(known):
    masks = masks_inside()
    graphs = graphs_of_objects(masks, known)
    for a, b in zip(graphs, graphs_of_objects(masks, not known), strict=True):
        assert_close(a.edge_attr, b.edge_attr)
        assert ("window" in a) == known == ("window" not in b)
    regions = proposal_regions(Batch.from_data_list(graphs))
    assert regions.layout.windows == (WINDOWS[0], WINDOWS[2]) and regions.layout.sizes == (3, 2)
    assert regions.graphs.tolist() == [0, 2]
    assert torch.equal(regions.to_frame()[:, 0], torch.cat(masks))


def test_a_batch_of_views_is_the_batch_without_the_copy():
    x = torch.cat(masks_inside())[:, None]
    graphs = graphs_of_objects([part[:, 0] for part in x.split(list(SIZES))], True)
    expected, found = Batch.from_data_list(graphs), batch_of_views(graphs, x)
    assert found.x.data_ptr() == x.data_ptr()
    assert set(found.keys()) - {"num_nodes"} == set(expected.keys()) and found.num_nodes == expected.num_nodes == 5
    for key in expected.to_dict():
        assert torch.equal(found[key], expected[key])
    for a, b in zip(found.to_data_list(), expected.to_data_list(), strict=True):
        assert all(torch.equal(a[key], b[key]) for key in b.to_dict())
    assert torch.equal(found[2].x, graphs[2].x)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("threshold", [None, 0.4])
def test_scores_of_regions(threshold, dtype):
    masks = torch.cat(masks_inside(dtype=dtype))
    batch = torch.tensor([0, 0, 0, 2, 2])
    layout = RegionLayout((3, 2), (WINDOWS[0], WINDOWS[2]), (1, HEIGHT, WIDTH))
    regions = MaskRegions.cropped(masks[:, None], layout, graphs_of(batch, layout))
    q = torch.rand(3, HEIGHT, WIDTH, dtype=dtype)  # reaches beyond the windows
    p = torch.tensor([[3, 2, 12, 10], [0, 0, 5, 5], [22, 4, 30, 18]], dtype=dtype)
    shown = masks if threshold is None else (masks > threshold).to(dtype)
    assert_close(region_mask_iou(regions, q, threshold), paired_mask_iou(shown, q, batch))
    boxes = regions.boxes(0.4)
    assert torch.equal(boxes, masks_to_boxes(masks, 0.4))
    expected = selection_scores_batched(shown, boxes, p, q, batch, 0.3)
    assert_close(region_selection_scores(regions, boxes, p, q, 0.3, threshold), expected)
    with pytest.raises(ValueError, match="lambda1"):
        region_selection_scores(regions, boxes, p, q, 1.2)


def test_extents_of_pasted_crops():
    torch.manual_seed(0)
    boxes = torch.tensor([[3.3, 2.1, 9.9, 12.0], [28.0, -6, 40, 7], [-90.0, 0, -50, 9], [0.0, 0, 32, 20]])
    windows = crop_windows(boxes, 0.1, min_size=2.0)
    extents = paste_extents(windows, HEIGHT, WIDTH)
    frames = paste(torch.rand(4, 8, 8) + 0.1, windows, HEIGHT, WIDTH)
    assert extents.dtype == torch.long and extents[2].tolist() == [0, 0, 0, 0]
    for frame, (x0, y0, x1, y1) in zip(frames, extents.tolist(), strict=True):
        assert (frame != 0).sum() == (frame[y0:y1, x0:x1] != 0).sum()
    assert torch.equal(masks_to_boxes(frames, 0.0), extents.float())
    crops = torch.rand(4, 8, 8)
    assert torch.equal(paste(crops, windows, HEIGHT, WIDTH, extents), paste(crops, windows, HEIGHT, WIDTH))


def test_the_window_of_proposals():
    masks = masks_inside()[0]
    proposals = Proposals.from_masks(masks)
    assert torch.equal(masks_to_boxes_inside(masks * 0.9, WINDOWS[0], 0.7), masks_to_boxes(masks * 0.9, 0.7))
    assert proposals.window == WINDOWS[0]
    proposals.extent = torch.tensor([[4, 2, 10, 10], [5, 2, 14, 9], [4, 4, 5, 11]])
    assert proposals.window == WINDOWS[0]
    assert proposals.select([0, 2]).window == (4, 2, 10, 11) and proposals[1].window == (5, 2, 14, 9)
    assert proposals.select(torch.tensor([False, True, False])).extent.tolist() == [[5, 2, 14, 9]]
    assert Proposals.cat([proposals, proposals[:1]]).extent.shape == (4, 4)
    assert Proposals.cat([proposals, Proposals.from_masks(masks)]).extent is None
    assert Proposals.empty(HEIGHT, WIDTH).window == (0, 0, 0, 0)


def test_split_gives_views():
    masks = torch.cat(masks_inside())
    whole = Proposals.from_masks(masks, feats=torch.randn(5, 2), origin=list("abcde"))
    parts = whole.split(SIZES)
    assert ["".join(part.origin) for part in parts] == ["abc", "", "de"]
    assert parts[2].masks.data_ptr() == masks[3].data_ptr() and parts[2].has_mask is None
    assert torch.equal(parts[2].feats, whole.feats[3:])
    joined = Proposals.cat(parts)
    assert torch.equal(joined.masks, masks) and joined.origin == whole.origin
    assert joined.masks.data_ptr() == masks.data_ptr()  # no copy of what lies together already
    assert Proposals.cat(parts[1:]).masks.data_ptr() == masks[3].data_ptr()
    for others in ([parts[2], parts[0]], [parts[0], parts[0]]):
        copied = Proposals.cat(others)
        assert torch.equal(copied.masks, torch.cat([part.masks for part in others]))
        assert copied.masks.data_ptr() != others[0].masks.data_ptr()


def test_adding_crops_is_adding_the_pasted_frames():
    torch.manual_seed(2)
    boxes = torch.tensor([[3.3, 2.1, 9.9, 12.0], [28.0, -6, 40, 7], [-90.0, 0, -50, 9]], dtype=torch.float64)
    windows = crop_windows(boxes, 0.1, min_size=2.0)
    extents = paste_extents(windows, HEIGHT, WIDTH)
    frames = torch.rand(3, HEIGHT, WIDTH, dtype=torch.float64)
    crops = torch.randn(3, 4, 4, dtype=torch.float64, requires_grad=True)
    expected = (frames + paste(crops, windows, HEIGHT, WIDTH)).clamp(0, 1)
    assert_close(add_pasted(frames, crops, windows, extents), expected)
    corner = torch.rand(3, 5, 6, dtype=torch.float64, requires_grad=True)
    small, inside = windows / 3, paste_extents(windows / 3, 5, 6)
    assert torch.autograd.gradcheck(lambda a, b: add_pasted(a, b, small, inside), (corner, crops))


def test_crops_of_bool_masks_are_those_of_floats():
    masks = torch.rand(2, HEIGHT, WIDTH, generator=torch.Generator().manual_seed(0)) > 0.5
    for boxes in ([[3.3, 2.1, 9.9, 12.0], [5.0, 1, 12, 9]], [[-7.0, -3, 4, 5], [25, 12, 40, 27]]):
        windows = torch.tensor(boxes)
        expected = crop_resize(masks.float()[:, None], windows, 6, torch.arange(2))
        assert_close(crop_resize_masks(masks, windows, 6), expected)
        assert torch.equal(crop_resize_masks(masks.float(), windows, 6), expected)
    assert crop_resize_masks(masks[:0], windows[:0], 6).shape == (0, 1, 6, 6)
