import pytest
import torch
import torchvision
from torchvision.models import WeightsEnum, detection
from torchvision.ops import FrozenBatchNorm2d, box_iou, roi_align

from stg_pyg.errors import InputError
from stg_pyg.nn.detector import parts
from stg_pyg.nn.detector.mask_rcnn import Detector
from stg_pyg.ops.crops import normalize_image
from stg_pyg.proposals.base import Proposals

MASK_RCNN = "maskrcnn_resnet50_fpn"


def tiny(voting=0.0, objectness=False, **limits):
    torch.manual_seed(0)
    return Detector.small(8, 48, voting=voting, objectness=objectness, **limits).eval()


def loud(detector, score=3.0):
    """Every region is an object, so that there is something to look at."""
    predictor = detector.model.roi_heads.box_predictor
    with torch.no_grad():
        predictor.cls_score.bias[1:] = score
        predictor.bbox_pred.weight.mul_(0.1)
    return detector


def heads(scores, boxes, **limits):
    """The boxes, scores and labels that are kept of regions with class probabilities [N, C] and boxes [N, C, 4]."""
    detector = tiny(**limits)
    agnostic = detector.model.roi_heads
    regions = [torch.tensor([[0.0, 0, 10, 10]] * len(scores))]
    codes = agnostic.box_coder.encode([b.float() for b in boxes.unbind(1)], regions * boxes.shape[1])
    result = agnostic.postprocess_detections(scores.log(), torch.cat(codes, dim=1), regions, [(100, 100)])
    return [x[0] for x in result]


def test_proposals_of_a_frame():
    image, detector = torch.rand(3, 60, 90), loud(tiny(max_detections=7)).train()
    found = detector.detect(image)
    assert detector.training and not found.feats.requires_grad
    assert isinstance(found, Proposals) and 0 < len(found) <= 7
    assert found.masks.dtype == torch.bool and found.masks.shape == (len(found), 60, 90)
    assert found.feats.shape == (len(found), 64) and found.origin == ["detector"] * len(found)
    assert found.scores.tolist() == sorted(found.scores.tolist(), reverse=True) and found.scores.min() > 0.05
    assert (found.boxes[:, :2] >= 0).all() and (found.boxes[:, 2:] <= torch.tensor([90.0, 60])).all()
    iou = box_iou(found.boxes, found.boxes).fill_diagonal_(0)
    assert iou.max() <= 0.6 + 1e-4
    for mask, (x0, y0, x1, y1) in zip(found.masks, found.boxes, strict=True):
        ys, xs = mask.nonzero(as_tuple=True)
        assert (xs + 1 >= x0 - 2).all() and (xs <= x1 + 2).all() and (ys + 1 >= y0 - 2).all() and (ys <= y1 + 2).all()


def test_limits():
    image, detector = torch.rand(3, 48, 64), loud(tiny())
    everything = detector.detect(image)
    assert 5 < len(everything) <= 50
    detector.set_limits(max_detections=5)
    five = detector.detect(image)
    assert torch.equal(five.boxes, everything.boxes[:5]) and torch.equal(five.masks, everything.masks[:5])
    detector.set_limits(nms=0.1)
    boxes = detector.detect(image).boxes
    assert box_iou(boxes, boxes).fill_diagonal_(0).max() <= 0.1 + 1e-4
    detector.set_limits(confidence=1.0)
    nothing = detector.detect(image)
    assert nothing.boxes.shape == (0, 4) and nothing.feats.shape == (0, 64) and nothing.masks.shape == (0, 48, 64)


def test_features_are_the_mean_of_the_pyramid_in_the_box():
    detector, image = loud(tiny(max_detections=4)), torch.rand(3, 48, 64)
    found = detector.detect(image)
    batch, _ = detector.model.transform([image])
    with torch.no_grad():
        fine = detector.model.backbone(batch.tensors)["0"]
    small = (found.boxes[:, 2:] - found.boxes[:, :2]).prod(dim=1).sqrt() < 100  # of the finest level
    assert small.any()
    expected = roi_align(fine, [found.boxes[small]], 7, 1 / 8, sampling_ratio=2).mean(dim=(2, 3))
    torch.testing.assert_close(found.feats[small], expected)


