import io
import json
import time
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from metric_cases import blob_labels

from stg_pyg.errors import InputError
from stg_pyg.proposals.base import Proposals
from stg_pyg.proposals.coco import read_coco_results
from stg_pyg.proposals.rle import EncodedProposals
from stg_pyg.proposals.store import ProposalWriter, StoredProposals, open_proposals

SETTINGS = {"detector": "small", "confidence": 0.05}
SIZE = (20, 30)


def detected(seed: int, n: int = 6, size: tuple[int, int] = SIZE, features: int = 8) -> EncodedProposals:
    rng = np.random.default_rng(seed)
    masks = [blob_labels(rng, *size, 1) > 0 for _ in range(n)]
    feats = torch.from_numpy(rng.normal(size=(n, features)).astype(np.float32)) if features else None
    scores = torch.from_numpy(rng.random(n, np.float32))
    proposals = Proposals.from_masks(torch.from_numpy(np.array(masks, bool).reshape(n, *size)), scores, feats=feats)
    proposals.boxes = proposals.boxes + torch.from_numpy(rng.random((n, 4), np.float32)) * torch.tensor([0, 0, 1, 1])
    return EncodedProposals.from_proposals(proposals)


def same(a: EncodedProposals, b: EncodedProposals) -> bool:
    feats = a.feats is b.feats is None or torch.equal(a.feats, b.feats)
    return feats and torch.equal(a.boxes, b.boxes) and torch.equal(a.scores, b.scores) and a.counts == b.counts


def fill(folder: Path) -> dict[tuple[str, str], EncodedProposals]:
    writer = ProposalWriter(folder, SETTINGS)
    frames = {("car", "00002"): detected(1), ("car", "00010"): detected(2, 0), ("boat", "00000"): detected(3)}
    for key, encoded in frames.items():
        assert not writer.has(*key)
        writer.write(*key, encoded)
        assert writer.has(*key)
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
    files = ["boat/00000.npz", "car/00002.npz", "car/00010.npz", "meta.json", "proposals.json"]
    assert sorted(content(tmp_path)) == files
    meta = json.loads((tmp_path / "meta.json").read_text())
    sizes = {"boat": [20, 30], "car": [20, 30]}
    assert meta == {"format": "stg_pyg-proposals-1", "settings": SETTINGS, "feature_size": 8, "sizes": sizes}
    assert list(meta["sizes"]) == ["boat", "car"], "in any order of writing"
    with np.load(tmp_path / "car" / "00002.npz", allow_pickle=False) as file:
        kinds = {name: file[name].dtype for name in file.files}
    assert kinds == {"boxes": "f4", "scores": "f4", "rle": "u1", "lengths": "i4", "feats": "f2"}
    source = open_proposals(tmp_path)
    assert isinstance(source, StoredProposals) and source.features and source.sequences == ["boat", "car"]
    assert all(same(source.frame(*key, SIZE), encoded) for key, encoded in frames.items())
    assert [frame[:2] for frame in source.frames()] == [("boat", "00000"), ("car", "00002"), ("car", "00010")]


@settings(max_examples=12, deadline=None)
@given(st.integers(0, 10**6), st.integers(0, 5), st.integers(1, 30), st.integers(1, 30), st.booleans())
def test_random_proposals_come_back_bit_exact(tmp_path_factory, seed, n, height, width, feats):
    """But for features, which are rounded to float16 at once; from the merged file, too."""
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
    assert same(read, encoded) and torch.equal(read.select(slice(None)).masks, masks & known[:, None, None])
    writer.merge()
    merged = read_coco_results(folder / "proposals.json").get("video", {}).get("00000")
    assert (merged is None and n == 0) or (torch.equal(merged.boxes, boxes) and merged.counts == encoded.counts)
    if n and feats:
        encoded.feats = encoded.feats * 1.0001 + 1e-6
        rounded = writer.write("video", "00001", encoded)
        assert not torch.equal(rounded.feats, encoded.feats)
        assert same(StoredProposals(folder).frame("video", "00001", (height, width)), rounded)


def test_going_on_gives_the_same_bytes(tmp_path, monkeypatch):
    frames = fill(tmp_path / "whole")
    writer = ProposalWriter(tmp_path / "parts", SETTINGS)
    writer.write("car", "00002", frames["car", "00002"])
    for half in ("car/.00010.npz.12345678.tmp", ".proposals.json.12345678.tmp", "car/.hidden"):
        (tmp_path / "parts" / half).write_bytes(b"half")
    now = time.localtime(time.time() + 10**6)
    monkeypatch.setattr(time, "localtime", lambda *_: now)
    writer = ProposalWriter(tmp_path / "parts", SETTINGS)
    assert writer.has("car", "00002") and not writer.has("car", "00010")
    for key in (("boat", "00000"), ("car", "00010")):
        writer.write(*key, frames[key])
    writer.merge()
    (tmp_path / "parts" / "car" / ".hidden").unlink()
    assert content(tmp_path / "parts") == content(tmp_path / "whole")


