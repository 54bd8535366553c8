"""Finding the rest of an object of which a result is only a part, as after it has passed behind something."""

from __future__ import annotations

from torch import Tensor

from stg_pyg.config import RecoveryConfig
from stg_pyg.ops.masks import mask_iou
from stg_pyg.proposals.appearance import ColourModel
from stg_pyg.proposals.base import Proposals
from stg_pyg.proposals.guided import GuidedProposer

CANDIDATES = 3


def is_part(area: float, usual_area: float, config: RecoveryConfig) -> bool:
    """Whether an area is below a share of ``config.part_area`` of the usual one, the median of the object's history."""
    return 0 < area < config.part_area * usual_area


def find_rest(
    proposer: GuidedProposer,
    image: Tensor,
    mask: Tensor,
    size: Tensor,
    area: float,
    colours: ColourModel,
    first_likeness: float,
    taken: Tensor,
    config: RecoveryConfig,
) -> Proposals | None:
    """Proposals of the whole object, or nothing where no place around the part is convincing.

    Args:
        image: [3, H, W] in [0, 1].
        mask, taken: [H, W] the part, 0 or 1, and pixels of other objects.
        size, area: usual (width, height) [2] and area of the object in pixels.
        colours, first_likeness: of the object in its first frame, and its likeness to itself there.
    """
    posterior = colours.posterior(image)

    def value(proposals: Proposals) -> Tensor:
        return _expected_iou(proposals, mask, area, posterior, config.rest_likeness * first_likeness, taken, config)

    (coarse,) = proposer.propose(image, [proposer.around(mask, size)])
    rough = _best(coarse, value(coarse), CANDIDATES)
    if len(rough) == 0:
        return None
    (fine,) = proposer.propose(image, [proposer.closer(rough.masks, "rest")])
    fine = _best(fine, value(fine), CANDIDATES)
    if len(fine) == 0 or float(fine.scores[0]) < config.rest_quality:
        return None
    binary = (fine.masks > 0.5).float()
    return fine.select(mask_iou(binary, binary[:1])[:, 0] > 0.3)


def _best(proposals: Proposals, values: Tensor, most: int) -> Proposals:
    """At most so many proposals of positive value [N], best first."""
    order = values.argsort(descending=True, stable=True)[:most]
    return proposals.select(order[values[order] > 0])


def _expected_iou(
    proposals: Proposals,
    part: Tensor,
    area: float,
    posterior: Tensor,
    min_likeness: float,
    taken: Tensor,
    config: RecoveryConfig,
) -> Tensor:
    """Expected IoU [N] of the proposals that may be the whole of which ``part`` [H, W] is known, 0 of the others."""
    binary = (proposals.masks > 0.5).to(posterior.dtype).flatten(1)
    known = part.flatten().to(binary)
    areas, kept = binary.sum(dim=1), binary @ known
    added, size = areas - kept, known.sum()
    likeness = binary @ (posterior.flatten() * (1 - known)) / added.clamp(min=1)
    whole = (areas > config.rest_gain * size) & (areas < config.rest_area * area) & (kept > config.rest_kept * size)
    own = (likeness > min_likeness) & (binary @ taken.flatten() < 0.5 * added)
    return proposals.scores * (whole & own)
