"""Every benchmark by ``evaluate``: its protocol, its package, objects that come late, ids of any kind."""

import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from commands import command, error_line
from evaluate_cases import checkpoint, metrics_in  # noqa: F401
from train_cases import InProcess

from datasets.base import VideoSequence
from datasets.fixtures import write_fixture
from experiments.common.presets import find_preset, open_split
from experiments.runs import scoring
from experiments.runs.streams import given_masks
from stg_pyg import Proposals, STGNet
from stg_pyg.config import STGConfig
from stg_pyg.errors import InputError
from stg_pyg.utils.images import read_label_map, write_label_map
from stg_pyg.video.segmenter import VideoSegmenter


@pytest.fixture(scope="module")
def roots(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    names = ("youtube_vos", "youtube_objects", "segtrack_v2")
    return {name: write_fixture(name, tmp_path_factory.mktemp(name)) for name in names}


def store_truth(folder: Path, videos: list[VideoSequence]) -> Path:
    """The annotations, and between them the last ones, stored as results are."""
    for video in videos:
        labels = np.zeros(video.size, np.uint8)
        for t, frame in enumerate(video.frame_names):
            known = video.labels(t)
            labels = labels if known is None else known
            write_label_map(folder / video.name / f"{frame}.png", labels)
    return folder


def erase(folder: Path, video: VideoSequence, t: int, obj_id: int) -> None:
    path = folder / video.name / f"{video.frame_names[t]}.png"
    labels = read_label_map(path)
    labels[labels == obj_id] = 0
    write_label_map(path, labels)


def test_youtube_vos(monkeypatch, capsys, tmp_path, roots):
    videos = open_split(find_preset("youtube_vos"), "train", roots["youtube_vos"])
    masks, unseen = store_truth(tmp_path / "masks", videos), tmp_path / "unseen.txt"
    unseen.write_text("sedan\npenguin\nno such animal\n")
    late = videos[0]
    given = {obj_id: late.frame_names[t] for obj_id, t in late.first_frame_of.items()}
    assert given == {1: "00000", 2: "00005"}
    for frame in ("00000", "00005", "00010"):  # before it comes, given, and one of the two frames that count
        erase(masks, late, late.frame_names.index(frame), 2)
    arguments = ("--preset", "youtube_vos", "--root", roots["youtube_vos"], "--split", "train", "--unseen", unseen)
    out, packed = tmp_path / "out", tmp_path / "sub.zip"
    assert command(monkeypatch, "evaluate", *arguments, "--predictions", masks, "--submit", packed, "--out", out) == 0
    metrics = metrics_in(out)
    groups = metrics["protocol"]["groups"]
    assert groups["seen"] == {"J": 100, "F": 100, "objects": 2}
    assert groups["unseen"] == {"J": pytest.approx(250 / 3), "F": pytest.approx(250 / 3), "objects": 3}
    assert metrics["G"] == pytest.approx((100 + 100 + 500 / 3) / 4)
    assert metrics["sequences"][late.name]["J"] == pytest.approx(75)
    printed = capsys.readouterr().out
    assert "YouTube-VOS, 5 objects" in printed and "unseen" in printed and "83.33" in printed
    with zipfile.ZipFile(packed) as archive:
        wanted = [f"Annotations/{v.name}/{v.frame_names[t]}.png" for v in videos for t in v.requested_frames]
        assert archive.namelist() == wanted and len(wanted) == 12


def scored(monkeypatch, tmp_path, roots, name, spoil) -> dict:
    """The metrics of the true masks, spoiled."""
    videos = open_split(find_preset(name), "all", roots[name])
    masks = store_truth(tmp_path / "masks", videos)
    spoil(masks, videos)
    arguments = ("--preset", name, "--root", roots[name], "--split", "all", "--predictions", masks)
    assert command(monkeypatch, "evaluate", *arguments, "--out", tmp_path / "out") == 0
    return metrics_in(tmp_path / "out")


def test_youtube_objects(monkeypatch, capsys, tmp_path, roots):
    def spoil(masks, videos):
        assert [video.categories[1] for video in videos] == ["aeroplane", "cat", "cat"]
        for t in filter(videos[1].annotated, range(len(videos[1]))):
            erase(masks, videos[1], t, 1)

    metrics = scored(monkeypatch, tmp_path, roots, "youtube_objects", spoil)
    found = {name: group["J"] for name, group in metrics["protocol"]["groups"].items()}
    assert found == {"aeroplane": 100, "cat": 50} and metrics["J"]["mean"] == 75
    assert "mean of the groups  75.00" in capsys.readouterr().out


def test_segtrack(monkeypatch, tmp_path, roots):
    def spoil(masks, videos):
        assert videos[-1].name == "monkeydog" and videos[-1].first_frame_of == {1: 0, 2: 4}
        erase(masks, videos[-1], 7, 2)  # the last one of the frames 5, 6, 7

    metrics = scored(monkeypatch, tmp_path, roots, "segtrack_v2", spoil)
    by_name = metrics["protocol"]["objects_by_name"]
    assert {name: s["J"] for name, s in by_name.items() if s["J"] != 100} == {"monkeydog/2": pytest.approx(200 / 3)}
    assert metrics["J"]["mean"] == pytest.approx((500 + 200 / 3) / 6)


def test_run_of_a_split_without_annotations(monkeypatch, capsys, tmp_path, roots, checkpoint):  # noqa: F811
    """Masks and package of YouTube-VOS valid; objects and a whole video that begin late, ids as given."""
    monkeypatch.setattr(scoring, "ProcessPoolExecutor", InProcess)
    root, out, packed = roots["youtube_vos"], tmp_path / "out", tmp_path / "sub.zip"
    arguments = ("--preset", "youtube_vos", "--root", root, "--split", "valid", "--checkpoint", checkpoint)
    arguments += ("--online-steps", 0, "--row", "motion", "--submit", packed, "--out", out)
    assert command(monkeypatch, "evaluate", *arguments) == 0
    assert "nothing to score" in capsys.readouterr().out
    assert metrics_in(out)["G"] is None and metrics_in(out)["fps"] > 0
    late, later = open_split(find_preset("youtube_vos"), "valid", root)
    assert (late.first_frame_of, later.first_frame_of) == ({1: 0, 3: 5}, {2: 5})
    with zipfile.ZipFile(packed) as archive:
        wanted = [f"Annotations/{v.name}/{v.frame_names[t]}.png" for v in (late, later) for t in v.requested_frames]
        assert archive.namelist() == wanted
    for video in (late, later):
        given = video.first_frame_of
        for t, frame in enumerate(video.frame_names):
            found = read_label_map(out / video.name / f"{frame}.png")
            assert set(np.unique(found)) - {0} <= {i for i, first in given.items() if first <= t}
            for obj_id in (i for i, first in given.items() if first == t):
                np.testing.assert_array_equal(found == obj_id, video.labels(t) == obj_id)


class Marked(VideoSequence):
    """Two squares on noise, ids 9 and 255; the second one comes in frame 2, in front of the first."""

    def __init__(self) -> None:
        self.name, self.frame_names = "marked", [f"{t}" for t in range(5)]
        self.noise = np.random.default_rng(0).integers(0, 255, (48, 64, 3), dtype=np.uint8)

    def image(self, t: int) -> np.ndarray:
        return self.noise

    def labels(self, t: int) -> np.ndarray:
        labels = np.zeros((48, 64), np.uint8)
        labels[8:40, 8:40] = 9
        if t >= 2:
            labels[20:30, 30:50] = 255
        return labels


def test_objects_added_later_overwrite_the_result():
    video = Marked()
    given = given_masks(video)
    assert {t: sorted(np.unique(labels)) for t, labels in given.items()} == {0: [0, 9], 2: [0, 255]}
    stream = VideoSegmenter(STGNet.untrained(STGConfig.small().replace("proposals.own_evidence", False)))
    nothing = Proposals(torch.zeros(0, 4), torch.zeros(0, *video.size), torch.zeros(0))
    for t in range(5):
        with torch.no_grad():
            result = stream.step(video.image(t), nothing if t else None, given.get(t))
        labels = result.labels.numpy()
        assert result.obj_ids == ([9] if t < 2 else [9, 255])
        assert set(np.unique(labels)) <= {0, *result.obj_ids}
        if t in given:
            wanted = given[t] > 0
            np.testing.assert_array_equal(labels[wanted], given[t][wanted])
        if t > 0:
            assert np.count_nonzero(labels == 9) > 500, "the first object goes on beside the new one"
    assert np.count_nonzero(labels == 255) > 150


def test_ids_above_255_are_refused():
    labels = np.full((48, 64), 256, np.int32)
    with pytest.raises(InputError, match="object ids must be 1 to 255"):
        VideoSegmenter(STGNet.untrained(STGConfig.small())).step(Marked().image(0), masks=labels)
    with pytest.raises(ValueError, match="0 to 255"):
        write_label_map("never.png", labels)


def test_objects_without_category_are_refused_before_the_run(monkeypatch, capsys, tmp_path, checkpoint):  # noqa: F811
    root = write_fixture("youtube_vos", tmp_path / "data")
    meta = root / "train" / "meta.json"
    meta.write_text(meta.read_text().replace('"category": "bus",', ""))
    arguments = ("--preset", "youtube_vos", "--root", root, "--split", "train", "--checkpoint", checkpoint)
    assert command(monkeypatch, "evaluate", *arguments, "--out", tmp_path / "out") == 2
    assert "0043f083b5: object 1 has no category" in error_line(capsys)
