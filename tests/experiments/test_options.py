"""Every option of a command that keeps finished work changes its fingerprint, or is listed here with a reason."""

import argparse
import dataclasses
import importlib
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from coco_files import annotation, make_root, polygon
from commands import command
from torch import nn
from train_cases import TINY, make_tiny

from datasets.fixtures import write_fixture
from experiments import evaluate, proposals
from experiments.ablate import command as ablate
from experiments.benchmark import scores
from experiments.common import checkpoints
from experiments.common.presets import PRESETS, open_split
from experiments.runs.job import settings_of
from experiments.segment import command as segment
from experiments.segment import options as segment_options
from experiments.tables import command as tables
from experiments.train import command as train
from experiments.train import trainer
from stg_pyg.lucid.samples import LucidConfig
from stg_pyg.nn.detector.mask_rcnn import Detector
from stg_pyg.proposals.rle import EncodedProposals
from stg_pyg.proposals.store import ProposalWriter
from stg_pyg.utils.images import write_image, write_label_map, write_text

SIZE = (32, 48)
HERE = "says where results go"
FILES = "the state of the files of every video is kept with its results"
WHICH = "says what is run, not how"
SPEED = "results do not depend on what runs beside them"
TIMES = "of times, which are not kept"
AFTER = "is made of the finished results"
DETECTED = "its proposals lie in a folder that its weights name, see test_proposals_option"


class Captured(Exception):
    """The fingerprint of the work that a command was about to begin."""


