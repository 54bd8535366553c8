"""The paper's pipeline by its commands, on tiny data sets with shrunken networks: training, Table 4, Tables 1 to 3."""

import json
from collections import Counter

import pytest
import torch
from commands import command, error_line
from train_cases import InProcess

from datasets.fixtures import write_fixture
from experiments.ablate.rows import TABLE_4
from experiments.common import checkpoints
from experiments.common.presets import open_split
from experiments.proposals import detect
from experiments.runs import scoring
from experiments.runs.rows import table_rows
from experiments.train import command as train
from stg_pyg import Proposals, VideoSegmenter
from stg_pyg.nn.detector.mask_rcnn import Detector
from stg_pyg.ops.boxes import box_iou
from stg_pyg.proposals.store import open_proposals

SMALL = (
    "--backbone",
    "resnet18",
    "--crop-size",
    32,
    "--detector-size",
    64,
    "--set",
    "temporal.key_size=32",
    "--weights",
    "none",
)
LENGTHS = {"detector": 2, "segmentation": 2, "fine": 2, "graph": 6}
DATASETS = ("davis2016", "davis2017", "youtube_vos", "segtrack_v2", "youtube_objects")


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """Data sets, a model trained on YouTube-VOS in ``ytb`` and one fine-tuned on DAVIS-2017 in ``davis``."""
    folder = tmp_path_factory.mktemp("paper")
    for name in DATASETS:
        write_fixture(name, folder / name, num_frames=6, size=(48, 64))
    with pytest.MonkeyPatch.context() as patch:
        here(patch)
        steps = [word for stage, count in LENGTHS.items() for word in (f"--{stage}-steps", count)]
        common = (*SMALL, *steps, "--recipe", "own", "--batch-size", 2, "--workers", 0)
        first = ("--preset", "youtube_vos-paper", "--root", folder / "youtube_vos", "--val-split", "train")
        assert command(patch, "train", *first, *common, "--out", folder / "ytb") == 0
        second = ("--preset", "davis2017-paper", "--root", folder / "davis2017", "--init", folder / "ytb/checkpoint.pt")
        assert command(patch, "train", *second, *common, "--out", folder / "davis") == 0
    return folder


def here(patch: pytest.MonkeyPatch) -> None:
    """Everything runs in this process."""
    patch.setattr(scoring, "ProcessPoolExecutor", InProcess)
    patch.setattr(torch, "set_num_threads", lambda _: None)
    looks = Detector.detect

    def few(self: Detector, image: torch.Tensor) -> Proposals:
        self.model.rpn._post_nms_top_n = {"training": 20, "testing": 20}
        return looks(self, image)[:8]

    patch.setattr(Detector, "detect", few)
    only = lambda config: [row for row in table_rows(config) if row.name == "temporal"]  # noqa: E731
    patch.setattr(train, "table_rows", only)


@pytest.fixture(autouse=True)
def in_process(monkeypatch, world):
    here(monkeypatch)
    for name in ("kaiming_uniform_", "kaiming_normal_"):  # all weights are loaded
        monkeypatch.setattr(torch.nn.init, name, lambda weight, *_, **__: weight)


def test_training_leaves_every_part(world):
    for name in ("ytb", "davis"):
        found = {path.name for path in (world / name).glob("*.pt")}
        assert {"detector.pt", "segmentation.pt", "graph.pt", "checkpoint.pt"} <= found
        assert ("checkpoint_base.pt" in found) == (name == "davis"), "FT is a phase of DAVIS"
        metrics = json.loads((world / name / "metrics.json").read_text())
        assert metrics["sequences"] and metrics["config"]["proposals"]["resegment"]


def test_every_row_of_table_4(monkeypatch, world, tmp_path):
    base, ytb = world / "davis/checkpoint_base.pt", world / "davis/checkpoint.pt"
    weights = ("--base-checkpoint", base, "--ytb-checkpoint", ytb)
    data = ("--root", world / "davis2017", "--sequences", "judo", "--frames", 4, "--no-own", "--online-steps", 1)
    checkpoint = ("--checkpoint", world / "davis/checkpoint.pt")
    assert command(monkeypatch, "ablate", *data, *checkpoint, *weights, "--out", tmp_path) == 0
    rows = json.loads((tmp_path / "ablation.json").read_text())["rows"]
    assert [row["number"] for row in rows] == [row.number for row in TABLE_4]
    assert all(0 <= row["G"] <= 100 and not row["note"] for row in rows)
    assert [row["ft"] for row in rows] == [row.ft for row in TABLE_4]
    assert len({row["masks"][0] for row in rows}) == 10, "runs of their own, but for the last two, of the same weights"


