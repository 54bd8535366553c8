import argparse
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


def test_commands_are_found():
    assert {"train", "evaluate", "segment", "report", "ablate", "tables", "benchmark"} <= set(COMMANDS)


@pytest.mark.parametrize("name", COMMANDS)
def test_help(monkeypatch, capsys, name):
    assert command(monkeypatch, name, "--help") == 0
    out = capsys.readouterr().out
    assert out.startswith("usage: ") and "%(" not in out
    for option in ("--device", "--seed", "--out") if name in ("train", "evaluate", "benchmark") else ():
        assert option in out


@pytest.mark.parametrize("name", COMMANDS)
def test_unknown_arguments(monkeypatch, capsys, name):
    assert command(monkeypatch, name, "--no-such-option") == 2
    assert "Traceback" not in capsys.readouterr().err


@pytest.mark.parametrize("name", ["train", "evaluate", "benchmark"])
def test_unwritable_output(monkeypatch, capsys, tmp_path, name):
    file = tmp_path / "file"
    file.write_text("a file, not a folder")
    for out in (file, file / "below"):
        assert command(monkeypatch, name, "--out", out) == 2
        line = error_line(capsys)
        assert str(out) in line and "choose another --out" in line
    assert file.read_text() == "a file, not a folder"


@pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="root may write everywhere")
def test_read_only_output(monkeypatch, capsys, tmp_path):
    tmp_path.chmod(0o500)
    try:
        for out in (tmp_path, tmp_path / "below"):
            assert command(monkeypatch, "evaluate", "--out", out) == 2
            line = error_line(capsys)
            assert str(out) in line and "choose another --out" in line
    finally:
        tmp_path.chmod(0o700)


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


def test_run_tells_bad_input_bugs_and_interruptions_apart(capsys):
    def fail(error: BaseException) -> None:
        raise error

    cli.run(lambda: None)
    with pytest.raises(SystemExit) as stop:
        cli.run(lambda: fail(InputError("x.png: is broken; copy it again")))
    assert stop.value.code == 2
    assert error_line(capsys) == "error: x.png: is broken; copy it again"
    with pytest.raises(SystemExit) as stop:
        cli.run(lambda: fail(KeyboardInterrupt()))
    assert stop.value.code == 130
    assert "interrupted" in capsys.readouterr().err
    with pytest.raises(ZeroDivisionError):
        cli.run(lambda: fail(ZeroDivisionError()))


def test_what_the_terminal_cannot_hold_is_printed_as_escapes(monkeypatch):
    """Names of files with other letters than its encoding has, and those that are no text."""
    written = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(written, encoding="cp1252", write_through=True))
    cli.run(lambda: print(f"caf\u00e9 \u2192 {os.fsdecode(b'caf' + bytes([0xE9]))}"))
    assert written.getvalue().rstrip() == b"caf\xe9 \\u2192 caf\\udce9"


def test_parser(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["x"])
    args = cli.make_parser("Does it.", out="runs/x").parse_args()
    assert (args.device, args.seed, args.out) == ("auto", 0, Path("runs/x"))
    assert isinstance(args, argparse.Namespace)
    with pytest.raises(InputError, match="--out"):
        cli.make_parser("Does it.").parse_args()


def test_device_and_seed():
    assert cli.choose_device("cpu") == torch.device("cpu")
    assert cli.choose_device("auto").type in ("cpu", "cuda")
    assert cli.bfloat16_is_fast(torch.device("cpu")) in (True, False)

    def draw() -> tuple[float, float, float]:
        return random.random(), float(np.random.rand()), float(torch.rand(()))

    cli.seed_everything(3)
    first = draw()
    cli.seed_everything(3)
    assert draw() == first
    cli.seed_everything(4)
    assert draw() != first


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


def test_make_folder(tmp_path):
    cli.make_folder(tmp_path / "a" / "b")
    cli.make_folder(tmp_path / "a" / "b")
    assert (tmp_path / "a" / "b").is_dir()
