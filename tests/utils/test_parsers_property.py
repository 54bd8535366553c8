"""Whatever bytes a file holds, its reader gives what it holds or one line; what was written is read as it was."""

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from coco_files import box_mask
from hypothesis import example, given
from hypothesis import strategies as st
from strategies import anything, damaged, few, nearly, parses, some, texts, to_json

from stg_pyg.flow.flo_files import read_flo, write_flo
from stg_pyg.proposals.coco import read_coco_results, write_coco_results
from stg_pyg.proposals.rle import EncodedProposals, decode_masks, encode_masks, find_fault
from stg_pyg.proposals.store import ProposalWriter, open_proposals
from stg_pyg.utils.images import is_inside

SIZE = (12, 16)
MASK = box_mask(2, 3, 9, 12)[:12, :16].astype(bool)
RLE = encode_masks(torch.from_numpy(MASK)[None])[0].decode()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("parsers")


@some
@given(texts | st.lists(texts, max_size=4).map("/".join))
def test_names_that_are_inside_stay_inside(name):
    if is_inside(name):
        path = (Path("/out") / name).resolve()
        assert Path("/out") in path.parents


# Proposals as COCO results.

ENTRIES = [
    {"image_id": "car/00001", "bbox": [1, 2, 3, 4], "score": 0.5, "segmentation": {"size": [12, 16], "counts": RLE}},
    {"image_id": "car/00002.png", "category_id": 1, "segmentation": {"size": [12, 16], "counts": [10, 5, 177]}},
    {"image_id": "a/b/c", "bbox": [1.5, 2, 3, 4]},
]


def use_results(path: Path) -> None:
    source = open_proposals(path)
    for sequence in source.sequences:
        assert is_inside(sequence) or len(sequence) > 200
        source.check(sequence, ["00001", "00002", "c"])
        for stem in ("00001", "00002", "c"):
            source.frame(sequence, stem, SIZE).select(slice(None))


@some
@given(nearly(ENTRIES).map(to_json) | damaged(to_json(ENTRIES)) | st.binary(max_size=40) | anything.map(to_json))
def test_coco_results(folder, content):
    (folder / "results.json").write_bytes(content)
    parses(use_results, folder / "results.json")


@st.composite
def proposals(draw: st.DrawFn) -> EncodedProposals:
    n = draw(st.integers(0, 4))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    corners = rng.uniform(-5, 12, (n, 2)).astype(np.float32)
    boxes = np.concatenate([corners, corners + rng.uniform(0.1, 9, (n, 2)).astype(np.float32)], axis=1)
    masks = torch.from_numpy(rng.random((n, *SIZE)) < rng.uniform(0, 1, (n, 1, 1)))
    counts = [item if rng.random() < 0.7 else None for item in encode_masks(masks)]
    feats = torch.from_numpy(rng.normal(size=(n, 3)).astype(np.float16)).float()
    return EncodedProposals(torch.from_numpy(boxes), torch.from_numpy(rng.random(n, np.float32)), counts, SIZE, feats)


def assert_same(a: EncodedProposals, b: EncodedProposals) -> None:
    assert torch.equal(a.boxes, b.boxes) and torch.equal(a.scores, b.scores) and a.counts == b.counts


@few
@given(st.lists(proposals(), min_size=1, max_size=3))
def test_coco_results_round_trip(folder, frames):
    written = {"car": {f"{t:05d}": encoded for t, encoded in enumerate(frames) if len(encoded)}}
    write_coco_results(folder / "round.json", written)
    found = read_coco_results(folder / "round.json").get("car", {})
    assert list(found) == list(written["car"])
    for stem, encoded in written["car"].items():
        assert_same(found[stem], encoded)


# Run-length codes.


@some
@given(
    st.binary(max_size=16) | st.binary(max_size=16).map(lambda b: bytes(48 + c % 64 for c in b)) | damaged(RLE.encode())
)
def test_run_length_codes(content):
    if find_fault([content], SIZE) is None:
        assert decode_masks([content], SIZE).shape == (1, *SIZE)
    else:
        assert parses(decode_masks, [content], SIZE) is None


