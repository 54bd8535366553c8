"""Objects that meet, with and without the memory of whole frames.

    uv run python docs/who_is_who.py DAVIS --split dev

Of each video of a split of DAVIS-2016 one of three objects is composed, and its first frames are segmented without
online learning. Printed are J of all objects, and the number of masks that cover another object more than their own.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch

from datasets.base import VideoSequence
from datasets.composed.videos import ComposedVideos
from datasets.davis import DAVIS
from stg_pyg import VideoSegmenter, load_model, region_similarity
from stg_pyg.model.stgnet import STGNet


@torch.no_grad()
def follow(model: STGNet, video: VideoSequence, frames: int) -> tuple[list[float], int, int]:
    """J of every object in percent, and how many of how many masks are rather on another object."""
    stream = VideoSegmenter(model)
    scores: dict[int, list[float]] = {}
    exchanged = masks = 0
    for t in range(min(frames, video.num_frames)):
        truth = video.labels(t)
        assert truth is not None
        new = [obj_id for obj_id, first in video.first_frame_of.items() if first == t]
        given = np.where(np.isin(truth, new), truth, 0).astype(np.uint8) if new else None
        found = stream.step(video.image(t), masks=given).labels.numpy()
        for obj_id in [i for i, first in video.first_frame_of.items() if first < t]:
            mask = found == obj_id
            j = region_similarity(torch.from_numpy(mask), torch.from_numpy(truth == obj_id))
            scores.setdefault(obj_id, []).append(100 * float(j))
            covered = np.bincount(truth[mask], minlength=256)
            covered[0] = 0
            masks += bool(mask.any())
            exchanged += bool(covered.any()) and int(covered.argmax()) != obj_id
    return [float(np.mean(values)) for values in scores.values()], exchanged, masks


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("root", type=Path, help="folder of DAVIS-2016")
    parser.add_argument("--split", default="dev")
    parser.add_argument("--frames", type=int, default=40, help="of each video")
    args = parser.parse_args()
    base = list(DAVIS(args.root, "2016", args.split, "480p"))
    videos = ComposedVideos(base, len(base), objects=(3, 3), seed=0, split=args.split)
    for enabled in (False, True):
        model = load_model()
        model.config = model.config.replace({"scene.enabled": enabled, "online.update_every": 0})
        results = [follow(model, video, args.frames) for video in videos]
        j = np.mean([score for scores, _, _ in results for score in scores])
        exchanged, masks = (sum(result[n] for result in results) for n in (1, 2))
        print(f"scene.enabled={enabled}: J {j:.1f}, {exchanged} of {masks} masks rather on another object")


if __name__ == "__main__":
    main()
