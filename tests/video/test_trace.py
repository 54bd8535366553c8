import numpy as np
import pytest
import torch
from stream_cases import PLAIN, RedRule, Shift, tiny

from datasets import SyntheticVideos
from stg_pyg import InputError, VideoSegmenter
from stg_pyg.graph.memory import MemoryBank
from stg_pyg.nn import MemoryAttention
from stg_pyg.video.grouped import GroupedSegmenter
from stg_pyg.video.trace import Tracer, pooled_attention, shown_slots
from stg_pyg.video.trace_files import read_trace

CONFIG = PLAIN.replace(
    {
        "temporal.enabled": True,
        "spatial.node_gate": True,
        "spatial.edge_iou": "mask",
        "selection.quality_weight": 0.5,
        "temporal.update": "gated",
        "temporal.normalize_keys": True,
        "temporal.temperature": 0.1,
        "memory.frames": 3,
        "warping.gaps": (1, 2),
    }
)
VIDEO = SyntheticVideos("test", num_videos=1, num_frames=6, height=48, width=64, seed=7, max_objects=2)[0]
NAMES = VIDEO.frame_names


def run(folder, start=0, stream=None, kind=VideoSegmenter, **options):
    """The results of the frames from ``start`` on, traced where there is a folder."""
    model = stream.model if stream else tiny(CONFIG, RedRule())
    stream = stream or kind(model, Shift(1.0), crop_size=32, **options)
    results = []
    with torch.no_grad(), Tracer(model, folder, NAMES[:start]) as tracer:
        for t in range(start, len(NAMES)):
            given = VIDEO.labels(0) if t == 0 else None
            results.append(stream.step(VIDEO.image(t), masks=given))
            tracer.write(NAMES[t], results[-1], given)
    return results


@pytest.fixture(scope="module")
def traced(tmp_path_factory):
    folder = tmp_path_factory.mktemp("trace")
    return folder, run(folder)


def test_tracing_changes_nothing(traced):
    model = tiny(CONFIG, RedRule())
    stream = VideoSegmenter(model, Shift(1.0), crop_size=32)
    with torch.no_grad():
        for t, seen in enumerate(traced[1]):
            result = stream.step(VIDEO.image(t), masks=VIDEO.labels(0) if t == 0 else None)
            assert torch.equal(result.masks, seen.masks)


def test_terms_add_up_to_the_score(traced):
    folder, results = traced
    for t, result in enumerate(results[1:], 1):
        trace = read_trace(folder / f"{NAMES[t]}.npz")
        assert len(trace.total) > 2 and trace.obj_ids == result.obj_ids
        terms = (
            trace.lambda1 * trace.box_term + (1 - trace.lambda1) * trace.mask_term + trace.quality_weight * trace.gate
        )
        np.testing.assert_allclose(terms, trace.total, atol=1e-6)
        for k, node in enumerate(trace.selected):
            own = np.flatnonzero(trace.batch == k)
            assert node in own and trace.total[node] == trace.total[own].max()
        assert torch.equal(trace.nodes, result.output.nodes > CONFIG.selection.thr)
        assert torch.equal(trace.refined, result.output.masks > CONFIG.selection.thr)
        assert torch.equal(trace.q, result.frame.q > 0.5)
        np.testing.assert_array_equal(trace.p, result.frame.p)
        assert set(trace.origin) >= {"q1", "p", "first"}


def test_edges_are_those_that_were_used(traced):
    folder, results = traced
    trace, output = read_trace(folder / f"{NAMES[3]}.npz"), results[3].output
    edge_index, _, weight = tiny(CONFIG, RedRule()).weighted_edges(output.graphs, output.gate)
    assert len(weight) > 2
    np.testing.assert_array_equal(trace.edge_index, edge_index)
    np.testing.assert_allclose(trace.edge_weight, weight, rtol=1e-3)
    given = read_trace(folder / f"{NAMES[0]}.npz")
    assert given.obj_ids == [] and len(given.nodes) == 0 and given.size == (48, 64) and given.edge_index.shape == (2, 0)


def test_memory_frames_have_names_and_windows(traced):
    folder, results = traced
    trace = read_trace(folder / f"{NAMES[4]}.npz")
    assert trace.memory_frame == [NAMES[0], NAMES[2], NAMES[3]] * len(trace.obj_ids)
    assert trace.memory_batch.tolist() == sorted(trace.memory_batch)
    for k, (t, row) in enumerate([(2, 1), (3, 2)]):
        np.testing.assert_allclose(trace.memory_window[k + 1], results[t].output.windows[0], err_msg=str(row))
    x0, y0, x1, y1 = trace.memory_window[0]
    ys, xs = np.nonzero(VIDEO.labels(0) == trace.obj_ids[0])
    assert x0 <= xs.min() and y0 <= ys.min() and x1 > xs.max() and y1 > ys.max()
    np.testing.assert_allclose(trace.attention_cells.astype(float).sum(axis=2), 1, atol=5e-3)
    np.testing.assert_allclose(trace.attention_object.astype(float).sum(axis=(1, 2)), 1, atol=5e-3)


