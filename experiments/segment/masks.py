"""The masks of somebody's own video, from the first frame on or from where an earlier run stopped."""

from __future__ import annotations

import json
import time
from pathlib import Path

from tqdm import tqdm

from experiments.runs.settings import digest
from experiments.segment import resume as segment_resume
from experiments.segment.frames import FrameResult
from experiments.segment.options import CONFIDENCE
from experiments.segment.outputs import BAR, read_confidence, write_alpha
from experiments.segment.resume import Stand
from experiments.segment.run import Run
from stg_pyg.utils.images import remove_leftovers, write_label_map


def frame_names(run: Run, count: int) -> list[str]:
    """Names of the first ``count`` frames that are segmented."""
    return [run.source.frame_name(n * run.source.every) for n in range(count)]


def earlier_stand(run: Run) -> tuple[Stand, str]:
    """How far earlier runs of the same command came, and a line that tells so; masks that are gone are made again."""
    out = run.args.out
    for folder in [out, run.folder, run.saved.folder, *(out / "alpha" / run.sequence).glob("*")]:
        remove_leftovers(folder)
    finished = _finished(run)
    stand = finished or run.saved.load_stand()
    if not all((run.folder / f"{name}.png").is_file() for name in frame_names(run, stand.position)):
        return Stand(), f"masks of an earlier run are gone from {run.folder}, so this one begins anew"
    if finished is not None:
        return stand, f"all masks are there from an earlier run; remove {out / 'run.json'} to make them again"
    if stand.position:
        return stand, f"going on after frame {frame_names(run, stand.position)[-1]} of a run that was stopped"
    return stand, run.saved.note


def make_masks(run: Run, stand: Stand) -> Stand:
    """Adapts the network, writes the masks that are missing, and saves now and then where the run stands."""
    if stand.complete:
        return stand
    for name in ("run.json", CONFIDENCE):
        (run.args.out / name).unlink(missing_ok=True)
    stand.online_seconds = run.learn()
    ids, before, started = run.given.object_ids, stand.seconds, time.perf_counter()
    saved = started
    for obj_id in ids:
        stand.scores.setdefault(obj_id, [])
    options = {"unit": "frame", "dynamic_ncols": True, "disable": None, "bar_format": BAR}
    with tqdm(total=run.source.num_frames, initial=stand.position, desc=run.sequence, **options) as bar:
        for frame in run.frames(stand.position, stand.stream):
            _write_frame(run, frame)
            for obj_id, score in frame.scores(ids).items():
                stand.scores[obj_id].append(score)
            stand.position += 1
            bar.update()
            now = time.perf_counter()
            stand.seconds = before + now - started
            if now - saved >= segment_resume.SAVE_SECONDS:
                stand.stream = run.state()
                run.saved.save_stand(stand)
                saved = now
    stand.stream, stand.complete = None, True
    run.saved.save_stand(stand)
    return stand


def _write_frame(run: Run, frame: FrameResult) -> None:
    if run.args.alpha:
        for obj_id, alpha in frame.alphas(run.given.object_ids):
            write_alpha(run.args.out / "alpha" / run.sequence / str(obj_id) / f"{frame.name}.png", alpha)
    write_label_map(run.folder / f"{frame.name}.png", frame.labels())


def _finished(run: Run) -> Stand | None:
    """The stand at the end of an earlier run of the same command that was not stopped."""
    path: Path = run.args.out / "run.json"
    scores = read_confidence(run.args.out / CONFIDENCE)
    try:
        content = json.loads(path.read_bytes())
        if scores is None or content["fingerprint"] != digest(run.saved.fingerprint):
            return None
        frames, seconds = int(content["frames"]), float(content["seconds_per_frame"])
        return Stand(frames, scores, seconds * frames, None, float(content["online_seconds"]), True)
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return None
