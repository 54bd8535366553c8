"""A video that is stopped, and goes on from its stored state."""

import io

import numpy as np
import torch

FRAMES, STOP = 7, 4


def through_a_file(state):
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    return torch.load(file, weights_only=True)


@torch.no_grad()
def run(stream, video, frames):
    """Labels and soft masks of some frames; an object joins in the third."""
    late = np.zeros((48, 64), np.uint8)
    late[30:40, 40:60] = 9
    given = {0: video.labels(0), 2: late}
    results = [stream.step(video.image(t), masks=given.get(t)) for t in frames]
    return [(result.labels, result.masks, result.obj_ids) for result in results]
