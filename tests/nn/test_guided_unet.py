"""The network whose decoder is guided by Q, and what is read from the maps of its encoder."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.testing import assert_close

from stg_pyg.errors import InputError
from stg_pyg.model.identity import feature_loss, key_loss
from stg_pyg.nn.backbones.guided_unet import GuidedUNet
from stg_pyg.nn.backbones.registry import make_backbone
from stg_pyg.nn.backbones.segmentation import segmentation_loss


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


@pytest.mark.parametrize("size", [64, 96])
@pytest.mark.parametrize("mixed", [False, True])
def test_shapes_and_dtypes(net, size, mixed):
    images, q = torch.randn(2, 3, size, size), torch.rand(2, size, size)
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=mixed):
        output = net(images, q)
        x, keys = net.features(output.maps, torch.rand(2, 5, size, size)), net.keys(output.maps)
    assert output.logits.shape == (2, size, size) and output.quality.shape == (2,)
    assert [m.shape[-1] for m in output.maps] == [size // s for s in (2, 4, 8, 16, 32)]
    assert x.shape == (2, 5, 12) and keys.shape == (2, 10, size // 8, size // 8)
    assert (net.out_features, net.key_channels) == (12, 10)
    for tensor in (output.logits, output.quality, x, keys):
        assert tensor.dtype == torch.float32 and bool(tensor.isfinite().all())


def test_maps_are_shared_by_all_that_look_at_a_window(net, images, maps):
    window, q = torch.tensor([2, 0, 2, 1, 2]), torch.rand(5, 64, 64)
    shared, alone = net.decode(images[window], [m[window] for m in maps], q), net(images[window], q)
    assert_close(shared.logits, alone.logits, atol=1e-4, rtol=1e-4)
    assert_close(shared.quality, alone.quality, atol=1e-4, rtol=1e-4)
    for k in range(5):
        one = net(images[window[k : k + 1]], q[k : k + 1])
        assert_close(one.logits[0], shared.logits[k], atol=1e-4, rtol=1e-4)
        assert_close(one.quality[0], shared.quality[k], atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("cells", [1, 32])
def test_q_guides_the_mask(net, images, cells):
    """Coarse shapes do, and details of which every other map sees the mean only."""
    checks = (torch.arange(64)[:, None] // cells + torch.arange(64)[None] // cells) % 2
    one, other = (net(images[:1], q[None].float()) for q in (checks, 1 - checks))
    assert float((one.logits - other.logits).abs().max()) > 0.1


@pytest.mark.parametrize("level", range(5))
def test_every_map_and_the_image_matter(net, images, maps, level):
    q = torch.rand(3, 64, 64)
    logits = net.decode(images, maps, q).logits
    without = [torch.zeros_like(m) if k == level else m for k, m in enumerate(maps)]
    assert float((net.decode(images, without, q).logits - logits).abs().max()) > 1e-4
    assert float((net.decode(0 * images, maps, q).logits - logits).abs().max()) > 1e-4


def test_q_is_seen_as_means_of_cells_where_it_is_coarse():
    net, images = make().eval().requires_grad_(False), torch.randn(1, 3, 64, 64)
    net.skips[-1].weight[:, 3] = 0
    corners = torch.zeros(1, 64, 64)
    corners[:, ::2, ::2] = 1
    assert_close(net(images, corners).logits, net(images, torch.full((1, 64, 64), 0.25)).logits)
    assert float((net(images, corners).logits - net(images, 0 * corners).logits).abs().max()) > 1e-3


@pytest.mark.parametrize("q", [torch.zeros(3, 64, 64), torch.rand(3, 64, 64)], ids=["blank", "rough"])
def test_the_quality_judges_the_mask_that_came_out(images, q):
    net = make()
    before = net(images, q).quality
    with torch.no_grad():
        net.mask_head.weight.neg_().mul_(10)
    after = net(images, q).quality
    assert not torch.allclose(after, before, atol=1e-4)
    after.sum().backward()
    assert net.mask_head.weight.grad is None


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
    double = make(features=12, key_channels=10).eval().double()
    single, precise = net(images, q), double(images.double(), q.double())
    assert_close(precise.logits, single.logits, atol=1e-3, rtol=1e-3)
    assert_close(precise.quality, single.quality, atol=1e-3, rtol=1e-3)
    for found, expected in (
        (double.features(precise.maps, masks.double()), net.features(single.maps, masks)),
        (double.keys(precise.maps), net.keys(single.maps)),
    ):
        assert found.dtype == torch.float64
        assert_close(found.float(), expected, atol=1e-3, rtol=1e-3)


def test_every_weight_has_a_gradient(images):
    net = make()
    q, targets = torch.rand(3, 64, 64), left(64, 24, 3)
    output = net(images, q)
    loss = segmentation_loss(output, targets)
    owner = torch.tensor([1, 1, 2])
    loss = loss + feature_loss(net, output.maps, q, targets, owner) + key_loss(net, output.maps, targets, owner)
    loss.backward()
    for name, parameter in net.named_parameters():
        assert parameter.grad is not None and bool(parameter.grad.isfinite().all()), name
        assert float(parameter.grad.abs().sum()) > 0, name


@pytest.mark.parametrize("size", [(48, 48), (40, 64), (64, 100)])
def test_sides_that_are_no_multiples_of_32_are_refused(net, size):
    with pytest.raises(InputError, match=rf"{size[1]} x {size[0]} pixels.*multiples of 32"):
        net(torch.randn(1, 3, *size), torch.rand(1, *size))


def test_backbones_with_other_strides_are_refused():
    with pytest.raises(ValueError, match=r"\[4, 8, 16, 32\]"):
        GuidedUNet(make_backbone("convnext_atto"))
    with pytest.raises(InputError, match=r"--backbone convnext_atto: .*\[4, 8, 16, 32\].*; take tf_efficientnet_lite0"):
        GuidedUNet.of("convnext_atto")


# Features and keys


def test_features_have_length_1_and_are_zero_for_an_empty_mask(net, maps):
    masks = torch.stack([left(64, 20, 3), 1e-3 * left(64, 64, 3), torch.zeros(3, 64, 64), left(64, 64, 3)], dim=1)
    x = net.features(maps, masks)
    assert_close(x.norm(dim=2), torch.tensor([1.0, 1, 0, 1]).expand(3, 4))
    assert float((x[:, 0] - x[:, 3]).norm(dim=1).min()) > 1e-2


def test_features_do_not_depend_on_other_masks_and_windows(net, maps):
    masks = torch.rand(3, 4, 64, 64)
    x = net.features(maps, masks)
    for n in range(3):
        for m in range(4):
            one = net.features([x[n : n + 1] for x in maps], masks[n : n + 1, m : m + 1])
            assert_close(one[0, 0], x[n, m], atol=1e-5, rtol=1e-4)


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
def test_features_and_keys_see_strides_8_and_16(net, maps, level):
    without = [torch.zeros_like(m) if k == level else m for k, m in enumerate(maps)]
    only = [m if k in (2, 3) else torch.full_like(m, torch.nan) for k, m in enumerate(maps)]
    masks = torch.rand(3, 1, 64, 64)
    for read in (net.keys, lambda maps: net.features(maps, masks)):
        assert float((read(without) - read(maps)).abs().max()) > 1e-2
        assert torch.equal(read(only), read(maps))


def test_keys_are_where_they_are_seen(net, maps):
    moved = [m.clone() for m in maps]
    moved[2][:, :, 6, 1] += 1
    changed = (net.keys(moved) != net.keys(maps)).any(dim=1)
    expected = torch.zeros(3, 8, 8, dtype=torch.bool)
    expected[:, 6, 1] = True
    assert torch.equal(changed, expected)


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


def test_depthwise_convolutions_learn_in_float32(net, images):
    seen = []
    backbone = net.backbone
    depthwise = next(m for m in backbone.net.modules() if isinstance(m, nn.Conv2d) and m.groups > 1)
    hook = depthwise.register_forward_hook(lambda _, __, made: seen.append(made.dtype))
    with torch.autocast("cpu", dtype=torch.bfloat16), torch.enable_grad():
        maps = backbone(images)
        with torch.no_grad():
            backbone(images)
    hook.remove()
    assert seen == [torch.float32, torch.bfloat16] and maps[-1].dtype != torch.float64
