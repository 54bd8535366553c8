"""Whatever bytes a file holds, its reader gives what it holds or one line; what was written is read as it was."""

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from strategies import anything, damaged, few, nearly, parses, some, texts, to_json

from experiments.common import checkpoints
from experiments.runs.store import Records
from experiments.segment.given.masks import GivenMasks
from experiments.segment.resume import SavedRun, Stand
from stg_pyg.config import STGConfig
from stg_pyg.flow.flo_files import read_flo, write_flo
from stg_pyg.proposals.rle import EncodedProposals
from stg_pyg.proposals.store import ProposalWriter, open_proposals
from stg_pyg.utils.images import is_inside, read_image, read_label_map, write_image, write_label_map
from stg_pyg.video.frames import open_source

SIZE = (12, 16)
RLE = "P6"  # of a mask full of background
ENTRIES = [
    {"image_id": "car/00001", "bbox": [1, 2, 3, 4], "score": 0.5, "segmentation": {"size": [12, 16], "counts": RLE}},
    {"image_id": "car/00002.png", "category_id": 1, "segmentation": {"size": [12, 16], "counts": [10, 5, 177]}},
    {"image_id": "a/b/c", "bbox": [1.5, 2, 3, 4]},
]
META = {"format": "stg_pyg-proposals-1", "settings": {"score": 0.5}, "feature_size": 3, "sizes": {"car": list(SIZE)}}
FLO = b"PIEH" + np.array([4, 3], "<i4").tobytes() + np.arange(24, dtype="<f4").tobytes()
RECORD = {"settings": {"a": 1}, "result": {"b": [1]}}
NET = torch.nn.Linear(3, 2)


def picture(kind: str) -> bytes:
    rng = np.random.default_rng(0)
    image = Image.fromarray(rng.integers(0, 255, (12, 16, 3), dtype=np.uint8))
    options: dict[str, Any] = {}
    if kind == "palette":
        image = Image.fromarray(rng.integers(0, 4, (12, 16), dtype=np.uint8))
        image.putpalette(bytes(range(256)) * 3)
    elif kind == "sixteen bits":
        image = Image.fromarray(rng.integers(0, 300, (12, 16), dtype=np.uint16))
    elif kind == "turned":
        options["exif"] = Image.Exif()
        options["exif"][0x0112] = 6
    buffer = io.BytesIO()
    image.save(buffer, format={"jpeg": "JPEG", "turned": "WEBP", "bitmap": "BMP"}.get(kind, "PNG"), **options)
    return buffer.getvalue()


PICTURES = [picture(kind) for kind in ("jpeg", "turned", "colours", "palette", "sixteen bits", "bitmap")]
BROKEN_CAMERA_NOTE = PICTURES[1].replace(b"MM\0*", b"MM\0\xff")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """With stored proposals, and two frames of a video."""
    folder = tmp_path_factory.mktemp("parsers")
    encoded = EncodedProposals(torch.tensor([[1.0, 2, 3, 4]]), torch.ones(1), [RLE.encode()], SIZE, torch.zeros(1, 3))
    ProposalWriter(folder / "store", {"score": 0.5}).write("car", "00001", encoded)
    for t in range(2):
        write_image(folder / "frames" / f"{t}.png", np.zeros((12, 16, 3), np.uint8))
    return folder


def use_results(path: Path) -> None:
    source = open_proposals(path)
    for sequence in source.sequences:
        assert is_inside(sequence) or len(sequence) > 200
        source.check(sequence, ["00001", "00002", "c"])
        for stem in ("00001", "00002", "c"):
            source.frame(sequence, stem, SIZE).select(slice(None))


def use_store(path: Path) -> None:
    source = open_proposals(path.parent)
    assert all(is_inside(name) for name in source.sequences)
    source.check("car", ["00001"])
    source.frame("car", "00001", SIZE).select(slice(None))
    ProposalWriter(path.parent, {"score": 0.5}).merge()


def use_flow(path: Path) -> None:
    flow = read_flo(path)
    assert (flow.ndim, flow.shape[2], flow.dtype) == (3, 2, np.float32)


def use_picture(path: Path) -> None:
    image, labels = parses(read_image, path), parses(read_label_map, path)
    assert image is None or (image.ndim, image.shape[2], image.dtype) == (3, 3, np.uint8)
    assert labels is None or (labels.ndim, labels.dtype) == (2, np.uint8)


def use_masks(path: Path) -> None:
    given_masks = GivenMasks(path.parent, open_source(path.parents[1] / "frames"))
    assert all(1 <= i <= 255 for i in given_masks.object_ids)
    assert all(given_masks.at(frame).any() for frame in given_masks.frames)


