"""What a page holds of every kind of output folder, and what is refused."""

import base64
import io
import json
import shutil
from html.parser import HTMLParser

import cv2
import numpy as np
import pytest
import torch
from commands import command, error_line
from PIL import Image
from report_cases import EVIL, FRAMES, HEIGHT, WIDTH, content_of, davis, evaluated, labels_of, unpack

from experiments.report.details import MOST_CONTOURS, cell_attention, object_attention, outline
from experiments.report.scores import SequenceScores, lowest, moments
from experiments.report.sequence import LEVELS, choose_frames, pack_pictures, shrink, thin
from stg_pyg import InputError, Proposals
from stg_pyg.evaluation.metrics import contour_accuracy, region_similarity
from stg_pyg.proposals.rle import EncodedProposals
from stg_pyg.proposals.store import ProposalWriter
from stg_pyg.utils.images import write_image, write_json, write_label_map
from stg_pyg.video.trace_files import read_trace

__all__ = ["davis", "evaluated"]
STATISTICS = {"mean": 50.0, "recall": 61.25, "decay": -1.0}


@pytest.fixture
def make(monkeypatch, tmp_path):
    """Runs the command; returns the page."""

    def call(folder, *arguments):
        assert command(monkeypatch, "report", folder, "--out", tmp_path / "page.html", *arguments) == 0
        return (tmp_path / "page.html").read_text()

    return call


@pytest.fixture
def complaint(monkeypatch, capsys, tmp_path):
    def call(folder, *arguments):
        assert command(monkeypatch, "report", folder, "--out", tmp_path / "no.html", *arguments) == 2
        assert not (tmp_path / "no.html").exists()
        return error_line(capsys)

    return call


class Elements(HTMLParser):
    """Tags, addresses, and the text that is shown."""

    def __init__(self, page):
        super().__init__()
        self.tags, self.text, self.addresses = [], "", []
        self.feed(page)

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        self.addresses += [value for name, value in attributes if name in ("src", "href", "action", "data")]

    def handle_data(self, data):
        self.text += "" if self.tags and self.tags[-1] in ("script", "style") else data


def write_masks(folder, count=3):
    for t in range(count):
        write_label_map(folder / f"{t:05d}.png", labels_of(t % 14))


def test_an_evaluation_with_traces(make, evaluated):
    page = make(evaluated)
    assert {s["name"] for s in content_of(page, "index")["sequences"]} == {"walk", EVIL}
    elements = Elements(page)
    assert elements.tags.count("script") == 4, "index, two sequences and the program"
    assert EVIL in elements.text and "</body>" in page[-40:]
    assert all(address.startswith(("#", "data:")) for address in elements.addresses) and "default-src 'none'" in page

    walk = content_of(page, "sequence-0")
    assert walk["frames"] == FRAMES["walk"] and walk["size"] == [HEIGHT, WIDTH] and walk["given"] == {"1": 0, "3": 0}
    assert len(walk["pictures"]) == 14 and walk["annotated"] and walk["moments"][0] == [0, "given"]
    for t, frame in enumerate(walk["frames"]):
        result = np.array(Image.open(evaluated / "walk" / f"{frame}.png"))
        for i in (1, 3):
            right = [100 * score(result == i, labels_of(t) == i) for score in (region_similarity, contour_accuracy)]
            np.testing.assert_allclose([walk["scores"][str(i)][m][t] for m in "JF"], right, atol=0.01)
    both = {i: np.mean([s["J"], s["F"]], axis=0) for i, s in walk["scores"].items()}
    listed = [both[str(i)][t] for t, i in walk["worst"]]
    assert listed == sorted(listed) and listed[0] == min(min(row[1:]) for row in both.values())
    assert walk["means"] == pytest.approx(json.loads((evaluated / "metrics.json").read_text())["sequences"]["walk"])


