import pytest
import torch
from torch import nn

from stg_pyg.appearance import ColourModel
from stg_pyg.boxes import box_center_size, masks_to_boxes
from stg_pyg.crops import IMAGE_MEAN, IMAGE_STD, crop_resize, crop_windows, paste
from stg_pyg.nn.segmentation import SegmentationOutput, SmallSegmentationNet
from stg_pyg.proposer import Evidence, GuidedProposer, ObjectView, median_size

HEIGHT, WIDTH, SIZE, MARGIN = 64, 96, 32, 0.25


class Rule(nn.Module):
    """A network that says what a function of the crops and Q says."""

    def __init__(self, rule):
        super().__init__()
        self.rule = rule

    def forward(self, images, q):
        mean, std = images.new_tensor(IMAGE_MEAN)[:, None, None], images.new_tensor(IMAGE_STD)[:, None, None]
        return SegmentationOutput(*self.rule(images * std + mean, q))


def red(images, q):
    """What is red is object, sure of it where there is some."""
    logits = 40 * (images[:, 0] - images[:, 1:].amax(dim=1) - 0.3)
    return logits, 4 * (logits > 0).flatten(1).any(dim=1).float() - 2


def repeat_q(images, q):
    return 20 * (q - 0.5), q.mean(dim=(1, 2))


def box_mask(x0, y0, x1, y1):
    mask = torch.zeros(HEIGHT, WIDTH)
    mask[y0:y1, x0:x1] = 1
    return mask


def scene(*masks):
    """A grey-blue frame with red objects."""
    image = torch.tensor([0.3, 0.35, 0.6])[:, None, None].repeat(1, HEIGHT, WIDTH)
    for mask in masks:
        image = torch.where(mask > 0.5, torch.tensor([0.9, 0.1, 0.1])[:, None, None], image)
    return image


def view(warped=None, p=(20.0, 12, 40, 32), colours=None):
    last, first = box_mask(18, 10, 40, 30), box_mask(2, 2, 22, 26)
    warped = {1: box_mask(20, 12, 40, 32), 2: box_mask(24, 14, 44, 30)} if warped is None else warped
    return ObjectView(torch.tensor(p), warped, last, first, colours)


def proposer(rule=red, size=SIZE):
    return GuidedProposer(Rule(rule), size, MARGIN)


def iou(a, b):
    a, b = a > 0.5, b > 0.5
    return float((a & b).sum() / (a | b).sum())


def of_origin(evidence, name):
    (position,) = [k for k, origin in enumerate(evidence.origin) if origin == name]
    return evidence.windows[position], evidence.q[position]


def check(evidence, size=SIZE):
    count = len(evidence.origin)
    assert evidence.windows.shape == (count, 4) and evidence.q.shape == (count, size, size)
    assert bool(evidence.windows.isfinite().all())
    assert bool((evidence.windows[:, 2:] > evidence.windows[:, :2]).all())
    assert float(evidence.q.min()) >= 0 and float(evidence.q.max()) <= 1


def test_look_names_its_evidence():
    image = scene(box_mask(20, 12, 40, 32))
    evidence = proposer().look(image, view())
    check(evidence)
    assert len(set(evidence.origin)) == len(evidence.origin)
    assert {"q1", "q2", "p", "blank", "moved", "first"} <= set(evidence.origin)
    assert "colour" not in evidence.origin
    colours = ColourModel(image, box_mask(20, 12, 40, 32))
    with_colours = proposer().look(image, view(colours=colours))
    check(with_colours)
    assert set(with_colours.origin) == set(evidence.origin) | {"colour"}


def test_look_leaves_out_empty_masks():
    empty = torch.zeros(HEIGHT, WIDTH)
    evidence = proposer().look(scene(), view({1: empty, 2: box_mask(24, 14, 44, 30), 8: empty}))
    check(evidence)
    assert "q2" in evidence.origin and not {"q1", "q8"} & set(evidence.origin)
    nothing = proposer().look(scene(), view({1: empty}))
    check(nothing)
    assert {"p", "blank", "moved", "first"} <= set(nothing.origin)
    assert not of_origin(nothing, "p")[1].any()


def test_evidence_of_a_warped_mask_is_that_mask():
    warped = {1: box_mask(20, 12, 40, 32), 2: box_mask(24, 14, 44, 30)}
    evidence = proposer().look(scene(), view(warped))
    for gap, mask in warped.items():
        window, q = of_origin(evidence, f"q{gap}")
        torch.testing.assert_close(window, crop_windows(masks_to_boxes(mask[None]), MARGIN)[0])
        assert iou(paste(q[None], window[None], HEIGHT, WIDTH)[0], mask) > 0.9


