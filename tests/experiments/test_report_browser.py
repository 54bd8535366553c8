"""The page of a run in headless Chromium, driven by keys."""

import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from commands import command
from PIL import Image
from report_cases import EVIL, davis, evaluated

from stg_pyg.utils.images import write_json
from stg_pyg.video.trace_files import read_trace

sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")

__all__ = ["davis", "evaluated"]
BROWSERS = ("chromium-headless-shell", "chromium", "chromium-browser", "google-chrome")


@pytest.fixture(scope="module")
def browser() -> Iterator["sync_api.Browser"]:
    binary = next(filter(None, map(shutil.which, BROWSERS)), None)
    with sync_api.sync_playwright() as playwright:
        try:
            launched = playwright.chromium.launch(executable_path=binary, args=["--no-sandbox"])
        except sync_api.Error as error:
            pytest.skip(f"no Chromium to start: {error.message.splitlines()[0]}")
        yield launched
        launched.close()


@dataclass
class Opened:
    """A page and what it complained of or asked for."""

    page: "sync_api.Page"
    complaints: list[str]
    requests: list[str]

    def text(self, selector: str) -> str:
        return self.page.locator(selector).inner_text()

    def press(self, *keys: str) -> None:
        for key in keys:
            self.page.keyboard.press(key)

    def picture(self, shown: str, selector: str = "#frame") -> str:
        """The pixels of a canvas, once it, or what it is in, says what it shows: the frame, and overlays by key."""
        self.page.wait_for_selector(f"{selector.split()[0]}[data-shown='{shown}']")
        return self.page.evaluate("(s) => document.querySelector(s).toDataURL()", selector)


