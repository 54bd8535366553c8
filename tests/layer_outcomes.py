"""What becomes of every spatial layer in a whole frame and a training step, as the table of docs/layers.md says it:

PYTHONPATH=. python tests/layer_outcomes.py
"""

from pathlib import Path
from types import SimpleNamespace

import torch
from model_cases import check_output, frame_input, tiny

from experiments.train.stages.graph import frame_loss, parameter_groups
from stg_pyg import InputError, STGConfig
from stg_pyg.nn.spatial.registry import OWN, stock_layers

PAGE = Path(__file__).parents[1] / "docs" / "layers.md"
NAMES = sorted(OWN, key=list(OWN).index) + sorted(stock_layers())
CONFIGS = {"paper": STGConfig.paper(), "small": STGConfig.small()}
HEAD = "| layer | `paper` | `small` |"


def outcome(name: str, config: str) -> str:
    """``works``, or the line that refuses it."""
    try:
        model = tiny(CONFIGS[config].replace("spatial.conv", name))
    except InputError as error:
        return str(error)
    frame = frame_input(model)
    with torch.no_grad():
        check_output(model(frame), frame)
    frame.target = frame.q
    optimizer = torch.optim.AdamW([{**group, "lr": 0.01} for group in parameter_groups(model)])
    losses = [_step(model.train(), frame, optimizer) for _ in range(2)]
    assert losses[-1] < losses[0], name
    _check_negative_cosines(model.eval(), frame)
    return "works"


def _step(model, frame, optimizer) -> float:
    optimizer.zero_grad()
    loss, values = frame_loss(model, SimpleNamespace(output=model(frame), frame=frame), frame.target)
    loss.backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is None or bool(parameter.grad.isfinite().all()), name
    weights = list(model.spatial_conv.parameters())
    assert not weights or any(weight.grad is not None and weight.grad.any() for weight in weights)
    optimizer.step()
    return values["loss"]


def _check_negative_cosines(model, frame) -> None:
    """Features that point in opposite directions, whose printed weights leave no denominator to Eq. 5."""
    model.config = model.config.replace({"spatial.features": "given", "spatial.min_edge_iou": 0.0})
    for part in frame.proposals:
        part.feats = torch.eye(8)[:1].repeat(len(part), 1)
        part.feats[0] *= -1
    output = model(frame)
    for tensor in (output.masks, output.nodes):
        assert bool(tensor.isfinite().all())


def table() -> str:
    """The table of all layers."""
    rows = [f"| `{name}` | {outcome(name, 'paper')} | {outcome(name, 'small')} |" for name in NAMES]
    return "\n".join([HEAD, "| --- | --- | --- |", *rows])


def stated() -> dict[str, dict[str, str]]:
    """The outcomes on the page."""
    _, _, rest = PAGE.read_text().partition(HEAD + "\n")
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in rest.split("\n\n")[0].splitlines()[1:]]
    return {name.strip("`"): {"paper": paper, "small": small} for name, paper, small in rows}


if __name__ == "__main__":
    print(table())
