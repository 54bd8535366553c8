import io
import json
import time
import zipfile
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from stg_pyg.errors import InputError
from stg_pyg.proposals.base import Proposals
from stg_pyg.proposals.coco import read_coco_results
from stg_pyg.proposals.rle import EncodedProposals
from stg_pyg.proposals.store import ProposalWriter, StoredProposals, open_proposals

SETTINGS = {"detector": "small", "confidence": 0.05}
SIZE = (20, 30)


def blobs(rng: np.random.Generator, n: int, height: int, width: int) -> torch.Tensor:
    """Masks [N, H, W] with the ragged outlines of a detector's, 4 to 30 % of the frame wide."""
    masks = np.zeros((n, height, width), np.uint8)
    angles = np.linspace(0, 2 * np.pi, 90, endpoint=False)
    for mask in masks:
        waves = sum(rng.normal(0, 0.5 / k) * np.cos(k * angles + rng.uniform(0, 6)) for k in range(2, 9))
        radius = width * rng.uniform(0.02, 0.15) * np.maximum(1 + 0.5 * waves, 0.3)
        center = rng.uniform((0.1 * width, 0.1 * height), (0.9 * width, 0.9 * height))
        points = center + radius[:, None] * np.stack([np.cos(angles), np.sin(angles)], 1)
        cv2.fillPoly(mask, [np.round(points).astype(np.int32)], 1)
    return torch.from_numpy(masks > 0)


def detected(seed: int, n: int = 6, size: tuple[int, int] = SIZE, features: int = 8) -> EncodedProposals:
    masks = blobs(np.random.default_rng(seed), n, *size)
    generator = torch.Generator().manual_seed(seed)
    feats = torch.randn(n, features, generator=generator) if features else None
    proposals = Proposals.from_masks(masks, torch.rand(n, generator=generator), feats=feats)
    proposals.boxes = proposals.boxes + torch.rand(n, 4, generator=generator)
    return EncodedProposals.from_proposals(proposals)


def same(a: EncodedProposals, b: EncodedProposals) -> bool:
    feats = a.feats is None and b.feats is None
    if a.feats is not None and b.feats is not None:
        feats = torch.equal(a.feats, b.feats)
    return feats and torch.equal(a.boxes, b.boxes) and torch.equal(a.scores, b.scores) and a.counts == b.counts


def fill(folder: Path) -> dict[tuple[str, str], EncodedProposals]:
    writer = ProposalWriter(folder, SETTINGS)
    frames = {("car", "00002"): detected(1), ("car", "00010"): detected(2, 0), ("boat", "00000"): detected(3)}
    for (sequence, stem), encoded in frames.items():
        assert not writer.has(sequence, stem)
        writer.write(sequence, stem, encoded)
        assert writer.has(sequence, stem)
    writer.merge()
    return frames


