"""Draws the two pictures of docs/architecture.md from the code: python docs/architecture.py

The rooms are the packages of ``stg_pyg`` and the arrows its imports; the way of a frame is the order in which the
stages of ``stg_pyg.utils.timing`` run in the second frame of a synthetic video.
"""

from __future__ import annotations

import ast
import re
from pathlib import Path

import torch

from datasets import SyntheticVideos
from stg_pyg import STGConfig, STGNet, VideoSegmenter
from stg_pyg.utils.timing import timed_stages

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "architecture.md"


def rooms() -> str:
    """Rooms with an arrow to each room that they use, without arrows that others imply."""
    used: dict[str, set[str]] = {}
    for path in sorted((ROOT / "stg_pyg").rglob("*.py")):
        room = path.relative_to(ROOT / "stg_pyg").with_suffix("").parts[0]
        if room == "__init__":
            continue
        names = {n.module for n in ast.walk(ast.parse(path.read_text())) if isinstance(n, ast.ImportFrom) and n.module}
        others = {name.split(".")[1] for name in names if name.startswith("stg_pyg.")}
        used.setdefault(room, set()).update(others - {room, "errors"})
    below = {room: set().union(*(reached(used, other) for other in others)) for room, others in used.items()}
    names = [f'    r_{room}["{room}"]' for room in sorted(used)]  # "graph" alone is a word of Mermaid's
    arrows = [f"    r_{room} --> r_{other}" for room in used for other in sorted(used[room] - below[room])]
    return "\n".join(["flowchart TD", *names, *arrows])


def reached(used: dict[str, set[str]], room: str) -> set[str]:
    """The rooms that a room uses, and those that these use."""
    return used.get(room, set()).union(*(reached(used, other) for other in used.get(room, ())))


def way_of_a_frame() -> str:
    """The stages of a frame as they nest, each with the file that it is in."""
    places = {
        name: path.relative_to(ROOT / "stg_pyg").as_posix()
        for path in sorted((ROOT / "stg_pyg").rglob("*.py"))
        for name in re.findall(r"stage\(\"(\w+)\"\)", path.read_text())
    }
    torch.manual_seed(0)
    video = SyntheticVideos("test", num_videos=1)[0]
    model = STGNet.small(STGConfig.small().replace("temporal.key_size", 64), width=8).eval()
    segmenter = VideoSegmenter(model, crop_size=32)
    with torch.no_grad():
        segmenter.step(video.image(0), masks=video.labels(0))
        with timed_stages() as times:
            segmenter.step(video.image(1))
    lines, seen, parents, last = ["flowchart LR"], set(), {}, {}
    for depth, name in times.order:
        parents[depth] = name
        if name in seen or depth == 0:
            continue
        seen.add(name)
        lines.append(f'    s_{name}["{name}<br/><small>{places[name]}</small>"]')
        if depth > 1:
            lines.append(f"    s_{parents[depth - 1]} -.- s_{name}")
        elif 1 in last:
            lines.append(f"    s_{last[1]} --> s_{name}")
        last[depth] = name
    return "\n".join(lines)


def drawn(text: str) -> str:
    """The page with both pictures as the code is now."""
    for name, picture in (("rooms", rooms()), ("frame", way_of_a_frame())):
        block = f"<!-- {name} -->\n```mermaid\n{picture}\n```\n<!-- end -->"
        text = re.sub(rf"<!-- {name} -->.*?<!-- end -->", lambda _, b=block: b, text, flags=re.DOTALL)
    return text


if __name__ == "__main__":
    PAGE.write_text(drawn(PAGE.read_text()))
