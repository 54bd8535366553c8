"""Times the scoring of stored masks against vos-benchmark: python -m experiments.benchmark_scores

Both read the same masks from files with the same number of processes, in turns; annotations with other ids than the
masks (DAVIS-2016) are written anew for vos-benchmark, which is not timed.
"""

from __future__ import annotations

import io
import shutil
import statistics
import tempfile
import time
from collections.abc import Sequence
from contextlib import redirect_stdout
from pathlib import Path

from datasets.base import VideoSequence
from experiments import cli
from experiments.presets import PRESETS, find_preset, open_split
from experiments.stored_masks import score_stored
from stg_pyg.errors import InputError
from stg_pyg.io import write_json, write_label_map
from stg_pyg.metrics import summarize
from stg_pyg.submission import check_stored_masks


def copy_for_peer(videos: Sequence[VideoSequence], predictions: Path, folder: Path) -> None:
    """Annotations and masks in the layout of vos-benchmark, which takes every file of a folder for a frame."""
    for video in videos:
        for t, frame in enumerate(video.frame_names):
            write_label_map(folder / "target" / video.name / f"{frame}.png", video.labels(t))
            copy = folder / "prediction" / video.name / f"{frame}.png"
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(predictions / video.name / f"{frame}.png", copy)


def score_with_peer(folder: Path, processes: int) -> tuple[float, float]:
    """J and F in percent by vos-benchmark."""
    from vos_benchmark.benchmark import benchmark

    with redirect_stdout(io.StringIO()):
        _, j, f, _ = benchmark(
            [str(folder / "target")], [str(folder / "prediction")], num_processes=processes, verbose=False
        )
    return float(j[0]), float(f[0])


def main() -> None:
    parser = cli.make_parser("Times the scoring of stored masks against vos-benchmark.", out="runs/benchmark_scores")
    parser.add_argument("--preset", default="davis2016", help=f"of DAVIS: one of {', '.join(PRESETS)}")
    parser.add_argument("--root", type=Path, required=True, help="folder of the data set")
    parser.add_argument("--split", default="val")
    parser.add_argument("--predictions", type=Path, required=True, metavar="D", help="<sequence>/<frame>.png")
    parser.add_argument("--processes", type=cli.whole, default=2)
    parser.add_argument("--repeats", type=cli.whole, default=3)
    args = parser.parse_args()
    cli.make_folder(args.out)
    preset = find_preset(args.preset)
    if not preset.dataset.startswith("davis"):
        raise InputError(f"--preset {args.preset}: vos-benchmark scores DAVIS; choose a preset of it")
    videos = open_split(preset, args.split, args.root, args.seed)
    check_stored_masks(args.predictions, videos)
    own, peer = [], []
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        copy_for_peer(videos, args.predictions, folder)
        for _ in range(max(args.repeats, 1)):
            started = time.perf_counter()
            j, f = score_with_peer(folder, args.processes)
            peer.append(time.perf_counter() - started)
            fresh = open_split(preset, args.split, args.root, args.seed)
            started = time.perf_counter()
            summary = summarize(score_stored(args.predictions, fresh, preset.dataset, args.processes))
            own.append(time.perf_counter() - started)
    difference = max(abs(summary["J"]["mean"] - j), abs(summary["F"]["mean"] - f))
    result = {
        "videos": len(videos),
        "frames": sum(video.num_frames for video in videos),
        "processes": args.processes,
        "seconds": statistics.median(own),
        "seconds_vos_benchmark": statistics.median(peer),
        "ratio": statistics.median(own) / statistics.median(peer),
        "runs": {"own": own, "vos_benchmark": peer},
        "largest_difference": difference,
    }
    write_json(args.out / "benchmark_scores.json", result)
    print(
        f"{result['frames']} frames, {args.processes} processes, medians of {len(own)}: {result['seconds']:.2f} s, "
        f"vos-benchmark {result['seconds_vos_benchmark']:.2f} s, ratio {result['ratio']:.2f}; "
        f"J and F differ by {difference:.4f} points"
    )


if __name__ == "__main__":
    cli.run(main)
