"""The scripts of experiments/cluster, run dry: the real scripts, launcher, processes and command, with tiny networks.

``torchrun``, ``srun`` and ``scontrol`` on the PATH are stand-ins. What torchrun is asked for is done by its own code in
forks of this process, as new interpreters would take most of a minute to import everything.
"""

import dataclasses
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import pytest
import torch
from commands import ROOT, command
from killed_runs import one_thread
from torch.distributed import run as torchrun
from train_cases import TINY

from datasets.fixtures import write_fixture
from experiments.common import checkpoints
from experiments.common.presets import PRESETS, find_preset
from experiments.train import command as train
from experiments.train import process_group, trainer
from experiments.train.stages import segmentation

TORCHRUN = r"""#!/usr/bin/env bash
printf '%s\n' "$@" >"$BOX/$$.new" && mv "$BOX/$$.new" "$BOX/$$.asked"
while [ ! -e "$BOX/$$.done" ]; do sleep 0.05; done
exit "$(cat "$BOX/$$.done")"
"""
SRUN = r"""#!/usr/bin/env bash
echo "$*" >>"$BOX/srun"
while [[ $1 == -* ]]; do shift; done
for ((i = 0; i < SLURM_NTASKS; i++)); do "$@" & pids+=($!); done
for pid in "${pids[@]}"; do wait "$pid" || status=$?; done
exit "${status:-0}"
"""
SCONTROL = r"""#!/usr/bin/env bash
[ "$*" = "show hostnames $SLURM_JOB_NODELIST" ] && printf 'localhost\nother\n'
"""
SLURM = {
    "SLURM_JOB_ID": str(os.getpid()),
    "SLURM_JOB_NODELIST": "gpu[1-2]",
    "SLURM_NNODES": "1",
    "SLURM_NTASKS": "2",
    "SLURM_GPUS_ON_NODE": "2",
}


def work(_: str, __: str, module: str, *arguments: str) -> None:
    """What a process does that torchrun starts; the tables have their own tests."""
    world = "{RANK} of {WORLD_SIZE}, {LOCAL_WORLD_SIZE} here".format_map(os.environ)
    print(f"{module} {arguments[1]}: {world}", flush=True)
    if module == "experiments.train":
        status = command(pytest.MonkeyPatch(), "train", *arguments)
        if status:
            os._exit(status)


def launch(arguments: list[str], log: Path) -> None:
    sys.stdout = sys.stderr = log.open("a", buffering=1)
    real = torchrun.elastic_launch
    torchrun.elastic_launch = lambda config, entrypoint: real(dataclasses.replace(config, start_method="fork"), work)
    torchrun.main(arguments)


class Cluster:
    """Runs scripts, and keeps what they asked torchrun for and what was said."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.log = folder, folder / "log"
        (folder / "bin").mkdir(parents=True)
        for name, text in (("torchrun", TORCHRUN), ("srun", SRUN), ("scontrol", SCONTROL)):
            (folder / "bin" / name).write_text(text)
            (folder / "bin" / name).chmod(0o755)

    def run(self, script: str, *arguments: str, **environment: str) -> tuple[int, list[list[str]], str]:
        """Its status, the arguments of every torchrun in turn, and what came out."""
        self.log.write_text("")
        path = f"{self.folder / 'bin'}{os.pathsep}{os.environ['PATH']}"
        known = os.environ | environment | {"PATH": path, "BOX": str(self.folder), "TMPDIR": str(self.folder)}
        asked, running, end = [], {}, time.monotonic() + 200
        with self.log.open("a") as out:
            process = subprocess.Popen(
                [ROOT / "experiments/cluster" / script, *arguments], env=known, cwd=ROOT, stdout=out, stderr=out
            )
        while process.poll() is None:
            assert time.monotonic() < end, self.log.read_text()
            for path in sorted(self.folder.glob("*.asked")):
                asked.append(path.read_text().splitlines())
                path.unlink()
                running[path.stem] = get_context("fork").Process(target=launch, args=(asked[-1], self.log))
                running[path.stem].start()
            for name in [name for name, child in running.items() if not child.is_alive()]:
                part = self.folder / f"{name}.part"
                part.write_text(str(abs(running.pop(name).exitcode)))
                part.rename(self.folder / f"{name}.done")
            time.sleep(0.02)
        return process.returncode, asked, self.log.read_text()


@pytest.fixture
def cluster(monkeypatch, tmp_path):
    """With presets of the paper's names and data sets, whose networks train in seconds."""
    for name, split in (("youtube_vos-paper", "valid"), ("davis2017-paper", "val")):
        changes = {"name": name, "dataset": PRESETS[name].dataset, "train_split": "train", "val_split": split}
        monkeypatch.setitem(PRESETS, name, dataclasses.replace(TINY, **changes))
        write_fixture(PRESETS[name].dataset, tmp_path / PRESETS[name].dataset, num_frames=6, size=(32, 48))
    monkeypatch.setattr(train, "score_table", lambda *_: None)
    monkeypatch.setattr(trainer, "SAVE_EVERY_SECONDS", -1.0)
    monkeypatch.setattr(torch, "set_num_threads", lambda _: None)
    with one_thread():
        yield Cluster(tmp_path / "cluster")


