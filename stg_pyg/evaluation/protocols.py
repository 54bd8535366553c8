"""How each benchmark turns the J and F of frames into its scores.

====================== =================================================== =====================================
data set               scored frames                                       scores
====================== =================================================== =====================================
DAVIS, synthetic       the annotated ones but the first and the last, for  means over all objects
                       the objects of the first frame
YouTube-VOS            of each object, the annotated ones after the one    means over the objects of seen and of
                       that it is given in                                 unseen categories; G of the four
YouTube-Objects        as YouTube-VOS                                      means over the objects of each class,
                                                                           then over the classes
SegTrack-v2, composed  as YouTube-VOS                                      means over all objects
====================== =================================================== =====================================

DAVIS is ``davis2017-evaluation``. YouTube-VOS says that J and F are averaged over the objects of seen and of unseen
categories and that the final score is the mean of the four (https://youtube-vos.org/dataset/vos); whether its server
counts the frame in which an object is given has not been published: here it does not, as elsewhere. YouTube-Objects
and SegTrack-v2 come without an evaluation of their own, and papers differ: here the last frame counts and the given one
does not (as in Perazzi et al., Learning Video Object Segmentation from Static Images, CVPR 2017), and YouTube-Objects
is averaged over its ten classes (Jain and Grauman, ECCV 2014).
"""

from __future__ import annotations

import os
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from stg_pyg.errors import InputError
from stg_pyg.evaluation.metrics import STATISTICS, ObjectScores, mean_percent, summarize

Results = Mapping[str, Mapping[int, ObjectScores]]


class Video(Protocol):
    """What a protocol needs to know of a video; :class:`datasets.base.VideoSequence` has it."""

    name: str

    @property
    def num_frames(self) -> int: ...
    @property
    def categories(self) -> Mapping[int, str]: ...
    @property
    def first_frame_of(self) -> Mapping[int, int]: ...
    def annotated(self, t: int) -> bool: ...


@dataclass(frozen=True)
class Benchmark:
    """The scoring of one data set."""

    title: str
    davis_frames: bool = False
    """The annotated frames but the first and the last; else, by object, those after the one it is given in."""
    groups: str = ""
    """``seen``: of seen and unseen categories; ``class``: a group a class; empty: all objects are one group."""


BENCHMARKS = {
    "synthetic": Benchmark("synthetic videos", davis_frames=True),
    "davis2016": Benchmark("DAVIS-2016", davis_frames=True),
    "davis2017": Benchmark("DAVIS-2017", davis_frames=True),
    "youtube_vos": Benchmark("YouTube-VOS", groups="seen"),
    "youtube_objects": Benchmark("YouTube-Objects", groups="class"),
    "segtrack_v2": Benchmark("SegTrack-v2"),
}


def find_benchmark(dataset: str) -> Benchmark:
    """The scoring of a data set by the name that presets use; one that has no own is scored as SegTrack-v2 is."""
    return BENCHMARKS.get(dataset) or Benchmark(dataset)


def frames_to_score(dataset: str, video: Video) -> dict[str, Any]:
    """The arguments of :func:`stg_pyg.evaluation.metrics.score_sequence` that make it score the frames of a
    benchmark."""
    if find_benchmark(dataset).davis_frames:
        return {"obj_ids": list(video.first_frame_of)}
    return {"given_at": dict(video.first_frame_of)}


def scored_frames(dataset: str, video: Video) -> list[int]:
    """Indices of the frames whose masks the scores of a benchmark depend on, ascending."""
    annotated = [t for t in range(video.num_frames) if video.annotated(t)]
    if find_benchmark(dataset).davis_frames:
        return annotated[1:-1] if len(annotated) > 2 else annotated[-1:]
    given = min(video.first_frame_of.values(), default=video.num_frames)
    return [t for t in annotated if t > given]


def has_annotations(videos: Iterable[Video]) -> bool:
    """Whether there is anything to score: an annotated frame that is not there only to give an object.

    ``test-dev`` of DAVIS has masks of the first frames alone, and ``valid`` of YouTube-VOS of the frames where objects
    first appear, without the other objects.
    """
    for video in videos:
        annotated = [t for t in range(video.num_frames) if video.annotated(t)]
        if len(annotated) > 1 and not set(annotated) <= set(video.first_frame_of.values()):
            return True
    return False


