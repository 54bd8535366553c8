import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from stg_pyg.errors import InputError
from stg_pyg.ops.boxes import masks_to_boxes
from stg_pyg.proposals.base import Proposals
from stg_pyg.proposals.rle import (
    EncodedProposals,
    compress_runs,
    decode_masks,
    encode_masks,
    find_fault,
    mask_boxes,
    round_features,
)


def random_masks(seed: int, n: int, height: int, width: int) -> torch.Tensor:
    """Noise of every density, full and empty masks among them."""
    generator = torch.Generator().manual_seed(seed)
    density = torch.linspace(0, 1, n)[torch.randperm(n, generator=generator)]
    return torch.rand(n, height, width, generator=generator) < density[:, None, None]


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10**6), st.integers(0, 6), st.integers(1, 40), st.integers(1, 40))
def test_round_trip(seed, n, height, width):
    masks = random_masks(seed, n, height, width)
    counts = encode_masks(masks)
    assert encode_masks(masks * 0.51) == counts and encode_masks(~masks * 0.5) == encode_masks(0 * masks)
    assert find_fault(counts, (height, width)) is None
    assert torch.equal(decode_masks(counts, (height, width)), masks)
    np.testing.assert_array_equal(mask_boxes(counts, (height, width)), masks_to_boxes(masks).numpy())


@settings(max_examples=40, deadline=None)
@given(st.lists(st.integers(0, 30), min_size=1, max_size=12), st.integers(1, 9))
@example([1, 0, 9, 2, 12, 0], 4)
def test_runs_of_no_pixels(runs, height):
    """Zeros between runs are legal."""
    runs = [*runs, -sum(runs) % height or height]
    size = (height, sum(runs) // height)
    flat = np.repeat(np.arange(len(runs)) % 2 == 1, runs)
    mask = torch.from_numpy(flat.reshape(size[::-1]).T.copy())[None]
    counts = [compress_runs(runs, size)]
    assert find_fault(counts, size) is None
    assert torch.equal(decode_masks(counts, size), mask)
    np.testing.assert_array_equal(mask_boxes(counts, size), masks_to_boxes(mask).numpy())


@pytest.mark.parametrize(
    ("text", "word"),
    [
        (b"", "no runs"),
        *[(text, "characters") for text in (b"5\xff", b"5\n", b"5p")],  # the last is one beyond the characters in use
        (b"66X", "cut short"),
        (b"PPPPPPPP1", "no picture"),
        (b"Oe0", "negative"),
        (b"592F>", "negative"),  # the difference to the run two before makes it negative
        (b"55", "covers 10 pixels, not 4 x 5 = 20"),
        (b"5`0", "covers 21 pixels"),
        (b"PPPPPP1", f"covers {2**30} pixels"),
    ],
)
def test_broken_masks_are_found(text, word):
    sound = encode_masks(random_masks(0, 3, 4, 5))
    for position in range(4):
        counts = [*sound[:position], text, *sound[position:]]
        fault = find_fault(counts, (4, 5))
        assert fault is not None and fault[0] == position and word in fault[1]
        with pytest.raises(InputError, match=f"mask {position} ") as error:
            decode_masks(counts, (4, 5))
        assert "\n" not in str(error.value)


@settings(max_examples=150, deadline=None)
@given(st.binary(max_size=12), st.binary(max_size=12).map(lambda b: bytes(48 + c % 64 for c in b)))
def test_any_text_is_refused_or_decodes(noise, text):
    for item in (noise, text):
        if find_fault([item], (3, 4)) is None:
            assert decode_masks([item], (3, 4)).shape == (1, 3, 4)


def pair(feats: bool = True) -> tuple[Proposals, EncodedProposals]:
    masks, known = random_masks(3, 5, 9, 7), torch.tensor([True, False, True, True, False])
    boxes = torch.rand(5, 4) + torch.tensor([0.0, 0, 2, 2])
    values = round_features(torch.randn(5, 6)) if feats else None
    proposals = Proposals(boxes, masks & known[:, None, None], torch.rand(5), values, has_mask=known)
    return proposals, EncodedProposals.from_proposals(proposals)


@pytest.mark.parametrize(
    "index", [slice(1, 4), 2, -1, [], [4, 0, 0], torch.tensor([3, 1]), [True, False, True, False, False]], ids=repr
)
@pytest.mark.parametrize("feats", [True, False])
def test_select(index, feats):
    proposals, encoded = pair(feats)
    assert len(encoded) == 5 and encoded.size == (9, 7)
    expected, got = proposals.select(index), encoded.select(index)
    for name in ("boxes", "masks", "scores", "mask_known"):
        assert torch.equal(getattr(got, name), getattr(expected, name)), name
    assert (got.feats is None and not feats) or torch.equal(got.feats, expected.feats)
    assert torch.equal(encoded.keep(index).boxes, expected.boxes)


def test_select_decodes_only_what_is_chosen():
    _, encoded = pair()
    encoded.counts[3] = b"no mask"  # nobody looks at it
    assert encoded.select([4, 2]).has_mask.tolist() == [False, True] and encoded.select([0, 2]).has_mask is None
    with pytest.raises(InputError):
        encoded.select([0, 3])
    for index in (5, -6, [5], [True, False]):
        with pytest.raises(IndexError):
            encoded.select(index)


def test_no_masks_at_all_and_nothing_at_all():
    with pytest.raises(InputError, match="counts has 2 entries for 1 boxes"):
        EncodedProposals(torch.zeros(1, 4), torch.ones(1), [None] * 2, (4, 5))
    boxes = EncodedProposals(torch.tensor([[0.0, 0, 2, 2]]), torch.ones(1), [None], (4, 5))
    chosen = boxes.select(slice(None))
    assert chosen.masks.shape == (1, 4, 5) and not chosen.masks.any() and chosen.has_mask.tolist() == [False]
    empty = EncodedProposals.empty((4, 5), 3)
    assert empty.select([]).masks.shape == (0, 4, 5) and empty.feats.shape == (0, 3)
    assert EncodedProposals.from_proposals(Proposals.empty(4, 5)).size == (4, 5)
    assert repr(empty) == "EncodedProposals(0, size=4x5, feats=3)"


def test_features_are_those_of_float16():
    feats = torch.tensor([[1 / 3, 1e6, -1e6, 1e-9]])
    rounded = round_features(feats)
    assert rounded.dtype == torch.float32 and torch.equal(rounded.half().float(), rounded)
    assert rounded.isfinite().all() and rounded[0, 0] == pytest.approx(1 / 3, rel=1e-3)