def test_large_frames_are_averaged_before_sampling():
    """Stripes of two pixels are grey to the detector, wherever it samples them."""
    detector = loud(tiny(confidence=0.0))
    stripes = torch.zeros(3, 480, 640)
    stripes[:, ::4] = stripes[:, 1::4] = 1
    found, shifted = detector.detect(stripes), detector.detect(1 - stripes)
    assert found.size == (480, 640) and found.boxes.amax() > 200
    grey = detector.detect(torch.full((3, 480, 640), 0.5))
    inner = slice(0, 5)
    torch.testing.assert_close(found.scores[inner], grey.scores[inner], atol=5e-3, rtol=0)
    torch.testing.assert_close(found.scores[inner], shifted.scores[inner], atol=5e-3, rtol=0)


def test_classes_suppress_each_other():
    box = torch.tensor([10.0, 10, 50, 50])
    scores = torch.tensor([[0.1, 0.7, 0.2], [0.3, 0.1, 0.6], [0.92, 0.04, 0.04]])
    near, far = box + 2, box + 40
    boxes = torch.stack([torch.stack([box, box, near]), torch.stack([box, far, near]), torch.stack([far, far, far])])
    kept, values, labels = heads(scores, boxes)
    torch.testing.assert_close(kept, torch.stack([box, far]), atol=1e-3, rtol=0)
    torch.testing.assert_close(values, torch.tensor([0.7, 0.1]))
    assert labels.tolist() == [1, 1], "the mask is the one of the class that fired"
    kept, values, labels = heads(scores, boxes, nms=0.95)
    assert labels.tolist() == [1, 2, 1] and values.tolist() == pytest.approx([0.7, 0.6, 0.1])
    assert len(heads(scores, boxes, confidence=0.15)[0]) == 1
    outside = torch.tensor([200.0, 200, 240, 240]).expand(1, 2, 4)
    assert len(heads(torch.tensor([[0.1, 0.9]]), outside)[0]) == 0, "a box without extent is dropped"


def test_boxes_are_voted_on():
    box = torch.tensor([10.0, 10, 50, 50])
    scores = torch.tensor([[0.4, 0.6], [0.8, 0.2], [0.5, 0.5], [0.96, 0.04]])
    boxes = torch.stack([box, box + 4, box + 40, box + 4])[:, None].repeat(1, 2, 1)
    kept, values, _ = heads(scores, boxes, voting=0.5)
    torch.testing.assert_close(kept, torch.stack([(0.6 * box + 0.2 * (box + 4)) / 0.8, box + 40]), atol=1e-3, rtol=0)
    torch.testing.assert_close(values, torch.tensor([0.6, 0.5]))
    kept, _, _ = heads(scores, boxes, voting=0.9)
    torch.testing.assert_close(kept[0], box, atol=1e-3, rtol=0)


def test_scores_of_regions():
    detector = loud(tiny(nms=1.0, confidence=0.0, max_detections=1000))
    image = torch.rand(3, 48, 64)
    plain = detector.detect(image)
    detector.objectness = True
    both = detector.detect(image)
    assert len(plain) == len(both) > 10
    row = {tuple(box): score for box, score in zip(plain.boxes.tolist(), plain.scores.tolist(), strict=True)}
    classes = torch.tensor([row[tuple(box)] for box in both.boxes.tolist()])
    squares = both.scores**2 / classes
    torch.testing.assert_close(squares.sort().values, detector.model.rpn.scores[0].sort().values)
    detector.objectness = False
    torch.testing.assert_close(detector.detect(image).scores, plain.scores)


