import time

import pytest
from torch.profiler import ProfilerActivity, profile

from stg_pyg.utils.timing import stage, timed_stages


@pytest.fixture
def clock(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(time, "perf_counter", lambda: now[0])
    return now


def test_the_time_of_an_inner_stage_is_not_that_of_the_outer_one(clock):
    @stage("fails")
    def fails():
        clock[0] += 3
        raise KeyError

    with timed_stages() as times:
        for _ in range(2):
            with stage("outer"):
                clock[0] += 1
                for _ in range(2):
                    with stage("inner"):
                        clock[0] += 5
                clock[0] += 2
        with pytest.raises(KeyError):
            fails()
    with stage("late"):  # outside of what is timed
        clock[0] += 1
    assert times.seconds == {"inner": 20, "outer": 6, "fails": 3}


def test_a_profiler_sees_the_stages():
    with profile(activities=[ProfilerActivity.CPU]) as record, stage("my stage"):
        time.sleep(0.001)
    assert "my stage" in {event.name for event in record.events()}
