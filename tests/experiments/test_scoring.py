import math
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from train_cases import InProcess

from datasets import SyntheticVideos, VideoSequence
from experiments.common import checkpoints
from experiments.common.presets import PRESETS
from experiments.runs import scoring
from experiments.runs.job import Job
from experiments.runs.rows import table_rows
from experiments.runs.scoring import score_folder, score_videos, summarize_row
from experiments.runs.store import Records
from stg_pyg.errors import InputError
from stg_pyg.utils.images import write_label_map

PRESET = PRESETS["synthetic-small"]
ROWS = {row.name: row for row in table_rows(PRESET.config)}
NAMES = ["val-0000", "val-0001", "val-0002"]


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the videos that are run, of three tiny ones."""
    videos = list(SyntheticVideos("val", 3, 4, height=32, width=48, max_objects=2))
    done: list[str] = []
    run_row = scoring.run_row

    def counting(job: Job, row: scoring.Row, video: VideoSequence, *rest: object) -> float:
        done.append(video.name)
        return run_row(job, row, video, *rest)

    monkeypatch.setattr(scoring, "open_split", lambda *_: videos)
    monkeypatch.setattr(scoring, "run_row", counting)
    monkeypatch.setattr(scoring, "ProcessPoolExecutor", InProcess)
    monkeypatch.setattr(torch, "set_num_threads", lambda _: None)
    return done


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    checkpoints.save_model(tmp_path / "checkpoint.pt", checkpoints.build_model(PRESET), PRESET, 0)
    return tmp_path / "checkpoint.pt"


def make_job(checkpoint: Path, out: Path, **changes: object) -> Job:
    values = {"rows": (ROWS["flow"],), "device": "cpu", "seed": 0, "out": out, **changes}
    return Job(checkpoint=checkpoint, preset=PRESET, split="val", root=None, **values)


def test_finished_videos_are_not_run_again(monkeypatch, tmp_path, asked, checkpoint):
    job = make_job(checkpoint, tmp_path / "out")
    first = score_videos(job, NAMES)
    assert sorted(asked) == NAMES and list(first) == NAMES
    assert score_videos(job, NAMES) == first and len(asked) == 3
    (tmp_path / "out/val-0001/00002.png").unlink()
    (tmp_path / "out/.done/val-0002.json").unlink()
    again = score_videos(job, NAMES)
    assert sorted(asked[3:]) == NAMES[1:]
    assert [again[name]["flow"]["scores"] for name in NAMES] == [first[name]["flow"]["scores"] for name in NAMES]
    assert next(iter(first["val-0000"]["flow"]["scores"])) == 1, "object ids are numbers"
    checkpoints.save_model(checkpoint, checkpoints.build_model(PRESET), PRESET, 0)
    score_videos(job, NAMES[:1])
    assert asked[5:] == NAMES[:1], "of another checkpoint"
    write = scoring.write_label_map

    def failing(path: Path, labels: np.ndarray) -> None:
        if path.stem.endswith("3"):
            raise ZeroDivisionError
        write(path, labels)

    monkeypatch.setattr(scoring, "write_label_map", failing)
    changed = make_job(checkpoint, tmp_path / "out", seed=1)
    with pytest.raises(ZeroDivisionError):
        score_videos(changed, NAMES[:1])
    assert not (tmp_path / "out/.done/val-0000.json").exists(), "the old record does not fit to half of the masks"
    monkeypatch.setattr(scoring, "write_label_map", write)
    score_videos(changed, NAMES[:1])
    assert len(asked) == 8


def test_records(tmp_path):
    settings = {"a": 1, "b": [1, 2], "rows": {"x": None}}
    records = Records(tmp_path / "done", settings)
    assert records.load("car") is None
    result = {"scores": {1: {"J": {"mean": 0.1 + 0.2, "decay": math.nan}}, 12: {}}, "n": np.float64(2), "empty": {}}
    records.save("car", result)
    found = records.load("car")
    assert found is not None and list(found["scores"]) == [1, 12] and found["empty"] == {} and found["n"] == 2
    assert found["scores"][1]["J"]["mean"] == 0.1 + 0.2 and math.isnan(found["scores"][1]["J"]["decay"])
    assert Records(tmp_path / "done", {**settings, "b": (1, 2)}).load("car") is not None, "a tuple is a list in JSON"
    assert Records(tmp_path / "done", {**settings, "a": 2}).load("car") is None
    records.save("cat/0001/shot.2", {"n": 1})
    assert records.load("cat/0001/shot.2") == {"n": 1}
    path = tmp_path / "done/car.json"
    for content in (path.read_bytes()[:-9], b"", b"[]", b'{"settings": 3}', b"\xff"):
        path.write_bytes(content)
        assert records.load("car") is None
    records.forget("car")
    records.forget("car")
    assert not path.exists()


class Dense(VideoSequence):
    """Six frames with one object, and masks of all of them or of some."""

    name, frame_names, annotations = "dense", [f"{t}" for t in range(6)], frozenset(range(6))
    first_frame_of = {1: 0}  # noqa: RUF012

    def image(self, t: int) -> np.ndarray:
        return np.zeros((32, 48, 3), np.uint8)

    def annotated(self, t: int) -> bool:
        return t in self.annotations

    def labels(self, t: int) -> np.ndarray | None:
        labels = np.zeros((32, 48), np.uint8)
        labels[8:24, 8:24] = 1
        return labels if self.annotated(t) else None


class Sparse(Dense):
    """The second and fifth frames are annotated, and the object is given in the second."""

    annotations, first_frame_of = frozenset({1, 4}), {1: 1}


@pytest.mark.parametrize(
    ("video", "dataset", "needed"),
    [(Dense(), "davis2017", range(1, 5)), (Dense(), "segtrack_v2", range(1, 6)), (Sparse(), "youtube_vos", [4])],
)
def test_only_the_frames_of_the_benchmark_are_scored_and_others_may_be_missing(tmp_path, video, dataset, needed):
    for t in needed:
        labels = video.labels(t)
        if t == 4:
            labels[:, 16:] = 0  # a half of the object
        write_label_map(tmp_path / f"{t}.png", labels)
    scores, foreign = score_folder(tmp_path, video, dataset)
    assert scores[1]["J"]["mean"] == pytest.approx(1 - 0.5 / len(needed)) and foreign == set()
    for t in {0, 1, 5} - set(needed):
        write_label_map(tmp_path / f"{t}.png", np.zeros((32, 48), np.uint8))
    assert score_folder(tmp_path, video, dataset)[0] == scores
    (tmp_path / "4.png").unlink()
    with pytest.raises(InputError, match=r"4\.png"):
        score_folder(tmp_path, video, dataset)


def test_ids_that_no_object_has_and_masks_without_ids(tmp_path):
    video = Dense()
    for t in range(6):
        labels = video.labels(t)
        labels[:4, :4], labels[28:, :4] = 2, 255
        write_label_map(tmp_path / f"{t}.png", labels)
    scores, foreign = score_folder(tmp_path, video, "davis2017")
    assert list(scores) == [1] and scores[1]["J"]["mean"] == 1 and foreign == {2, 255}
    for t in range(6):
        Image.fromarray(np.uint8(255) * (video.labels(t) > 0)).save(tmp_path / f"{t}.png")
    assert score_folder(tmp_path, video, "davis2017")[0][1]["J"]["mean"] == 1
    video.first_frame_of = {1: 0, 2: 0}
    with pytest.raises(InputError, match=r"1\.png: is black and white, and .* has 2 objects; save their ids"):
        score_folder(tmp_path, video, "davis2017")


def test_rows_are_summarized_by_the_protocol_of_the_data_set():
    def result(j: float, category: str, annotated: bool = True) -> dict:
        known = {"dataset": "youtube_vos", "categories": {1: category}, "first_frame_of": {1: 0}, "num_frames": 10}
        scores = {1: {m: {"mean": j, "recall": 1.0, "decay": 0.0} for m in "JF"}} if annotated else {}
        row = {"scores": scores, "seconds": 4.0}
        return {**known, "annotated": annotated, "online_seconds": 3.0, "temporal": row}

    results = {"a": result(0.2, "dog"), "b": result(0.4, "dog"), "c": result(0.9, "emu")}
    summary = summarize_row(results, "temporal", PRESET.config, unseen={"emu"})
    assert summary["G"] == pytest.approx(60), "the mean of seen and unseen, not of the objects"
    assert summary["protocol"]["groups"]["unseen"]["J"] == pytest.approx(90)
    assert summary["fps"] == pytest.approx(2.5) and summary["online_seconds"] == 3.0
    results = {name: result(0, "dog", annotated=False) for name in "ab"}
    assert summarize_row(results, "temporal", PRESET.config)["G"] is None