def read_categories(path: str | os.PathLike[str] | None = None) -> set[str]:
    """Names of categories, one a line, lines that start with # left out; the unseen ones of YouTube-VOS when None."""
    source = Path(path) if path is not None else resources.files("stg_pyg") / "data" / "youtube_vos_unseen.txt"
    try:
        lines = [line.strip() for line in source.read_text(encoding="utf-8").splitlines()]
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{source}: cannot be read as text; give a file with one category a line") from error
    names = {line for line in lines if line and not line.startswith("#")}
    if not names:
        raise InputError(f"{source}: names no category; write one a line")
    return names


def check_categories(dataset: str, videos: Iterable[Video]) -> None:
    """Refuses objects without the category that the scores of the data set need."""
    benchmark = find_benchmark(dataset)
    for video in videos if benchmark.groups else ():
        for obj_id in video.first_frame_of:
            if not video.categories.get(obj_id):
                raise InputError(
                    f"video {video.name}: object {obj_id} has no category, which the scores of {benchmark.title} are "
                    "grouped by; complete the data set's list of objects"
                )


def dataset_scores(
    dataset: str, results: Results, videos: Iterable[Video], unseen: Collection[str] | None = None
) -> dict[str, Any]:
    """Scores of a data set in percent, in the form of ``metrics.json``.

    Every number of the data set is the mean over the groups that have objects of the mean over the objects of a group,
    G the mean of J and F; so G of YouTube-VOS is the mean of its four scores.

    Args:
        dataset: as presets name it.
        results: by name of the video, what :func:`stg_pyg.evaluation.metrics.score_sequence` returns.
        videos: those of ``results``, for the categories.
        unseen: names of the unseen categories of YouTube-VOS, compared exactly; a name that no object has is no harm.
            None: those of :func:`read_categories`.

    Returns:
        ``{"J": {"mean", "recall", "decay"}, "F": {...}, "G", "sequences": {name: {"J", "F", "G"}}, "protocol"}``.
        ``protocol`` has ``name``, ``J``, ``F``, ``G`` and ``objects`` (their number), and ``groups``, by name
        ``{"J", "F", "objects"}``, with None for the scores of a group without objects; of data sets without groups
        ``objects_by_name`` instead, ``{"<video>/<id>": {"J", "F"}}``.

    Raises:
        InputError: no object was scored, or one has no category.
    """
    benchmark, videos = find_benchmark(dataset), list(videos)
    summary = summarize(results)
    check_categories(dataset, videos)
    groups = _group(benchmark, results, videos, unseen)
    present = [objects for objects in groups.values() if objects]
    for measure in "JF":
        summary[measure] = {s: float(np.mean([mean_percent(g, measure, s) for g in present])) for s in STATISTICS}
    summary["G"] = (summary["J"]["mean"] + summary["F"]["mean"]) / 2
    headline = {"J": summary["J"]["mean"], "F": summary["F"]["mean"], "G": summary["G"]}
    protocol: dict[str, Any] = {"name": benchmark.title, **headline, "objects": sum(map(len, present))}
    if benchmark.groups:
        protocol["groups"] = {
            name: {**{m: mean_percent(g, m, "mean") if g else None for m in "JF"}, "objects": len(g)}
            for name, g in groups.items()
        }
    else:
        protocol["objects_by_name"] = {
            f"{name}/{obj_id}": {m: 100 * scores[m]["mean"] for m in "JF"}
            for name, of_video in results.items()
            for obj_id, scores in of_video.items()
        }
    return {**summary, "protocol": protocol}


def nothing_to_score(dataset: str) -> dict[str, Any]:
    """The content of ``metrics.json`` for a split whose annotations are with a server."""
    statistics: dict[str, None] = dict.fromkeys(STATISTICS)
    name = find_benchmark(dataset).title
    return {"J": statistics, "F": statistics, "G": None, "sequences": {}, "protocol": {"name": name, "objects": 0}}


def _group(
    benchmark: Benchmark, results: Results, videos: Iterable[Video], unseen: Collection[str] | None
) -> dict[str, list[ObjectScores]]:
    """Scores of the objects by group."""
    groups: dict[str, list[ObjectScores]] = {"seen": [], "unseen": []} if benchmark.groups == "seen" else {}
    categories = {video.name: video.categories for video in videos} if benchmark.groups else {}
    unseen = read_categories() if unseen is None and benchmark.groups == "seen" else unseen or ()
    for name, of_video in results.items():
        for obj_id, scores in of_video.items():
            category = categories[name][obj_id] if benchmark.groups else ""
            if benchmark.groups == "seen":
                category = "unseen" if category in unseen else "seen"
            groups.setdefault(category, []).append(scores)
    return groups
