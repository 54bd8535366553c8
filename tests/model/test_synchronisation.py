"""How often a frame waits for the device, counted on tensors that claim to be on a GPU."""

import numpy as np
import pytest
import torch
from fake_cuda import FakeCuda

from stg_pyg import STGNet, VideoSegmenter
from stg_pyg.config import STGConfig

HEIGHT, WIDTH = 96, 160
MOST = 12


def video(objects, config=None, device="cpu"):
    torch.manual_seed(0)
    model = STGNet.small(config, width=8).eval().to(device)
    labels = np.zeros((HEIGHT, WIDTH), np.uint8)
    for k in range(objects):
        labels[8 + 20 * k : 24 + 20 * k, 20 + 10 * k : 70 + 10 * k] = k + 1
    image = np.random.default_rng(0).integers(0, 255, (HEIGHT, WIDTH, 3), np.uint8)
    stream = VideoSegmenter(model, None, 64)
    with torch.no_grad():
        stream.step(image, masks=labels)
        for shift in range(1, 9):
            stream.step(np.roll(image, shift, axis=1))
            for state in stream.objects:  # an untrained network loses them, and a search is another matter
                state.masks[stream.frame_idx] = state.last_mask = state.first_mask
                state.search_from = 1000
    return stream, np.roll(image, 9, axis=1)


@pytest.mark.parametrize("config", [STGConfig.small(), STGConfig.paper()], ids=["small", "paper"])
def test_a_frame_waits_as_often_for_four_objects_as_for_one(config):
    counts = []
    for objects in (1, 4):
        with torch.no_grad(), FakeCuda() as gpu:
            stream, image = video(objects, config, "cuda")
            gpu.places.clear()
            stream.step(image)
        counts.append(gpu.places)
    assert counts[0] == counts[1]
    assert 0 < sum(counts[0].values()) <= MOST
