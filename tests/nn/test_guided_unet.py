"""The network whose decoder is guided by Q, and X and K, which are read from the maps of its encoder."""

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.testing import assert_close

from stg_pyg import STGConfig, STGNet
from stg_pyg.errors import InputError
from stg_pyg.model.identity import feature_loss, key_loss
from stg_pyg.nn.backbones.encoders import SharedFeatures, SharedKeys
from stg_pyg.nn.backbones.guided_unet import GuidedUNet
from stg_pyg.nn.backbones.registry import make_backbone
from stg_pyg.nn.backbones.segmentation import SegmentationOutput, segmentation_loss
from stg_pyg.ops.crops import crop_resize, crop_windows, normalize_image
from stg_pyg.proposals.guided import Evidence, GuidedProposer


def make(**options):
    torch.manual_seed(0)
    net = GuidedUNet.of(weights="imagenet", **options).train()
    for layer in net.modules():
        if isinstance(layer, nn.BatchNorm2d):
            layer.momentum = None
    with torch.no_grad():
        net(torch.randn(4, 3, 64, 64), torch.rand(4, 64, 64))
    return net


@pytest.fixture(scope="module")
def net():
    """With statistics of a batch, for evaluation."""
    return make(features=12, key_channels=10).eval().requires_grad_(False)


@pytest.fixture(scope="module")
def images():
    return torch.randn(3, 3, 64, 64, generator=torch.Generator().manual_seed(1))


@pytest.fixture(scope="module")
def maps(net, images):
    return net.encode(images)


def left(side, columns, count=1):
    return (torch.arange(side) < columns).float().expand(count, side, side)


# Masks


def test_maps_are_shared_by_all_that_look_at_a_window(net, images, maps):
    window, q = torch.tensor([2, 0, 2, 1, 2]), torch.rand(5, 64, 64)
    shared, alone = net.decode(images[window], [m[window] for m in maps], q), net(images[window], q)
    assert_close(shared.logits, alone.logits, atol=1e-4, rtol=1e-4)
    assert_close(shared.quality, alone.quality, atol=1e-4, rtol=1e-4)
    assert [m.shape[-1] for m in maps] == [32, 16, 8, 4, 2]


