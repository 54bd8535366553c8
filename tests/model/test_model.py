import pytest
import torch
import torch.nn.functional as F
from model_cases import (
    FIRST,
    GATED,
    HEIGHT,
    SECOND,
    WIDTH,
    box_mask,
    check_output,
    frame_input,
    one_of,
    tiny,
)
from torch import nn
from torch_geometric.nn import GraphConv

from stg_pyg import Proposals, STGConfig, STGNet
from stg_pyg.graph.memory import MemoryBank
from stg_pyg.model.evidence import node_evidence
from stg_pyg.model.losses import stg_loss_batched
from stg_pyg.nn import MaskPropagation
from stg_pyg.ops.boxes import box_iou
from stg_pyg.ops.masks import mask_iou


@pytest.mark.parametrize("config", [STGConfig(), GATED, STGConfig.small()], ids=["paper", "gated", "small"])
@torch.no_grad()
def test_forward(config, with_scatter):
    model = tiny(config)
    frame = frame_input(model)
    output = model(frame)
    check_output(output, frame)
    assert output.batch.tolist() == [0, 0, 0, 1, 1]
    assert all(output.batch[node] == k for k, node in enumerate(output.selected.tolist()))
    assert torch.equal(output.chosen, output.nodes[output.selected])
    assert output.graphs.obj_id.tolist() == [3, 7] and output.graphs.frame_idx.tolist() == [2, 2]


@pytest.mark.parametrize("edge_iou", ["box", "mask"])
@torch.no_grad()
def test_nodes_are_propagated_by_the_weights_of_equation_3(edge_iou):
    model = tiny(STGConfig().replace({"spatial.edge_iou": edge_iou}))
    frame = frame_input(model, (FIRST,), (3,))
    (part,) = frame.proposals
    part.masks = part.masks * (part.masks.cumsum(dim=2) > 6)  # other IoUs than those of the boxes
    output = model(frame)
    features = model.encode(frame.image, part.masks, part.boxes)
    torch.testing.assert_close(output.graphs.feat, features)
    pairs = box_iou(part.boxes, part.boxes) if edge_iou == "box" else mask_iou(part.masks, part.masks)
    source, target = output.graphs.edge_index
    weight = 0.7 * F.cosine_similarity(features[target], features[source]) + 0.3 * pairs[target, source]
    torch.testing.assert_close(output.nodes, MaskPropagation(2)(part.masks, output.graphs.edge_index, weight))
    other = tiny(STGConfig().replace({"spatial.alpha": 0.1, "spatial.edge_iou": edge_iou}))(frame)
    assert not torch.allclose(other.nodes, output.nodes, atol=1e-3)


@torch.no_grad()
def test_number_of_steps_reaches_the_layer():
    frame = frame_input(tiny())
    outputs = [tiny(STGConfig().replace({"spatial.num_steps": steps}))(frame).nodes for steps in (0, 1, 2, 40)]
    assert torch.equal(outputs[0], torch.cat([part.masks for part in frame.proposals]))
    assert not torch.allclose(outputs[1], outputs[2], atol=1e-4)
    spread = [nodes[:3].std(dim=0).amax() for nodes in outputs]
    assert spread[0] > spread[1] > spread[2] > spread[3] and float(spread[3]) < 1e-3


