"""The loop that all stages share: steps, a progress bar, a log, and a state that is saved while they run."""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np
from tqdm import tqdm

Log = list[dict[str, float]]
SAVE_EVERY_SECONDS = 120.0


def run_steps(
    name: str,
    steps: range,
    step: Callable[[int], dict[str, float]],
    save: Callable[[int, Log], None],
    log: Log,
    *,
    log_every: int = 50,
    unit: str = "step",
) -> Log:
    """Calls ``step`` for each of ``steps`` and ``save`` every two minutes and at the end, if there was a step.

    Args:
        name: of the stage, for the bar.
        steps: those that are left.
        step: does one and returns its losses, ``"loss"`` among them.
        save: keeps the state after that many steps, with the log.
        log: entries of the steps before, which grows by one of mean losses every ``log_every`` steps.

    Returns:
        The log.
    """
    bar = tqdm(
        total=steps.stop, initial=steps.start, desc=name, unit=unit, mininterval=2.0, dynamic_ncols=True, disable=None
    )
    recent: Log = []
    saved = time.monotonic()
    for number in steps:
        recent.append(step(number))
        bar.update()
        if (number + 1) % log_every == 0:
            log.append({"step": number + 1} | {key: float(np.mean([r[key] for r in recent])) for key in recent[0]})
            bar.set_postfix(loss=f"{log[-1]['loss']:.3f}")
            recent = []
        if time.monotonic() - saved > SAVE_EVERY_SECONDS:
            save(number + 1, log)
            saved = time.monotonic()
    bar.close()
    if steps:
        save(steps.stop, log)
    return log