def test_evidence_at_the_predicted_box():
    p = (50.0, 20, 74, 46)
    colours = ColourModel(scene(box_mask(54, 24, 70, 40)), box_mask(54, 24, 70, 40))
    image = scene(box_mask(54, 24, 70, 40), box_mask(2, 2, 10, 10))
    evidence = proposer().look(image, view(p=p, colours=colours))
    window = crop_windows(torch.tensor([p]), MARGIN)[0]
    for name in ("p", "blank", "moved", "first", "colour"):
        torch.testing.assert_close(of_origin(evidence, name)[0], window)
    assert not of_origin(evidence, "blank")[1].any()
    coloured = paste(of_origin(evidence, "colour")[1][None], window[None], HEIGHT, WIDTH)[0]
    assert iou(coloured, box_mask(54, 24, 70, 40)) > 0.85
    for name, mask in (("moved", view().last_mask), ("first", view().first_mask)):
        own = crop_windows(masks_to_boxes(mask[None]), MARGIN)
        torch.testing.assert_close(of_origin(evidence, name)[1], crop_resize(mask[None, None], own, SIZE)[0, 0])


def test_look_of_soft_masks_keeps_them_soft():
    evidence = proposer().look(scene(), view({1: 0.75 * box_mask(20, 12, 40, 32)}))
    _, q = of_origin(evidence, "q1")
    torch.testing.assert_close(q[SIZE // 2, SIZE // 2], torch.tensor(0.75))


@pytest.mark.parametrize("box", [(0, 0, 1, 1), (95, 63, 96, 64), (0, 0, WIDTH, HEIGHT), (40, 0, 41, HEIGHT)])
def test_look_at_odd_objects(box):
    mask = box_mask(*box)
    seen = ObjectView(masks_to_boxes(mask[None])[0], {1: mask}, mask, mask, ColourModel(scene(mask), mask))
    evidence = proposer().look(scene(mask), seen)
    check(evidence)
    (found,) = proposer().propose(scene(mask), [evidence])
    assert bool(found.masks.isfinite().all())


def test_look_at_a_box_outside_of_the_frame():
    check(proposer().look(scene(), view(p=(120.0, 80, 140, 100))))


@pytest.mark.parametrize("size", [(8.0, 8.0), (20.0, 16.0), (200.0, 100.0), (1.0, 60.0)])
def test_search_covers_the_frame(size):
    evidence = proposer().search(HEIGHT, WIDTH, torch.tensor(size))
    check(evidence)
    assert set(evidence.origin) == {"search"} and 1 <= len(evidence.origin) <= 200
    assert not evidence.q.any()
    covered = paste(torch.ones(len(evidence.windows), 8, 8), evidence.windows, HEIGHT, WIDTH).amax(dim=0)
    assert float((covered > 0).float().mean()) > 0.95


@pytest.mark.parametrize("rule", [red, repeat_q])
def test_segment_in_chunks_equals_at_once(monkeypatch, rule):
    image = scene(box_mask(20, 12, 40, 32))
    evidence = proposer().look(image, view())
    masks, scores = proposer(rule).segment(image, evidence)
    assert masks.shape == evidence.q.shape and scores.shape == (len(evidence.q),)
    monkeypatch.setattr("stg_pyg.proposer.CROPS_AT_ONCE", 2)
    parts, part_scores = proposer(rule).segment(image, evidence)
    assert torch.equal(parts, masks) and torch.equal(part_scores, scores)


def test_segment_gives_every_window_its_own_q():
    evidence = proposer(repeat_q).look(scene(), view())
    masks, scores = proposer(repeat_q).segment(scene(), evidence)
    torch.testing.assert_close(masks, (20 * (evidence.q - 0.5)).sigmoid())
    torch.testing.assert_close(scores, evidence.q.mean(dim=(1, 2)).sigmoid())


def test_network_is_in_evaluation_and_without_gradients():
    net = SmallSegmentationNet(8).train()
    before = {name: value.clone() for name, value in net.state_dict().items()}
    guided = GuidedProposer(net, SIZE, MARGIN)
    (found,) = guided.propose(scene(), [guided.look(scene(), view())])
    assert not found.masks.requires_grad and not found.scores.requires_grad
    assert all(torch.equal(before[name], value) for name, value in net.state_dict().items())


def test_propose_finds_the_object():
    mask = box_mask(22, 12, 42, 30)
    image = scene(mask)
    evidence = proposer().look(image, view())
    (found,) = proposer().propose(image, [evidence])
    assert found.origin == evidence.origin and len(found) == len(evidence.origin)
    assert found.masks.shape == (len(found), HEIGHT, WIDTH)
    for k in range(len(found)):
        assert iou(found.masks[k], mask) > 0.85
    torch.testing.assert_close(found.boxes, masks_to_boxes(found.masks))
    torch.testing.assert_close(found.scores, torch.full((len(found),), 2.0).sigmoid())


def test_masks_lie_in_their_windows():
    everywhere = proposer(lambda images, q: (torch.full_like(q, 20.0), q.mean(dim=(1, 2))))
    windows = torch.tensor([[10.5, 8.25, 40.5, 33.75], [-12.0, -9.0, 20.0, 22.0], [70.0, 40.0, 130.0, 90.0]])
    evidence = Evidence(windows, torch.zeros(3, SIZE, SIZE), ["a", "b", "c"])
    (found,) = everywhere.propose(scene(), [evidence])
    for mask, window in zip(found.masks, windows, strict=True):
        box = masks_to_boxes(mask[None], threshold=0.0)[0]
        assert bool((box[:2] >= window[:2] - 1).all() & (box[2:] <= window[2:] + 1).all())
        inner = masks_to_boxes(mask[None])[0]
        clipped = window.clamp(min=0).minimum(torch.tensor([WIDTH, HEIGHT, WIDTH, HEIGHT]))
        torch.testing.assert_close(inner, clipped, atol=1.5, rtol=0)


def test_proposal_without_a_mask_has_the_box_of_its_window():
    nowhere = proposer(lambda images, q: (torch.full_like(q, -20.0), q.mean(dim=(1, 2))))
    evidence = nowhere.look(scene(), view())
    (found,) = nowhere.propose(scene(), [evidence])
    assert not (found.masks > 0.5).any()
    torch.testing.assert_close(found.boxes, evidence.windows)


def test_objects_together_equal_one_by_one():
    torch.manual_seed(0)
    net = SmallSegmentationNet(8)
    with torch.no_grad():
        net(torch.randn(4, 3, SIZE, SIZE), torch.rand(4, SIZE, SIZE))
    guided = GuidedProposer(net, SIZE, MARGIN)
    image = scene(box_mask(22, 12, 42, 30), box_mask(60, 30, 80, 60))
    views = [view(), view({1: torch.zeros(HEIGHT, WIDTH)}, p=(60.0, 30, 80, 60)), view({1: box_mask(60, 30, 80, 60)})]
    evidence = [guided.look(image, v) for v in views]
    together = guided.propose(image, evidence)
    assert [len(found) for found in together] == [len(part.origin) for part in evidence]
    for part, found in zip(evidence, together, strict=True):
        (alone,) = guided.propose(image, [part])
        assert found.origin == alone.origin
        torch.testing.assert_close(found.masks, alone.masks, atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(found.scores, alone.scores, atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(found.boxes, alone.boxes)


def test_mixed_precision_gives_nearly_the_same():
    torch.manual_seed(0)
    net = SmallSegmentationNet(8)
    with torch.no_grad():
        net(torch.randn(4, 3, SIZE, SIZE), torch.rand(4, SIZE, SIZE))
    image = scene(box_mask(22, 12, 42, 30))
    evidence = proposer().look(image, view())
    masks, scores = GuidedProposer(net, SIZE, MARGIN).segment(image, evidence)
    low_masks, low_scores = GuidedProposer(net, SIZE, MARGIN, mixed_precision=True).segment(image, evidence)
    assert low_masks.dtype == low_scores.dtype == torch.float32
    torch.testing.assert_close(low_masks, masks, atol=0.05, rtol=0)
    torch.testing.assert_close(low_scores, scores, atol=0.05, rtol=0)


def test_evidence_in_order():
    parts = [Evidence(torch.full((n, 4), float(n)), torch.full((n, 2, 2), float(n)), [str(n)] * n) for n in (2, 1)]
    merged = Evidence.cat(parts)
    assert merged.windows[:, 0].tolist() == merged.q[:, 0, 0].tolist() == [2, 2, 1]
    assert merged.origin == ["2", "2", "1"]
    kept = merged.only(["1", "3"])
    assert kept.origin == ["1"] and kept.windows.tolist() == [[1.0] * 4] and kept.q.shape == (1, 2, 2)


def test_median_size():
    boxes = [torch.tensor([0.0, 0, 4, 10]), torch.tensor([5.0, 5, 11, 7]), torch.tensor([9.0, 0, 19, 6])]
    assert median_size(boxes).tolist() == [6, 6]
    assert median_size(boxes[:1]).tolist() == box_center_size(boxes[0])[1].tolist() == [4, 10]
