"""X and K that are read from the maps of the segmentation network, and the model that does so."""

import copy

import pytest
import torch
import torch.nn.functional as F
from torch.testing import assert_close

from stg_pyg import STGConfig, STGNet
from stg_pyg.nn.backbones.encoders import SharedFeatures, SharedKeys
from stg_pyg.nn.backbones.guided_unet import GuidedUNet
from stg_pyg.nn.backbones.segmentation import SegmentationOutput
from stg_pyg.ops.crops import crop_resize, crop_windows, normalize_image
from stg_pyg.proposals.guided import Evidence, GuidedProposer

SIZE, MARGIN = 64, 0.2
CONFIG = STGConfig.small().replace({"temporal.key_size": 64, "proposals.crop_margin": MARGIN})
BOXES = torch.tensor([[10.0, 10, 50, 50], [40, 20, 76, 60], [10, 10, 50, 50]])


def make(**options):
    torch.manual_seed(0)
    model = STGNet.pretrained(CONFIG, weights="imagenet", **options).requires_grad_(False).eval()
    model.crop_size = SIZE
    return model


@pytest.fixture
def model():
    return make()


@pytest.fixture
def image():
    return torch.rand(3, 72, 96)


@pytest.fixture
def masks():
    masks = torch.zeros(3, 72, 96)
    for mask, (x0, y0, x1, y1) in zip(masks, BOXES.int().tolist(), strict=True):
        mask[y0:y1, x0:x1] = 1
    masks[2, :, 30:] = 0
    return masks