def use_checkpoint(path: Path) -> None:
    checkpoints.load_weights(NET, checkpoints.load(path, "graph")["graph"], path)


def use_record(path: Path) -> None:
    found = Records(path.parent, {"a": 1}).load(path.stem)
    assert found is None or isinstance(found, dict)


def nearly_json(value: Any) -> st.SearchStrategy[bytes]:
    return nearly(value).map(to_json) | damaged(to_json(value)) | anything.map(to_json)


READERS = {
    "results.json": (use_results, nearly_json(ENTRIES)),
    "store/meta.json": (use_store, nearly_json(META)),
    "x.flo": (use_flow, damaged(FLO) | st.binary(max_size=16).map(lambda b: b"PIEH" + b)),
    "x.png": (use_picture, st.sampled_from(PICTURES).flatmap(damaged)),
    "masks/0.png": (use_masks, st.sampled_from(PICTURES[2:5]).flatmap(damaged)),
    "masks/object.png": (use_masks, st.sampled_from(PICTURES[2:5]).flatmap(damaged)),
    "car.json": (use_record, nearly_json(RECORD)),
}


@pytest.mark.parametrize("name", READERS)
@some
@given(data=st.data())
def test_any_content_is_read_or_refused_in_one_line(folder, name, data):
    use, contents = READERS[name]
    path = folder / name
    path.parent.mkdir(exist_ok=True)
    before = path.read_bytes() if path.exists() else None
    path.write_bytes(data.draw(contents | st.binary(max_size=40)))
    try:
        parses(use, path)
    finally:
        path.unlink() if before is None else path.write_bytes(before)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("store/meta.json", to_json({key: value for key, value in META.items() if key != "feature_size"})),
        ("store/meta.json", to_json({**META, "sizes": {"car": list(SIZE), "../../elsewhere": [4, 4]}})),
        ("x.png", b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\nshowpage\n"),
    ],
)
def test_what_was_once_misread(folder, name, content):
    before = (folder / name).read_bytes() if (folder / name).exists() else b""
    (folder / name).write_bytes(content)
    parses(READERS[name][0], folder / name)
    (folder / name).write_bytes(before)


def test_a_broken_camera_note_does_not_spoil_the_picture(folder):
    assert PICTURES[1] != BROKEN_CAMERA_NOTE
    for content, shape in ((PICTURES[1], (16, 12, 3)), (BROKEN_CAMERA_NOTE, (12, 16, 3))):
        (folder / "note.webp").write_bytes(content)
        assert read_image(folder / "note.webp").shape == shape


@some
@given(nearly(STGConfig.small().to_dict()))
def test_configurations(values):
    config = parses(STGConfig.from_dict, values) if isinstance(values, dict) else None
    assert config is None or STGConfig.from_dict(config.to_dict()) == config


@few
@given(st.data())
def test_files_of_torch(tmp_path_factory, data):
    folder = tmp_path_factory.mktemp("torch")
    checkpoints.save(folder / "graph.pt", {"kind": "graph", "clip": 3, "graph": NET.state_dict()})
    run = SavedRun(folder / "run", {"video": "a"})
    run.save_stand(Stand(position=3, scores={1: [0.5, None]}))
    for path in (folder / "graph.pt", run.folder / "stream.pt"):
        path.write_bytes(data.draw(damaged(path.read_bytes()) | st.binary(max_size=40)))
    parses(use_checkpoint, folder / "graph.pt")
    assert isinstance(run.load_stand(), Stand), "it counts as none where it cannot be read"


@some
@given(texts | st.lists(texts, max_size=4).map("/".join))
def test_names_that_are_inside_stay_inside(name):
    if is_inside(name):
        assert Path("/out") in (Path("/out") / name).resolve().parents


@few
@given(st.integers(1, 9), st.integers(1, 9), st.data())
def test_flow_and_label_maps_round_trip(folder, height, width, data):
    count = 2 * height * width
    values = data.draw(st.lists(st.floats(width=32), min_size=count, max_size=count))
    flow = np.array(values, np.float32).reshape(height, width, 2)
    write_flo(folder / "round.flo", flow)
    np.testing.assert_array_equal(read_flo(folder / "round.flo", (height, width)), flow)
    labels = np.array(data.draw(st.lists(st.integers(0, 255), min_size=count, max_size=count)), np.uint8)
    write_label_map(folder / "round.png", labels.reshape(height, -1))
    np.testing.assert_array_equal(read_label_map(folder / "round.png"), labels.reshape(height, -1))
