import pytest
import torch
import torch.nn.functional as F

from stg_pyg.nn import LabelPropagation


def frames(count, height, width, channels=6, labels=3, seed=0, dtype=torch.float64):
    torch.manual_seed(seed)
    keys = F.normalize(torch.randn(count + 1, channels, height, width, dtype=dtype), dim=1)
    shares = torch.rand(count, labels, height, width, dtype=dtype)
    return keys[0], keys[1:], shares / shares.sum(dim=1, keepdim=True)


def reference(key, memory_keys, memory_labels, local, top_k, radius, temperature):
    """Pixel by pixel, as the formula says."""
    _, height, width = key.shape
    out = torch.zeros(memory_labels.shape[1], height, width, dtype=key.dtype)
    for y in range(height):
        for x in range(width):
            found = []
            for r in range(len(memory_keys)):
                for v in range(height):
                    for u in range(width):
                        if not local[r] or max(abs(v - y), abs(u - x)) <= radius:
                            score = float(key[:, y, x] @ memory_keys[r, :, v, u])
                            found.append((score, memory_labels[r, :, v, u]))
            found.sort(key=lambda pair: -pair[0])
            scores = torch.tensor([score for score, _ in found[:top_k]], dtype=key.dtype)
            weight = (scores / temperature).softmax(dim=0)
            out[:, y, x] = (weight[:, None] * torch.stack([label for _, label in found[:top_k]])).sum(dim=0)
    return out


@pytest.mark.parametrize("top_k", [1, 4, 1000])
@pytest.mark.parametrize("local", [[False, True, True], [False], [True, True]])
def test_every_pixel_reads_its_most_similar_neighbors(top_k, local):
    key, keys, labels = frames(len(local), 5, 14)  # wider than a tile
    layer = LabelPropagation(top_k=top_k, radius=2, temperature=0.3)
    expected = reference(key, keys, labels, local, top_k, 2, 0.3)
    torch.testing.assert_close(layer(key, keys, labels, torch.tensor(local)), expected)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_shares_of_a_pixel_sum_to_one_and_labels_move_along(dtype):
    key, keys, labels = frames(2, 13, 26, channels=32, dtype=dtype)
    found = LabelPropagation(top_k=5)(key, keys, labels, torch.tensor([False, True]))
    assert found.dtype == dtype and float(found.min()) >= 0
    torch.testing.assert_close(found.sum(dim=0), torch.ones_like(found[0]))
    key, moved = torch.roll(keys[0], 3, dims=2), torch.roll(labels[0], 3, dims=2)
    found = LabelPropagation(top_k=3, temperature=0.01)(key, keys, labels, torch.tensor([False, False]))
    torch.testing.assert_close(found, moved, atol=1e-4, rtol=0)


def test_labels_finer_than_keys_are_carried_along():
    _, keys, _ = frames(1, 9, 20, channels=32)
    labels = torch.rand(1, 3, 27, 60, dtype=keys.dtype)
    key, moved = torch.roll(keys[0], (2, 5), dims=(1, 2)), torch.roll(labels[0], (6, 15), dims=(1, 2))
    found = LabelPropagation(top_k=3, temperature=0.01)(key, keys, labels, torch.tensor([False]))
    torch.testing.assert_close(found, moved, atol=1e-6, rtol=0)


def test_every_part_of_a_pixel_reads_as_the_pixel_does():
    key, keys, labels = frames(2, 5, 7)
    layer, local = LabelPropagation(top_k=4, radius=2), torch.tensor([False, True])
    fine = labels.repeat_interleave(2, dim=2).repeat_interleave(2, dim=3)
    whole = layer(key, keys, labels, local)
    torch.testing.assert_close(layer(key, keys, fine, local), whole.repeat_interleave(2, 1).repeat_interleave(2, 2))


def test_labels_have_gradients():
    key, keys, labels = frames(2, 4, 5)
    labels.requires_grad_()
    layer = LabelPropagation(top_k=3, radius=1)
    layer(key, keys, labels, torch.tensor([False, True]))[1].sum().backward()
    assert float(labels.grad[:, 1].abs().sum()) == pytest.approx(20)
    assert float(labels.grad[:, [0, 2]].abs().sum()) == 0
