"""The rules of docs/architecture.md: which room may use which, no circles, and rooms that one can look over."""

import ast
import graphlib
import importlib.util
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
ORDER = (
    ("errors",),
    ("config",),
    ("ops", "utils"),
    ("graph", "flow", "lucid", "evaluation"),
    ("proposals",),
    ("nn",),
    ("model",),
    ("learning",),
    ("video",),
)
"""Rooms of ``stg_pyg`` from the ground up; a room uses those below it, never one above or beside it."""
FLOOR = {room: floor for floor, rooms in enumerate(ORDER) for room in rooms}
MOST_FILES = 12


def modules(*packages: str) -> dict[str, Path]:
    files = [path for package in packages for path in (ROOT / package).rglob("*.py")]
    return {".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path for path in files}


def imports(path: Path, known: dict[str, Path]) -> set[str]:
    """Modules of ours that a file imports anywhere in it."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            below = {f"{node.module}.{alias.name}" for alias in node.names} & set(known)
            found |= below or {node.module}
    return found & set(known)


def room(module: str) -> str:
    return module.split(".")[1]


LIBRARY = {name: path for name, path in modules("stg_pyg").items() if name != "stg_pyg"}


@pytest.mark.parametrize("module", sorted(LIBRARY))
def test_a_room_uses_only_rooms_below_it(module):
    used = {other for other in imports(LIBRARY[module], LIBRARY) if room(other) != room(module)}
    up = {other for other in used if FLOOR[room(other)] >= FLOOR[room(module)]}
    assert not up, f"{module} may not use {up}: move what it needs down, or hand it in from above"


def test_the_library_stands_alone():
    everything = modules("stg_pyg", "datasets", "experiments")
    outside = {name: imports(path, everything) for name, path in everything.items()}
    assert not [name for name in LIBRARY if any(not used.startswith("stg_pyg") for used in outside[name])]
    assert not [n for n, used in outside.items() if n.startswith("datasets") and any("experiments" in u for u in used)]


def test_no_circles():
    known = modules("stg_pyg", "datasets", "experiments")
    packages = {name for name, path in known.items() if path.name == "__init__.py"}
    graph = {name: imports(path, known) - {name} - packages for name, path in known.items() if name not in packages}
    tuple(graphlib.TopologicalSorter(graph).static_order())  # raises CycleError with the circle


def test_no_room_is_crowded():
    folders = {path.parent for path in modules("stg_pyg", "datasets", "experiments").values()}
    assert not {str(f): n for f in folders if (n := len(list(f.glob("[a-z]*.py")))) > MOST_FILES}


def test_tests_import_no_tests():
    for path in (ROOT / "tests").rglob("test_*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            names = [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            assert not any(name.split(".")[-1].startswith("test_") for name in names), path


def test_the_pictures_are_those_of_the_code():
    spec = importlib.util.spec_from_file_location("architecture", ROOT / "docs" / "architecture.py")
    assert spec is not None and spec.loader is not None
    drawing = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(drawing)
    text = drawing.PAGE.read_text()
    assert drawing.drawn(text) == text, "draw them again: python docs/architecture.py"
