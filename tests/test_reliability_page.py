"""The page of faults names tests that exist, and a test for every fault."""

import ast
import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PAGE = (ROOT / "docs" / "reliability.md").read_text()
NAME = re.compile(r"(tests/[a-z0-9_/]+\.py)::([a-z0-9_]+)")
COLUMNS = ["fault", "what happens", "exit status", "what is kept", "test"]


def tables() -> list[list[list[str]]]:
    """The cells of every table by row, its head first."""
    blocks = re.findall(r"(?:^\|.*\|$\n)+", PAGE, re.MULTILINE)
    rows = [
        [line.strip("|").split("|") for line in block.splitlines() if not line.startswith("| ---")] for block in blocks
    ]
    return [[[cell.strip() for cell in row] for row in table] for table in rows]


def test_every_named_test_exists():
    named = set(NAME.findall(PAGE))
    assert len(named) > 60
    for file in {file for file, _ in named}:
        tree = ast.parse((ROOT / file).read_text())
        there = {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}
        assert {test for other, test in named if other == file} <= there, file


def test_every_fault_has_a_test():
    found = [table for table in tables() if table[0] == COLUMNS]
    assert len(found) == 8
    for table in found:
        for row in table[1:]:
            assert len(row) == len(COLUMNS), row
            assert NAME.search(row[-1]) or row[-1] == "the same tests", row
            assert re.fullmatch(r"(0|2|130)?(,? or 2( for .*)?)?", row[2]), row