@pytest.fixture
def evidence():
    """Four rough masks in two windows."""
    windows, half = crop_windows(BOXES, MARGIN)[[0, 1, 2, 0]], (torch.arange(SIZE) < SIZE // 2).float()
    across, along = half.expand(SIZE, SIZE), half[:, None].expand(SIZE, SIZE)
    return Evidence(windows, torch.stack([across, across, along, 1 - across]), ["a", "b", "c", "d"])


def test_nothing_is_owned_twice(model):
    assert not list(model.feature_encoder.state_dict()) and not list(model.key_encoder.state_dict())
    assert not list(model.feature_encoder.parameters()) and not list(model.key_encoder.buffers())
    assert [name for name in model.state_dict() if "conv_stem" in name] == [
        "segmentation.backbone.net.conv_stem.weight"
    ]
    assert isinstance(model.segmentation, GuidedUNet)
    assert model.made_of == {"name": "pretrained", "backbone": "tf_efficientnet_lite0"}


def test_features_are_those_of_the_network_at_the_windows_of_the_boxes(model, image, masks):
    x = model.encode(image, masks, BOXES)
    windows = crop_windows(BOXES, MARGIN)
    for k in range(3):
        maps = model.segmentation.encode(crop_resize(normalize_image(image)[None], windows[k : k + 1], SIZE))
        inside = crop_resize(masks[k][None, None], windows[k : k + 1], SIZE)
        assert_close(x[k], model.segmentation.features(maps, inside)[0, 0], atol=1e-4, rtol=1e-4)
    assert_close(model.encode(image, masks > 0.5, BOXES), x, atol=1e-4, rtol=1e-4)
    assert_close(x.norm(dim=1), torch.ones(3))
    assert float((x[0] - x[2]).norm()) > 1e-2
    assert model.encode(image, masks[:0], BOXES[:0]).shape == (0, model.feature_encoder.out_features)


@pytest.mark.parametrize("grid", [8, 4, 16])
def test_keys_are_those_of_the_network_on_any_grid(model, grid):
    encoder, crops = SharedKeys(model.segmentation, grid), torch.rand(2, 3, 64, 64)
    keys, own = encoder(crops), model.segmentation.keys(model.segmentation.encode(crops))
    assert keys.shape == (2, encoder.out_channels, grid, grid)
    assert_close(keys.mean(dim=(2, 3)), own.mean(dim=(2, 3)), atol=0.1 * float(own.std()), rtol=0)
    if grid <= 8:
        assert_close(keys, F.avg_pool2d(own, 8 // grid))


def test_the_model_has_keys_on_its_grid(model, image):
    assert model.key_encoder.grid == CONFIG.temporal.key_size // 4
    keys = model.encode_keys(image, crop_windows(BOXES, MARGIN))
    assert keys.shape == (3, model.key_encoder.out_channels, 16, 16)


def test_what_is_shared_is_not_trained(model, image, masks):
    windows = crop_windows(BOXES, MARGIN)
    for look in (lambda: model.encode(image, masks, BOXES), lambda: model.encode_keys(image, windows)):
        expected = look()
        model.requires_grad_(True).train()
        found = look()
        assert not found.requires_grad and not model.segmentation.training
        assert_close(found, expected)


@pytest.mark.parametrize("size", [32, 96])
def test_the_size_of_the_crops_is_that_of_the_features(model, image, masks, size):
    model.crop_size = size
    windows = crop_windows(BOXES, MARGIN)
    expected = SharedFeatures(model.segmentation, size, MARGIN)(normalize_image(image), BOXES, masks)
    assert model.crop_size == size
    assert_close(model.encode(image, masks, BOXES), expected)
    seen = []
    model.segmentation.backbone.register_forward_hook(lambda module, images, maps: seen.append(images[0].shape))
    model.encode(image, masks, BOXES)
    assert seen == [(len(windows), 3, size, size)]


@pytest.mark.parametrize("read", ["features", "keys"])
def test_copies_share_among_themselves(model, image, masks, read):
    def look(model):
        if read == "features":
            return model.encode(image, masks, BOXES)
        return model.encode_keys(image, crop_windows(BOXES, MARGIN))

    before, twin = look(model), copy.deepcopy(model)
    assert_close(look(twin), before)
    for parameter in twin.segmentation.backbone.parameters():
        parameter.mul_(1.2)
    assert not torch.allclose(look(twin), before, atol=1e-3)
    assert_close(look(model), before)
    twin.load_state_dict(model.state_dict())
    assert_close(look(twin), before)


class Echo(GuidedUNet):
    """Says that Q is right."""

    def decode(self, images, maps, q):
        return SegmentationOutput(40 * (q - 0.5), q.mean(dim=(1, 2)), maps)


@torch.no_grad()
def test_proposals_come_with_the_features_of_their_masks(image, evidence):
    net = Echo.of(weights="imagenet")
    parts = [Evidence(evidence.windows[s], evidence.q[s], evidence.origin[s]) for s in (slice(0, 1), slice(1, 4))]
    first, others = GuidedProposer(net, SIZE, MARGIN).propose(image, parts)
    feats, masks = torch.cat([first.feats, others.feats]), torch.cat([first.masks, others.masks])
    expected = SharedFeatures(net, SIZE, MARGIN)(normalize_image(image), BOXES[[0, 1, 2, 0]], masks)
    apart = torch.cdist(expected, expected) + torch.eye(4)
    assert float((feats - expected).norm(dim=1).max()) < 0.1 * float(apart.min())
    assert_close(feats.norm(dim=1), torch.ones(4))


def test_equal_windows_are_seen_once(model, image, evidence):
    seen = []
    model.segmentation.backbone.register_forward_hook(lambda module, images, maps: seen.append(len(images[0])))
    masks, scores = GuidedProposer(model.segmentation, SIZE, MARGIN).segment(image, evidence)
    assert seen == [2] and len(masks) == len(scores) == 4
    assert float((masks[0] - masks[3]).abs().max()) > 1e-3
    crops = crop_resize(normalize_image(image)[None], evidence.windows, SIZE)
    assert_close(masks, model.segmentation(crops, evidence.q).logits.sigmoid(), atol=1e-4, rtol=1e-4)


def test_x_and_k_follow_a_segmentation_network_that_is_put_in():
    model, other = (STGNet.pretrained(STGConfig.small().replace("temporal.key_size", 64)).eval() for _ in range(2))
    features, keys = model.feature_encoder, model.key_encoder
    model.put({"segmentation": other.segmentation})
    assert model.segmentation is other.segmentation
    image, crops = torch.rand(3, 48, 64), torch.randn(1, 3, 64, 64)
    box, mask = torch.tensor([[8.0, 8.0, 40.0, 40.0]]), torch.ones(1, 48, 64)
    assert torch.equal(model.feature_encoder(image, box, mask), other.feature_encoder(image, box, mask))
    assert torch.equal(model.key_encoder(crops), other.key_encoder(crops))
    assert not torch.equal(features(image, box, mask), other.feature_encoder(image, box, mask))
    assert not torch.equal(keys(crops), other.key_encoder(crops))
