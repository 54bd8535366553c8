import torch

from stg_pyg.nn.backbones.colour import ColourEncoder, ColourKeys
from stg_pyg.ops.crops import normalize_image


def test_cosines_of_colours_are_bhattacharyya_coefficients():
    image, masks, boxes = torch.zeros(3, 16, 24), torch.zeros(4, 16, 24), torch.zeros(4, 4)
    image[0, :, :8] = image[2, :, 8:] = 0.9
    masks[0, :8, :8] = masks[1, 8:, :8] = masks[2, :, 12:] = 1  # and an empty one
    image = normalize_image(image)
    feats = ColourEncoder()(image, boxes, masks)
    cos = feats @ feats.T
    assert torch.allclose(cos[:3, :3].diagonal(), torch.ones(3), atol=1e-5)
    assert cos[0, 1] > 0.999 and cos[0, 2] < 0.01 and not feats[3].any()
    encoder = ColourEncoder(bins=6)
    assert torch.equal(encoder(image, boxes, masks.bool()), encoder(image, boxes, masks))
    assert encoder(image, boxes[:0], masks[:0]).shape == (0, 216)


def test_keys_are_mean_colours():
    crops = torch.arange(2 * 3 * 8 * 8).float().view(2, 3, 8, 8)
    keys = ColourKeys(grid=4)(crops)
    assert keys.shape == (2, 3, 4, 4) and torch.equal(keys[1, 2, 0, 0], crops[1, 2, :2, :2].mean())