@pytest.mark.parametrize("normalize", [True, False])
def test_attention_is_that_of_the_layer(normalize):
    attention = MemoryAttention(normalize_keys=normalize, temperature=0.3)
    keys, past, masks = torch.randn(5, 8, 8), torch.randn(3, 5, 8, 8), torch.rand(3, 8, 8)
    inside = torch.rand(8, 8) > 0.6
    cells, mean = pooled_attention(attention, keys, inside, past)
    edges = torch.stack([torch.arange(3), torch.zeros(3, dtype=torch.long)])
    messages = attention.messages(keys[None], masks, past, edges)
    torch.testing.assert_close((mean * masks).sum(dim=(1, 2)), messages[:, inside].mean(dim=1))
    torch.testing.assert_close((cells * masks.flatten(1)[:, None]).sum(dim=2), messages.flatten(1))


def test_a_large_grid_is_pooled_and_a_long_memory_sampled():
    keys = torch.randn(4, 24, 24), torch.zeros(24, 24), torch.randn(2, 4, 24, 24)
    cells, mean = pooled_attention(MemoryAttention(), *keys)
    assert cells.shape == (2, 64, 256) and mean.shape == (2, 24, 24)
    torch.testing.assert_close(cells.sum(dim=2), torch.ones(2, 64))
    torch.testing.assert_close(mean.sum(dim=(1, 2)), torch.ones(2))
    bank = MemoryBank()
    for t in range(20):
        bank.write(t, torch.zeros(1, 2, 2), torch.zeros(2, 2))
    slots = shown_slots(bank)
    assert len(slots) == 8 and slots[0] == 0 and slots[-1] == 19


def test_objects_in_groups_have_one_trace(traced, tmp_path):
    run(tmp_path, kind=GroupedSegmenter, max_objects=1)
    for name in NAMES:
        whole, grouped = read_trace(traced[0] / f"{name}.npz"), read_trace(tmp_path / f"{name}.npz")
        for field, value in vars(whole).items():
            if isinstance(value, np.ndarray) and value.dtype.kind == "f":
                np.testing.assert_allclose(getattr(grouped, field), value, atol=2e-3, err_msg=field)
            else:
                np.testing.assert_array_equal(getattr(grouped, field), value, err_msg=field)


def test_a_run_that_goes_on_writes_the_same(traced, tmp_path):
    model = tiny(CONFIG, RedRule())
    stream = VideoSegmenter(model, Shift(1.0), crop_size=32)
    (tmp_path / "stray.npz").write_bytes(b"of an earlier run")
    with torch.no_grad(), Tracer(model, tmp_path) as tracer:
        for t in range(3):
            given = VIDEO.labels(0) if t == 0 else None
            tracer.write(NAMES[t], stream.step(VIDEO.image(t), masks=given), given)
    (tmp_path / f"{NAMES[3]}.npz").write_bytes(b"cut off")
    run(tmp_path, 3, stream)
    assert sorted(path.stem for path in tmp_path.iterdir()) == NAMES
    for name in NAMES:
        assert (tmp_path / f"{name}.npz").read_bytes() == (traced[0] / f"{name}.npz").read_bytes()


@pytest.mark.parametrize("what", ["missing", "text", "cut", "pickle", "other", "short"])
def test_broken_files(traced, tmp_path, what):
    source, path = traced[0] / f"{NAMES[2]}.npz", tmp_path / "x.npz"
    with np.load(source) as file:
        arrays = dict(file)
    change = {"format": np.array("something")} if what == "other" else {"total": arrays["total"][:-1]}
    if what == "text":
        path.write_text("no archive")
    elif what == "cut":
        path.write_bytes(source.read_bytes()[:-200])
    elif what != "missing":
        np.savez(path, **({"format": np.array([{"a": 1}], dtype=object)} if what == "pickle" else arrays | change))
    with pytest.raises(InputError, match=r"x\.npz: is no trace") as caught:
        read_trace(path)
    assert "\n" not in str(caught.value)
    assert what != "short" or f"total has {len(arrays['total']) - 1} entries, not" in str(caught.value)
