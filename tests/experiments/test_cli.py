import errno
import io
import os
import random
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from commands import COMMANDS, ROOT, command, error_line

from experiments.common import cli
from stg_pyg.config import STGConfig
from stg_pyg.errors import InputError


@pytest.mark.parametrize("name", COMMANDS)
def test_help_and_unknown_arguments(monkeypatch, capsys, name):
    assert command(monkeypatch, name, "--help") == 0
    out = capsys.readouterr().out
    assert out.startswith("usage: ") and "%(" not in out
    for option in ("--device", "--seed", "--out") if name in ("train", "evaluate", "segment", "benchmark") else ():
        assert option in out
    assert command(monkeypatch, name, "--no-such-option") == 2
    assert "Traceback" not in capsys.readouterr().err


def test_commands_are_found():
    assert {"train", "evaluate", "segment", "report", "ablate", "tables", "benchmark"} <= set(COMMANDS)


@pytest.mark.skipif(torch.cuda.is_available(), reason="has a GPU")
@pytest.mark.parametrize("name", ["train", "benchmark"])
def test_no_gpu(monkeypatch, capsys, tmp_path, name):
    assert command(monkeypatch, name, "--device", "cuda", "--out", tmp_path) == 2
    line = error_line(capsys)
    assert "--device cuda" in line and "--device cpu" in line


def test_a_real_process_ends_with_status_2_and_one_line(tmp_path):
    arguments = ["--preset", "davis2016-small", "--root", str(tmp_path / "nowhere"), "--predictions", str(tmp_path)]
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-m", "experiments.evaluate", *arguments, "--out", str(tmp_path / "out")],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2 and done.stdout == ""
    lines = done.stderr.splitlines()
    assert len(lines) == 1 and lines[0].startswith("error: ")
    assert str(tmp_path / "nowhere") in lines[0] and "JPEGImages" in lines[0]


@pytest.mark.parametrize(
    ("error", "status", "words"),
    [
        (InputError("x.png: is broken; copy it again"), 2, "error: x.png: is broken; copy it again"),
        (KeyboardInterrupt(), 130, "interrupted"),
        (MemoryError(), 2, "out of memory"),
        (OSError(errno.ENOSPC, "full", "some/file"), 2, "error: some/file: full; free space"),
        (OSError(errno.EACCES, "denied", "some/file"), 2, "permissions"),
        (OSError(errno.EISDIR, "folder", "some/file"), 2, "in the way"),
    ],
)
def test_bad_input_and_interruptions_are_one_line(capsys, error, status, words):
    def fail() -> None:
        raise error

    with pytest.raises(SystemExit) as stop:
        cli.run(fail)
    err = capsys.readouterr().err
    assert stop.value.code == status and words in err and len(err.splitlines()) == 1


def test_bugs_are_none():
    with pytest.raises(ZeroDivisionError):
        cli.run(lambda: 1 // 0)  # type: ignore[arg-type,return-value]


def test_what_the_terminal_cannot_hold_is_printed_as_escapes(monkeypatch):
    """Names of files with other letters than its encoding has, and those that are no text."""
    written = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(written, encoding="cp1252", write_through=True))
    cli.run(lambda: print(f"caf\u00e9 \u2192 {os.fsdecode(b'caf' + bytes([0xE9]))}"))
    assert written.getvalue().rstrip() == b"caf\xe9 \\u2192 caf\\udce9"


def test_parser_and_seed(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["x"])
    args = cli.make_parser("Does it.", out="runs/x").parse_args()
    assert (args.device, args.seed, args.out) == ("auto", 0, Path("runs/x"))
    with pytest.raises(InputError, match="--out"):
        cli.make_parser("Does it.").parse_args()

    def drawn(seed: int) -> tuple[float, float, float]:
        cli.seed_everything(seed)
        return random.random(), float(np.random.rand()), float(torch.rand(()))

    assert drawn(3) == drawn(3) and not set(drawn(3)) & set(drawn(4))


@pytest.mark.parametrize(
    ("tiles", "dots", "intel", "fast"),
    [
        (True, True, True, True),
        (False, True, True, False),
        (False, True, False, True),
        (False, False, False, False),
    ],
)
def test_bfloat16_on_the_cpu_depends_on_its_instructions(monkeypatch, tiles, dots, intel, fast):
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: True)
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: tiles, raising=False)
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: dots, raising=False)
    monkeypatch.setattr(cli, "_made_by_intel", lambda: intel)
    assert cli.bfloat16_is_fast(torch.device("cpu")) is fast


@pytest.mark.parametrize(
    ("every", "online_steps", "expected"), [(None, None, 8), (None, 0, 0), (None, 5, 8), (3, 0, 3), (0, 9, 0)]
)
def test_updates_go_with_online_learning_unless_they_are_asked_for(every, online_steps, expected):
    config = STGConfig.small().replace("online.update_every", 8)
    assert cli.with_updates(config, every, online_steps).online.update_every == expected
