import json
import shutil
from html.parser import HTMLParser

import numpy as np
import pytest
from PIL import Image
from report_cases import EVIL, FRAMES, HEIGHT, WIDTH, content_of, davis, evaluated, header_of, labels_of, unpack
from test_cli import command, error_line
from train_cases import InProcess

from experiments import scoring
from experiments.report import command as report
from stg_pyg.io import write_json, write_label_map
from stg_pyg.metrics import contour_accuracy, region_similarity
from stg_pyg.trace_files import read_trace

__all__ = ["davis", "evaluated"]


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
    """Tags in order, and the text of those that are shown."""

    def __init__(self, page):
        super().__init__()
        self.tags, self.text, self.addresses, self._hidden = [], "", [], False
        self.feed(page)

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        self.addresses += [value for name, value in attributes if name in ("src", "href", "action", "data")]
        self._hidden = tag in ("script", "style")

    def handle_endtag(self, tag):
        self._hidden = False

    def handle_data(self, data):
        self.text += "" if self._hidden else data


def test_frames_scores_and_worst_of_an_evaluation(make, evaluated):
    page = make(evaluated, "--sequence", "walk")
    walk = content_of(page, "sequence-0")
    frames = FRAMES["walk"]
    assert walk["frames"] == frames and walk["size"] == [HEIGHT, WIDTH] and walk["given"] == {"1": 0, "3": 0}
    assert len(walk["pictures"]) == len(frames) and walk["annotated"]
    for t, frame in enumerate(frames):
        result = np.array(Image.open(evaluated / "walk" / f"{frame}.png"))
        for i in (1, 3):
            j = region_similarity(result == i, labels_of(t) == i)
            f = contour_accuracy(result == i, labels_of(t) == i)
            got = [walk["scores"][str(i)][m][t] for m in "JF"]
            np.testing.assert_allclose(got, [100 * j, 100 * f], atol=0.01)
    both = {i: np.mean([s["J"], s["F"]], axis=0) for i, s in walk["scores"].items()}
    listed = [both[str(i)][t] for t, i in walk["worst"]]
    assert listed == sorted(listed) and listed[0] == min(min(row[1:]) for row in both.values())
    assert all(abs(a - b) > 2 for n, (a, _) in enumerate(walk["worst"]) for b, _ in walk["worst"][:n])
    assert walk["means"] == pytest.approx(json.loads((evaluated / "metrics.json").read_text())["sequences"]["walk"])
    assert unpack(walk["outlines"]) and walk["strip"]


def test_how_a_frame_came_about(make, evaluated):
    walk = content_of(make(evaluated, "--sequence", "walk"), "sequence-0")
    header, trace = header_of(walk["details"][4]), read_trace(evaluated / "trace" / "walk" / "00004.npz")
    assert (header["lambda1"], header["quality"]) == (trace.lambda1, trace.quality_weight)
    assert [part["id"] for part in header["objects"]] == [1, 3]
    for k, part in enumerate(header["objects"]):
        own = np.flatnonzero(trace.batch == k)
        assert own[part["selected"]] == trace.selected[k]
        for name, field in {"box_iou": "box_term", "mask_iou": "mask_term", "gate": "gate", "total": "total"}.items():
            assert [node[name] for node in part["nodes"]] == pytest.approx(getattr(trace, field)[own], abs=1e-4)
        assert [node["origin"] for node in part["nodes"]] == [trace.origin[n] for n in own]
        assert part["memory"] == ["00000", "00001", "00002", "00003"]
    numbers = unpack(walk["details"][4])[4 + len(json.dumps(header, separators=(",", ":"))) :]
    count = len(header["objects"][0]["nodes"])
    weights = np.frombuffer(numbers[: count**2], np.int8).reshape(count, count) / 127 * header["objects"][0]["largest"]
    for (source, target), weight in zip(trace.edge_index.T, trace.edge_weight, strict=True):
        if target < count:
            assert weights[target, source] == pytest.approx(float(weight), abs=0.01)
    cells = np.frombuffer(unpack(walk["cells"][4]), np.uint8)
    assert cells.size == trace.attention_cells.size and cells.max() == 255
    assert header_of(walk["details"][0])["objects"] == []


