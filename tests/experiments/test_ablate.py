import json
from pathlib import Path

import numpy as np
import pytest
from commands import command, error_line
from PIL import Image
from table_cases import at_once, here, learned
from train_cases import TINY, make_tiny, tiny_model

from datasets.fixtures import write_fixture
from experiments.ablate import runs as ablation_runs
from experiments.ablate.output import draw, to_markdown
from experiments.ablate.result import SETTINGS
from experiments.ablate.rows import CURVES, OWN_NAMES, TABLE_4, Source, curve_cases, own_cases, paper_cases, printed
from experiments.common import checkpoints
from stg_pyg.config import STGConfig

SMALL = STGConfig.small()
NUM_FRAMES = 5
__all__ = ["at_once", "here", "learned"]
SHORT = ("--no-own", "--frames", 3)
OWN = Source(Path("c.pt"), TINY, SMALL)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """A data set in ``davis``, and checkpoints ``c.pt``, ``b.pt`` and ``y.pt``."""
    folder = tmp_path_factory.mktemp("data")
    write_fixture("davis2016", folder / "davis", num_frames=NUM_FRAMES, size=(32, 48))
    for seed, name in enumerate("cby"):
        checkpoints.save_model(folder / f"{name}.pt", tiny_model(seed), TINY, seed)
    return folder


@pytest.fixture
def scored(monkeypatch):
    """Videos by folder of the run."""
    found, record = [], ablation_runs.record_video

    def counting(job, records, name, learned):
        found.append((job.out.name, name))
        record(job, records, name, learned)

    monkeypatch.setattr(ablation_runs, "record_video", counting)
    return found


@pytest.fixture
def done(at_once, scored):
    """What is done: online learning (steps and seed), and videos by folder of the run."""
    return {"learned": at_once, "scored": scored}


@pytest.fixture
def run(monkeypatch, data, tmp_path):
    """Runs the command; returns ``ablation.json``, or the exit status if it is not 0."""

    def call(*arguments, out="out"):
        given = ("--preset", "davis2016", "--root", data / "davis", "--split", "val", "--checkpoint", data / "c.pt")
        given = (*given, "--device", "cpu", "--out", tmp_path / out, "--processes", 1, *arguments)
        status = command(monkeypatch, "ablate", *given)
        path = tmp_path / out / "ablation.json"
        return status or (json.loads(path.read_text()) if path.is_file() else None)

    return call


def test_table_4_as_printed():
    assert [row.paper_G for row in TABLE_4] == [53.2, 54.1, 58.4, 59.2, 59.8, 61.9, 63.1, 62.3, 64.3, 66.5, 69.4]
    steps = {row.number: row.paper_G - TABLE_4[row.compared_to - 1].paper_G for row in TABLE_4 if row.compared_to}
    in_the_text = {2: 0.9, 3: 4.3, 4: 0.8, 5: 0.6, 6: 2.1, 9: 1.2, 10: 2.2, 11: 2.9}
    assert {number: round(steps[number], 1) for number in in_the_text} == in_the_text
    columns = ["".join("-" if (v := getattr(row, name)) is None else f"{v:g} " for row in TABLE_4) for name in SETTINGS]
    first_on = {"mo": 1, "sg": 2, "tg": 5, "ol": 8, "ft": 9, "ytb": 10}
    expected = {name: "0 " * n + "1 " * (11 - n) for name, n in first_on.items()}
    expected |= {"alpha": "--0.5 " + 8 * "0.7 ", "l": "--1 1 1 1 2 3 2 2 2 ", "lambda1": 4 * "0.5 " + 7 * "0.4 "}
    assert dict(zip(SETTINGS, columns, strict=True)) == expected


