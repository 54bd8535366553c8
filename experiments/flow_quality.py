"""How good Q is for each source of flow: python -m experiments.flow_quality"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

from datasets.base import VideoSequence
from experiments.common import cli
from experiments.common.presets import find_preset, open_split
from stg_pyg.errors import InputError
from stg_pyg.flow.interface import FlowEstimator, consistent_flow, flow_between, flow_for_sequence
from stg_pyg.flow.sources import resolve_flow
from stg_pyg.flow.warping import warp
from stg_pyg.ops.masks import mask_iou
from stg_pyg.utils.images import write_json, write_text


def parse() -> argparse.Namespace:
    parser = cli.make_parser(
        "J of Q, the true mask of an earlier frame warped by flow, with and without the forward-backward test, and "
        "milliseconds a frame, for each source of flow.",
        out="runs/flow_quality",
    )
    parser.add_argument("--preset", default="davis2016", help="data set")
    parser.add_argument("--root", type=Path, help="folder of the data set (not for synthetic)")
    parser.add_argument("--split", default="val", help="videos")
    parser.add_argument("--flow", nargs="+", default=["dis:ultrafast", "dis:fast", "dis"], metavar="SPEC")
    parser.add_argument("--max-size", nargs="+", type=cli.whole, default=[480, 0], help="longer side; 0: full size")
    parser.add_argument("--gap", nargs="+", type=cli.whole, default=[1, 8], help="frames between the two")
    parser.add_argument("--every", type=cli.whole, default=10, help="every N-th frame")
    return parser.parse_args()


def measure(flow: FlowEstimator, videos: list[VideoSequence], gap: int, every: int) -> dict[str, float]:
    """Means over objects and frames: J of Q in percent without flow, with it, and with the test; milliseconds."""
    scores: list[list[float]] = []
    plain = tested = 0.0
    for video in videos:
        source = flow_for_sequence(flow, video.name, video.frame_names)
        for t in range(gap, video.num_frames, every):
            labels, before = video.labels(t), video.labels(t - gap)
            if labels is None or before is None or not before.any():
                continue
            images = video.image(t), video.image(t - gap)
            started = time.perf_counter()
            backward = flow_between(source, *images, t, t - gap)
            plain += time.perf_counter() - started
            started = time.perf_counter()
            _, valid = consistent_flow(source, *images, t, t - gap)
            tested += time.perf_counter() - started
            for obj_id in np.unique(before[before > 0]).tolist():
                old, new = (torch.from_numpy(x == obj_id).float() for x in (before, labels))
                qs = [old, warp(old, backward), warp(old, backward, torch.from_numpy(valid))]
                js = [float(mask_iou((q > 0.5).float()[None], new[None])[0, 0]) for q in qs]
                scores.append(js)
    if not scores:
        raise InputError("no frame of the split has masks on both sides of the gap: nothing to measure")
    still, warped, masked = (100 * np.array(scores).mean(axis=0)).tolist()
    times = {"ms": 1000 * plain / len(scores), "ms_tested": 1000 * tested / len(scores)}
    return {"still": still, "warped": warped, "tested": masked, **times}


def main() -> None:
    args = parse()
    cli.make_folder(args.out)
    torch.set_num_threads(1)
    device = cli.choose_device(args.device)
    videos = open_split(find_preset(args.preset), args.split, args.root, args.seed)
    rows = []
    for spec in tqdm(args.flow, desc="flow", unit="source", dynamic_ncols=True, disable=None):
        for size in args.max_size:
            flow = resolve_flow(spec, device=device, max_size=size or None)
            for gap in args.gap:
                rows.append({"flow": spec, "max_size": size, "gap": gap, **measure(flow, videos, gap, args.every)})
    lines = [
        "| flow | longer side | gap | J of the mask as it was | warped | ms | with the test | ms |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    form = "| {flow} | {side} | {gap} | {still:.1f} | {warped:.1f} | {ms:.0f} | {tested:.1f} | {ms_tested:.0f} |"
    lines += [form.format(side=row["max_size"] or "full", **row) for row in rows]
    write_json(args.out / "flow_quality.json", rows)
    write_text(args.out / "flow_quality.md", "\n".join(lines) + "\n")
    print("\n".join(lines))


if __name__ == "__main__":
    cli.run(main)