@few
@given(st.integers(1, 20), st.integers(1, 20), st.integers(0, 2**32 - 1), st.floats(0, 1))
def test_run_length_codes_round_trip(height, width, seed, share):
    masks = torch.from_numpy(np.random.default_rng(seed).random((2, height, width)) < share)
    assert torch.equal(decode_masks(encode_masks(masks), (height, width)), masks)


# The folder of experiments.proposals.


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("store")
    encoded = EncodedProposals(torch.tensor([[1.0, 2, 3, 4]]), torch.ones(1), [RLE.encode()], SIZE, torch.zeros(1, 3))
    ProposalWriter(folder, {"score": 0.5}).write("car", "00001", encoded)
    return folder


def use_store(folder: Path) -> None:
    source = open_proposals(folder)
    assert all(is_inside(name) for name in source.sequences)
    source.check("car", ["00001"])
    source.frame("car", "00001", SIZE).select(slice(None))
    ProposalWriter(folder, {"score": 0.5}).merge()


META = {"format": "stg_pyg-proposals-1", "settings": {"score": 0.5}, "feature_size": 3, "sizes": {"car": list(SIZE)}}


@some
@given(nearly(META).map(to_json) | damaged(to_json(META)) | st.binary(max_size=40) | anything.map(to_json))
@example(to_json({name: value for name, value in META.items() if name != "feature_size"}))
@example(to_json({**META, "sizes": {"car": list(SIZE), "../../elsewhere": [4, 4]}}))
def test_meta_of_stored_proposals(store, content):
    before = (store / "meta.json").read_bytes()
    try:
        (store / "meta.json").write_bytes(content)
        parses(use_store, store)
    finally:
        (store / "meta.json").write_bytes(before)


def array_file(value: Any) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, value)
    return buffer.getvalue()


@some
@given(st.data())
def test_stored_proposals(store, data):
    path = store / "car" / "00001.npz"
    before = path.read_bytes()
    with np.load(path) as arrays:
        plain = io.BytesIO()
        np.savez(plain, **arrays)
    kinds = [damaged(before), damaged(plain.getvalue()), damaged(array_file(np.zeros(3))), st.binary(max_size=40)]
    try:
        path.write_bytes(data.draw(st.one_of(kinds)))
        parses(use_store, store)
    finally:
        path.write_bytes(before)


@few
@given(proposals())
def test_stored_proposals_round_trip(folder, encoded):
    writer = ProposalWriter(folder / "stored", {})
    (folder / "stored" / "car" / "00001.npz").unlink(missing_ok=True)
    written = writer.write("car", "00001", encoded)
    found = open_proposals(folder / "stored").frame("car", "00001", SIZE)
    assert_same(found, encoded)
    assert found.feats is None or written.feats is None or torch.equal(found.feats, encoded.feats)


# Flow.

FLO = b"PIEH" + np.array([4, 3], "<i4").tobytes() + np.arange(24, dtype="<f4").tobytes()


@some
@given(damaged(FLO) | st.binary(max_size=40) | st.binary(max_size=16).map(lambda b: b"PIEH" + b))
def test_flow(folder, content):
    (folder / "x.flo").write_bytes(content)
    flow = parses(read_flo, folder / "x.flo")
    assert flow is None or (flow.ndim, flow.shape[2], flow.dtype) == (3, 2, np.float32)


@few
@given(st.integers(1, 9), st.integers(1, 9), st.data())
def test_flow_round_trip(folder, height, width, data):
    count = 2 * height * width
    values = data.draw(st.lists(st.floats(width=32), min_size=count, max_size=count))
    flow = np.array(values, np.float32).reshape(height, width, 2)
    write_flo(folder / "round.flo", flow)
    np.testing.assert_array_equal(read_flo(folder / "round.flo", (height, width)), flow)
