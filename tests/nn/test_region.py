"""Eq. 5 inside of windows: tiles, windows from boxes and pixels, and what is allocated."""

import pytest
import torch
from spatial_cases import TOLERANCE
from torch.testing import assert_close
from torch.utils._python_dispatch import TorchDispatchMode

import stg_pyg.ops.regions as region
from stg_pyg.graph.spatial import fully_connected_edge_index
from stg_pyg.nn import MaskPropagation, MaskRegions
from stg_pyg.ops.boxes import masks_to_boxes

HEIGHT, WIDTH = 9, 14
WINDOWS = [(2, 1, 7, 5), (0, 0, 14, 9), (5, 3, 6, 9), (9, 0, 14, 3)]


@pytest.fixture(params=[(2**19, 2), (11, 2), (11, 1)], ids=["one tile", "many tiles", "rows"])
def tile(request, monkeypatch):
    size, threads = request.param
    monkeypatch.setitem(region._TILE, "cpu", size)
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    yield
    torch.set_num_threads(before)


def random_batch(sizes=(3, 1, 4), dtype=torch.float64, shape=(1,)):
    """Masks [N, *shape, H, W] that are 0 outside of the windows, edges, weights, batch, and a box of each node."""
    edges = [fully_connected_edge_index(n) + sum(sizes[:k]) for k, n in enumerate(sizes)]
    batch = torch.repeat_interleave(torch.arange(len(sizes)), torch.tensor(sizes))
    x = torch.zeros(sum(sizes), *shape, HEIGHT, WIDTH, dtype=dtype)
    boxes = torch.tensor([WINDOWS[k] for k in batch.tolist()], dtype=torch.float32).view(-1, 4)
    for mask, (x0, y0, x1, y1) in zip(x, boxes.int().tolist(), strict=True):
        mask[..., y0:y1, x0:x1] = torch.rand(*shape, y1 - y0, x1 - x0, dtype=dtype)
    edge_index = torch.cat(edges, dim=1)
    return x, edge_index, torch.rand(edge_index.size(1), dtype=dtype), batch, boxes


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("shape, num_steps", [((), 0), ((1,), 3), ((2, 3), 1)])
def test_equals_edgewise(num_steps, shape, dtype, tile):
    x, edges, weight, batch, boxes = random_batch(dtype=dtype, shape=shape)
    expected = MaskPropagation(num_steps, "edgewise")(x, edges, weight)
    conv = MaskPropagation(num_steps, "region")
    for given in (boxes, boxes[[0, 3, 4]], None):
        out = conv(x, edges, weight, batch, boxes=given)
        assert out.dtype == dtype
        assert_close(out, expected, **TOLERANCE[dtype])
        outside = torch.ones_like(x, dtype=torch.bool)
        for k, (x0, y0, x1, y1) in enumerate(boxes.int().tolist()):
            outside[k, ..., y0:y1, x0:x1] = False
        assert (out[outside] == 0).all()


def test_compact_form(tile):
    x, edges, weight, batch, boxes = random_batch(shape=())
    conv = MaskPropagation(2)
    expected = conv(x, edges, weight, batch)
    regions = conv.regions(x, edges, weight, batch, boxes)
    assert isinstance(regions, MaskRegions)
    assert [tuple(v.shape) for v in regions.values] == [(3, 4, 5), (1, 9, 14), (4, 6, 1)]
    assert regions.flat.numel() == sum(v.numel() for v in regions.values)
    for k, ((x0, y0, x1, y1), values) in enumerate(zip(WINDOWS, regions.values, strict=False)):
        assert_close(values, expected[batch == k][:, y0:y1, x0:x1])
    assert_close(regions.to_frame(), expected)
    assert_close(regions.select(torch.tensor([2, 0, 1])), expected[[2, 3, 5]])
    for threshold in (0.2, 0.6, 2.0):
        assert_close(regions.boxes(threshold), masks_to_boxes(expected, threshold))


