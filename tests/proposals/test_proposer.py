import pytest
import torch
from proposer_cases import GREEN, HEIGHT, MARGIN, RED, SIZE, WIDTH, box_mask, iou, proposer, repeat_q, scene

from stg_pyg.nn.backbones.segmentation import SmallSegmentationNet
from stg_pyg.ops.boxes import masks_to_boxes
from stg_pyg.ops.crops import crop_resize, crop_windows, paste
from stg_pyg.proposals.appearance import ColourModel
from stg_pyg.proposals.guided import Evidence, GuidedProposer, ObjectView, median_size

OBJECT, EMPTY = (22, 12, 42, 30), torch.zeros(HEIGHT, WIDTH)
WARPED = {1: box_mask(20, 12, 40, 32), 2: box_mask(24, 14, 44, 30)}
LAST, FIRST = box_mask(18, 10, 40, 30), box_mask(2, 2, 22, 26)


def view(warped=None, p=(20.0, 12, 40, 32), colours=None):
    return ObjectView(torch.tensor(p), WARPED if warped is None else warped, LAST, FIRST, colours)


@pytest.fixture
def net():
    """A small network with statistics of its own."""
    net = SmallSegmentationNet(8)
    with torch.no_grad():
        net(torch.randn(4, 3, SIZE, SIZE), torch.rand(4, SIZE, SIZE))
    return net


def of_origin(evidence, name):
    (position,) = [k for k, origin in enumerate(evidence.origin) if origin == name]
    return evidence.windows[position], evidence.q[position]


def check(evidence, size=SIZE):
    count = len(evidence.origin)
    assert evidence.windows.shape == (count, 4) and evidence.q.shape == (count, size, size)
    assert bool(evidence.windows.isfinite().all())
    assert bool((evidence.windows[:, 2:] > evidence.windows[:, :2]).all())
    assert float(evidence.q.min()) >= 0 and float(evidence.q.max()) <= 1


@pytest.mark.parametrize(
    ("warped", "colours", "more"),
    [
        (WARPED, False, {"q1", "q2"}),
        (WARPED, True, {"q1", "q2", "colour"}),
        ({1: EMPTY, 2: WARPED[2], 8: EMPTY}, False, {"q2"}),  # empty masks are left out
        ({1: EMPTY}, False, set()),
    ],
)
def test_look_names_its_evidence(warped, colours, more):
    image = scene(((20, 12, 40, 32), RED))
    evidence = proposer().look(image, view(warped, colours=ColourModel(image, WARPED[1]) if colours else None))
    check(evidence)
    assert sorted(evidence.origin) == sorted({"p", "blank", "moved", "first"} | more)
    if not more:
        assert not of_origin(evidence, "p")[1].any()


def test_evidence_at_the_predicted_box():
    p, box = (50.0, 20, 74, 46), (54, 24, 70, 40)
    colours = ColourModel(scene((box, RED)), box_mask(*box))
    evidence = proposer().look(scene((box, RED), ((2, 2, 10, 10), RED)), view(p=p, colours=colours))
    window = crop_windows(torch.tensor([p]), MARGIN)[0]
    for name in ("p", "blank", "moved", "first", "colour"):
        torch.testing.assert_close(of_origin(evidence, name)[0], window)
    assert not of_origin(evidence, "blank")[1].any()
    coloured = paste(of_origin(evidence, "colour")[1][None], window[None], HEIGHT, WIDTH)[0]
    assert iou(coloured, box_mask(*box)) > 0.85
    for name, mask in (("q1", WARPED[1]), ("q2", WARPED[2])):
        own, q = of_origin(evidence, name)
        torch.testing.assert_close(own, crop_windows(masks_to_boxes(mask[None]), MARGIN)[0])
        assert iou(paste(q[None], own[None], HEIGHT, WIDTH)[0], mask) > 0.9
    for name, mask in (("moved", LAST), ("first", FIRST)):
        own = crop_windows(masks_to_boxes(mask[None]), MARGIN)
        torch.testing.assert_close(of_origin(evidence, name)[1], crop_resize(mask[None, None], own, SIZE)[0, 0])


@pytest.mark.parametrize("box", [(95, 63, 96, 64), (0, 0, WIDTH, HEIGHT), (40, 0, 41, HEIGHT)])
def test_look_at_odd_objects(box):
    mask, image = box_mask(*box), scene((box, RED))
    seen = ObjectView(masks_to_boxes(mask[None])[0], {1: mask}, mask, mask, ColourModel(image, mask))
    check(proposer().look(image, seen))
    check(proposer().look(scene(), view(p=(120.0, 80, 140, 100))))  # outside of the frame