def test_rows_change_their_settings_and_nothing_else():
    off = {f"{part}.enabled": False for part in ("motion", "spatial", "temporal")}
    other = OWN._replace(config=SMALL.replace("selection.thr", 0.3))
    for base, others in ((SMALL, {}), (other.config, {"base": other, "ytb": OWN})):
        cases = paper_cases(TABLE_4, {"own": OWN} | others)
        assert cases[1].config == base.replace(off | {"selection.lambda1": 0.5})
        changes = {"spatial.alpha": 0.7, "spatial.num_steps": 3, "selection.lambda1": 0.4}
        assert cases[8].config == base.replace(changes)
        weights = ["base"] * 9 + ["own", "ytb"] if others else ["own"] * 10  # the last row has no weights
        assert [case.weights for case in cases.values()] == weights
        assert [number for number, case in cases.items() if case.online] == [9, 10, 11][: len(cases) - 8]
    paper = paper_cases(TABLE_4, {"own": OWN._replace(config=printed(SMALL))})[7].config
    same = {"proposals.crop_margin": SMALL.proposals.crop_margin, "warping.gaps": SMALL.warping.gaps}
    assert paper == STGConfig.paper().replace(same)


def test_parts_that_are_taken_away_and_points_of_curves():
    full = SMALL.replace({"online.update_every": 8, "memory.frames": 5})
    cases = {case.name: case for case in own_cases({"own": OWN._replace(config=full), "base": OWN})}
    assert list(cases) == list(OWN_NAMES) and cases["full"].config == full
    assert cases["no-spatial-graph"].config == full.replace("spatial.enabled", False)
    assert cases["no-learned-part-of-the-graphs"].config == full.without_learned_parts()
    assert cases["one-box"].config.proposals.evidence == ("p",) and not cases["one-box"].config.spatial.enabled
    assert [n for n, case in cases.items() if case.weights == "base"] == ["no-fine-tuning", "neither"]
    assert [n for n, case in cases.items() if not case.online] == ["flow", "no-online-learning", "neither"]
    plain = own_cases({"own": OWN._replace(config=SMALL.replace("recovery.redetect", False))}, online=False)
    assert not {"no-re-detection", "no-online-learning", "no-fine-tuning"} & {case.name for case in plain}
    points = curve_cases("memory", full)
    assert list(points) == [1, 2, 4, 5, 8, 16, "all"]
    assert points["all"].config.memory.frames is None and points[5].config == full
    for name in CURVES:
        assert len({case.config for case in curve_cases(name, SMALL).values()}) == len(curve_cases(name, SMALL))


def test_a_whole_run(run, capsys, tmp_path, done):
    own = ("--own", "full,no-online-learning,flow")
    result = run("--rows", "1,7,9,10,11", *own, "--curves", "l", "--curve-frames", 3, "--online-steps", 4)
    out = tmp_path / "out"
    assert capsys.readouterr().out.rstrip() == (out / "ablation.md").read_text().rstrip()
    rows = {row["number"]: row for row in result["rows"]}
    assert {number: row["ft"] for number, row in rows.items()} == {1: None, 7: None, 9: None, 10: True, 11: True}
    assert all({*SETTINGS, "J", "F", "G", "paper_G"} <= set(row) for row in rows.values())
    assert rows[11]["J"] is rows[11]["F"] is rows[11]["G"] is None and "--ytb-checkpoint" in rows[11]["note"]
    assert rows[9]["masks"] == rows[10]["masks"] and rows[9]["G"] == rows[10]["G"] and rows[10]["change"] is None
    assert rows[9]["change"] == pytest.approx(rows[9]["G"] - rows[7]["G"]) and rows[9]["paper_change"] == 1.2
    assert rows[1]["G"] == pytest.approx((rows[1]["J"] + rows[1]["F"]) / 2)
    assert rows[1]["G"] == pytest.approx(np.mean(list(rows[1]["sequences"].values())))
    assert list(rows[1]["sequences"]) == result["sequences"] and rows[1]["seconds_per_frame"] > 0
    assert rows[7]["config"]["online"]["steps"] == 0 and rows[9]["config"]["online"]["steps"] == 4
    own = {row["name"]: row for row in result["own"]}
    assert own["full"]["change"] is None and own["flow"]["config"] is None
    assert own["flow"]["change"] == pytest.approx(own["flow"]["G"] - own["full"]["G"])
    points = result["curves"]["l"]["points"]
    assert [point["value"] for point in points] == [1, 2, 3, 4] and result["curves"]["l"]["own"] == 1
    for row, frames in ((points[0], 3), (own["full"], NUM_FRAMES)):
        assert len(list((out / row["masks"][0]).glob("*/*.png"))) == frames * len(result["sequences"])
    assert any("--base-checkpoint" in note for note in result["notes"])
    assert Image.open(out / "ablation.png").size[0] > 1000
    assert len(done["learned"]) == len(result["sequences"]), "once a video, for all rows and curves"
    assert len(set(done["scored"])) == len(done["scored"]), "equal configurations are run once"


