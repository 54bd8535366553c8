"""The table of docs/method.md that goes through the paper names constants, options and classes that there are."""

import argparse
import importlib
import re
from pathlib import Path

import pytest

from stg_pyg.config import STGConfig, paths

TEXT = (Path(__file__).parents[1] / "docs/method.md").read_text(encoding="utf-8")
TABLE = TEXT.split("## The paper, statement by statement")[1].split("\n## ")[0]
ROWS = [line.strip("|").split(" | ") for line in TABLE.splitlines() if line.startswith("| ")][2:]
COMMANDS = ("train", "evaluate", "ablate", "tables", "report", "proposals")


def options() -> set[str]:
    """Of all commands that the table names."""
    found: set[str] = set()

    def stop(self: argparse.ArgumentParser, *_: object) -> None:
        found.update(word for action in self._actions for word in action.option_strings)
        raise EOFError

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(argparse.ArgumentParser, "parse_args", stop)
        for name in COMMANDS:
            module = importlib.import_module(f"experiments.{name}")
            module = module if hasattr(module, "parse") else importlib.import_module(f"experiments.{name}.command")
            with pytest.raises(EOFError):
                module.parse()
    return found


def test_every_statement_is_exact_an_option_or_a_substitute():
    assert len(ROWS) >= 40 and {row[1].strip() for row in ROWS} == {"exact", "option", "substitute"}
    assert all(len(row) == 3 for row in ROWS)


def test_what_the_table_names_is_there():
    spans = re.findall(r"`([^`]+)`", TABLE)
    constants = {m[0]: m[1] for span in spans for m in re.findall(r"^([a-z]+\.[a-z_0-9]+)(?:=(.*))?$", span)}
    constants = {path: value for path, value in constants.items() if path.split(".")[0] in vars(STGConfig())}
    assert set(constants) <= set(paths()) and len(constants) > 10
    known = options()
    asked = {word for span in spans for word in re.findall(r"--[a-z][a-z-]*", span)}
    assert asked <= known, asked - known


def test_values_called_exact_are_those_of_the_preset():
    config = importlib.import_module("experiments.common.presets").PRESETS["davis2017-paper"].config
    for _, kind, how in ROWS:
        for path, value in re.findall(r"`([a-z]+\.[a-z_0-9]+)=([^`]+)`", how):
            if kind.strip() == "exact" and not how.startswith("from Eq.") and "loss.reduction" not in path:
                printed = str(config.get(path)).lower()
                assert printed == value.lower(), path