def test_every_benchmark_of_tables_1_to_3(monkeypatch, world, tmp_path):
    roots = [world / name for name in DATASETS]
    checkpoint = ("--checkpoint", world / "davis/checkpoint.pt", "--learning", "off")
    assert command(monkeypatch, "tables", "--root", *roots, *checkpoint, "--out", tmp_path) == 0
    text = (tmp_path / "tables.csv").read_text()
    measured = Counter(line.split(",")[1] for line in text.splitlines() if ",measured," in line)
    names = ("davis2017-test-dev", "davis2017-val", "davis2016-val", "youtube_vos-valid", "segtrack_v2-all")
    assert measured == dict.fromkeys((*names, "youtube_objects-all"), 1)


def test_calls_of_a_frame_are_those_of_figure_2(world):
    """The detector once, offline; DeepLab once a box; X once, as RoIAlign pools one pass; each graph and K once."""
    model, preset = checkpoints.load_model(world / "davis/checkpoint.pt")
    video = open_split(preset, "val", world / "davis2017")[0]
    detector = Detector.from_checkpoint(checkpoints.load(world / "davis/detector.pt", "detector"))
    detector.set_limits(confidence=0.0)
    calls: Counter[str] = Counter()

    def count(name: str, number=lambda args: 1):
        return lambda module, args, *_: calls.update({name: number(args)})

    detector.model.backbone.register_forward_hook(count("detector"))
    model.segmentation.register_forward_hook(count("crops", lambda args: len(args[0])))
    model.feature_encoder.backbone.register_forward_hook(count("X"))
    model.key_encoder.register_forward_hook(count("K", lambda args: len(args[0])))
    for part, name in ((model.spatial_conv, "regions"), (model.memory_attention, "forward_graph")):
        inner = getattr(part, name)
        setattr(part, name, lambda *a, inner=inner, name=name, **k: calls.update({name: 1}) or inner(*a, **k))
    found = [detect(detector, video.image(t), torch.device("cpu")) for t in range(2)]
    assert calls.pop("detector") == 2
    stream = VideoSegmenter(model, crop_size=preset.crop_size)
    with torch.no_grad():
        stream.step(video.image(0), found[0], video.labels(0))
        calls.clear()
        p = model.motion.predict_many([torch.stack(list(state.boxes)) for state in stream.objects])
        result = stream.step(video.image(1), found[1])
    assigned = int((box_iou(found[1].boxes, p).amax(dim=1) > 0).sum())
    assert 0 < assigned == len(result.output.scores)
    assert calls == {"crops": assigned, "X": 1, "K": len(stream.objects), "regions": 1, "forward_graph": 1}


def test_detections_are_made_once(monkeypatch, world, tmp_path):
    """Again with the same detector they are taken over; another detector has a folder of its own."""
    looked, inner = [], Detector.detect
    monkeypatch.setattr(Detector, "detect", lambda self, image: looked.append(1) or inner(self, image))
    base = ("--root", world / "davis2017", "--checkpoint", world / "davis/checkpoint.pt", "--out", tmp_path)
    for row, frames in (("spatial", 12), ("temporal", 0)):
        looked.clear()
        assert command(monkeypatch, "evaluate", *base, "--row", row) == 0
        assert len(looked) == frames
    assert command(monkeypatch, "evaluate", *base, "--detector", world / "ytb/detector.pt") == 0
    folders = list((tmp_path / "proposals").iterdir())
    assert len(looked) == 12 and len(folders) == 2
    assert sorted(open_proposals(folders[0]).sequences) == ["bike-packing", "judo"]


def test_own_video(monkeypatch, world, tmp_path):
    video = world / "davis2017/JPEGImages/480p/judo"
    masks = world / "davis2017/Annotations/480p/judo/00000.png"
    base = (video, "--masks", masks, "--checkpoint", world / "davis/checkpoint.pt")
    for name, more in (("detector", ()), ("none", ("--proposals", "none"))):
        assert command(monkeypatch, "segment", *base, *more, "--out", tmp_path / name) == 0
        assert len(list((tmp_path / name / "judo").glob("*.png"))) == 6
    run = [json.loads((tmp_path / name / "run.json").read_text()) for name in ("detector", "none")]
    assert [found["proposals"] for found in run] == ["detector", None]


def test_no_detector_is_one_line(monkeypatch, world, tmp_path, capsys):
    """COCO's detector is asked for where none lies beside the checkpoint, and its weights are not here."""
    (tmp_path / "checkpoint.pt").write_bytes((world / "davis/checkpoint.pt").read_bytes())
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "hub"))
    monkeypatch.setattr(torch.hub, "download_url_to_file", lambda *_, **__: (_ for _ in ()).throw(OSError("offline")))
    base = ("--root", world / "davis2017", "--checkpoint", tmp_path / "checkpoint.pt", "--out", tmp_path / "out")
    assert command(monkeypatch, "evaluate", *base) == 2
    line = error_line(capsys)
    assert "detector.pt: no such file" in line and "maskrcnn" in line and "--proposals FILE or none" in line