def test_names_are_text_everywhere(make, evaluated):
    page = make(evaluated)
    assert {s["name"] for s in content_of(page, "index")["sequences"]} == {"walk", EVIL}
    elements = Elements(page)
    assert elements.tags.count("script") == 4, "index, two sequences and the program"
    assert EVIL in elements.text and "</body>" in page[-40:]


def test_names_of_losses_end_no_element(make, tmp_path):
    (tmp_path / "x_log.json").write_text(json.dumps([{"step": 1, "</script><b>": 2.0}]))
    page = make(tmp_path)
    (curve,) = content_of(page, "index")["curves"]
    assert list(curve["series"]) == ["</script><b>"] and "b" not in Elements(page).tags


def test_the_page_needs_nothing_else(make, evaluated):
    page = make(evaluated)
    assert all(address.startswith(("#", "data:")) for address in Elements(page).addresses)
    assert "default-src 'none'" in page


def test_training_curves_and_tables(make, tmp_path):
    log = [{"step": 10 * n, "loss": 1 / n, "gate": float("nan") if n == 2 else n} for n in range(1, 5)]
    (tmp_path / "graph_log.json").write_text(json.dumps(log))
    statistics = {"mean": 50.0, "recall": 61.25, "decay": -1.0}
    row = {"J": statistics, "F": statistics, "G": 50.0, "fps": 2.0}
    write_json(tmp_path / "table.json", {"<i>row": row})
    ablation = {"rows": [{"step": "x", "mo": True, "G": 1.5, "paper_G": 53.2}], "own": [], "curves": {}}
    write_json(tmp_path / "ablation.json", ablation)
    (tmp_path / "tables.csv").write_text("method,J\n<b>ours,81.5\n")
    write_json(tmp_path / "benchmark.json", [{"layer": "stg", "ms": 1.25}, {"layer": "gat", "ms": None}])
    page = make(tmp_path)
    (curve,) = content_of(page, "index")["curves"]
    assert curve["steps"] == [10, 20, 30, 40] and curve["series"]["loss"][1] == 0.5
    assert curve["series"]["gate"] == [1, None, 3, 4]
    text = Elements(page).text
    for part in ("<i>row", "61.25", "53.20", "<b>ours", "81.50", "gat", "What each part adds", "Table 4"):
        assert part in text, part


def test_rows_of_a_training_run(make, evaluated, davis, tmp_path):
    for row in ("flow", "temporal"):
        shutil.copytree(evaluated / "walk", tmp_path / row / "walk")
    write_json(tmp_path / "table.json", {"temporal": {"sequences": {"walk": {"J": 1.0, "F": 2.0, "G": 1.5}}}})
    page = make(tmp_path, "--root", davis, "--preset", "davis2017")
    walk = content_of(page, "sequence-0")
    assert walk["means"]["G"] == 1.5 and len(walk["pictures"]) == 14
    assert "Masks of temporal; --run shows those of flow" in page and "--trace" in page
    assert content_of(make(tmp_path, "--run", "flow"), "sequence-0")["means"] is None


def test_frames_that_have_gone(make, evaluated, davis, tmp_path):
    shutil.copytree(evaluated, tmp_path / "run")
    record = next((tmp_path / "run" / ".done").glob("*.json"))
    record.write_text(record.read_text().replace(str(davis), str(davis.parent / "gone0")))
    for other in (tmp_path / "run" / ".done").glob("*.json"):
        other.write_text(record.read_text())
    page = make(tmp_path / "run")
    assert content_of(page, "sequence-0")["pictures"] == [] and "gone0" in Elements(page).text


