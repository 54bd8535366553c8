"""Every field of the settings of a command takes part in their fingerprint, unless it says why not."""

import copy
import dataclasses
import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_type_hints

import pytest
import torch

from datasets.cache import cached
from datasets.first_frames import first_frames
from datasets.fixtures import write_fixture
from datasets.synthetic.videos import SyntheticVideos
from experiments.common.presets import PRESETS, Preset, open_split
from experiments.proposals import ProposalSettings
from experiments.runs import settings
from experiments.runs.job import Job, learning_part
from experiments.runs.rows import Row
from experiments.runs.settings import (
    differences,
    digest,
    fingerprint,
    flow_state,
    path_state,
    plain,
    raft_state,
    reason_of,
    state_digest,
)
from experiments.segment.resume import RunSettings
from experiments.train.begun import StageSettings, check_begun
from stg_pyg.config import STGConfig, paths
from stg_pyg.errors import InputError
from stg_pyg.lucid.samples import LucidConfig
from stg_pyg.utils import images as io

ROOT = Path(__file__).resolve().parents[2]
LIMITS: dict[str, Any] = {"online_seconds": 3.0, "frames": 5, "online_seed": 1, "max_objects_at_once": 2}
PRESET = dataclasses.replace(PRESETS["davis2016-small"], test_alpha=0.1, fine_lucid=LucidConfig())


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Files of different content by name, and folders with one file each in a folder of theirs."""
    folder = tmp_path_factory.mktemp("files")
    for name in ("a", "b"):
        (folder / f"{name}.pt").write_text(name)
        (folder / name / "below").mkdir(parents=True)
        (folder / name / "below" / f"{name}.flo").write_text(name)
    return folder


def make(cls: type, files: Path, **values: Any) -> Any:
    """An instance with a file for every path and something for everything that may be none."""
    known = {"flow": "raft", "weights": str(files / "a.pt"), "flow_weights": str(files / "a.pt"), "device": "cpu"}
    known |= {"rows": (Row("full", "full model", STGConfig.small()),), "preset": PRESET, "config": STGConfig.small()}
    known |= {"precision": torch.float32, "origin": {"init": "x"}, "max_size": (4, 6), "stage": "graph"}
    known |= {**LIMITS, **values}
    by_type = {"str": "text", "int": 3, "int | None": 3, "float": 0.5, "bool": False}
    return cls(
        **{
            f.name: known[f.name] if f.name in known else files / "a.pt" if "Path" in f.type else by_type[f.type]
            for f in dataclasses.fields(cls)
        }
    )


def variants(value: Any, files: Path, field: str = "") -> Iterator[tuple[tuple[str, ...], Any]]:
    """The value with one of its leaves changed, after the names that lead there."""
    others = dict.fromkeys(("weights", "flow_weights"), str(files / "b.pt")) | {"device": "cuda", "stage": "detector"}
    if dataclasses.is_dataclass(value):
        for f in dataclasses.fields(value):
            for names, other in variants(getattr(value, f.name), files, f.name):
                changed = copy.copy(value)
                object.__setattr__(changed, f.name, other)  # without the checks, which know what goes together
                yield (f.name, *names), changed
    elif isinstance(value, tuple) and value and dataclasses.is_dataclass(value[0]):
        for names, other in variants(value[0], files):
            yield names, (other, *value[1:])
    elif isinstance(value, tuple):
        yield (), (*value, 77)
    elif isinstance(value, dict):
        yield (), {**value, "init": "other"}
    elif isinstance(value, Path):
        yield (), files / "b.pt"
    elif isinstance(value, torch.dtype):
        yield (), torch.bfloat16
    elif isinstance(value, str):
        yield (), others.get(field, value + "x")
    else:
        yield (), not value if isinstance(value, bool) else (value or 0) + 1


def is_declared(cls: Any, names: tuple[str, ...]) -> bool:
    """Whether one of the fields on the way to a leaf says that it has no influence."""
    nested = {"preset": Preset, "rows": Row, "config": STGConfig, **get_type_hints(STGConfig)}
    for name in names:
        reason = reason_of(next(f for f in dataclasses.fields(cls) if f.name == name))
        if reason is not None:
            assert len(reason) > 10, "says why"
            return True
        cls = LucidConfig if "lucid" in name else nested.get(name)
    return False


@pytest.mark.parametrize(
    ("cls", "declared"), [(Job, {"root", "out", "rows.label"}), (RunSettings, set()), (ProposalSettings, set())]
)
def test_every_field_takes_part(files, cls, declared):
    before = make(cls, files)
    found, silent = plain(before), set()
    leaves = list(variants(before, files))
    assert {names[0] for names, _ in leaves} == {f.name for f in dataclasses.fields(cls)}
    for names, changed in leaves:
        if is_declared(cls, names):
            silent.add(".".join(names))
        assert (plain(changed) == found) == is_declared(cls, names), names
    assert silent == declared
    assert cls is ProposalSettings or {names for names, _ in leaves} >= {
        *((("preset", f.name)) for f in dataclasses.fields(Preset) if f.name not in ("config", "lucid", "fine_lucid")),
        *((("preset", "fine_lucid", f.name)) for f in dataclasses.fields(LucidConfig)),
        *(("preset", "config", *path.split(".")) for path in paths()),
    }


OF_OTHERS = {
    "detector": r"(segmentation|fine|graph)_.*|lucid|batch_size|learning_rate|config|width|crop_size|proposals|recipe",
    "segmentation": r"(fine|graph|detector)_.*|config|proposals",
    "graph": r"(segmentation|fine|detector)_.*|lucid|batch_size|learning_rate|coco_steps",
}


@pytest.mark.parametrize("stage", OF_OTHERS)
def test_stages_of_training_look_at_all_but_other_stages(files, stage):
    before = make(StageSettings, files, stage=stage)
    for names, changed in variants(before, files):
        if names != ("stage",):
            other = names[0] == "preset" and (
                re.fullmatch(OF_OTHERS[stage] + "|val_split|test_alpha", names[1]) or names[1:3] == ("config", "online")
            )
            assert (plain(changed) == plain(before)) == bool(other), names


def test_a_stage_that_goes_on_is_the_one_that_was_begun(files, capsys):
    before, path = make(StageSettings, files), Path("graph.pt")
    begun = fingerprint(before, "cpu")
    check_begun(path, begun, begun)
    assert not capsys.readouterr().err
    for name, value in (("seed", 4), ("precision", torch.bfloat16), ("accumulate", 2), ("origin", {"init": "y"})):
        with pytest.raises(InputError, match=r"graph\.pt: was begun with other settings .*; give the options"):
            check_begun(path, begun, fingerprint(dataclasses.replace(before, **{name: value}), "cpu"))
    changed = dataclasses.replace(before, threads=9, states="other")
    check_begun(path, begun, fingerprint(changed, "cpu"))
    assert "begun otherwise (files of the videos, threads)" in capsys.readouterr().err
    with pytest.raises(InputError, match="version"):
        check_begun(path, None, begun)


def test_what_is_learned_does_not_depend_on_what_comes_after(files):
    job = make(Job, files)
    after = {"rows", "overlays", "proposals", "flow", "weights", "oracle", "frames", "trace", "root", "out"}
    for names, changed in variants(job, files):
        same = plain(learning_part(changed)) == plain(learning_part(job))
        assert same == (names[0] in after), names


def test_the_program_takes_part(files, monkeypatch, tmp_path):
    job = make(Job, files)
    before = fingerprint(job, "cpu")
    for name, value in (
        ("experiments.runs.settings.code_digest", "other"),
        ("experiments.runs.settings.library_versions", {}),
        ("experiments.common.cli.bfloat16_is_fast", not before["program"]["bfloat16"]),
    ):
        with monkeypatch.context() as patch:
            patch.setattr(name, lambda *_, value=value: value)
            assert differences(before, fingerprint(job, "cpu")) == ["program"]
    names = [f"{folder}/a.py" for folder in ("stg_pyg/nn", "datasets", "experiments", "experiments/report")]
    for name in names:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("1")
    monkeypatch.setattr(settings, "__file__", str(tmp_path / "experiments/runs/settings.py"))
    found = [settings.code_digest.__wrapped__()]
    for name in names:
        (tmp_path / name).write_text("2")
        found.append(settings.code_digest.__wrapped__())
    assert len(set(found)) == 4 and found[-1] == found[-2], "all code but that of pages"
    text = re.search(r"^dependencies = \[(.*?)^\]", (ROOT / "pyproject.toml").read_text(), re.MULTILINE | re.DOTALL)
    assert text is not None
    needed = set(re.findall(r'"([a-z0-9-]+)', text[1])) - {"jinja2", "matplotlib", "tqdm", "opencv-python"}
    assert needed <= set(settings.LIBRARIES) and settings.library_versions()["opencv"]


def test_plain_values():
    assert plain({"a": (1, None, torch.float32), 3: "x"}) == {"a": [1, None, "torch.float32"], "3": "x"}
    with pytest.raises(TypeError, match="object"):
        plain([object()])
    assert digest({"a": 1, "b": 2}) == digest({"b": 2, "a": 1}) != digest({"a": 1, "b": 3})
    before, now = {"a": 1, "b": {"c": 1, "d": 2}, "gone": 0}, {"a": 2, "b": {"c": 1, "d": 3}}
    assert differences(before, now) == ["a", "d", "gone"] and differences(now, now) == []


def test_states_of_files_and_folders(tmp_path):
    file, folder = tmp_path / "a.pt", tmp_path / "flow"
    (folder / "car").mkdir(parents=True)
    (folder / "car/1.flo").write_text("12")
    file.write_text("abc")
    before = path_state(file), path_state(folder)
    assert before[0] == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    file.rename(tmp_path / "moved.pt")
    folder.rename(tmp_path / "moved")
    folder = tmp_path / "moved"
    assert (path_state(tmp_path / "moved.pt"), path_state(folder)) == before, "it is the same at another place"
    (folder / ".hidden").write_text("half written")
    assert path_state(folder) == before[1]
    (folder / "car/1.flo").write_text("13")
    os.utime(folder / "car/1.flo", ns=(1, 1))
    changed = path_state(folder)
    assert changed != before[1], "also in a folder of the folder"
    (folder / "car/1.flo").rename(folder / "car/2.flo")
    assert path_state(folder) != changed and path_state(folder, nested=False) == state_digest([])
    (folder / "link").symlink_to(folder)
    (folder / "bus").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "elsewhere").mkdir()
    linked = path_state(folder)
    (tmp_path / "elsewhere/1.flo").write_text("")
    assert path_state(folder) != linked, "and behind a link"
    assert path_state(None) is None and "nothing at" in str(path_state(tmp_path / "none"))


def test_states_of_flow(files, monkeypatch, tmp_path):
    assert flow_state("dis:fast") == "dis:fast" and raft_state("dis", "anything") is None
    assert flow_state(str(files / "a")) != flow_state(str(files / "b"))
    assert flow_state(str(files / "a"), "below") == path_state(files / "a/below")
    assert raft_state("raft", "none") is None and raft_state("raft", str(files / "a.pt")) == path_state(files / "a.pt")
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    missing = raft_state("raft", "auto")
    assert missing is not None and str(tmp_path / "checkpoints/raft_large") in missing
    (tmp_path / "checkpoints").mkdir()
    shutil.copy(files / "b.pt", missing.removeprefix("nothing at "))
    assert raft_state("raft", "auto") == path_state(files / "b.pt"), "what it was resolved to counts"


@pytest.mark.parametrize(
    "name", ["davis2016", "davis2017", "youtube_vos", "segtrack_v2", "youtube_objects", "composed"]
)
def test_every_file_that_is_read_of_a_video_is_among_its_files(tmp_path, monkeypatch, name):
    write_fixture("davis2016" if name == "composed" else name, tmp_path, num_frames=6, size=(64, 96))
    read: set[Path] = set()
    decode = io._open
    monkeypatch.setattr(io, "_open", lambda path: read.add(Path(path)) or decode(path))
    preset = PRESETS[f"{name}-small"]
    video = open_split(preset, preset.val_split, tmp_path)[0]
    for t in range(video.num_frames):
        video.image(t), video.labels(t)
    assert len(read) >= 4 and read <= set(video.files)
    assert video.files == first_frames([video], 2)[0].files == cached([video], 1)[0].files
    assert (tmp_path / "train/meta.json" in video.files) == (name == "youtube_vos"), "which tells the objects"
    assert SyntheticVideos("val", 1, 2, height=32, width=48)[0].files == []