def test_what_is_finished_is_kept(run, monkeypatch, tmp_path, done):
    short = (*SHORT, "--online-steps", 2)
    counting = ablation_runs.record_video

    def stopped(*arguments):
        if done["scored"]:
            raise KeyboardInterrupt
        counting(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(ablation_runs, "record_video", stopped)
        assert run(*short, "--rows", "1,9") == 130
    assert len(done["scored"]) == 1 and not (tmp_path / "out/ablation.json").exists()
    first, scored = run(*short, "--rows", "1,9"), list(done["scored"])
    assert len(set(scored)) == len(scored) == 2 * len(first["sequences"])
    assert run(*short, "--rows", "1,9") == first and done["scored"] == scored
    again = {row["number"]: row for row in run(*short, "--rows", "1,2,9")["rows"]}
    added = done["scored"][len(scored) :]
    assert len(added) == len(first["sequences"]) and {folder for folder, _ in added}.isdisjoint(dict(scored))
    assert [again[1], again[9]] == first["rows"]
    next((tmp_path / "out" / again[2]["masks"][0] / ".done").iterdir()).unlink()
    learned = len(done["learned"])
    run(*short, "--rows", "2")
    assert len(done["scored"]) == len(scored) + len(added) + 1
    run(*short, "--rows", "10")
    own = run("--frames", 3, "--online-steps", 2, "--rows", "none", "--own", "greedy,flow")["own"]
    assert [(row["name"], row["change"]) for row in own] == [("greedy", None), ("flow", None)]
    assert len(done["learned"]) == learned == len(first["sequences"]), "what was learned is kept"


def test_seeds_are_those_of_online_learning(run, monkeypatch, tmp_path, done):
    scores = iter([0.0, 30.0, 60.0])
    summarize = ablation_runs.summarize_row

    def summary(results, row, config):
        return summarize(results, row, config) | ({"G": next(scores)} if config.online.steps else {})

    monkeypatch.setattr(ablation_runs, "summarize_row", summary)
    result = run(*SHORT, "--sequences", "cows", "--rows", "7,9", "--seeds", "4,5,6", "--online-steps", 2, "--seed", 1)
    plain, online = result["rows"]
    assert online["G_by_seed"] == [0, 30, 60] and online["G"] == 30 and online["G_std"] == pytest.approx(30)
    assert len(set(online["masks"])) == 3 and result["seeds"] == [4, 5, 6]
    assert len(plain["masks"]) == 1 and plain["G_std"] is None, "nothing there depends on the seed"
    assert len(set(done["learned"])) == 3 * len(plain["sequences"])
    assert "± 30.0" in (tmp_path / "out/ablation.md").read_text()


def test_weights_of_rows(run, monkeypatch, data, done):
    loaded, load = [], checkpoints.load_model
    monkeypatch.setattr(checkpoints, "load_model", lambda path: loaded.append(path.name) or load(path))
    weights = ("--base-checkpoint", data / "b.pt", "--ytb-checkpoint", data / "y.pt")
    result = run(*SHORT, "--sequences", "cows", *weights, "--rows", "9,10,11", "--online-steps", 2)
    assert [row["ft"] for row in result["rows"]] == [False, True, True] and not result["notes"]
    assert len({row["masks"][0] for row in result["rows"]}) == 3 and set(loaded) == {"c.pt", "b.pt", "y.pt"}
    assert result["rows"][2]["change"] == pytest.approx(result["rows"][2]["G"] - result["rows"][1]["G"])
    assert len(done["learned"]) == 3


def test_constants_as_printed_and_no_online_learning(run, done):
    arguments = ("--as-printed", "--rows", "7,9", "--curves", "thr", "--frames", 3, "--online-steps", 0)
    result = run("--sequences", "cows", *arguments)
    config = result["rows"][0]["config"]
    assert not config["spatial"]["node_gate"] and config["spatial"]["edge_iou"] == "box"
    assert config["selection"]["thr"] == result["curves"]["thr"]["own"] == 0.2 and result["as_printed"]
    names = {row["name"] for row in result["own"]}
    assert {"no-motion-model", "mean"} <= names and "no-re-detection" not in names
    assert result["rows"][1]["G"] is None and "--online-steps" in result["rows"][1]["note"] and not done["learned"]
    assert all(point["G"] is not None for point in result["curves"]["thr"]["points"])


def test_synthetic_videos_and_the_weights_of_the_package(monkeypatch, tmp_path, data, here, learned, scored):
    make_tiny(monkeypatch)
    monkeypatch.setattr(checkpoints, "SHIPPED", data / "c.pt")
    arguments = ("--device", "cpu", "--rows", "1,9", "--no-own", "--sequences", "test-0001", "--seed", 3)
    assert command(monkeypatch, "ablate", "--out", tmp_path, *arguments) == 0
    result = json.loads((tmp_path / "ablation.json").read_text())
    assert result["dataset"] == "synthetic" and result["sequences"] == ["test-0001"] and result["seeds"] == [3]
    assert len(scored) == 2 and learned == [(TINY.config.online.steps, learned[0][1])]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ("--curves beta", "no curve beta"),
        ("--rows ,", "--rows"),
        ("--seeds 1,x", "--seeds"),
        ("--frames 1", "--frames 1"),
        ("--curve-frames 0", "--curve-frames 0"),
        ("--rows none --no-own", "nothing to run"),
        ("--sequences zebra", "zebra cows"),
        ("--ytb-checkpoint none.pt", "none.pt"),
    ],
)
def test_bad_arguments(run, capsys, tmp_path, arguments, words):
    assert run(*arguments.split()) == 2
    line = error_line(capsys)
    assert all(word in line for word in words.split())
    assert not list(tmp_path.glob("out/*")), "nothing was begun"


