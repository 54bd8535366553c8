"""Runs of the tests of ablate and tables that cost nothing."""

import zlib

import numpy as np
import pytest
import torch
from train_cases import InProcess

from experiments.runs import scoring


def true_labels(job, video, *_):
    """The true masks, with as much cut off as the configuration says."""
    cut = 1 + zlib.crc32(str(job.rows[0].config).encode()) % 15
    for t in range(video.num_frames):
        found = video.labels(t)
        found = np.zeros(video.size, np.uint8) if found is None else found
        found[:, :cut] = 0
        yield found


@pytest.fixture
def here(monkeypatch):
    """Everything runs in this process."""
    monkeypatch.setattr(scoring, "ProcessPoolExecutor", InProcess)
    monkeypatch.setattr(torch, "set_num_threads", lambda _: None)


@pytest.fixture
def learned(monkeypatch):
    """(steps, seed) of every online learning, which does nothing."""
    found = []

    def learn(net, *_, **options):
        found.append((options["steps"], options["seed"]))
        return net

    monkeypatch.setattr("stg_pyg.learning.lesson.learn_online", learn)
    return found


@pytest.fixture
def at_once(monkeypatch, here, learned):
    """Masks cost nothing either; what is learned online."""
    monkeypatch.setattr(scoring, "stream_labels", true_labels)
    monkeypatch.setattr("experiments.runs.settings.code_digest", lambda: "the same")
    return learned
