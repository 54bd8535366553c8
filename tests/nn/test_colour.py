import torch

from stg_pyg.crops import normalize_image
from stg_pyg.nn.colour import ColourEncoder, ColourKeys


def scene():
    image = torch.zeros(3, 16, 24)
    image[0, :, :8] = 0.9
    image[2, :, 8:] = 0.9
    masks = torch.zeros(4, 16, 24)
    masks[0, :8, :8], masks[1, 8:, :8], masks[2, :, 12:] = 1, 1, 1
    return normalize_image(image), masks


def test_cosines_are_bhattacharyya_coefficients():
    image, masks = scene()
    feats = ColourEncoder()(image, torch.zeros(4, 4), masks)
    cos = feats @ feats.T
    assert torch.allclose(cos[:3, :3].diagonal(), torch.ones(3), atol=1e-5)
    assert cos[0, 1] > 0.999 and cos[0, 2] < 0.01


def test_an_empty_mask_has_no_colours():
    image, masks = scene()
    assert ColourEncoder()(image, torch.zeros(4, 4), masks)[3].abs().sum() == 0


def test_bool_masks_and_no_masks():
    image, masks = scene()
    encoder = ColourEncoder(bins=6)
    assert torch.equal(encoder(image, torch.zeros(4, 4), masks.bool()), encoder(image, torch.zeros(4, 4), masks))
    assert encoder(image, torch.zeros(0, 4), masks[:0]).shape == (0, 216)


def test_keys_are_mean_colours():
    crops = torch.arange(2 * 3 * 8 * 8).float().view(2, 3, 8, 8)
    keys = ColourKeys(grid=4)(crops)
    assert keys.shape == (2, 3, 4, 4) and torch.equal(keys[1, 2, 0, 0], crops[1, 2, :2, :2].mean())