def test_ranks_that_only_do_their_part(run, monkeypatch, tmp_path, done):
    arguments = (*SHORT, "--rows", "1,9", "--online-steps", 2)
    scores = [row["G"] for row in run(*arguments, out="alone")["rows"]]
    alone = sorted(done["scored"])
    done["scored"].clear()
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "1")
    assert run(*arguments) is None and 0 < len(done["scored"]) < len(alone)
    monkeypatch.setenv("RANK", "0")
    assert [row["G"] for row in run(*arguments)["rows"]] == scores
    assert sorted(done["scored"]) == alone, "each is done by one of them"


def test_pictures_and_text_of_parts_of_a_result():
    scores = {"J": 80.0, "F": 82.0, "G": 81.0, "G_std": 0.5, "seconds_per_frame": 0.2, "sequences": {"cows": 81.0}}
    result = {"dataset": "davis2016", "split": "dev", "sequences": ["cows"], "frames": None, "curve_frames": 5}
    result |= {"seeds": [0, 1], "online_steps": 3, "as_printed": False, "checkpoints": {"own": "c.pt"}}
    own = [
        {**scores, "name": "full", "label": "full model", "change": None},
        {**scores, "G": 40.0, "name": "flow", "label": "flow only", "change": -0.01},
    ]
    result |= {"notes": ["A note."], "rows": [], "own": own, "curves": {}}
    text = to_markdown(result)
    assert "| full model | 80.0 | 82.0 | 81.0 ± 0.5 |  | 0.20 |" in text and "| +0.0 | 0.20 |" in text
    assert "seeds 0, 1" in text and "A note." in text and "Table 4" not in text and "5 frames" not in text
    points = [{**scores, "value": value} for value in (1, 2)]
    both = result | {"curves": {"n": {"parameter": "motion.steps", "own": 2, "points": points}}}
    text = to_markdown(both)
    assert "| **2** | **80.0** |" in text and "| 1 | 80.0 |" in text and "the first 5 frames for the curves" in text
    heights = [draw(content).get_size_inches()[1] for content in (both | {"own": []}, result, both)]
    assert heights == sorted(heights) and len(set(heights)) == 3
