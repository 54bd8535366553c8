"""Commands run in this process, and their one line of error."""

import importlib
import sys
from pathlib import Path

import pytest

from experiments.common import cli

ROOT = Path(__file__).resolve().parents[2]
FILES = [path for path in (ROOT / "experiments").glob("**/*.py") if '__name__ == "__main__"' in path.read_text()]
COMMANDS = sorted(path.parent.name if path.stem == "__main__" else path.stem for path in FILES)


def command(monkeypatch: pytest.MonkeyPatch, name: str, *arguments: object) -> int:
    """Runs a command in this process as ``python -m experiments.NAME`` would; returns its exit status."""
    module = importlib.import_module(f"experiments.{name}")
    monkeypatch.setattr(sys, "argv", [f"{name}.py", *map(str, arguments)])
    try:
        cli.run(module.main)
    except SystemExit as stop:
        return 0 if stop.code is None else int(stop.code)
    return 0


def error_line(capsys: pytest.CaptureFixture[str], alone: bool = True) -> str:
    """The one line on stderr that says what is wrong; with ``alone=False`` bars of progress may come before it."""
    err = capsys.readouterr().err
    lines = [line for line in err.splitlines() if line.strip()]
    assert "Traceback" not in err
    assert lines and lines[-1].startswith("error: "), err
    assert len([line for line in lines if line.startswith("error: ")]) == 1
    assert not alone or len(lines) == 1, err
    return lines[-1]