@pytest.mark.parametrize("size", [(8.0, 8.0), (20.0, 16.0), (200.0, 100.0), (1.0, 60.0)])
def test_search_covers_the_frame(size):
    evidence = proposer().search(HEIGHT, WIDTH, torch.tensor(size))
    check(evidence)
    assert set(evidence.origin) == {"search"} and 1 <= len(evidence.origin) <= 200
    assert not evidence.q.any()
    covered = paste(torch.ones(len(evidence.windows), 8, 8), evidence.windows, HEIGHT, WIDTH).amax(dim=0)
    assert float((covered > 0).float().mean()) > 0.95


def test_every_window_has_its_own_q_however_many_there_are():
    """More than go through the network at once."""
    guided = proposer(repeat_q)
    evidence = guided.search(HEIGHT, WIDTH, torch.tensor([6.0, 6.0]))
    evidence = Evidence(evidence.windows, torch.rand(len(evidence.q), SIZE, SIZE), evidence.origin)
    assert len(evidence.q) > 64
    masks, scores = guided.segment(scene(), evidence)
    torch.testing.assert_close(masks, (20 * (evidence.q - 0.5)).sigmoid())
    torch.testing.assert_close(scores, evidence.q.mean(dim=(1, 2)).sigmoid())


def test_network_is_in_evaluation_and_without_gradients(net):
    before = {name: value.clone() for name, value in net.train().state_dict().items()}
    guided = GuidedProposer(net, SIZE, MARGIN)
    (found,) = guided.propose(scene(), [guided.look(scene(), view())])
    assert not found.masks.requires_grad and not found.scores.requires_grad
    assert all(torch.equal(before[name], value) for name, value in net.state_dict().items())


def test_propose_finds_the_object():
    guided, image = proposer(), scene((OBJECT, RED))
    evidence = guided.look(image, view())
    (found,) = guided.propose(image, [evidence])
    assert found.origin == evidence.origin and found.masks.shape == (len(evidence.origin), HEIGHT, WIDTH)
    assert all(iou(mask, box_mask(*OBJECT)) > 0.85 for mask in found.masks)
    torch.testing.assert_close(found.boxes, masks_to_boxes(found.masks))
    torch.testing.assert_close(found.scores, guided.segment(image, evidence)[1])


def test_masks_lie_in_their_windows():
    everywhere = proposer(lambda images, q: (torch.full_like(q, 20.0), q.mean(dim=(1, 2))))
    windows = torch.tensor([[10.5, 8.25, 40.5, 33.75], [-12.0, -9.0, 20.0, 22.0], [70.0, 40.0, 130.0, 90.0]])
    evidence = Evidence(windows, torch.zeros(3, SIZE, SIZE), ["a", "b", "c"])
    (found,) = everywhere.propose(scene(), [evidence])
    for mask, window in zip(found.masks, windows, strict=True):
        box = masks_to_boxes(mask[None], threshold=0.0)[0]
        assert bool((box[:2] >= window[:2] - 1).all() & (box[2:] <= window[2:] + 1).all())
        clipped = window.clamp(min=0).minimum(torch.tensor([WIDTH, HEIGHT, WIDTH, HEIGHT]))
        torch.testing.assert_close(masks_to_boxes(mask[None])[0], clipped, atol=1.5, rtol=0)
    nowhere = proposer(lambda images, q: (torch.full_like(q, -20.0), q.mean(dim=(1, 2))))
    (found,) = nowhere.propose(scene(), [evidence])
    assert not (found.masks > 0.5).any()
    torch.testing.assert_close(found.boxes, windows)  # without a mask, that of the window


def test_objects_together_equal_one_by_one(net):
    guided, other = GuidedProposer(net, SIZE, MARGIN), (60, 30, 80, 60)
    image = scene((OBJECT, RED), (other, GREEN))
    views = [view(), view({1: EMPTY}, p=other), view({1: box_mask(*other)})]
    evidence = [guided.look(image, v) for v in views]
    for part, found in zip(evidence, guided.propose(image, evidence), strict=True):
        (alone,) = guided.propose(image, [part])
        assert found.origin == alone.origin == part.origin
        torch.testing.assert_close(found.masks, alone.masks, atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(found.scores, alone.scores, atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(found.boxes, alone.boxes)


def test_evidence_in_order_and_median_size():
    parts = [Evidence(torch.full((n, 4), float(n)), torch.full((n, 2, 2), float(n)), [str(n)] * n) for n in (2, 1)]
    merged = Evidence.cat(parts)
    assert merged.windows[:, 0].tolist() == merged.q[:, 0, 0].tolist() == [2, 2, 1]
    assert merged.origin == ["2", "2", "1"]
    kept = merged.only(["1", "3"])
    assert kept.origin == ["1"] and kept.windows.tolist() == [[1.0] * 4] and kept.q.shape == (1, 2, 2)
    boxes = [torch.tensor([0.0, 0, 4, 10]), torch.tensor([5.0, 5, 11, 7]), torch.tensor([9.0, 0, 19, 6])]
    assert median_size(boxes).tolist() == [6, 6] and median_size(boxes[:1]).tolist() == [4, 10]