def content(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def refusal(function, *arguments) -> str:
    with pytest.raises(InputError) as error:
        function(*arguments)
    assert "\n" not in str(error.value)
    return str(error.value)


def test_folder(tmp_path):
    frames = fill(tmp_path)
    assert sorted(content(tmp_path)) == [
        "boat/00000.npz",
        "car/00002.npz",
        "car/00010.npz",
        "meta.json",
        "proposals.json",
    ]
    meta = json.loads((tmp_path / "meta.json").read_text())
    assert list(meta["sizes"]) == ["boat", "car"], "in any order of writing"
    assert meta == {
        "format": "stg_pyg-proposals-1",
        "settings": SETTINGS,
        "feature_size": 8,
        "sizes": {"boat": [20, 30], "car": [20, 30]},
    }
    with np.load(tmp_path / "car" / "00002.npz", allow_pickle=False) as file:
        kinds = {name: file[name].dtype for name in file.files}
    assert kinds == {"boxes": "f4", "scores": "f4", "rle": "u1", "lengths": "i4", "feats": "f2"}
    source = open_proposals(tmp_path)
    assert isinstance(source, StoredProposals) and source.features and source.sequences == ["boat", "car"]
    for (sequence, stem), encoded in frames.items():
        assert same(source.frame(sequence, stem, SIZE), encoded)
    assert [frame[:2] for frame in source.frames()] == [("boat", "00000"), ("car", "00002"), ("car", "00010")]


def test_merged_file_is_of_the_format(tmp_path):
    frames = fill(tmp_path)
    results = read_coco_results(tmp_path / "proposals.json")
    assert {(s, f) for s, of in results.items() for f in of} == {key for key, e in frames.items() if len(e)}
    for (sequence, stem), encoded in frames.items():
        if len(encoded):
            merged = results[sequence][stem]
            merged.feats = encoded.feats
            assert same(merged, encoded) and merged.size == SIZE


@settings(max_examples=12, deadline=None)
@given(st.integers(0, 10**6), st.integers(0, 5), st.integers(1, 30), st.integers(1, 30), st.booleans())
def test_random_masks_come_back_bit_exact(tmp_path_factory, seed, n, height, width, feats):
    generator = torch.Generator().manual_seed(seed)
    masks = torch.rand(n, height, width, generator=generator) < torch.rand(n, 1, 1, generator=generator)
    known = torch.rand(n, generator=generator) < 0.7
    boxes = torch.randn(n, 4, generator=generator) * 100
    boxes[:, 2:] = boxes[:, :2].clamp(min=0) + 1
    values = torch.randn(n, 4, generator=generator) * 10**5 if feats else None
    encoded = EncodedProposals.from_proposals(
        Proposals(boxes, masks & known[:, None, None], torch.rand(n, generator=generator), values, has_mask=known)
    )
    folder = tmp_path_factory.mktemp("store")
    writer = ProposalWriter(folder, {})
    assert same(writer.write("video", "00000", encoded), encoded)
    read = StoredProposals(folder).frame("video", "00000", (height, width))
    assert same(read, encoded)
    assert torch.equal(read.select(slice(None)).masks, masks & known[:, None, None])
    writer.merge()
    merged = read_coco_results(folder / "proposals.json").get("video", {}).get("00000")
    assert (merged is None and n == 0) or (torch.equal(merged.boxes, boxes) and merged.counts == encoded.counts)


def test_writing_rounds_features_as_reading_gives_them(tmp_path):
    encoded = detected(1)
    encoded.feats = encoded.feats * 1.0001 + 1e-6
    rounded = ProposalWriter(tmp_path, {}).write("car", "00000", encoded)
    assert not torch.equal(rounded.feats, encoded.feats)
    assert same(StoredProposals(tmp_path).frame("car", "00000", SIZE), rounded)


def test_going_on_gives_the_same_bytes(tmp_path, monkeypatch):
    frames = fill(tmp_path / "whole")
    writer = ProposalWriter(tmp_path / "parts", SETTINGS)
    writer.write("car", "00002", frames["car", "00002"])
    (tmp_path / "parts" / "car" / ".00010.npz.12345678.tmp").write_bytes(b"half")
    (tmp_path / "parts" / ".proposals.json.12345678.tmp").write_bytes(b"half")
    (tmp_path / "parts" / "car" / ".hidden").write_bytes(b"")
    now = time.localtime(time.time() + 10**6)
    monkeypatch.setattr(time, "localtime", lambda *_: now)
    writer = ProposalWriter(tmp_path / "parts", SETTINGS)
    assert writer.has("car", "00002") and not writer.has("car", "00010")
    for key in (("boat", "00000"), ("car", "00010")):
        writer.write(*key, frames[key])
    writer.merge()
    (tmp_path / "parts" / "car" / ".hidden").unlink()
    assert content(tmp_path / "parts") == content(tmp_path / "whole")


def test_other_settings_need_another_folder(tmp_path):
    fill(tmp_path)
    ProposalWriter(tmp_path, dict(reversed(SETTINGS.items())))
    before = content(tmp_path)
    line = refusal(ProposalWriter, tmp_path, {**SETTINGS, "confidence": 0.1})
    assert str(tmp_path) in line and "confidence 0.05, not 0.1" in line and "another --out" in line
    assert "nms None, not 0.6" in refusal(ProposalWriter, tmp_path, {**SETTINGS, "nms": 0.6})
    assert content(tmp_path) == before


def test_frames_must_fit_together(tmp_path):
    fill(tmp_path)
    before = content(tmp_path)
    writer = ProposalWriter(tmp_path, SETTINGS)
    line = refusal(writer.write, "car", "00011", detected(4, size=(21, 30)))
    assert "20 x 30" in line and "21 x 30" in line
    assert "8 features, not 0" in refusal(writer.write, "car", "00011", detected(4, features=0))
    assert "8 features, not 9" in refusal(writer.write, "plane", "00011", detected(4, features=9))
    for sequence, stem in (("../car", "a"), ("car", ".."), ("", "a"), ("car", "a/b"), ("/car", "a"), ("car", "")):
        assert "no name of a frame" in refusal(writer.write, sequence, stem, detected(4))
    assert content(tmp_path) == before
    (tmp_path / "plane").mkdir()
    (tmp_path / "plane" / "00003.npz").write_bytes(b"")
    assert "does not know" in refusal(writer.write, "plane", "00011", detected(4))


@pytest.mark.parametrize("features", [0, 8])
def test_frames_without_proposals_at_first(tmp_path, features):
    writer = ProposalWriter(tmp_path, {})
    writer.write("car", "00000", EncodedProposals.empty(SIZE))
    assert not open_proposals(tmp_path).features
    writer.write("car", "00001", detected(1, features=features))
    source = open_proposals(tmp_path)
    assert source.features == bool(features)
    empty = source.frame("car", "00000", SIZE)
    assert len(empty) == 0 and (empty.feats.shape == (0, 8) if features else empty.feats is None)
    assert len(source.frame("car", "00001", SIZE)) == 6


def test_check(tmp_path):
    fill(tmp_path)
    source = open_proposals(tmp_path)
    source.check("car", ["00002", "00010"])
    source.check_any(["plane", "car"])
    line = refusal(source.check, "car", ["00002", "00005", "00010"])
    assert "car/00005.npz" in line and "1 of 3" in line and "run experiments.proposals" in line
    assert "00010" in refusal(source.check, "car", ["00002"])
    assert "2 of 2" in refusal(source.check, "plane", ["00000", "00001"])
    assert "20 x 30" in refusal(source.frame, "car", "00002", (30, 20))
    assert "plane" in refusal(source.frame, "plane", "00000", SIZE)
    assert "00005.npz" in refusal(source.frame, "car", "00005", SIZE)


def archive(**arrays) -> bytes:
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **arrays)
    return buffer.getvalue()