@pytest.mark.parametrize("cells", [1, 32])
def test_q_guides_the_mask(net, images, cells):
    """Coarse shapes do, and details of which every other map sees the mean only."""
    checks = (torch.arange(64)[:, None] // cells + torch.arange(64)[None] // cells) % 2
    one, other = (net(images[:1], q[None].float()) for q in (checks, 1 - checks))
    assert float((one.logits - other.logits).abs().max()) > 0.1


@pytest.mark.parametrize("level", range(5))
def test_every_map_matters(net, images, maps, level):
    q = torch.rand(3, 64, 64)
    without = [torch.zeros_like(m) if k == level else m for k, m in enumerate(maps)]
    difference = net.decode(images, without, q).logits - net.decode(images, maps, q).logits
    assert float(difference.abs().max()) > 1e-4


def test_q_is_seen_as_means_of_cells_where_it_is_coarse(net, images):
    net = copy.deepcopy(net)
    net.skips[-1].weight[:, 3] = 0
    corners = torch.zeros(3, 64, 64)
    corners[:, ::2, ::2] = 1
    assert_close(net(images, corners).logits, net(images, torch.full((3, 64, 64), 0.25)).logits)
    assert float((net(images, corners).logits - net(images, 0 * corners).logits).abs().max()) > 1e-3


def test_the_quality_knows_what_is_in_the_mask_and_how_much_of_q_came_out(net, images):
    q, seen = torch.rand(3, 64, 64), []
    handles = [
        net.ups[-2].register_forward_hook(lambda module, inputs, output: seen.append(output)),
        net.quality_head.register_forward_hook(lambda module, inputs, output: seen.append(inputs[0])),
    ]
    found = net(images, q).logits.sigmoid()
    for handle in handles:
        handle.remove()
    decoded, evidence = seen
    inside = F.avg_pool2d(found[:, None], 2)
    detail = (decoded * inside).sum(dim=(2, 3)) / inside.sum(dim=(2, 3))
    overlap = (found * q).sum(dim=(1, 2)) / (found + q - found * q).sum(dim=(1, 2))
    assert_close(evidence[:, -1 - detail.shape[1] :], torch.cat([detail, overlap[:, None]], dim=1))


def test_double_precision(net, images):
    q, masks = torch.rand(3, 64, 64), torch.rand(3, 2, 64, 64)
    double = copy.deepcopy(net).double()
    single, precise = net(images, q), double(images.double(), q.double())
    for found, expected in (
        (precise.logits.double(), single.logits),
        (precise.quality.double(), single.quality),
        (double.features(precise.maps, masks.double()), net.features(single.maps, masks)),
        (double.keys(precise.maps), net.keys(single.maps)),
    ):
        assert found.dtype == torch.float64
        assert_close(found.float(), expected, atol=1e-3, rtol=1e-3)


def test_every_weight_has_a_gradient(images):
    net, q, targets, owner = make(), torch.rand(3, 64, 64), left(64, 24, 3), torch.tensor([1, 1, 2])
    output = net(images, q)
    loss = segmentation_loss(output, targets)
    loss = loss + feature_loss(net, output.maps, q, targets, owner) + key_loss(net, output.maps, targets, owner)
    loss.backward()
    for name, parameter in net.named_parameters():
        assert parameter.grad is not None and bool(parameter.grad.isfinite().all()), name
        assert float(parameter.grad.abs().sum()) > 0, name


def test_other_sides_and_backbones_are_refused(net):
    with pytest.raises(InputError, match=r"100 x 64 pixels.*multiples of 32"):
        net(torch.randn(1, 3, 64, 100), torch.rand(1, 64, 100))
    with pytest.raises(ValueError, match=r"\[4, 8, 16, 32\]"):
        GuidedUNet(make_backbone("convnext_atto"))
    with pytest.raises(InputError, match=r"--backbone convnext_atto: .*\[4, 8, 16, 32\].*; take tf_efficientnet_lite0"):
        GuidedUNet.of("convnext_atto")


def test_q_after_the_stem_is_an_option():
    net = GuidedUNet.of("tf_efficientnet_lite0+q").eval()
    images, q = torch.randn(2, 3, 64, 64), torch.rand(2, 64, 64)
    with torch.no_grad():
        blind = net.encode(images)
        assert all(map(torch.equal, blind, net.encode(images, q)))  # its weights begin at 0
        net.stem.weight.normal_()
        seeing = net.encode(images, q)
        assert not any(map(torch.equal, blind, seeing)) and all(map(torch.equal, blind, net.encode(images)))
        assert_close(net(images, q).maps, seeing)
    assert GuidedUNet.of().stem is None and not net.backbone.stem._forward_hooks


# Features and keys


def test_features_have_length_1_are_zero_for_an_empty_mask_and_independent(net, maps):
    masks = torch.stack([left(64, 20, 3), 1e-3 * left(64, 64, 3), torch.zeros(3, 64, 64), left(64, 64, 3)], dim=1)
    x = net.features(maps, masks)
    assert_close(x.norm(dim=2), torch.tensor([1.0, 1, 0, 1]).expand(3, 4))
    assert float((x[:, 0] - x[:, 3]).norm(dim=1).min()) > 1e-2
    for n in range(3):
        one = net.features([m[n : n + 1] for m in maps], masks[n : n + 1, n : n + 1])
        assert_close(one[0, 0], x[n, n], atol=1e-5, rtol=1e-4)


def test_features_are_of_what_is_inside_of_the_mask(net, maps):
    """However sure the mask is, and whatever its resolution."""
    masks = left(64, 16)[None].expand(3, 1, 64, 64)
    x = net.features(maps, masks)
    far, near = ([m.clone() for m in maps] for _ in range(2))
    for k in (2, 3):
        side = maps[k].shape[-1]
        far[k][..., side // 2 :] += 5 * torch.randn(far[k].shape[1], 1, 1)
        near[k][..., : side // 4] += 5 * torch.randn(near[k].shape[1], 1, 1)
    assert_close(net.features(far, masks), x)
    assert float((net.features(near, masks) - x).norm(dim=2).min()) > 1e-2
    assert_close(net.features(maps, 0.3 * masks), x, atol=1e-5, rtol=1e-4)
    assert_close(net.features(maps, F.avg_pool2d(masks, 8)), x, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("level", [2, 3])
def test_features_and_keys_see_strides_8_and_16_where_they_are(net, maps, level):
    without = [torch.zeros_like(m) if k == level else m for k, m in enumerate(maps)]
    only = [m if k in (2, 3) else torch.full_like(m, torch.nan) for k, m in enumerate(maps)]
    masks = torch.rand(3, 1, 64, 64)
    for read in (net.keys, lambda maps: net.features(maps, masks)):
        assert float((read(without) - read(maps)).abs().max()) > 1e-2
        assert torch.equal(read(only), read(maps))
    moved, expected = [m.clone() for m in maps], torch.zeros(3, 8, 8, dtype=torch.bool)
    moved[2][:, :, 6, 1] += 1
    expected[:, 6, 1] = True
    assert torch.equal((net.keys(moved) != net.keys(maps)).any(dim=1), expected)


# In the model, which shares the maps without owning the network twice

SIZE, MARGIN = 64, 0.2
CONFIG = STGConfig.small().replace({"temporal.key_size": 64, "proposals.crop_margin": MARGIN})
BOXES = torch.tensor([[10.0, 10, 50, 50], [40, 20, 76, 60], [10, 10, 50, 50]])
WINDOWS = crop_windows(BOXES, MARGIN)


@pytest.fixture
def model():
    torch.manual_seed(0)
    model = STGNet.pretrained(CONFIG, weights="imagenet").requires_grad_(False).eval()
    model.crop_size = SIZE
    return model


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
    across = left(SIZE, SIZE // 2)[0]
    return Evidence(WINDOWS[[0, 1, 2, 0]], torch.stack([across, across, across.T, 1 - across]), ["a", "b", "c", "d"])


def test_features_are_those_of_the_network_at_the_windows_of_the_boxes(model, image, masks):
    x = model.encode(image, masks, BOXES)
    for k in range(3):
        maps = model.segmentation.encode(crop_resize(normalize_image(image)[None], WINDOWS[k : k + 1], SIZE))
        inside = crop_resize(masks[k][None, None], WINDOWS[k : k + 1], SIZE)
        assert_close(x[k], model.segmentation.features(maps, inside)[0, 0], atol=1e-4, rtol=1e-4)
    assert_close(model.encode(image, masks > 0.5, BOXES), x, atol=1e-4, rtol=1e-4)
    assert float((x[0] - x[2]).norm()) > 1e-2
    assert model.encode(image, masks[:0], BOXES[:0]).shape == (0, model.feature_encoder.out_features)
    model.crop_size, seen = 96, []
    model.segmentation.backbone.register_forward_hook(lambda module, images, maps: seen.append(images[0].shape))
    other = SharedFeatures(model.segmentation, 96, MARGIN)(normalize_image(image), BOXES, masks)
    assert_close(model.encode(image, masks, BOXES), other)
    assert seen == [(3, 3, 96, 96)] * 2


@pytest.mark.parametrize("grid", [8, 4, 16])
def test_keys_are_those_of_the_network_on_any_grid(model, image, grid):
    encoder, crops = SharedKeys(model.segmentation, grid), torch.rand(2, 3, 64, 64)
    keys, own = encoder(crops), model.segmentation.keys(model.segmentation.encode(crops))
    assert keys.shape == (2, encoder.out_channels, grid, grid)
    assert_close(keys.mean(dim=(2, 3)), own.mean(dim=(2, 3)), atol=0.1 * float(own.std()), rtol=0)
    assert grid > 8 or torch.allclose(keys, F.avg_pool2d(own, 8 // grid), atol=1e-5)
    assert model.key_encoder.grid == CONFIG.temporal.key_size // 4 == model.encode_keys(image, WINDOWS).shape[-1]


@pytest.mark.parametrize("read", ["features", "keys"])
def test_what_is_shared_is_owned_once_not_trained_and_copied_with_its_network(model, image, masks, read):
    def look(model):
        return model.encode(image, masks, BOXES) if read == "features" else model.encode_keys(image, WINDOWS)

    assert not [*model.feature_encoder.state_dict(), *model.key_encoder.state_dict()]
    assert sum("conv_stem" in name for name in model.state_dict()) == 1
    assert model.made_of == {"name": "pretrained", "backbone": "tf_efficientnet_lite0"}
    before, twin = look(model), copy.deepcopy(model)
    model.requires_grad_(True).train()
    again = look(model)
    assert not again.requires_grad and not model.segmentation.training
    assert_close(again, before)
    for parameter in twin.segmentation.backbone.parameters():
        parameter.mul_(1.2)
    assert not torch.allclose(look(twin), before, atol=1e-3)
    assert_close(look(model), before)
    features, keys = model.feature_encoder, model.key_encoder
    model.put({"segmentation": twin.segmentation})
    assert torch.equal(look(model), look(twin))
    assert model.feature_encoder is not features and model.key_encoder is not keys


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