def test_losses_reach_every_weight():
    detector = tiny().train()
    masks = torch.zeros(1, 48, 64, dtype=torch.uint8)
    masks[:, 8:40, 10:50] = 1
    target = {"boxes": torch.tensor([[10.0, 8, 50, 40]]), "labels": torch.ones(1, dtype=torch.long), "masks": masks}
    nothing = {"boxes": torch.zeros(0, 4), "labels": torch.ones(0, dtype=torch.long), "masks": masks[:0]}
    losses = detector([torch.rand(3, 48, 64), torch.rand(3, 48, 64)], [target, nothing])
    assert {"loss_objectness", "loss_rpn_box_reg", "loss_classifier", "loss_box_reg", "loss_mask"} == losses.keys()
    torch.stack(list(losses.values())).sum().backward()
    assert not [name for name, p in detector.named_parameters() if p.grad is None or not p.grad.isfinite().all()]


def test_checkpoint_of_a_small_detector():
    detector = loud(tiny(max_detections=9, confidence=0.2))
    content = detector.to_checkpoint()
    made = {"width": 8, "size": 48, "voting": 0.0, "objectness": False, "max_detections": 9, "confidence": 0.2}
    assert content["network"] == {"name": "small", **made}
    again, image = Detector.from_checkpoint(content), torch.rand(3, 48, 64)
    a, b = detector.detect(image), again.detect(image)
    assert torch.equal(a.boxes, b.boxes) and torch.equal(a.masks, b.masks) and not again.training
    default, paper = Detector.small(8, 48), Detector(detector.model)
    assert default.objectness and default.model.roi_heads.voting == 0.6
    assert not paper.objectness and paper.model.roi_heads.voting == 0


NAN = {"model.roi_heads.box_predictor.cls_score.bias": torch.full((2,), float("nan"))}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"network": {"name": "from_checkpoint"}}, "no detector"),
        ({"network": {"name": "small", "depth": 3}}, "no detector"),
        ({"network": {"name": "small", "width": 16, "size": 48}}, "no detector"),
        ({"weights": None}, "no detector"),
        ({"weights": tiny().state_dict() | NAN}, "not finite"),
    ],
)
def test_checkpoints_of_something_else(change, message):
    with pytest.raises(InputError, match=message):
        Detector.from_checkpoint(tiny().to_checkpoint() | change)
    with pytest.raises(InputError, match="no detector"):
        Detector.from_checkpoint({})


def epsilons(net):
    """Those of batch normalisation by its kind."""
    found = {}
    for module in net.modules():
        if isinstance(module, FrozenBatchNorm2d | torch.nn.BatchNorm2d):
            found.setdefault(type(module), set()).add(module.eps)
    return found


def test_collapsed_and_one_class_from_a_file(tmp_path):
    path = tmp_path / "weights.pth"
    torch.save(detection.maskrcnn_resnet50_fpn(weights=None, weights_backbone=None).state_dict(), path)
    collapsed, source = Detector.collapsed(path, network=MASK_RCNN), torch.load(path)
    collapsed.model.transform.min_size, collapsed.model.transform.max_size = (64,), 96
    collapsed.set_limits(confidence=0.0, max_detections=6)  # random weights are sure of nothing
    found = collapsed.detect(torch.rand(3, 64, 96))
    assert len(found) == 6 and found.feats.shape == (6, 256)

    one = Detector.one_class(path)
    state = one.model.state_dict()
    fresh = {name for name, value in state.items() if name not in source or source[name].shape != value.shape}
    replaced = ("box_predictor.cls_score", "box_predictor.bbox_pred", "mask_predictor.mask_fcn_logits")
    assert fresh == {f"roi_heads.{part}.{kind}" for part in replaced for kind in ("weight", "bias")}
    assert all(torch.equal(value, source[name]) for name, value in state.items() if name not in fresh)
    used = [i for i, c in enumerate(detection.MaskRCNN_ResNet50_FPN_Weights.COCO_V1.meta["categories"]) if c != "N/A"]
    assert len(used) == 81  # with the background
    rows = source["roi_heads.box_predictor.bbox_pred.weight"].reshape(parts.NUM_COCO, 4, -1)
    torch.testing.assert_close(state["roi_heads.box_predictor.bbox_pred.weight"][4:], rows[used[1:]].mean(dim=0))
    mask = source["roi_heads.mask_predictor.mask_fcn_logits.bias"]
    torch.testing.assert_close(state["roi_heads.mask_predictor.mask_fcn_logits.bias"][1], mask[used[1:]].mean())
    assert epsilons(one) == {FrozenBatchNorm2d: {0.0}}
    assert not one.model.backbone.body.conv1.weight.requires_grad
    assert one.model.backbone.body.layer4[0].conv1.weight.requires_grad
    again = Detector.from_checkpoint(one.to_checkpoint())
    assert all(torch.equal(a, b) for a, b in zip(one.state_dict().values(), again.state_dict().values(), strict=True))