@torch.no_grad()
def test_masks_are_refined_from_the_memory():
    model = tiny(STGConfig().replace({"selection.thr": 0.5}))
    frame = frame_input(model, (FIRST,), (1,), memory=1)
    ones = MemoryBank()
    keys = frame.banks[0].read()[1]
    ones.write(0, keys[0], torch.ones(keys.shape[-2:]))
    frame.banks = [ones]
    output = model(frame)
    # With a memory that is object everywhere, Eq. 8 is the mean of the mask and 1 in the window, 0 beyond it.
    x1, y1 = output.windows[0, 2:].tolist()
    assert float(output.masks[0, (FIRST[1] + FIRST[3]) // 2, (FIRST[0] + FIRST[2]) // 2]) == pytest.approx(1, abs=1e-3)
    assert float(output.masks[0, FIRST[1] + 6, int(x1) - 2]) == pytest.approx(0.5, abs=0.1)
    assert not output.masks[0, :, int(x1) + 2 :].any() and not output.masks[0, int(y1) + 2 :].any()
    empty = MemoryBank()
    empty.write(0, keys[0], torch.zeros(keys.shape[-2:]))
    frame.banks = [empty]
    assert float(model(frame).masks.max()) == pytest.approx(0.5, abs=1e-3)


@torch.no_grad()
def test_gated_refinement_keeps_what_is_outside_of_the_window():
    model = tiny(GATED)
    frame = frame_input(model, (FIRST,), (1,))
    frame.q = frame.q + 0.1 * box_mask(60, 44, 64, 48)
    frame.proposals = [Proposals.empty(HEIGHT, WIDTH)]
    output = model(frame)
    assert torch.equal(output.masks[0, 44:, 60:], output.chosen[0, 44:, 60:])


@torch.no_grad()
def test_lambda1_weighs_the_box():
    inside = Proposals.from_masks(
        torch.stack([box_mask(8, 8, 12, 30) + box_mask(24, 8, 28, 30), box_mask(8, 8, 28, 22)])
    )
    for lambda1, expected in ((1.0, 0), (0.0, 1)):
        model = tiny(
            STGConfig().replace({"spatial.enabled": False, "temporal.enabled": False, "selection.lambda1": lambda1})
        )
        frame = frame_input(model, (FIRST,), (2,))
        frame.proposals = [inside]
        assert model(frame).selected.tolist() == [expected]


@torch.no_grad()
def test_gate_helps_to_select():
    twins = Proposals.from_masks(box_mask(*FIRST).repeat(2, 1, 1), torch.tensor([0.1, 0.9]))
    for weight, expected in ((0.0, 0), (0.5, 1)):
        model = tiny(GATED.replace({"temporal.enabled": False, "selection.quality_weight": weight}))
        frame = frame_input(model, (FIRST,), (2,))
        frame.proposals = [twins]
        output = model(frame)
        torch.testing.assert_close(output.gate, twins.scores)
        assert output.selected.tolist() == [expected]


@torch.no_grad()
def test_nodes_of_low_gate_send_little():
    masks = torch.stack([box_mask(*FIRST), box_mask(*SECOND), box_mask(*FIRST)])
    changes = []
    for score in (0.999, 0.001):
        model = tiny(GATED)
        frame = frame_input(model, (FIRST,), (3,))
        frame.proposals = [Proposals.from_masks(masks, torch.tensor([0.9, score, 0.9]))]
        changes.append(float(model(frame).nodes[0, 20, 50]))
    assert changes[0] > 0.02 and changes[1] < 0.01 * changes[0]


@pytest.mark.parametrize("config", [STGConfig(), GATED], ids=["paper", "gated"])
@pytest.mark.parametrize("counts", [(0, 2), (3, 0), (0, 0)])
@torch.no_grad()
def test_object_without_proposals_is_carried_by_q(config, counts):
    model = tiny(config)
    frame = frame_input(model, counts=counts)
    output = model(frame)
    check_output(output, frame)
    for k, count in enumerate(counts):
        if count == 0:
            assert output.selected[k] == -1
            assert torch.equal(output.chosen[k], frame.q[k])
        else:
            assert torch.equal(output.chosen[k], output.nodes[output.selected[k]])


@pytest.mark.parametrize(
    "config", [STGConfig(), GATED, STGConfig().replace({"spatial.enabled": False})], ids=["paper", "gated", "row"]
)
@pytest.mark.parametrize("counts", [(3, 2), (1, 4), (3, 0)])
@torch.no_grad()
def test_objects_together_equal_one_by_one(config, counts, with_scatter):
    model = tiny(config)
    frame = frame_input(model, counts=counts)
    together = model(frame)
    for k in range(2):
        alone = model(one_of(frame, k))
        nodes = together.batch == k
        torch.testing.assert_close(alone.masks[0], together.masks[k], atol=1e-5, rtol=1e-4)
        torch.testing.assert_close(alone.nodes, together.nodes[nodes], atol=1e-5, rtol=1e-4)
        torch.testing.assert_close(alone.scores, together.scores[nodes], atol=1e-5, rtol=1e-4)
        torch.testing.assert_close(alone.keys[0], together.keys[k], atol=1e-5, rtol=1e-4)


def loss_of(model, frame):
    """Eq. 9 with a target that is neither the proposals nor Q."""
    target = torch.stack([box_mask(10, 8, 30, 34), box_mask(32, 12, 56, 38)])
    frame.target = target
    output = model(frame)
    config = model.config
    return stg_loss_batched(
        output.nodes,
        output.masks,
        target,
        frame.p,
        frame.q + 0.0,
        output.batch,
        gamma=config.loss.gamma,
        thr=config.selection.thr,
    ).total


@pytest.mark.parametrize("update", ["paper", "gated"])
def test_gradient_of_equation_9_reaches_every_part(update):
    model = tiny(GATED.replace("temporal.update", update)).train()
    frame = frame_input(model)
    frame.q = torch.stack([box_mask(6, 10, 26, 32), box_mask(36, 16, 60, 42)])
    loss = loss_of(model, frame)
    assert bool(loss.isfinite())
    loss.backward()
    last = model.node_gate.layers[-1]
    parts = {
        "features": [p.grad for p in model.feature_encoder.parameters()],
        "keys": [p.grad for p in model.key_encoder.parameters()],
        "gate": [last.weight.grad, last.bias.grad],
    }
    if update == "gated":
        parts["update"] = [model.memory_attention.gate.out.weight.grad]
    for name, grads in parts.items():
        total = sum(0.0 if grad is None else float(grad.abs().sum()) for grad in grads)
        assert total > 0 and total < float("inf"), name


def test_while_training_the_true_mask_selects():
    model = tiny(STGConfig().replace({"spatial.enabled": False, "temporal.enabled": False}))
    frame = frame_input(model, (FIRST,), (3,))
    frame.target = frame.proposals[0].masks[2:]
    assert model(frame).selected.tolist() == [0]
    assert model.train()(frame).selected.tolist() == [2]


@pytest.mark.parametrize("name", ["stg", "mean", "GCNConv", "GraphConv"])
@torch.no_grad()
def test_spatial_layer_by_name(name, with_scatter):
    model = tiny(GATED.replace("spatial.conv", name))
    frame = frame_input(model)
    output = model(frame)
    assert output.nodes.shape == (5, HEIGHT, WIDTH) and bool(output.nodes.isfinite().all())
    if name == "mean":
        torch.testing.assert_close(output.nodes[:3], frame.proposals[0].masks.mean(0).expand(3, -1, -1))
    by_argument = tiny(GATED, spatial_conv=name)
    assert type(by_argument.spatial_conv) is type(model.spatial_conv)


@torch.no_grad()
def test_spatial_layer_by_instance():
    conv = GraphConv(1, 1, bias=False)
    nn.init.zeros_(conv.lin_rel.weight)
    nn.init.constant_(conv.lin_root.weight, 0.5)
    model = tiny(spatial_conv=conv)
    frame = frame_input(model)
    masks = torch.cat([part.masks for part in frame.proposals])
    torch.testing.assert_close(model(frame).nodes, 0.9 * masks + 0.1 * (2 * masks - 2).sigmoid())
    layer = MaskPropagation(num_steps=7)
    assert tiny(spatial_conv=layer).spatial_conv is layer


@torch.no_grad()
def test_node_evidence():
    model = tiny(GATED)
    frame = frame_input(model, counts=(3, 1))
    graphs = model.build_graphs(frame)
    evidence = node_evidence(graphs)
    assert evidence.shape == (4, 5) and bool(evidence.isfinite().all())
    with_q = mask_iou(frame.proposals[0].masks, frame.q[:1])[:, 0]
    torch.testing.assert_close(evidence[:3, 1], with_q)
    # The first proposals are exact: the anchor was taken from the same mask, box and image.
    torch.testing.assert_close(evidence[[0, 3], :3], torch.ones(2, 3), atol=1e-5, rtol=0)
    assert evidence[3, 3:].tolist() == [0, 0]
    pairs = mask_iou(frame.proposals[0].masks, frame.proposals[0].masks)
    soft = (pairs.sum(dim=1) - pairs.diagonal()) / 2
    torch.testing.assert_close(evidence[:3, 3], soft, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("config", [STGConfig(), GATED], ids=["paper", "gated"])
@torch.no_grad()
def test_without_one_of_the_graphs(config):
    model = tiny(config)
    frame = frame_input(model)
    full, output = model(frame), tiny(config.replace("spatial.enabled", False))(frame)
    assert torch.equal(output.nodes, torch.cat([part.masks for part in frame.proposals]))
    assert torch.equal(output.gate, full.gate) and torch.equal(output.graphs.feat, full.graphs.feat)
    output = tiny(config.replace("temporal.enabled", False))(frame)
    assert torch.equal(output.masks, output.chosen) and not torch.allclose(full.masks, full.chosen, atol=1e-3)
    for name in ("chosen", "nodes", "scores", "selected", "gate", "keys", "windows"):
        assert torch.equal(getattr(output, name), getattr(full, name)), name


@torch.no_grad()
def test_paper_network_on_proposals_from_outside():
    paper = STGNet.paper(STGConfig.paper().replace("temporal.key_size", 64), grid=8).eval()
    assert paper.config.selection.thr == 0.2 and paper.segmentation is None and paper.node_gate is None
    assert paper.feature_encoder.mode == "roi" and paper.feature_encoder.out_features == 2048
    assert paper.key_encoder.out_channels == 1024
    frame = frame_input(paper, memory=1)
    output = paper(frame)
    check_output(output, frame)
    assert output.graphs.feat.shape == (5, 2048) and output.graphs.edge_attr.shape[1] == 2


@torch.no_grad()
def test_opposite_features_make_finite_masks():
    model = tiny(STGConfig().replace({"spatial.features": "given", "spatial.alpha": 1.0}))
    frame = frame_input(model, (FIRST,), (3,))
    (part,) = frame.proposals
    part.feats = torch.tensor([[1.0], [-1.0], [-1.0]]) * torch.eye(8)[0]
    output = model(frame)
    weight = model.weighted_edges(output.graphs, output.gate)[2]
    # Cosines of the first proposal are -1 and -1: 1 + W 1 would be -1, and is 0.1.
    torch.testing.assert_close(weight, torch.tensor([-0.45, -0.45, -1, 1, -1, 1]))
    assert bool(output.nodes.isfinite().all()) and bool(output.masks.isfinite().all()) and int(output.selected) >= 0
