import pytest
import torch

from stg_pyg.errors import InputError
from stg_pyg.proposals.base import Proposals


def make(n=3, feats=True, origin=True, size=(4, 6)):
    numbers = torch.arange(n, dtype=torch.float32)
    return Proposals(
        torch.arange(4 * n, dtype=torch.float32).reshape(n, 4),
        numbers[:, None, None].expand(n, *size) / 10,
        numbers,
        torch.arange(2 * n, dtype=torch.float32).reshape(n, 2) if feats else None,
        [f"o{i}" for i in range(n)] if origin else None,
    )


@pytest.mark.parametrize(
    ("index", "expected"),
    [
        (1, [1]),
        (-1, [2]),
        (slice(None, None, 2), [0, 2]),
        (torch.tensor([True, False, True]), [0, 2]),
        (torch.tensor([2, 0, 2]), [2, 0, 2]),
        ([], []),
        (torch.zeros(3, dtype=torch.bool), []),
    ],
)
def test_indexing_takes_every_field(index, expected):
    proposals = make()
    for part in (proposals[index], proposals.select(index).to("cpu")):
        assert part.scores.tolist() == expected and part.size == (4, 6)
        assert part.boxes.tolist() == [[4 * i, 4 * i + 1, 4 * i + 2, 4 * i + 3] for i in expected]
        torch.testing.assert_close(part.masks[:, 0, 0], torch.tensor(expected) / 10, check_dtype=False)
        assert part.feats.tolist() == [[2 * i, 2 * i + 1] for i in expected]
        assert part.origin == [f"o{i}" for i in expected]
    for outside in (3, -4, torch.ones(2, dtype=torch.bool)):
        with pytest.raises(IndexError):
            proposals[outside]
    assert [p.scores.item() for p in proposals] == [0, 1, 2], "iteration ends"


def test_from_masks():
    soft = torch.zeros(2, 4, 6)
    soft[0, 1:3, 2:5] = 1
    for masks in (soft, soft.double(), soft.bool()):
        proposals = Proposals.from_masks(masks)
        assert proposals.boxes.tolist() == [[2, 1, 5, 3], [0, 0, 0, 0]]
        assert proposals.scores.tolist() == [1, 1] and proposals.masks.dtype == masks.dtype
    scores = torch.tensor([0.5, 0.25])
    given = Proposals.from_masks(soft * 0.3, scores, origin=["a", "b"], threshold=0.2)
    assert given[1].origin == ["b"] and torch.equal(given.scores, scores)
    assert given.boxes[0].tolist() == [2, 1, 5, 3] and not Proposals.from_masks(soft * 0.3).boxes.any()


def test_cat():
    both = Proposals.cat([make(2), Proposals.empty(4, 6), make(1)])
    assert both.scores.tolist() == [0, 1, 0]
    assert both.feats.tolist() == [[0, 1], [2, 3], [0, 1]]
    assert both.origin == ["o0", "o1", "o0"]
    assert Proposals.cat([make(2), make(1, origin=False)]).origin == ["o0", "o1", ""]
    bare = Proposals.cat([make(1, False, False)] * 2)
    assert bare.feats is None and bare.origin is None
    empty = Proposals.cat([Proposals.empty(4, 6)] * 2)
    assert len(empty) == 0 and empty.size == (4, 6) and empty.boxes.shape == (0, 4)
    for parts, message in (
        ([], "at least one"),
        ([make(1), make(1, size=(6, 4))], "different sizes"),
        ([make(1), make(1, feats=False)], "with and without feats"),
    ):
        with pytest.raises(InputError, match=message):
            Proposals.cat(parts)
    assert repr(make()) == "Proposals(3, size=4x6, feats=2)" and repr(empty) == "Proposals(0, size=4x6)"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"boxes": torch.zeros(2, 5)}, r"boxes must be \[N, 4\]"),
        ({"boxes": torch.zeros(3, 4)}, "masks has 2 entries for 3 boxes"),
        ({"masks": torch.zeros(2, 4)}, r"masks must be \[N, H, W\]"),
        ({"scores": torch.zeros(1)}, "scores has 1 entries for 2 boxes"),
        ({"scores": torch.zeros(2, 1)}, r"scores must be \[N\]"),
        ({"feats": torch.zeros(3, 2)}, "feats has 3 entries"),
        ({"feats": torch.zeros(2)}, r"feats must be \[N, F\]"),
        ({"origin": ["a"]}, "origin has 1 entries"),
        ({"extent": torch.zeros(1, 4)}, "extent has 1 entries for 2"),
        ({"boxes": torch.full((2, 4), float("nan"))}, "must be finite"),
        ({"scores": torch.tensor([0, float("inf")])}, "must be finite"),
    ],
)
def test_validation(change, message):
    fields = {"boxes": torch.zeros(2, 4), "masks": torch.zeros(2, 4, 6), "scores": torch.zeros(2)}
    Proposals(**fields)
    with pytest.raises(InputError, match=message) as raised:
        Proposals(**(fields | change))
    assert "\n" not in str(raised.value)