def capture(_: object = None, *found: Any, **__: Any) -> Any:
    raise Captured(found)


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Data, and two of every file that an option may name: <kind>-a and <kind>-b."""
    folder = tmp_path_factory.mktemp("files")
    write_fixture("davis2016", folder / "davis", num_frames=4, size=SIZE)
    for name in ("dev", "dev2"):
        shutil.copy(folder / "davis/ImageSets/2016/val.txt", folder / f"davis/ImageSets/2016/{name}.txt")
    (folder / "davis/ImageSets/2016/val.txt").unlink()
    for name in ("coco", "coco2"):
        make_root(folder / name, [annotation(1, 0, [polygon(2, 2, 12, 12 + len(name))])])
    shutil.copytree(folder / "coco/train2017", folder / "coco/other")
    annotations = folder / "coco/annotations"
    shutil.copy(annotations / "instances_train2017.json", annotations / "instances_other.json")
    write_image(folder / "static/images/a.png", np.full((*SIZE, 3), 90, np.uint8))
    write_label_map(folder / "static/masks/a.png", np.eye(*SIZE, dtype=np.uint8))
    plain = TINY.config.replace("online.steps", 0)
    checkpoints.save_model(folder / "model-zero", checkpoints.build_model(TINY, plain), TINY, 0)
    for number, name in enumerate("ab", start=1):
        torch.manual_seed(number)
        checkpoints.save_model(folder / f"model-{name}", checkpoints.build_model(TINY), TINY, 0)
        checkpoints.save(folder / f"detector-{name}", {"kind": "detector", **Detector.small(4, 48).to_checkpoint()})
        write_text(folder / f"weights-{name}", name)
        mask = np.zeros(SIZE, np.uint8)
        mask[4:20, 4 + number : 20] = 1
        write_label_map(folder / f"masks-{name}.png", mask)
        write_text(folder / f"boxes-{name}", f"1 {number} 2 20 20\n")
        write_text(folder / f"points-{name}", f"1 {9 + number} 9\n")
        writer = ProposalWriter(folder / f"proposals-{name}", {"score": number})
        for t in range(3):
            write_image(folder / f"video-{name}/{t:05d}.png", np.full((*SIZE, 3), 40 * number + t, np.uint8))
            one = EncodedProposals(torch.tensor([[4.0, 4, 20, 20]]), torch.ones(1), [None], SIZE)
        for sequence, count in (("clip", 3), ("other", 3), ("cows", 4), ("test-0000", 5), ("test-0001", 5)):
            for t in range(count):
                writer.write(sequence, f"{t:05d}", one)
    return folder


@dataclasses.dataclass
class Case:
    """A command, arguments that it can run with, and what each option says instead; a tuple stands for more words."""

    base: str
    values: dict[str, str]
    declared: dict[str, str]
    prepare: Callable[[pytest.MonkeyPatch], None]


def of_evaluate(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(evaluate, "resolve_flow", lambda *_, **__: None)
    patch.setattr(evaluate, "score_videos", lambda job, *_: capture(None, settings_of(job)))


def of_tables(patch: pytest.MonkeyPatch) -> None:
    found: list[Any] = []
    patch.setattr(tables, "resolve_flow", lambda *_, **__: None)
    patch.setattr(tables, "score_share", lambda job, *_: found.append(settings_of(job)))
    patch.setattr(tables, "collect", lambda *_: capture(None, *found))


def of_ablate(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(ablate, "resolve_flow", lambda *_, **__: None)
    found = lambda plan: sorted({run.job.out.name for runs in plan.runs.values() for run in runs})  # noqa: E731
    patch.setattr(ablate, "measure", lambda setup, plan, _: capture(None, found(plan)))


class StandIn(nn.Module):
    """A detector whose weights are what its files hold."""

    def __init__(self, args: argparse.Namespace) -> None:
        super().__init__()
        text = "".join(Path(path).read_bytes().hex() for path in (args.detector, args.weights) if path is not None)
        self.weight = nn.Parameter(torch.tensor([float(hash(text) % 9973)]))


def of_proposals(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(proposals, "make_detector", StandIn)
    patch.setattr(proposals, "ProposalWriter", capture)


def of_train(patch: pytest.MonkeyPatch) -> None:
    patch.setitem(PRESETS, "synthetic-small", dataclasses.replace(TINY, fine_lucid=LucidConfig(size=32), fine_steps=2))
    threads = [1]
    patch.setattr(torch, "set_num_threads", lambda count: threads.__setitem__(0, count))
    patch.setattr(torch, "get_num_threads", lambda: threads[0])
    found: list[Any] = []
    patch.setattr(trainer.Trainer, "fit", lambda t, s, videos, p, _: found.append(t.settings(s.name, videos, p)) or [])
    patch.setattr(train, "score_table", lambda *_: capture(None, *found))
    patch.setattr(train, "score_detector", lambda *_: capture(None, *found))
    patch.setattr(train, "score_segmentation", lambda *_: capture(None, *found))
    patch.setattr(checkpoints, "save_model", lambda *_: None)
    patch.setattr(train, "save_base", lambda *_: None)


def of_segment(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(segment_options, "resolve_flow", lambda *_, **__: None)
    patch.setattr(segment.Run, "earlier_stand", lambda run: capture(None, run.saved.fingerprint))


def of_benchmark(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(scores, "score_videos", lambda job, *_: capture(None, settings_of(job)))


MODEL, FLOW = {"checkpoint": "F/model-b"}, {"flow": "dis", "weights": "F/weights-b"}
COMMON = {"device": "cuda", "seed": "5"}
CASES = {
    "evaluate": Case(
        "--split test --checkpoint F/model-a --proposals F/proposals-a --flow raft --weights F/weights-a --out O",
        COMMON | MODEL | FLOW | {
            "preset": "davis2016", "split": "val", "proposals": "F/proposals-b", "join": "", "oracle": "",
            "row": "baseline", "online_steps": "3", "online_seconds": "4", "update_every": "3", "overlays": "",
            "spatial_conv": "mean", "temporal_conv": "mean", "trace": "", "set": "selection.thr=0.35",
        },
        {
            "out": HERE, "root": FILES, "processes": SPEED, "submit": AFTER, "unseen": AFTER, "detector": DETECTED,
            "predictions": "nothing is kept of scoring masks",
        },
        of_evaluate,
    ),
    "tables": Case(
        "--checkpoint F/model-a --root F/davis --split dev --flow dis --out O",
        COMMON | MODEL | {
            "split": "dev2", "learning": "on", "online_steps": "3", "proposals": "F/proposals-b", "flow": "raft",
            "seeds": "4,5",
        },
        {"out": HERE, "root": FILES, "processes": SPEED, "detector": DETECTED},
        of_tables,
    ),
    "ablate": Case(
        "--checkpoint F/model-a --split test --curves l --flow dis --out O",
        COMMON | MODEL | {
            "preset": "davis2016", "split": "val", "base_checkpoint": "F/model-b", "ytb_checkpoint": "F/model-b",
            "rows": "1", "own": "full", "curves": "alpha", "as_printed": "", "frames": "3", "curve_frames": "3",
            "online_steps": "7", "seeds": "4,5", "flow": "raft", "proposals": "F/proposals-b",
        },
        {"out": HERE, "root": FILES, "processes": SPEED, "sequences": WHICH, "detector": DETECTED},
        of_ablate,
    ),
    "proposals": Case(
        "--preset synthetic --split val --detector F/detector-a --weights F/weights-a --out O",
        COMMON | {
            "preset": "davis2016", "detector": "F/detector-b", "weights": "F/weights-b", "score": "0.5", "nms": "0.5",
            "max_proposals": "7",
        },
        {"out": HERE, "root": FILES, "split": "videos of several splits share a folder, and each has its own name"},
        of_proposals,
    ),
    "train": Case(
        "--coco F/coco --workers 0 --out O",
        COMMON | {
            "preset": "composed", "split": "val", "coco": "F/coco2", "coco_split": "other", "coco_steps": "7",
            "segmentation_steps": "9", "fine_steps": "9", "graph_steps": "24", "init": "F/model-b", "batch_size": "6",
            "graph_batch_size": "2", "accumulate": "2", "precision": "bfloat16", "threads": "3", "spatial_conv": "mean",
            "temporal_conv": "mean", "detector_steps": "9", "set": "spatial.alpha=0.35", "static": "F/static",
            "backbone": "tf_efficientnet_lite0", "proposals": "F/proposals-b", "recipe": "own", "crop_size": "64",
            "detector_size": "64",
        },
        {
            "out": HERE, "root": FILES, "detector": DETECTED, "stage": WHICH, "resume": "asks for what is kept",
            "tensorboard": AFTER,
            "val_split": "is scored on alone", "workers": SPEED, "processes": SPEED, "cache_gb": SPEED,
            "online_steps": "of videos that are segmented, not of training",
            "weights": "see test_weights_that_training_starts_from",
        },
        of_train,
    ),
    "segment": Case(
        "F/video-a --masks F/masks-a.png --checkpoint F/model-a --proposals F/proposals-a --sequence clip --flow raft "
        "--flow-weights F/weights-a --out O",
        COMMON | MODEL | {
            "video": "F/video-b", "masks": "F/masks-b.png", "proposals": "F/proposals-b", "flow": "dis",
            "flow_weights": "F/weights-b", "sequence": "other", "online": "", "online_steps": "3",
            "online_seconds": "4",
            "update_every": "5", "every": "2", "max_size": "40", "max_objects_at_once": "1", "memory_frames": "3",
            "alpha": "", "trace": "", "spatial_conv": "mean", "temporal_conv": "mean", "boxes": "F/boxes-b",
            "points": "F/points-b", "set": "selection.thr=0.35",
        },
        {"out": HERE, "overlay": AFTER, "coco": AFTER, "detector": DETECTED},
        of_segment,
    ),
    "benchmark": Case(
        "--only scores --checkpoint F/model-a --split test --out O",
        COMMON
        | MODEL
        | {"split": "val", "frames": "3", "online_steps": "3", "spatial_conv": "mean", "temporal_conv": "mean"}
        | {"layers": "symmetric"},
        {
            "out": HERE, "root": FILES, "processes": SPEED, "only": WHICH,
            **dict.fromkeys(("quick", "backward", "objects", "proposals", "height", "width", "memory_frames"), TIMES),
        },
        of_benchmark,
    ),
}  # fmt: skip
BASES = {
    ("segment", "boxes"): "F/video-a --boxes F/boxes-a --checkpoint F/model-a --out O",
    ("segment", "points"): "F/video-a --points F/points-a --checkpoint F/model-a --out O",
    ("segment", "online"): "F/video-a --masks F/masks-a.png --checkpoint F/model-zero --out O",
    ("train", "detector_steps"): "--stage detector --workers 0 --out O",
    ("train", "detector_size"): "--stage detector --workers 0 --out O",
    ("train", "recipe"): "--preset davis2016-paper --backbone resnet18 --weights none --proposals none --workers 0 "
    "--stage segmentation --out O",
}
"""Where an option does not go with the others."""
KNOWN: dict[str, Any] = {}
"""The fingerprints of these and of those above."""


def parser_of(name: str, patch: pytest.MonkeyPatch) -> argparse.ArgumentParser:
    module = importlib.import_module(f"experiments.{name}")
    module = module if hasattr(module, "parse") else importlib.import_module(f"experiments.{name}.command")

    def stop(self: argparse.ArgumentParser, *_: object) -> None:
        raise Captured(self)

    with patch.context() as inner:
        inner.setattr(argparse.ArgumentParser, "parse_args", stop)
        with pytest.raises(Captured) as found:
            module.parse()
    parser: argparse.ArgumentParser = found.value.args[0]
    return parser


@pytest.mark.parametrize("name", CASES)
def test_no_option_is_forgotten(monkeypatch, name):
    options = {action.dest for action in parser_of(name, monkeypatch)._actions} - {"help"}
    case = CASES[name]
    assert options == case.values.keys() | case.declared.keys() and not case.values.keys() & case.declared.keys()


def found_by(patch: pytest.MonkeyPatch, files: Path, out: Path, name: str, words: str, *more: str) -> Any:
    """The fingerprint of the work of a command."""
    with patch.context() as inner:
        make_tiny(inner)
        inner.setattr(
            "experiments.common.cli.choose_device", lambda name: torch.device("cpu" if name == "auto" else name)
        )
        inner.setattr("experiments.common.cli.bfloat16_is_fast", lambda _: False)
        for module in (evaluate, ablate, proposals, train):
            inner.setattr(module, "open_split", lambda _, split, *__: open_split(TINY, "test", None))
        CASES[name].prepare(inner)
        arguments = [word.replace("F/", f"{files}/") if word != "O" else str(out) for word in (*words.split(), *more)]
        with pytest.raises(Captured) as found:
            assert command(inner, name, *arguments) == 0
    return found.value.args[0]


@pytest.mark.parametrize(
    ("name", "option"), [(name, option) for name, case in CASES.items() for option in case.values if option != "device"]
)
def test_another_value_is_another_fingerprint(monkeypatch, tmp_path, files, name, option):
    base, value = BASES.get((name, option), CASES[name].base), CASES[name].values[option]
    if base not in KNOWN:
        KNOWN[base] = found_by(monkeypatch, files, tmp_path, name, base)
        assert KNOWN[base] == found_by(monkeypatch, files, tmp_path / "elsewhere", name, base), "the same again"
    if option == "video":
        after = found_by(monkeypatch, files, tmp_path, name, base.replace("F/video-a", value))
    else:
        word = value if value.startswith("--no-") else f"--{option.replace('_', '-')}"
        values = [value] if value and not value.startswith("--no-") else []
        after = found_by(monkeypatch, files, tmp_path, name, base, word, *values)
    assert after != KNOWN[base]


def test_weights_that_training_starts_from(files):
    args = argparse.Namespace(init=None, coco=None, static=None)
    for preset, names in (("davis2016-paper", ("auto", "none")), ("davis2016-small", ("imagenet", "none"))):
        found = []
        for weights in (*names, files / "weights-a", files / "weights-b"):
            args.weights = str(weights)
            found.append(str(train.origin_of(args, PRESETS[preset])))
        assert len(set(found)) == 4