@pytest.fixture(scope="module")
def report(evaluated: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("report") / "<i>run"
    shutil.copytree(evaluated, folder)
    write_json(folder / "graph_log.json", [{"step": 10 * n, "</script><b>": 1 / n} for n in range(1, 6)])
    with pytest.MonkeyPatch.context() as patch:
        assert command(patch, "report", folder, "--sequence", "walk", "--sequence", EVIL) == 0
    return folder / "report.html"


@pytest.fixture
def opened(browser, report) -> Iterator[Opened]:
    context = browser.new_context(viewport={"width": 1300, "height": 900}, offline=True)
    page, complaints, requests = context.new_page(), [], []
    page.on("console", lambda message: complaints.append(message.text))
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on("request", lambda request: requests.append(request.url))
    page.goto(report.as_uri())
    page.wait_for_selector("body[data-ready=yes]")
    yield Opened(page, complaints, requests)
    assert complaints == []
    assert [url for url in requests if not url.startswith(("data:", "file:"))] == []
    assert sum(url.startswith("file:") for url in requests) == 1
    context.close()


@pytest.fixture
def at_4(opened) -> Opened:
    """The page at frame 00004."""
    opened.press("Home", *["ArrowRight"] * 4)
    return opened


def at(opened: Opened, frame: str) -> bool:
    return opened.text("#position").split()[0] == frame


def test_keys_list_and_chart_move_the_frame(opened):
    listed = [text.split()[0] for text in opened.page.locator("#worst li span").all_inner_texts()]
    assert len(listed) > 2 and at(opened, listed[0]), "it starts with the worst frame"
    opened.press("w")
    assert at(opened, listed[1])
    opened.page.locator("#worst button").nth(2).click()
    assert at(opened, listed[2])
    keys = {"Home": 0, "PageDown": 10, "End": 13, "ArrowRight": 13, "PageUp": 3, "ArrowLeft": 2}
    for key, frame in keys.items():
        opened.press(key)
        assert at(opened, f"{frame:05d}"), key
    charts = opened.page.locator("#timeline svg")
    assert charts.count() == 2, "one for each object"
    charts.first.click(position={"x": charts.first.bounding_box()["width"] - 9, "y": 40})
    assert at(opened, "00013")
    opened.press("End", "Space")
    position = sync_api.expect(opened.page.locator("#position"))
    position.not_to_contain_text("00013")
    position.to_contain_text("00013")
    sync_api.expect(opened.page.locator("#play")).to_have_text("▶")
    opened.press("Home")
    opened.page.locator("#slider").focus()
    opened.press("ArrowRight")
    assert at(opened, "00001"), "not two at a time on the slider"


def test_overlays_change_the_picture_and_back(at_4):
    before = at_4.picture("00004 r")
    for key in "rtepqg":
        button = at_4.page.locator(f"#toggles button:has(kbd:text-is('{key}'))")
        pressed = button.get_attribute("aria-pressed")
        at_4.press(key)
        assert at_4.picture("00004" if key == "r" else f"00004 r {key}") != before, key
        assert button.get_attribute("aria-pressed") != pressed
        button.click()
        assert at_4.picture("00004 r") == before and button.get_attribute("aria-pressed") == pressed


def test_why_a_node_was_selected(at_4, evaluated):
    at_4.page.wait_for_selector("#graph-where:text('00004')")
    rows = [row.split("\t") for row in at_4.page.locator("#nodes tbody tr").all_inner_texts()]
    numbers = [[float(value) for value in row if value.replace(".", "").isdecimal()] for row in rows]
    for _, box, mask, gate, total in numbers:
        assert 0.4 * box + 0.6 * mask + 0.5 * gate == pytest.approx(total, abs=2e-3)
    assert [row[4] for row in numbers] == sorted((row[4] for row in numbers), reverse=True)
    assert "selected" in at_4.page.locator("#nodes tbody tr").first.get_attribute("class")
    assert at_4.page.locator("#nodes tr.selected").count() == 1
    assert at_4.page.locator("#graph-svg g.node").count() == len(rows)
    trace = read_trace(evaluated / "trace/walk/00004.npz")
    weight = {tuple(edge): float(w) for edge, w in zip(trace.edge_index.T, trace.edge_weight, strict=True)}
    means = [(w + weight[v, u]) / 2 for (u, v), w in weight.items() if trace.batch[u] == 0]
    shown = [float(word.rstrip(",")) for word in at_4.text("#graph-caption").split() if word[0].isdecimal()]
    assert shown == pytest.approx([min(means), max(means)], abs=1e-3)
    table = at_4.text("#nodes")
    at_4.press("o")
    sync_api.expect(at_4.page.locator("#nodes")).not_to_have_text(table, use_inner_text=True)


def test_attention_of_the_object_and_of_a_place(at_4):
    whole = at_4.picture("00004 object", "#memories canvas")
    assert at_4.page.locator("#memories figure").count() == 4
    at_4.page.locator("#query").click(position={"x": 2, "y": 2})
    place = at_4.picture("00004 0 0", "#memories canvas")
    assert place != whole
    at_4.page.locator("#query").focus()
    at_4.press(*["ArrowRight", "ArrowDown"] * 3)
    assert at_4.picture("00004 3 3", "#memories canvas") != place
    assert at_4.text("#position").startswith("00004"), "the keys are those of the grid while it has the focus"
    at_4.press("a")
    assert at_4.picture("00004 object", "#memories canvas") == whole
    at_4.page.locator("#memories button").first.click()
    assert at_4.text("#position").startswith("00000")
    sync_api.expect(at_4.page.locator("#graph-note")).to_contain_text("given")


def test_another_sequence_and_its_strip(opened):
    """Six frames in two rows of 320 by 240 pixels; those of the other sequence are three."""
    strip = opened.page.locator("#strip")
    assert strip.evaluate("(c) => [c.width, c.height]") == [6 * 324 - 4, 2 * 244 + 44]
    opened.press("s")
    sync_api.expect(opened.page.locator("#sequence")).to_have_value("1")
    opened.press("End")
    assert at(opened, "11")
    opened.page.wait_for_function("document.getElementById('strip').width === 968")
    with opened.page.expect_download() as download:
        opened.page.locator("#strip-link").click()
    saved = np.asarray(Image.open(download.value.path()).convert("RGB"))
    x, y = 5 * (6 + 9), 22 + 244 + 5 * (6 + 8)
    assert saved.shape == (532, 968, 3)
    assert saved[y, x, 0] > saved[y, x, 2] + 60, "the annotation of the first object is red"


def test_help_curves_and_names(opened):
    opened.press("?")
    assert opened.page.locator("#help").is_visible() and "ground truth" in opened.text("#help")
    before = opened.text("#position")
    opened.press("ArrowRight")
    assert opened.text("#position") == before, "keys wait while the help is open"
    opened.press("Escape")
    assert not opened.page.locator("#help").is_visible()
    assert opened.page.locator("#curves svg").count() == 1 and "last 0.2" in opened.text("#curves")
    assert "graph: </script><b>" in opened.text("#curves") and opened.page.locator("#curves b").count() == 0
    assert opened.text("h1") == "<i>run" and EVIL in opened.text("#numbers")
    assert opened.page.locator("#sequence option").all_inner_texts() == ["walk", EVIL]


def test_a_page_without_any_sequence(browser, tmp_path):
    write_json(tmp_path / "graph_log.json", [{"step": n, "loss": 2.0} for n in (1, 2)])
    with pytest.MonkeyPatch.context() as patch:
        assert command(patch, "report", tmp_path) == 0
    page, complaints = browser.new_page(), []
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.goto((tmp_path / "report.html").as_uri())
    page.wait_for_selector("body[data-ready=yes]")
    page.keyboard.press("ArrowRight")
    assert complaints == [] and page.locator("#curves svg").is_visible() and not page.locator("#video").is_visible()
    page.close()
