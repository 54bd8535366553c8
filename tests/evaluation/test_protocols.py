from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest

from stg_pyg.errors import InputError
from stg_pyg.evaluation.metrics import score_sequence
from stg_pyg.evaluation.protocols import (
    check_categories,
    dataset_scores,
    frames_to_score,
    has_annotations,
    nothing_to_score,
    read_categories,
)


@dataclass
class Video:
    name: str
    first_frame_of: dict[int, int]
    categories: dict[int, str] = field(default_factory=dict)
    num_frames: int = 10
    frames: tuple[int, ...] = ()
    """Those that are annotated."""

    def annotated(self, t: int) -> bool:
        return t in self.frames


def scores(j: float, f: float) -> dict:
    return {m: {"mean": v, "recall": v / 2, "decay": v / 10} for m, v in (("J", j), ("F", f))}


ZOO = Video("zoo", {1: 0, 2: 0, 7: 5}, {1: "zebra", 2: "kangaroo", 7: "cups"})
BAND = Video("band", {1: 0}, {1: "guitar"})
RESULTS = {"zoo": {1: scores(0.8, 0.6), 2: scores(0.5, 0.3), 7: scores(0.4, 0.2)}, "band": {1: scores(0.3, 0.1)}}


def close(found: dict, wanted: dict) -> None:
    assert found.keys() == wanted.keys()
    for key, value in wanted.items():
        assert found[key] == pytest.approx(value) if value is not None else found[key] is None


@pytest.mark.parametrize(
    ("unseen", "of_seen", "of_unseen", "g"),
    [
        (None, (60, 40, 2), (40, 20, 2), (60 + 40 + 40 + 20) / 4),  # the zebra, and cups, which are no cup
        ({"zebra", "unicorn"}, (40, 20, 3), (80, 60, 1), 50),  # groups do not weigh by their objects
        (set(), (50, 30, 4), (None, None, 0), 40),  # one without objects does not count
    ],
)
def test_youtube_vos_is_the_mean_of_four_scores(unseen, of_seen, of_unseen, g):
    summary = dataset_scores("youtube_vos", RESULTS, [ZOO, BAND], unseen)
    for name, expected in (("seen", of_seen), ("unseen", of_unseen)):
        close(summary["protocol"]["groups"][name], dict(zip(("J", "F", "objects"), expected, strict=True)))
    assert summary["G"] == summary["protocol"]["G"] == pytest.approx(g)
    mean = summary["J"]["mean"]
    close(summary["J"], {"mean": mean, "recall": mean / 2, "decay": mean / 10})
    assert summary["protocol"]["objects"] == 4
    close(summary["sequences"]["band"], {"J": 30, "F": 10, "G": 20})


def test_youtube_objects_is_the_mean_over_classes():
    videos = [Video("a", {1: 3}, {1: "cat"}), Video("b", {1: 3}, {1: "cat"}), Video("c", {1: 0}, {1: "train"})]
    results = {"a": {1: scores(0.2, 0)}, "b": {1: scores(0.4, 0)}, "c": {1: scores(0.9, 0)}}
    summary = dataset_scores("youtube_objects", results, videos)
    close({name: g["J"] for name, g in summary["protocol"]["groups"].items()}, {"cat": 30, "train": 90})
    assert summary["J"]["mean"] == pytest.approx(60)


@pytest.mark.parametrize("dataset", ["segtrack_v2", "davis2016", "davis2017", "synthetic", "composed"])
def test_others_are_the_mean_over_objects(dataset):
    summary = dataset_scores(dataset, RESULTS, [ZOO, BAND])
    close(summary["J"], {"mean": 50, "recall": 25, "decay": 5})
    close(summary["F"], {"mean": 30, "recall": 15, "decay": 3})
    close(summary["sequences"]["zoo"], {"J": 170 / 3, "F": 110 / 3, "G": 140 / 3})
    assert summary["G"] == pytest.approx(40) and list(summary["sequences"]) == ["zoo", "band"]
    close(summary["protocol"]["objects_by_name"]["zoo/7"], {"J": 40, "F": 20})
    assert list(summary["protocol"]["objects_by_name"]) == ["zoo/1", "zoo/2", "zoo/7", "band/1"]


def test_objects_without_category_are_named():
    nameless = Video("zoo", {1: 0, 2: 0}, {1: "zebra", 2: ""})
    for dataset in ("youtube_vos", "youtube_objects"):
        with pytest.raises(InputError, match="video zoo: object 2 has no category"):
            check_categories(dataset, [nameless])
    check_categories("davis2017", [nameless])


def test_unseen_categories(tmp_path: Path):
    known = read_categories()
    assert len(known) == 26
    assert {"kangaroo", "stuffed_toy", "watch"} <= known and not {"person", "zebra", "giant_panda", "others"} & known
    own, broken = tmp_path / "unseen.txt", tmp_path / "broken.txt"
    own.write_text("# mine\n\n cup \ngiant_panda\n")
    assert read_categories(own) == {"cup", "giant_panda"}
    own.write_text("# nothing\n\n")
    broken.write_bytes(b"\xff\xfe\x00")
    for path in (own, broken, tmp_path / "none.txt", tmp_path):
        with pytest.raises(InputError, match=str(path)):
            read_categories(path)


def test_frames_of_an_object_that_comes_late():
    """Two objects of one column each; the second is given in frame 4, frames 1, 5 and 7 are not annotated."""
    video = Video("v", {3: 0, 200: 4}, num_frames=9, frames=(0, 2, 3, 4, 6, 8))
    target = np.zeros((9, 20, 20), np.uint8)
    target[:, 2:10, 2:10] = 3
    target[4:, 12:18, 12:18] = 200
    annotated = [frame if video.annotated(t) else None for t, frame in enumerate(target)]

    def j_of(wrong: int, obj_id: int) -> float:
        prediction = target.copy()
        prediction[wrong][target[wrong] == obj_id] = 0
        return score_sequence(prediction, annotated, **frames_to_score("youtube_vos", video))[obj_id]["J"]["mean"]

    assert [j_of(t, 3) for t in range(9)] == pytest.approx([1, 1, 0.8, 0.8, 0.8, 1, 0.8, 1, 0.8])
    assert [j_of(t, 200) for t in (4, 5, 6, 7, 8)] == pytest.approx([1, 1, 0.5, 1, 0.5])
    early = target.copy()
    early[2, 12:18, 12:18] = 200  # claimed before it is there
    result = score_sequence(early, annotated, **frames_to_score("youtube_vos", video))
    assert list(result) == [3, 200] and result[200]["J"]["mean"] == 1
    late = Video("v", {3: 0, 200: 8}, num_frames=9, frames=video.frames)
    assert list(score_sequence(target, annotated, **frames_to_score("segtrack_v2", late))) == [3]


def test_splits_without_annotations():
    assert not has_annotations(
        [Video("test-dev", {1: 0, 2: 0}, frames=(0,)), Video("late", {1: 0, 4: 5}, frames=(0, 5))]
    )
    assert has_annotations([Video("a", {1: 0}, frames=(0,)), Video("b", {1: 0, 4: 5}, frames=(0, 5, 9))])
    assert not has_annotations([])
    content = nothing_to_score("youtube_vos")
    assert content["G"] is None and content["J"] == dict.fromkeys(("mean", "recall", "decay"))
    assert content["sequences"] == {} and content["protocol"] == {"name": "YouTube-VOS", "objects": 0}
    with pytest.raises(InputError, match="nothing to score"):
        dataset_scores("davis2017", {"a": {}}, [])