def test_how_a_frame_came_about(make, evaluated):
    walk = content_of(make(evaluated, "--sequence", "walk"), "sequence-0")
    detail, trace = json.loads(unpack(walk["details"][4])), read_trace(evaluated / "trace" / "walk" / "00004.npz")
    assert (detail["lambda1"], detail["quality"]) == (trace.lambda1, trace.quality_weight)
    assert [part["id"] for part in detail["objects"]] == [1, 3]
    for k, part in enumerate(detail["objects"]):
        own = np.flatnonzero(trace.batch == k)
        assert own[part["selected"]] == trace.selected[k] and part["memory"] == ["00000", "00001", "00002", "00003"]
        for name, field in {"box_iou": "box_term", "mask_iou": "mask_term", "gate": "gate", "total": "total"}.items():
            assert [node[name] for node in part["nodes"]] == pytest.approx(getattr(trace, field)[own], abs=1e-4)
        assert [node["origin"] for node in part["nodes"]] == [trace.origin[n] for n in own]
        weights = np.reshape(part["weights"], (len(own), len(own)))
        inside = np.isin(trace.edge_index[0], own)
        source, target = np.searchsorted(own, trace.edge_index[:, inside])
        np.testing.assert_allclose(weights[target, source], trace.edge_weight[inside], atol=1e-3)
    cells = np.frombuffer(unpack(walk["cells"][4]), np.uint8)
    assert cells.size == trace.attention_cells.size and cells.max() == 255
    assert json.loads(unpack(walk["details"][0]))["objects"] == []


def test_a_training_run(make, evaluated, davis, tmp_path):
    for row in ("flow", "temporal"):
        shutil.copytree(evaluated / "walk", tmp_path / row / "walk")
    row = {"J": STATISTICS, "F": STATISTICS, "G": 50.0, "fps": 2.0, "sequences": {"walk": {"G": 1.5}}}
    write_json(tmp_path / "table.json", {"temporal": row})
    log = [{"step": 10 * n, "</script><b>": 1 / n, "gate": float("nan") if n == 2 else n} for n in range(1, 5)]
    (tmp_path / "graph_log.json").write_text(json.dumps(log))
    page = make(tmp_path, "--root", davis, "--preset", "davis2017")
    walk, elements = content_of(page, "sequence-0"), Elements(page)
    assert walk["means"] == {"G": 1.5} and len(walk["pictures"]) == 14
    assert "Masks of temporal; --run shows those of flow" in elements.text and "--trace" in elements.text
    assert "What each part adds" in elements.text and "61.25" in elements.text and "b" not in elements.tags
    (curve,) = content_of(page, "index")["curves"]
    assert curve["steps"] == [10, 20, 30, 40]
    assert curve["series"] == {"</script><b>": [1, 0.5, 0.33333, 0.25], "gate": [1, None, 3, 4]}
    assert content_of(make(tmp_path, "--run", "flow"), "sequence-0")["means"] is None


def test_tables_and_plots(make, tmp_path):
    rows = [{"step": "<i>x", "mo": True, "G": 1.5, "paper_G": 53.2, "sequences": {}}]
    own = [{"label": "flow only", "G": None, "masks": []}]
    write_json(tmp_path / "ablation.json", {"split": "val", "rows": rows, "own": own, "curves": {}})
    (tmp_path / "rows.csv").write_text("method,ms\n<b>ours,81.5\n")
    write_json(tmp_path / "any.json", [{"layer": "stg", "ms": 1.25}, {"layer": "gat", "ms": None}])
    write_image(tmp_path / "plot.png", np.zeros((4, 4, 3), np.uint8))
    page = make(tmp_path)
    for part in ("ablation.json rows", "<i>x", "yes", "53.20", "flow only", "<b>ours", "81.50", "gat", "–", "plot.png"):
        assert part in Elements(page).text, part
    assert "<td class=number>1.25</td>" in page and "<th class=number>ms</th>" in page and "<th>layer</th>" in page
    assert "sequences" not in Elements(page).text and "masks" not in Elements(page).text


