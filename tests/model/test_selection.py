import importlib

import pytest
import torch
from fake_cuda import FakeCuda
from hypothesis import given, settings
from hypothesis import strategies as st

from stg_pyg.model import selection
from stg_pyg.model.selection import select_best, selection_score, selection_scores_batched
from stg_pyg.ops.boxes import masks_to_boxes
from stg_pyg.ops.masks import mask_iou, paired_mask_iou

FLOATS = [torch.float32, torch.float64]


@pytest.fixture(params=["torch_scatter", "torch"])
def backend(request, monkeypatch):
    if request.param == "torch":
        monkeypatch.setattr(selection, "SCATTER_DEVICES", ())
    elif "cpu" not in selection.SCATTER_DEVICES:
        pytest.skip("torch-scatter is not installed")
    return request.param


def halves(dtype=torch.float32):
    """Left half, top half, all and nothing of 4 x 4 pixels."""
    masks = torch.zeros(4, 4, 4, dtype=dtype)
    masks[0, :, :2] = 1
    masks[1, :2] = 1
    masks[2] = 1
    return masks


def test_mask_iou_of_soft_masks():
    a, b = torch.full((1, 2, 2), 0.5), torch.full((1, 2, 2), 0.25)
    torch.testing.assert_close(mask_iou(a, b), torch.tensor([[0.5 / (2 + 1 - 0.5)]]))


def test_mask_iou_is_not_reduced_in_precision_by_autocast_or_half_masks():
    masks = (torch.rand(3, 70, 70, generator=torch.Generator().manual_seed(0)) > 0.4).float()
    expected = mask_iou(masks, masks)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(mask_iou(masks, masks), expected)
        assert torch.equal(paired_mask_iou(masks, masks, torch.arange(3)), expected.diagonal())
    assert torch.equal(mask_iou(masks.half(), masks.half()), expected)


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**32 - 1), st.floats(0, 1), st.floats(0, 1))
def test_mask_iou_is_exact_on_binary_masks(seed, fill_a, fill_b):
    generator = torch.Generator().manual_seed(seed)
    a = torch.rand(2, 5, 6, generator=generator) < fill_a
    b = torch.rand(3, 5, 6, generator=generator) < fill_b
    iou = mask_iou(a, b)
    for i in range(2):
        for j in range(3):
            union = int((a[i] | b[j]).sum())
            assert iou[i, j].item() == pytest.approx(int((a[i] & b[j]).sum()) / union if union else 0)


@pytest.mark.parametrize("dtype", FLOATS)
def test_score_by_hand(dtype):
    masks = halves(dtype)
    boxes = masks_to_boxes(masks)
    p = torch.tensor([0, 0, 4, 2], dtype=dtype)  # the box of the top half
    score = selection_score(masks, boxes, p, masks[0])  # Q is the left half
    expected = [0.4 * 4 / 12 + 0.6, 0.4 + 0.6 * 4 / 12, 0.4 * 0.5 + 0.6 * 0.5, 0.0]
    assert score.dtype == dtype
    torch.testing.assert_close(score, torch.tensor(expected, dtype=dtype))
    torch.testing.assert_close(
        selection_score(masks, boxes, p, masks[0], lambda1=1.0), torch.tensor([4 / 12, 1, 0.5, 0], dtype=dtype)
    )
    torch.testing.assert_close(
        selection_score(masks.bool(), boxes, p, masks[0].bool(), lambda1=0.0),
        torch.tensor([1, 4 / 12, 0.5, 0], dtype=dtype),
        check_dtype=False,
    )


