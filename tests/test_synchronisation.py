"""How often a frame waits for the device, counted on the CPU by following the tensors that would live there."""

import traceback
import warnings
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.overrides import TorchFunctionMode

from stg_pyg import Proposals, STGNet, VideoSegmenter
from stg_pyg.config import STGConfig

READS = {"item", "tolist", "__bool__", "__int__", "__float__", "__index__", "cpu", "numpy", "nonzero", "unique"}
READS |= {"masked_select", "unique_consecutive", "bincount", "repeat_interleave"}
HEIGHT, WIDTH = 96, 160
MOST = 12


class DeviceReads(TorchFunctionMode):
    """Counts what would read a tensor back from a device: those marked, and all that are computed from them."""

    def __init__(self, tensors):
        super().__init__()
        self.places = Counter()
        for tensor in tensors:
            tensor.on_device = True

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        found = any(_marked(value) for value in (*args, *kwargs.values()))
        if found:
            self._look(func, args, kwargs)
        result = func(*args, **kwargs)
        name = getattr(func, "__name__", "")
        if found and name == "cpu":
            return result.clone()  # on the CPU it is the tensor itself
        if found and name not in ("numpy", "tolist"):
            _mark(result)
            _mark(args[0])
        return result

    def _look(self, func, args, kwargs):
        name = getattr(func, "__name__", "")
        reads = name in READS and "output_size" not in kwargs
        if name in ("__getitem__", "__setitem__"):
            index = args[1] if isinstance(args[1], tuple) else (args[1],)
            reads = any(isinstance(part, torch.Tensor) and part.dtype == torch.bool for part in index)
        if reads:
            own = [f for f in traceback.extract_stack() if "stg_pyg" in f.filename] or traceback.extract_stack()[-3:]
            self.places[f"{name} {Path(own[-1].filename).name}:{own[-1].lineno}"] += 1

    @property
    def count(self):
        return sum(self.places.values())


def _marked(value):
    if isinstance(value, (list, tuple)):
        return any(_marked(part) for part in value)
    return getattr(value, "on_device", False)


def _mark(value):
    if isinstance(value, torch.Tensor):
        value.on_device = True
    elif isinstance(value, (list, tuple)):
        for part in value:
            _mark(part)


def video(objects, config=None, device="cpu"):
    torch.manual_seed(0)
    model = STGNet.small(config, width=8).eval().to(device)
    labels = np.zeros((HEIGHT, WIDTH), np.uint8)
    for k in range(objects):
        labels[8 + 20 * k : 24 + 20 * k, 20 + 10 * k : 70 + 10 * k] = k + 1
    image = np.random.default_rng(0).integers(0, 255, (HEIGHT, WIDTH, 3), np.uint8)
    stream = VideoSegmenter(model, None, 64)
    with torch.no_grad():
        stream.step(image, masks=labels)
        for shift in range(1, 9):
            stream.step(np.roll(image, shift, axis=1))
            for state in stream.objects:  # an untrained network loses them, and a search is another matter
                state.masks[stream.frame_idx] = state.last_mask = state.first_mask
                state.search_from = 1000
    return stream, np.roll(image, 9, axis=1)


def known_tensors(stream):
    tensors = [*stream.model.parameters(), *stream.model.buffers()]
    for state in stream.objects:
        tensors += [state.first_mask, state.last_mask, state.anchor, state.colours.posterior_of_bin, *state.boxes]
        tensors += [*state.masks.values(), *state.bank.read()[:2]]
    return tensors


def outside(objects):
    boxes = torch.tensor([[20.0 + 10 * k, 8 + 20 * k, 70 + 10 * k, 24 + 20 * k] for k in range(objects)])
    masks = torch.zeros(objects, HEIGHT, WIDTH)
    for mask, (x0, y0, x1, y1) in zip(masks, boxes.int().tolist(), strict=True):
        mask[y0:y1, x0:x1] = 1
    return Proposals(boxes, masks, torch.ones(objects))


@pytest.mark.parametrize("config", [STGConfig.small(), STGConfig.paper()], ids=["small", "paper"])
def test_a_frame_waits_as_often_for_four_objects_as_for_one(config):
    counts = []
    for objects in (1, 4):
        stream, image = video(objects, config)
        with torch.no_grad(), DeviceReads(known_tensors(stream)) as reads:
            stream.step(image)
        counts.append(reads.places)
    assert counts[0] == counts[1]
    assert 0 < sum(counts[0].values()) <= MOST


def test_every_kind_of_read_is_counted():
    x = torch.ones(3)
    with DeviceReads([x]) as reads:
        float((x * 2).sum())
        bool((torch.zeros(3) + x).any())
        y = x[x > 0]
        y.tolist()
        torch.zeros(3).tolist()
        z = torch.zeros(3)
        z[1:] = x[1:]
        int(z[1])
        x.cpu().tolist()
    assert reads.count == 6


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
def test_a_gpu_waits_as_often_for_four_objects_as_for_one():
    counts = []
    for objects in (1, 4):
        stream, image = video(objects, STGConfig.small(), "cuda")
        torch.cuda.set_sync_debug_mode("warn")
        try:
            with torch.no_grad(), warnings.catch_warnings(record=True) as caught:
                warnings.simplefilter("always")
                stream.step(image)
        finally:
            torch.cuda.set_sync_debug_mode("default")
        counts.append(sum("synchroniz" in str(warning.message) for warning in caught))
    assert counts[0] == counts[1]