def test_masks_without_their_frames(make, monkeypatch, evaluated, davis, tmp_path):
    shutil.copytree(evaluated, tmp_path / "run")
    for record in (tmp_path / "run" / ".done").glob("*.json"):
        record.write_text(record.read_text().replace(str(davis), str(davis.parent / "gone0")))
    page = make(tmp_path / "run")
    assert content_of(page, "sequence-0")["pictures"] == [] and "gone0" in Elements(page).text
    where = ("--root", davis, "--preset", "davis2017")
    scored = (*where, "--predictions", evaluated, "--out", tmp_path / "scored", "--processes", 1)
    assert command(monkeypatch, "evaluate", *scored) == 0
    walk = content_of(make(tmp_path / "scored", *where, "--sequence", "walk"), "sequence-0")
    assert len(walk["frames"]) == len(walk["pictures"]) == 14


def test_a_folder_of_segment(make, davis, tmp_path):
    write_masks(tmp_path / "out" / "walk", 6)
    rows = {"1": [1.0, 0.9, 0.5, 0.9, 0.9, 0.4], "3": [1.0, 0.9, 0.9, 0.9, 0.9, None]}
    confidence = {"sequence": "walk", "frames": [f"{t:05d}" for t in range(6)], "objects": rows}
    write_json(tmp_path / "out" / "confidence.json", confidence)
    write_json(tmp_path / "out" / "run.json", {"video": davis / "JPEGImages/480p/walk", "sequence": "walk"})
    walk = content_of(make(tmp_path / "out"), "sequence-0")
    assert len(walk["pictures"]) == 6 and not walk["annotated"]
    assert walk["confidence"]["1"] == [100, 90, 50, 90, 90, 40] and walk["confidence"]["3"][5] is None
    assert walk["worst"][:2] == [[5, 3], [2, 1]], "no pixel at all is the least certain"


def test_a_traced_run_of_segment_on_reduced_frames(make, monkeypatch, davis, evaluated, tmp_path):
    first = davis / "Annotations/480p/walk/00000.png"
    arguments = (davis / "JPEGImages/480p/walk", "--masks", first, "--checkpoint", evaluated.parent / "checkpoint.pt")
    arguments = (*arguments, "--max-size", 40, "--online-steps", 0, "--out", tmp_path / "out", "--device", "cpu")
    assert command(monkeypatch, "segment", *arguments, "--trace") == 0
    walk = content_of(make(tmp_path / "out"), "sequence-0")
    assert all(walk["details"]) and len(walk["pictures"]) == 14
    objects = json.loads(unpack(walk["details"][3]))["objects"]
    assert max(x for part in objects for shape in part["q"] for x in shape[::2]) > 42, "at the size of the frame"
    assert command(monkeypatch, "segment", *arguments) == 0
    assert not list((tmp_path / "out").glob("trace/*/*.npz")), "the trace of another run misleads"


def test_stored_proposals(make, davis, tmp_path):
    masks = torch.stack([torch.from_numpy(labels_of(0) == i) for i in (1, 3)])
    found = EncodedProposals.from_proposals(Proposals.from_masks(masks, torch.tensor([0.25, 0.75])))
    writer = ProposalWriter(tmp_path / "out", {"dataset": "davis2017"})
    writer.write("walk", "00000", found)
    writer.merge()
    walk = content_of(make(tmp_path / "out", "--root", davis), "sequence-0")
    proposals = json.loads(unpack(walk["details"][0]))["proposals"]
    assert [p["score"] for p in proposals] == [0.75, 0.25] and proposals[1]["proposal"] == outline(labels_of(0) == 1)
    assert len(walk["pictures"]) == 1 and walk["scores"] == {} and walk["moments"] == []


@pytest.mark.parametrize(
    "name, content, needle",
    [
        ("metrics.json", "{", "metrics.json: is no JSON"),
        ("graph_log.json", "{}", "graph_log.json: is no training log"),
        ("trace/walk/00000.npz", "nothing", "00000.npz: is no trace"),
        ("confidence.json", '{"sequence": "walk"}', "confidence.json: is not of experiments.segment"),
    ],
)
def test_broken_files(complaint, tmp_path, name, content, needle):
    write_masks(tmp_path / "out" / "walk")
    (tmp_path / "out" / name).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / "out" / name).write_text(content)
    assert needle in complaint(tmp_path / "out")