def test_what_does_not_fit_is_refused_and_changes_nothing(tmp_path):
    fill(tmp_path)
    before = content(tmp_path)
    ProposalWriter(tmp_path, dict(reversed(SETTINGS.items())))
    line = refusal(ProposalWriter, tmp_path, {**SETTINGS, "confidence": 0.1})
    assert str(tmp_path) in line and "confidence 0.05, not 0.1" in line and "another --out" in line
    assert "nms None, not 0.6" in refusal(ProposalWriter, tmp_path, {**SETTINGS, "nms": 0.6})
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
    empty = source.frame("car", "00000", SIZE)
    assert len(empty) == 0 and (empty.feats.shape == (0, 8) if features else empty.feats is None)
    assert source.features == bool(features) and len(source.frame("car", "00001", SIZE)) == 6


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


def archive(**changes) -> bytes:
    sound = {
        "boxes": np.array([[0, 0, 4, 4]], np.float32),
        "scores": np.ones(1, np.float32),
        "rle": np.frombuffer(b"hb0", np.uint8),  # 600 pixels of background
        "lengths": np.array([3], np.int32),
        "feats": np.zeros((1, 8), np.float16),
    }
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **{**sound, **changes})
    return buffer.getvalue()


def broken_files() -> list[bytes]:
    whole, stored = archive(), io.BytesIO()
    with zipfile.ZipFile(stored, "w") as file:
        file.writestr("other.txt", "x")
    changed = (
        {"boxes": np.array([{}], object)},  # a pickle
        {"boxes": np.zeros((1, 3), np.float32)},
        {"boxes": np.zeros((1, 4))},
        {"boxes": np.float32(3)},
        {"scores": np.ones(2, np.float32)},
        {"scores": np.full(1, np.nan, np.float32)},
        {"feats": np.full((1, 8), np.inf, np.float16)},
        {"feats": np.zeros((1, 7), np.float16)},
        {"lengths": np.array([2], np.int32)},
        {"lengths": np.array([-3], np.int32)},
        {"rle": np.frombuffer(b"hb00", np.uint8)},
        {"rle": np.frombuffer(b"hb1", np.uint8)},
    )
    files = [b"", b"hello", whole[:-40], whole[:60] + bytes(30) + whole[90:], stored.getvalue()]
    return files + [archive(**change) for change in changed]


@pytest.mark.parametrize("broken", broken_files())
def test_broken_frames_are_one_line(tmp_path, broken):
    ProposalWriter(tmp_path, SETTINGS).write("car", "00002", detected(1))
    path = tmp_path / "car" / "00002.npz"
    path.write_bytes(archive())
    assert not open_proposals(tmp_path).frame("car", "00002", SIZE).select(0).masks.any()
    path.write_bytes(broken)
    line = refusal(open_proposals(tmp_path).frame, "car", "00002", SIZE)
    assert line.startswith(f"{path}: ") and "delete it and run experiments.proposals again" in line


META = b'{"format": "stg_pyg-proposals-1", "settings": {}, "feature_size": 8, "sizes": {"car": [20, 30]}}'


@pytest.mark.parametrize(
    ("old", "new"),
    [
        *[(META, text) for text in (b"", b"[]", b"{}", b'{"format": "stg_pyg-proposals-1"}', b"\xff")],
        (b"proposals-1", b"proposals-2"),
        (b'"settings": {}', b'"settings": 3'),
        (b"8", b'"8"'),
        (b"8", b'8, "feature_size": 9'),
        (b"[20, 30]", b"[1]"),
        (b"[20, 30]", b'["1", 2]'),
    ],
)
def test_broken_meta_is_one_line(tmp_path, old, new):
    assert "meta.json: no such file" in refusal(open_proposals, tmp_path)
    (tmp_path / "meta.json").write_bytes(META)
    assert open_proposals(tmp_path).sequences == ["car"]
    (tmp_path / "meta.json").write_bytes(META.replace(old, new))
    for function, arguments in ((open_proposals, (tmp_path,)), (ProposalWriter, (tmp_path, SETTINGS))):
        line = refusal(function, *arguments)
        assert line.startswith(f"{tmp_path / 'meta.json'}: ") and "new folder" in line


def test_a_video_takes_little_room(tmp_path):
    """A hundred frames of 480 x 854 with 50 proposals have to stay under 20 MB."""
    writer = ProposalWriter(tmp_path, SETTINGS)
    writer.write("car", "00000", detected(0, 50, (480, 854), 256))
    writer.merge()
    assert 2e4 < sum(len(data) for data in content(tmp_path).values()) < 2e5