def dying(function: Callable[..., Any], calls: int) -> Callable[..., Any]:
    """The function, until it has been called so many times; then the first of the processes is killed."""
    left = [calls]

    def limited(*args: Any, **kwargs: Any) -> Any:
        left[0] -= 1
        if left[0] < 0 and process_group.is_main():
            os.kill(os.getpid(), signal.SIGKILL)
        return function(*args, **kwargs)

    return limited


def test_both_scripts_train_go_on_and_ask_for_the_same(cluster, monkeypatch, tmp_path):
    out = tmp_path / "out"
    folders = {"YTVOS": tmp_path / "youtube_vos", "DAVIS": tmp_path / "davis2017", "OUT": out}
    variables = {name: str(path) for name, path in folders.items()}
    variables |= {"WEIGHTS": "none", "PROCESSES": "2", "BATCH": "4", "CLIPS": "2", "WORKERS": "0"}
    few = ("--segmentation-steps", "4", "--graph-steps", "12", "--device", "cpu")
    with monkeypatch.context() as patch:
        patch.setattr(segmentation, "optimisation_step", dying(segmentation.optimisation_step, 2))
        status, asked, said = cluster.run("pretrain_torchrun.sh", *few, **variables)
    assert status == 1 and len(asked) == 1, said
    assert checkpoints.load(out / "ytb/segmentation.pt", "segmentation")["step"] == 2

    status, asked, said = cluster.run("pretrain_torchrun.sh", *few, **variables)
    assert status == 0, said
    assert said.count("goes on") == 1 and f"{out}/ytb/segmentation.pt: goes on after step 2 of 4" in said
    for name in ("youtube_vos", "davis2017"):
        assert all(f"experiments.train {name}-paper: {rank} of 2, 2 here" in said for rank in range(2))
    for folder in ("ytb", "davis"):
        assert checkpoints.load(out / folder / "segmentation.pt", "segmentation")["step"] == 4
        assert checkpoints.load(out / folder / "graph.pt", "graph")["step"] == 1
        assert checkpoints.load_model(out / folder / "checkpoint.pt")[1].name.endswith("-paper")
    assert [call[:2] for call in asked] == [["--standalone", "--nproc-per-node=2"]] * 3
    commands = [call[call.index("-m") :] for call in asked]
    assert commands[0][-len(few) :] == commands[1][-len(few) :] == [*few]
    assert ["--init", f"{out}/ytb/checkpoint.pt"] == commands[1][commands[1].index("--init") :][:2]
    assert commands[2][1] == "experiments.tables" and f"{out}/davis/checkpoint.pt" in commands[2]

    status, asked, said = cluster.run("pretrain.slurm", *few, **variables, **SLURM)
    assert status == 0, said
    assert said.count("goes on after") == 4, "all stages are at their ends"
    assert all(f"experiments.train davis2017-paper: {rank} of 2, 1 here" in said for rank in range(2))
    assert [call[call.index("-m") :] for call in asked] == [each for each in commands for _ in range(2)]
    endpoint = f"localhost:{20000 + os.getpid() % 10000}"
    launcher = ["--nnodes=2", "--nproc-per-node=1", "--rdzv-backend=c10d", f"--rdzv-id={os.getpid()}"]
    assert all(call[:5] == [*launcher, f"--rdzv-endpoint={endpoint}"] for call in asked)
    assert (cluster.folder / "srun").read_text().count("--kill-on-bad-exit=1 torchrun --nnodes=2") == 3


def test_lengths_are_those_of_the_presets_at_the_size_of_the_batch(tmp_path):
    """With a torchrun that only writes down what it is asked for; the steps are the presets' times 4 / BATCH."""
    (tmp_path / "torchrun").write_text('#!/usr/bin/env bash\nprintf "%s " "$@"; echo\n')
    (tmp_path / "torchrun").chmod(0o755)
    known = os.environ | {"PATH": f"{tmp_path}{os.pathsep}{os.environ['PATH']}", "YTVOS": "y y", "DAVIS": "d"}
    script = ROOT / "experiments/cluster/pretrain_torchrun.sh"
    lines = subprocess.run([script, "--coco", "c"], env=known, text=True, stdout=subprocess.PIPE, check=True).stdout
    for line, name in zip(lines.splitlines(), ("youtube_vos-paper", "davis2017-paper"), strict=False):
        preset = find_preset(name)
        steps = preset.segmentation_steps * preset.batch_size // 32
        assert f"--graph-steps {preset.graph_steps // 48 * 48} " in line
        assert f"--preset {name} " in line and f"--batch-size 32 --segmentation-steps {steps} " in line
        assert line.endswith("--coco c ") and "--resume" in line and "--nproc-per-node=gpu" in line
    missing = {name: value for name, value in known.items() if name != "DAVIS"}
    done = subprocess.run([script], env=missing, text=True, stderr=subprocess.PIPE, check=False)
    assert done.returncode == 1 and "DAVIS: set it to the folder of DAVIS 2017" in done.stderr