@pytest.mark.parametrize(
    "arguments, needle",
    [
        ("{tmp}/missing", "no such folder"),
        ("{davis}/ImageSets", "nothing to report"),
        ("{run} --sequence swim", "--sequence swim"),
        ("{run} --run other", "--run other"),
        ("{run} --video {davis} --root {davis}", "--video excludes"),
        ("{run} --video {tmp}/film.mp4", "no such file"),
    ],
)
def test_bad_arguments(complaint, evaluated, davis, tmp_path, arguments, needle):
    assert needle in complaint(*(a.format(tmp=tmp_path, davis=davis, run=evaluated) for a in arguments.split()))


def test_outlines_keep_holes_pieces_and_single_pixels():
    mask = np.zeros((60, 80), np.uint8)
    mask[10:40, 10:50], mask[20:30, 20:40], mask[50, 70] = 1, 0, 1
    shape, filled, lines = outline(mask), np.zeros_like(mask), np.zeros_like(mask)
    for points in (np.reshape(contour, (-1, 2)) for contour in shape):
        filled ^= cv2.fillPoly(np.zeros_like(mask), [points], 1)
        cv2.polylines(lines, [points], True, 1)
    assert len(shape) == 3 and lines[50, 70] and np.count_nonzero((filled | lines) != mask) <= 0.08 * mask.sum()
    assert max(max(contour) for contour in outline(mask, scale=(2.0, 3.0))) == 150 and outline(np.zeros((4, 4))) == []
    assert len(outline(np.random.default_rng(1).random((100, 100)) > 0.7)) == MOST_CONTOURS


def test_what_is_too_much_shrinks():
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 255, (480, 854, 3), dtype=np.uint8))
    for most, side in ((10**9, LEVELS[0][0]), (1, LEVELS[-1][0])):
        (packed,) = pack_pictures([shrink(noise.copy())], most)
        assert max(Image.open(io.BytesIO(base64.b64decode(packed))).size) == side
    kept = choose_frames(1000, 20, [501, 502, 777])
    assert {0, 999, 501, 502, 777} <= set(kept) and len(kept) <= 20 and choose_frames(3, 10, [1]) == [0, 1, 2]
    notes = []
    assert thin(["ab"] * 5, 10, "It", notes) == ["ab"] * 5 and notes == []
    assert thin(["ab"] * 5, 6, "It", notes) == ["ab", "", "ab", "", "ab"] and notes == ["It is kept of one frame in 2."]


def test_scores_and_moments_of_objects_that_come_and_go():
    scores = SequenceScores()
    for t in range(14):
        result = labels_of(t)
        result[(result == 1) & (t == 11)] = 0
        scores.add(result, labels_of(t) if t else None)
    worst = lowest(scores.means(), {1: 0, 3: 0})
    found = moments(scores, {1: 0, 3: 0}, [t for t, _ in worst])
    assert worst[0] == (11, 1) and {t: found[t] for t in (0, 11, 6)} == {0: "given", 11: "worst", 6: "occlusion"}
    assert len(found) == 6 and list(found) == sorted(found)
    assert scores.j[1][0] is None and scores.j[1][11] == 0 and scores.f[3][1] == 1
    scores.forget_before({3: 2})
    assert scores.f[3][:3] == [None, None, 1]
    with pytest.raises(InputError, match="64 x 48 pixels and annotations of 63 x 48"):
        scores.add(labels_of(0), labels_of(0)[:, 1:])
    alone = SequenceScores()
    alone.add(labels_of(0), None)
    assert moments(alone, {1: 0}, []) == {0: "given"} and alone.means() == {}


def test_attention_is_relative_to_its_largest():
    cells = np.array([[[0.5, 0.25, 0.005], [0.1, 0.1, 0.2]]], np.float16)
    np.testing.assert_array_equal(cell_attention(cells), [[[255, 128, 0], [128, 128, 255]]])
    grid = np.zeros((2, 64, 64), np.float16)
    grid[1, :2, :2] = 0.25
    small = object_attention(grid)
    assert small.shape == (2, 32, 32) and small[1, 0, 0] == 255 and small.sum() == 255
