"""The temporal layer inside of the model, of traces, and of online learning."""

import numpy as np
import pytest
import torch
from model_cases import FIRST, GATED, HEIGHT, SECOND, WIDTH, check_output, frame_input, tiny

from datasets import SyntheticVideos
from stg_pyg import InputError, STGConfig, STGNet, VideoSegmenter
from stg_pyg.learning.keys import learn_keys_online
from stg_pyg.nn import JointMemoryAttention, MeanMemory, MemoryAttention
from stg_pyg.nn.backbones.encoders import KeyEncoder, SmallBackbone
from stg_pyg.video.trace import Tracer
from stg_pyg.video.trace_files import read_trace

LAYERS = {"memory_attention": MemoryAttention, "joint": JointMemoryAttention, "mean": MeanMemory}


class Keep(torch.nn.Module):
    """The smallest layer of one's own."""

    def forward_graph(self, masks, keys, memory_masks, memory_keys, edge_index):
        return masks


@pytest.mark.parametrize("config", [STGConfig(), GATED], ids=["paper", "gated"])
@pytest.mark.parametrize("name", LAYERS)
@torch.no_grad()
def test_by_name(name, config, with_scatter):
    model = tiny(config.replace("temporal.conv", name))
    frame = frame_input(model)
    check_output(model(frame), frame)
    layer = model.memory_attention
    assert type(layer) is type(tiny(config, temporal_conv=name).memory_attention) is LAYERS[name]
    assert layer.update_rule == config.temporal.update
    if name != "mean":
        assert (layer.normalize_keys, layer.temperature) == (
            config.temporal.normalize_keys,
            config.temporal.temperature,
        )
    assert str(tiny(config, memory_attention=name).memory_attention) == str(layer)


@torch.no_grad()
def test_by_instance():
    layer = JointMemoryAttention(top_k=5)
    assert tiny(temporal_conv=layer).memory_attention is tiny(memory_attention=layer).memory_attention is layer
    own = tiny(temporal_conv=Keep())
    frame = frame_input(own, boxes=(FIRST, SECOND))
    output = own(frame)
    assert not list(own.memory_attention.parameters()) and output.masks.shape == (2, HEIGHT, WIDTH)
    changed = tiny(temporal_conv=MeanMemory())(frame).masks - output.masks
    assert changed.abs().max() > 0.1


def test_what_is_refused():
    with pytest.raises(InputError, match="unknown temporal layer 'nothing'"):
        tiny(STGConfig().replace({"temporal.conv": "nothing"}))
    with pytest.raises(InputError, match="has no method forward_graph"):
        tiny(temporal_conv=torch.nn.Identity())
    with pytest.raises(InputError, match="give one of them"):
        tiny(temporal_conv="mean", memory_attention=MemoryAttention())
    with pytest.raises(InputError, match=r"memory\.cell = 3 does not divide the 32 pixels"):
        STGNet.small(STGConfig.small().replace("memory.cell", 3), width=8)


def test_the_gate_is_the_same_in_all_checkpoints():
    state = tiny(GATED).state_dict()
    assert "memory_attention.gate.out.weight" in state
    for name in LAYERS:
        tiny(GATED.replace("temporal.conv", name)).load_state_dict(state)


def video():
    return SyntheticVideos("test", num_videos=1, num_frames=5, height=48, width=64, seed=7, max_objects=2)[0]


@torch.no_grad()
def run(config, folder=None):
    """The results of a video, and the segmenter."""
    torch.manual_seed(0)
    model = STGNet.small(config.replace("warping.gaps", (1, 2)), width=8).eval()
    stream, frames = VideoSegmenter(model, crop_size=32), video()
    tracer = Tracer(model, folder) if folder is not None else None
    results = []
    for t in range(frames.num_frames):
        given = frames.labels(0) if t == 0 else None
        if tracer is None:
            results.append(stream.step(frames.image(t), masks=given))
            continue
        with tracer:
            results.append(stream.step(frames.image(t), masks=given))
            tracer.write(f"{t:05d}", results[-1], given)
    return results, stream


@pytest.mark.parametrize(
    ("name", "dtype"), [("memory_attention", "float16"), ("joint", "bfloat16"), ("mean", "float16")]
)
def test_a_memory_of_half_precision(name, dtype):
    config = STGConfig.small().replace("temporal.conv", name)
    whole, first = run(config)
    half, second = run(config.replace("memory.dtype", dtype))
    keys = [stream.objects[0].bank.read()[1] for stream in (first, second)]
    assert keys[0].dtype == torch.float32 and keys[1].dtype == getattr(torch, dtype)
    assert keys[0].nbytes == 2 * keys[1].nbytes
    # Later frames follow the masks of this one, so that a pixel at the threshold may change many.
    one, other = (result[1].masks for result in (whole, half))
    torch.testing.assert_close(one, other, rtol=0, atol=2e-2)


@pytest.mark.parametrize("name", LAYERS)
def test_a_memory_of_coarse_cells(name, tmp_path):
    config = STGConfig.small().replace({"temporal.conv": name, "memory.cell": 1})
    (whole, first), (coarse, second) = run(config), run(config.replace("memory.cell", 2), tmp_path)
    keys = [stream.objects[0].bank.read()[1] for stream in (first, second)]
    assert keys[0].shape[-1] == 2 * keys[1].shape[-1]
    torch.testing.assert_close(whole[1].masks, coarse[1].masks, rtol=0, atol=0.1)
    if name != "mean":
        attention = read_trace(tmp_path / "00003.npz").attention_object.astype(float)
        assert attention.shape[-1] == keys[1].shape[-1]
        np.testing.assert_allclose(attention.sum(axis=(1, 2)), 1, atol=5e-3)


@pytest.mark.parametrize("layer", [Keep(), MeanMemory(), JointMemoryAttention(top_k=3)])
def test_keys_learn_online_only_for_layers_that_compare_them(layer):
    torch.manual_seed(0)
    encoder = KeyEncoder(SmallBackbone(8), out_channels=8, grid=8).eval()
    frame = video()
    options = {"crop_size": 32, "margin": 0.25, "peak": 3e-3, "device": torch.device("cpu"), "steps": 2}
    adapted = learn_keys_online(encoder, layer, frame.image(0), frame.labels(0), **options)
    same = [torch.equal(value, encoder.state_dict()[name]) for name, value in adapted.state_dict().items()]
    assert all(same) == (not isinstance(layer, MemoryAttention)) and not adapted.training