def test_stored_masks_that_were_only_scored(make, monkeypatch, evaluated, davis, tmp_path):
    where = ("--root", davis, "--preset", "davis2017")
    arguments = (*where, "--predictions", evaluated, "--out", tmp_path / "scored", "--processes", 1)
    assert command(monkeypatch, "evaluate", *arguments) == 0
    page = make(tmp_path / "scored", *where, "--sequence", "walk")
    assert len(content_of(page, "sequence-0")["frames"]) == 14


def test_segment_folders(make, davis, tmp_path):
    for t in range(6):
        write_label_map(tmp_path / "out" / "walk" / f"{t:05d}.png", labels_of(t))
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
    points = [p for part in header_of(walk["details"][3])["objects"] for shape in part["q"] for p in shape[::2]]
    assert points and max(points) > 42, "outlines are at the size of the frame"
    assert command(monkeypatch, "segment", *arguments) == 0
    assert not list((tmp_path / "out").glob("trace/*/*.npz")), "the trace of another run misleads"


def test_a_run_without_trace_leaves_none(monkeypatch, evaluated, davis, tmp_path):
    shutil.copytree(evaluated, tmp_path / "out")
    monkeypatch.setattr(scoring, "ProcessPoolExecutor", InProcess)
    arguments = ("--root", davis, "--preset", "davis2017", "--checkpoint", evaluated.parent / "checkpoint.pt")
    assert command(monkeypatch, "evaluate", *arguments, "--row", "flow", "--out", tmp_path / "out") == 0
    assert not list((tmp_path / "out").glob("trace/*/*.npz"))


def test_the_largest_page(make, davis, tmp_path, monkeypatch):
    """Too much for the budgets: fewer frames, smaller pictures, fewer details, and it is said."""
    folder = tmp_path / "out" / "long"
    for t in range(60):
        write_label_map(folder / f"{t:05d}.png", labels_of(t % 14))
    monkeypatch.setattr(report, "MOST_FRAMES", 20)
    page = make(tmp_path / "out")
    long = content_of(page, "sequence-0")
    assert 15 <= len(long["frames"]) <= 24 and long["frames"][0] == "00000" and long["frames"][-1] == "00059"
    assert "of 60 frames are shown" in page


@pytest.mark.parametrize(
    "name, content, needle",
    [
        ("metrics.json", "{", "metrics.json: is no JSON"),
        ("graph_log.json", "{}", "graph_log.json: is no training log"),
        ("walk/00000.png", "no picture", "00000.png"),
        ("trace/walk/00000.npz", "nothing", "00000.npz: is no trace"),
        ("confidence.json", '{"sequence": "walk"}', "confidence.json: is not of experiments.segment"),
    ],
)
def test_broken_files(complaint, tmp_path, name, content, needle):
    for t in range(3):
        write_label_map(tmp_path / "out" / "walk" / f"{t:05d}.png", labels_of(t))
    (tmp_path / "out" / name).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / "out" / name).write_text(content)
    assert needle in complaint(tmp_path / "out")


def test_bad_arguments(complaint, evaluated, davis, tmp_path):
    assert "no such folder" in complaint(tmp_path / "missing")
    assert "nothing to report" in complaint(davis / "ImageSets")
    assert "--sequence swim" in complaint(evaluated, "--sequence", "swim")
    assert "--run other" in complaint(evaluated, "--run", "other")
    assert "--video excludes" in complaint(evaluated, "--video", davis, "--root", davis)
    assert "no such file" in complaint(evaluated, "--video", tmp_path / "film.mp4")


def test_the_page_is_in_the_folder_by_default(monkeypatch, capsys, tmp_path):
    (tmp_path / "graph_log.json").write_text('[{"step": 1, "loss": 2.0}]')
    assert command(monkeypatch, "report", tmp_path, "--device", "cpu", "--seed", 0) == 0
    assert (tmp_path / "report.html").is_file() and "report.html" in capsys.readouterr().out