@pytest.mark.parametrize("lambda1", [-0.1, 1.1])
def test_lambda1_is_a_share(lambda1):
    with pytest.raises(ValueError, match="lambda1"):
        selection_score(halves(), torch.zeros(4, 4), torch.zeros(4), halves()[0], lambda1)


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("batch", [[0, 0, 2, 2, 2], [2, 0, 1, 0, 2], [1, 1, 1, 1, 1]])
def test_batched_equals_one_graph_after_the_other(dtype, batch):
    generator = torch.Generator().manual_seed(1)
    masks = torch.rand(5, 6, 7, generator=generator, dtype=dtype)
    q = torch.rand(3, 6, 7, generator=generator, dtype=dtype)
    p = torch.tensor([[0, 0, 3, 3], [1, 1, 6, 5], [2, 0, 7, 6]], dtype=dtype)
    boxes = masks_to_boxes(masks, 0.9)
    batch = torch.tensor(batch)
    scores = selection_scores_batched(masks, boxes, p, q, batch, 0.3)
    for g in range(3):
        mine = batch == g
        torch.testing.assert_close(scores[mine], selection_score(masks[mine], boxes[mine], p[g], q[g], 0.3))


@pytest.mark.parametrize("batch", [[0, 0, 1], [1, 0, 1]])
def test_gradcheck(batch):
    generator = torch.Generator().manual_seed(2)
    masks = torch.rand(3, 3, 4, generator=generator, dtype=torch.float64, requires_grad=True)
    q = torch.rand(2, 3, 4, generator=generator, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda a, b: paired_mask_iou(a, b, torch.tensor(batch)), (masks, q))
    assert torch.autograd.gradcheck(mask_iou, (masks, q))


def test_select_best_of_bad_scores(backend):
    nan, inf = float("nan"), float("inf")
    scores = torch.tensor([nan, -3.0, nan, -inf, -1.0])
    assert select_best(scores, torch.tensor([0, 0, 1, 2, 2]), 3).tolist() == [1, 2, 4]
    assert select_best(torch.tensor([-inf, -inf]), torch.tensor([0, 0]), 1).tolist() == [0]


@settings(max_examples=50, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 4), st.sampled_from([0.0, 0.25, 0.5, 1.0])), max_size=20))
def test_select_best_of_both_backends_agrees_with_python(entries):
    scores = torch.tensor([s for _, s in entries], dtype=torch.float32)
    batch = torch.tensor([g for g, _ in entries], dtype=torch.long)
    expected = []
    for g in range(5):
        mine = [i for i, (graph, _) in enumerate(entries) if graph == g]
        expected.append(max(mine, key=lambda i: entries[i][1]) if mine else -1)
    assert select_best(scores, batch, 5).tolist() == expected
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(selection, "SCATTER_DEVICES", ())
        assert select_best(scores, batch, 5).tolist() == expected


@pytest.mark.skipif("cpu" not in selection.SCATTER_DEVICES, reason="torch-scatter is not installed")
def test_select_best_without_kernels_of_torch_scatter_for_the_device(monkeypatch):
    scores, batch = torch.tensor([0.1, 0.9, 0.3, 0.2, 0.7]), torch.tensor([0, 0, 2, 2, 2])
    monkeypatch.setattr(selection, "SCATTER_DEVICES", ("cpu",))
    with FakeCuda():
        on_gpu = scores.to("cuda"), batch.to("cuda")
        with pytest.raises(RuntimeError):  # what must not be called does refuse
            selection.torch_scatter.scatter_max(*on_gpu)
        assert select_best(*on_gpu, 4).tolist() == [1, -1, 4, -1]


@pytest.mark.parametrize(
    "version, installed, devices", [(-1, True, ("cpu",)), (12040, True, ("cpu", "cuda")), (-1, False, ())]
)
def test_devices_of_torch_scatter(monkeypatch, version, installed, devices):
    if installed and not selection.WITH_TORCH_SCATTER:
        pytest.skip("torch-scatter is not installed")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("torch_geometric.typing.WITH_TORCH_SCATTER", installed)
        patch.setattr(torch.ops.torch_scatter, "cuda_version", lambda: version, raising=False)
        assert devices == importlib.reload(selection).SCATTER_DEVICES
        assert select_best(torch.tensor([0.1, 0.9]), torch.tensor([0, 0]), 1).tolist() == [1]
    importlib.reload(selection)
