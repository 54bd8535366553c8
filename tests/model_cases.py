"""A small model and hand-made frames for the tests of the model and of its layers."""

import torch

from stg_pyg import Proposals, STGConfig, STGNet
from stg_pyg.graph.memory import MemoryBank
from stg_pyg.model.stgnet import FrameInput
from stg_pyg.nn.backbones.encoders import KeyEncoder, ProposalEncoder, SmallBackbone
from stg_pyg.ops.boxes import masks_to_boxes

HEIGHT, WIDTH = 48, 64


FIRST, SECOND = (8, 8, 28, 30), (34, 14, 56, 40)


GATED = STGConfig().replace(
    {
        "spatial.node_gate": True,
        "temporal.update": "gated",
        "temporal.normalize_keys": True,
        "temporal.temperature": 0.1,
        "spatial.edge_iou": "mask",
    }
)


def box_mask(x0, y0, x1, y1):
    mask = torch.zeros(HEIGHT, WIDTH)
    mask[y0:y1, x0:x1] = 1
    return mask


def proposals_around(box, count=3):
    """Proposals of an object: its mask first, then soft ones that are further and further off."""
    x0, y0, x1, y1 = box
    masks = [box_mask(x0 + 2 * k, y0 + k, x1 + 2 * k, y1 + k) * (1 - 0.1 * k) for k in range(count)]
    return Proposals.from_masks(torch.stack(masks), torch.linspace(0.9, 0.4, count))


def tiny(config=None, **options):
    """A network of a few thousand parameters, without a segmentation part."""
    torch.manual_seed(0)
    return STGNet(
        (config or STGConfig()).replace("temporal.key_size", 32),
        ProposalEncoder(SmallBackbone(4, 8), mode="crop", pool="mask", out_features=8, size=32),
        KeyEncoder(SmallBackbone(4, 8), 8, grid=8, positions=True),
        **options,
    ).eval()


def frame_input(model, boxes=(FIRST, SECOND), counts=(3, 2), memory=2, seed=0):
    """A hand-made frame with an object at each box and a memory of random keys."""
    generator = torch.Generator().manual_seed(seed)
    image = torch.rand(3, HEIGHT, WIDTH, generator=generator)
    masks = torch.stack([box_mask(*box) for box in boxes])
    with torch.no_grad():
        anchors = model.encode(image, masks, masks_to_boxes(masks))
    banks = []
    for _ in boxes:
        bank = MemoryBank()
        for t in range(memory):
            grid = model.key_encoder.grid
            key = torch.randn(model.key_encoder.out_channels, grid, grid, generator=generator)
            bank.write(t, key, torch.rand(grid, grid, generator=generator))
        banks.append(bank)
    parts = [
        proposals_around(box, n) if n else Proposals.empty(HEIGHT, WIDTH) for box, n in zip(boxes, counts, strict=True)
    ]
    return FrameInput(image, parts, masks_to_boxes(masks), masks, anchors, banks, [3, 7][: len(boxes)], memory)


def one_of(frame, k):
    return FrameInput(
        frame.image,
        frame.proposals[k : k + 1],
        frame.p[k : k + 1],
        frame.q[k : k + 1],
        frame.anchors[k : k + 1],
        frame.banks[k : k + 1],
        frame.obj_ids[k : k + 1],
        frame.frame_idx,
    )


def check_output(output, frame):
    count, nodes = len(frame.obj_ids), sum(map(len, frame.proposals))
    assert output.masks.shape == output.chosen.shape == (count, HEIGHT, WIDTH)
    assert output.nodes.shape == (nodes, HEIGHT, WIDTH)
    assert output.batch.shape == output.scores.shape == output.gate.shape == (nodes,)
    assert output.selected.shape == (count,) and output.windows.shape == (count, 4)
    assert output.keys.shape[0] == count and output.keys.shape[-2:] == (output.keys.shape[-1],) * 2
    for tensor in (output.masks, output.chosen, output.nodes, output.scores, output.gate, output.keys):
        assert bool(tensor.isfinite().all())
    assert float(output.masks.min()) >= 0 and float(output.masks.max()) <= 1 + 1e-6
