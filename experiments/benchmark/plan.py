"""Sizes of a run of experiments.benchmark."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Plan:
    """What is measured, and how often.

    Attributes:
        repetitions: of every call that is not slow.
        pairs: repetitions of the comparisons that noise must not decide.
        objects, proposals, size: of the main case; ``size`` is (H, W).
        sizes: (H, W) of the frames that are compared.
        layer_objects: objects where they are not what is looked at.
        sweep_objects: numbers of objects, each with windows of ``object_side`` of both sides of the frame.
        sweep_proposals: proposals of one object.
        sweep_sides: sides of the window of one object, as a share of the frame's.
        sweep_memory: frames in the memory.
        sweep_steps: l.
        frames: of the video whose stages are timed, the given one among them.
        frame_size: (H, W) of the synthetic one.
        frame_objects: numbers of objects in it.
        option_objects: number of objects where options are compared.
        compiles: whether ``torch.compile`` is tried, which takes minutes.
        spatial_layers, temporal_layers: measured beside those that always are.
    """

    repetitions: int
    pairs: int
    objects: int
    proposals: int
    size: tuple[int, int]
    sizes: tuple[tuple[int, int], ...]
    layer_objects: int
    sweep_objects: tuple[int, ...]
    object_side: float
    sweep_proposals: tuple[int, ...]
    sweep_sides: tuple[float, ...]
    sweep_memory: tuple[int, ...]
    sweep_steps: tuple[int, ...]
    frames: int
    frame_size: tuple[int, int]
    frame_objects: tuple[int, ...]
    option_objects: int
    compiles: bool
    spatial_layers: tuple[str, ...] = ()
    temporal_layers: tuple[str, ...] = ()


DEFAULT = Plan(
    repetitions=11,
    pairs=61,
    objects=8,
    proposals=20,
    size=(480, 854),
    sizes=((240, 427), (480, 854), (720, 1280), (1080, 1920)),
    layer_objects=2,
    sweep_objects=(1, 2, 4, 8, 16, 32),
    object_side=0.17,  # with all objects the windows are below the 32 MiB from which on every result is mapped anew
    sweep_proposals=(5, 10, 20, 50, 100, 200),
    sweep_sides=(0.1, 0.2, 0.3, 0.4, 0.6, 0.8),
    sweep_memory=(1, 2, 4, 8, 16, 32),
    sweep_steps=(1, 2, 3),
    frames=20,
    frame_size=(480, 854),
    frame_objects=(1, 3, 5),
    option_objects=1,
    compiles=True,
)
QUICK = Plan(
    repetitions=5,
    pairs=21,
    objects=4,
    proposals=10,
    size=(240, 427),
    sizes=((120, 214), (240, 427)),
    layer_objects=2,
    sweep_objects=(1, 2, 4, 8),
    object_side=0.3,
    sweep_proposals=(5, 10, 20),
    sweep_sides=(0.2, 0.4, 0.8),
    sweep_memory=(1, 2, 4, 8),
    sweep_steps=(1, 2, 3),
    frames=5,
    frame_size=(240, 427),
    frame_objects=(1, 2),
    option_objects=1,
    compiles=False,
)
TINY = Plan(
    repetitions=1,
    pairs=3,
    objects=2,
    proposals=3,
    size=(16, 24),
    sizes=((16, 24), (20, 30)),
    layer_objects=1,
    sweep_objects=(1, 2),
    object_side=0.5,
    sweep_proposals=(2, 3),
    sweep_sides=(0.5, 1.0),
    sweep_memory=(1, 2),
    sweep_steps=(1, 2, 3),
    frames=4,
    frame_size=(48, 80),
    frame_objects=(1, 2),
    option_objects=1,
    compiles=False,
)
PLANS = {"default": DEFAULT, "quick": QUICK, "tiny": TINY}