def test_window_is_around_all_boxes_of_a_graph():
    boxes = torch.tensor([[1.2, 2.0, 3.0, 4.7], [0.0, 0.0, 0.0, 0.0], [5.0, -3.0, 99.0, 3.0], [2.0, 2.0, 2.0, 5.0]])
    boxes[1, 0] = float("nan")
    assert region.windows_of_boxes(boxes, [3, 1], HEIGHT, WIDTH) == ((1, 0, 14, 5), (0, 0, 0, 0))
    assert region.windows_of_boxes(boxes[:1] + 0.1, [0, 1], HEIGHT, WIDTH) == ((0, 0, 0, 0), (1, 2, 4, 5))
    masks = torch.zeros(3, 2, HEIGHT, WIDTH)
    masks[0, 0, 2, 3], masks[1, 1, 7, 12] = -1.0, 1.0
    for values in (masks, masks.bool(), masks.bool().to(torch.uint8)):
        assert region.windows_of_masks(values, [2, 1]) == ((3, 2, 13, 8), (0, 0, 0, 0))


def test_masks_outside_of_the_boxes_count_as_zero():
    x, edges, weight, batch, _ = random_batch((2,))
    boxes = torch.tensor([[3.0, 1.0, 5.0, 4.0]])
    cut = torch.zeros_like(x)
    cut[..., 1:4, 3:5] = x[..., 1:4, 3:5]
    out = MaskPropagation(2, "region")(x, edges, weight, batch, boxes=boxes)
    assert_close(out, MaskPropagation(2, "edgewise")(cut, edges, weight))
    assert_close(MaskPropagation(2, "region")(x, edges, weight, boxes=boxes), out)


def test_masks_may_be_bool_or_uint8(tile):
    x, edges, weight, batch, boxes = random_batch()
    for masks in (x > 0.5, (x > 0.5).to(torch.uint8)):
        expected = MaskPropagation(2, "edgewise")(masks.double(), edges, weight)
        for given in (boxes, None):
            assert_close(MaskPropagation(2, "region")(masks, edges, weight, batch, boxes=given), expected)
        assert MaskPropagation(2, "region")(masks, edges, None, batch).dtype == torch.float32


def test_gradcheck(tile):
    x, edges, weight, batch, boxes = random_batch((2, 3))
    conv = MaskPropagation(3, "region")

    def values(h, w):
        return conv.regions(h, edges, w, batch, boxes).flat

    assert torch.autograd.gradcheck(values, (x.requires_grad_(), weight.requires_grad_()), fast_mode=True)
    masks = x.detach() > 0.5
    assert torch.autograd.gradcheck(lambda w: conv(masks, edges, w, batch), (weight,), fast_mode=True)


class LargestTensor(TorchDispatchMode):
    """The most bytes of a storage that any operation returned."""

    nbytes = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        for tensor in out if isinstance(out, list | tuple) else [out]:
            if isinstance(tensor, torch.Tensor) and "view" not in func.name():
                self.nbytes = max(self.nbytes, tensor.nbytes)
        return out


@pytest.mark.parametrize("bool_masks", [False, True])
def test_nothing_larger_than_the_regions_is_formed(bool_masks, monkeypatch):
    monkeypatch.setitem(region._TILE, "cpu", 64)
    x, edges, weight, batch, _ = random_batch((6, 6, 6), torch.float32)
    boxes = torch.tensor([[1.0, 1, 9, 8], [0, 0, 4, 4], [3, 0, 14, 5]])
    masks = x > 0.5 if bool_masks else x
    conv, watch = MaskPropagation(2), LargestTensor()
    with torch.no_grad(), watch:
        regions = conv.regions(masks.clone(), edges, weight, batch, boxes)
    assert watch.nbytes <= max(masks.nbytes, regions.flat.nbytes)
    assert regions.flat.nbytes < x.nbytes / 2
    tiles = region._Tiles(masks[:, 0].unsqueeze(1), regions.layout, torch.float32)
    assert tiles.buffer.numel() <= 6 * 14


def test_rejects_bad_arguments():
    x, edges, weight, batch, boxes = random_batch()
    conv, across = MaskPropagation(2, "region"), (torch.tensor([[0], [4]]), weight[:1], batch)
    cases = [((x, edges, weight, batch), {"boxes": b}, "'boxes' must be") for b in (boxes[:2], boxes[:, :3], boxes[0])]
    cases += [((x.int(), edges, weight, batch), {}, "bool or uint8"), ((x, *across), {}, "joins two graphs")]
    for arguments, options, message in cases:
        with pytest.raises(ValueError, match=message):
            conv(*arguments, **options)