def test_without_weights_everything_is_trained():
    detector = Detector.one_class("none")
    assert all(p.requires_grad for p in detector.parameters())
    assert detector.model.roi_heads.box_predictor.cls_score.out_features == 2
    assert detector.to_checkpoint()["network"]["frozen"] is False
    with pytest.raises(InputError, match="'yolo' is unknown"):
        parts.coco_model("yolo", None)


def test_one_class_from_the_backbone_of_imagenet(tmp_path):
    with torch.device("meta"):
        values = enumerate(torchvision.models.resnet50(weights=None).state_dict().items())
    state = {name: torch.tensor(k).to(value.dtype).expand(value.shape) for k, (name, value) in values}
    torch.save(state, tmp_path / "resnet50.pth")
    one = Detector.one_class(tmp_path, imagenet=True)
    body = one.model.backbone.body.state_dict()
    assert body.keys() == {name for name in state if not name.startswith("fc.") and "num_batches" not in name}
    assert all(torch.equal(value, state[name]) for name, value in body.items())
    again = Detector.from_checkpoint(one.to_checkpoint())
    assert epsilons(one) == epsilons(again) == {FrozenBatchNorm2d: {1e-5}}
    assert not one.model.backbone.body.conv1.weight.requires_grad


def test_pictures_are_normalised_once_as_the_weights_expect():
    detector, seen = tiny(), []
    detector.model.backbone.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    image = torch.tensor([0.2, 0.5, 0.9])[:, None, None].expand(3, 48, 64)
    detector.detect(image)
    torch.testing.assert_close(seen[0][0, :, :48, :64], normalize_image(image))


@pytest.mark.parametrize("network", [MASK_RCNN, "maskrcnn_resnet50_fpn_v2"])
def test_the_networks_are_those_that_torchvision_makes_for_its_weights(monkeypatch, network):
    weights = torchvision.models.get_model_weights(network).DEFAULT
    assert weights.meta["categories"][0] == "__background__" and len(weights.meta["categories"]) == parts.NUM_COCO
    with torch.device("meta"):
        state = getattr(detection, network)(weights=None, weights_backbone=None).state_dict()
        monkeypatch.setattr(WeightsEnum, "get_state_dict", lambda *_, **__: state)
        published = getattr(detection, network)(weights=weights)
        net = parts.coco_model(network, None)
    for theirs, own in zip(published.named_modules(), net.named_modules(), strict=True):
        assert theirs[0] == own[0] and type(theirs[1]) is type(own[1]), own[0]
    shapes = [{name: value.shape for name, value in model.state_dict().items()} for model in (published, net)]
    assert shapes[0] == shapes[1] and epsilons(published) == epsilons(net)
    assert published.transform.image_mean == net.transform.image_mean
    if network == MASK_RCNN:  # the other one is trained in all layers
        learned = [{name for name, p in model.named_parameters() if p.requires_grad} for model in (published, net)]
        assert learned[0] == learned[1]
