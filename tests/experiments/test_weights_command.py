"""Which files a run of the paper needs: what the command says of them, and the page that lists them."""

import json
import socket
from pathlib import Path

import pytest
import torch
from commands import ROOT, command

from experiments.common.tabulate import columns_of, markdown_table
from stg_pyg.utils.pretrained import PAPER_PARTS, _template

NEEDED = ("resnet101", "resnet50", "deeplabv3_resnet101", "maskrcnn_resnet50_fpn")


def write(path: Path, network: str, prefix: str = "") -> None:
    """A state dict of a network that takes no room."""
    state = _template(network).state_dict()
    torch.save({f"{prefix}{k}": torch.zeros((), dtype=v.dtype).expand(v.shape) for k, v in state.items()}, path)


@pytest.fixture
def check(monkeypatch, capsys, tmp_path):
    """Runs the command without a network; returns its status, the states by part, and what it said at the end."""

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("the network was used")

    monkeypatch.setattr(socket, "socket", refuse)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(torch.hub, "_hub_dir", None)

    def run(*arguments: object) -> tuple[int, dict[str, str], str]:
        status = command(monkeypatch, "weights", "--out", tmp_path / "out", *arguments)
        out, err = capsys.readouterr()
        lines = out.splitlines()
        report = json.loads((tmp_path / "out/weights.json").read_text())["parts"]
        assert all(line.startswith(report[part.name]["state"]) for part, line in zip(PAPER_PARTS, lines, strict=False))
        assert len(err.splitlines()) == (status != 0) and len(lines) == len(PAPER_PARTS) + (status == 0)
        return status, {part.network: report[part.name]["state"] for part in PAPER_PARTS}, err or lines[-1]

    return run


def test_a_folder_is_checked_file_by_file(check, tmp_path):
    folder = tmp_path / "weights"
    folder.mkdir()
    for network in NEEDED:
        write(folder / f"{network}.pth", network)
    status, states, said = check("--check", folder)
    assert status == 0 and {name for name, state in states.items() if state == "ok"} == {*NEEDED}
    assert said == "davis2017-paper can start" and set(states.values()) == {"ok", "missing"}
    (folder / "resnet101.pth").rename(folder / "rvos.pt")
    write(folder / "rvos.pt", "resnet50", "base.")
    (folder / "deeplabv3_resnet101_coco-586e9e4e.pth").write_bytes(b"half a file")
    (folder / "maskrcnn_resnet50_fpn.pth").unlink()
    status, states, said = check("--check", folder, "--preset", "youtube_vos-paper")
    assert status == 2 and [states[name] for name in NEEDED] == ["wrong", "ok", "wrong", "missing"]
    assert said.startswith(f"error: {folder}: youtube_vos-paper cannot start; put there for X of Eq. 3 rvos.pt (from ")
    for file in (
        "resnet101-cd907fc2.pth (SHA-256 cd907fc2",
        "deeplabv3_resnet101_coco-",
        "maskrcnn_resnet50_fpn_coco-",
    ):
        assert file in said
    assert "resnet50-" not in said
    assert check("--check", folder, "--preset", "davis2017-small")[::2] == (0, "davis2017-small can start")


def test_without_a_folder_that_of_the_hub_is_checked(check, tmp_path):
    folder = tmp_path / "home/hub/checkpoints"
    folder.mkdir(parents=True)
    write(folder / "rvos.pt", "resnet101", "base.")  # which --weights auto would not take
    status, states, said = check()
    assert status == 2 and set(states.values()) == {"missing"} and str(folder) in said and "rvos" not in said


def test_the_page_lists_the_files_of_the_library():
    columns = columns_of(
        "for: {part} | file: `{name}` | MiB: {size} | SHA-256: {sha256} | from: <{url}> | used by: {use}"
    )
    rows = [
        {
            "part": part.name,
            "name": file.name,
            "size": "" if file.mebibytes is None else str(file.mebibytes),
            "sha256": "" if file.sha256 is None else f"`{file.sha256}...`",
            "url": file.url,
            "use": ", ".join(f"`{name}`" for name in part.commands),
        }
        for part in PAPER_PARTS
        for file in part.files
    ]
    assert markdown_table(rows, columns) in (ROOT / "docs/weights.md").read_text()