SOUND = {
    "boxes": np.array([[0, 0, 4, 4]], np.float32),
    "scores": np.ones(1, np.float32),
    "rle": np.frombuffer(b"hb0", np.uint8),  # 600 pixels of background
    "lengths": np.array([3], np.int32),
    "feats": np.zeros((1, 8), np.float16),
}


def broken_files() -> dict[str, bytes]:
    whole = archive(**SOUND)
    flipped = bytearray(whole)
    flipped[60:90] = bytes(30)
    stored = io.BytesIO()
    with zipfile.ZipFile(stored, "w") as file:
        file.writestr("other.txt", "x")
    changed = {
        "pickle": {"boxes": np.array([{}], object)},
        "shape": {"boxes": SOUND["boxes"][:, :3]},
        "type": {"boxes": SOUND["boxes"].astype(np.float64)},
        "number": {"scores": np.ones(2, np.float32)},
        "nan": {"scores": np.full(1, np.nan, np.float32)},
        "infinite features": {"feats": np.full((1, 8), np.inf, np.float16)},
        "other features": {"feats": np.zeros((1, 7), np.float16)},
        "lengths": {"lengths": np.array([2], np.int32)},
        "negative lengths": {"lengths": np.array([-3], np.int32)},
        "more rle": {"rle": np.frombuffer(b"hb00", np.uint8)},
        "rle": {"rle": np.frombuffer(b"hb1", np.uint8)},
        "scalar": {"boxes": np.float32(3)},
    }
    return {
        "empty": b"",
        "text": b"hello",
        "cut": whole[:-40],
        "flipped": bytes(flipped),
        "zip": stored.getvalue(),
        **{name: archive(**{**SOUND, **change}) for name, change in changed.items()},
    }


@pytest.mark.parametrize("name", list(broken_files()))
def test_broken_frames_are_one_line(tmp_path, name):
    fill(tmp_path)
    path = tmp_path / "car" / "00002.npz"
    path.write_bytes(archive(**SOUND))
    assert not open_proposals(tmp_path).frame("car", "00002", SIZE).select(0).masks.any()
    path.write_bytes(broken_files()[name])
    line = refusal(open_proposals(tmp_path).frame, "car", "00002", SIZE)
    assert line.startswith(f"{path}: ") and "delete it and run experiments.proposals again" in line


@pytest.mark.parametrize(
    "text",
    ["", "[]", "{}", '{"format": "stg_pyg-proposals-1"}', '{"format": "stg_pyg-proposals-2", "settings": {}}', "\xff"]
    + [
        json.dumps({"format": "stg_pyg-proposals-1", "settings": {}, "feature_size": 8, "sizes": {}, **change})
        for change in ({"settings": 3}, {"feature_size": "8"}, {"sizes": {"car": [1]}}, {"sizes": {"car": ["1", 2]}})
    ]
    + ['{"format": "stg_pyg-proposals-1", "settings": {}, "feature_size": 8, "feature_size": 9, "sizes": {}}'],
)
def test_broken_meta_is_one_line(tmp_path, text):
    (tmp_path / "meta.json").write_bytes(text.encode("latin-1"))
    for function, arguments in ((open_proposals, (tmp_path,)), (ProposalWriter, (tmp_path, SETTINGS))):
        line = refusal(function, *arguments)
        assert line.startswith(f"{tmp_path / 'meta.json'}: ") and "new folder" in line


def test_folders_of_something_else(tmp_path):
    assert "meta.json: no such file" in refusal(open_proposals, tmp_path)


def test_a_video_takes_little_room(tmp_path):
    """A hundred frames of 480 x 854 with 50 proposals have to stay under 20 MB, so five under 1 MB."""
    writer = ProposalWriter(tmp_path, SETTINGS)
    for t in range(5):
        writer.write("car", f"{t:05d}", detected(t, 50, (480, 854), 256))
    writer.merge()
    total = sum(len(data) for data in content(tmp_path).values())
    assert 2e5 < total < 1e6
