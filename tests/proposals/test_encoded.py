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


def to_text(numbers: list[int]) -> bytes:
    """Numbers as COCO's characters, without the differences: little-endian groups of five bits."""
    text = bytearray()
    for value in numbers:
        while True:
            group, value = value & 31, value >> 5
            done = value == (-1 if group & 16 else 0)
            text.append(48 + (group if done else group | 32))
            if done:
                break
    return bytes(text)


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
        (b"5\xff", "characters"),
        (b"5\n", "characters"),
        (b"5p", "characters"),  # one beyond the last character
        (to_text([6, 6, 8])[:-1] + b"P", "cut short"),
        (to_text([2**40]), "no picture"),
        (to_text([-1, 21]), "negative"),
        (to_text([5, 9, 2, -10, 14]), "negative"),  # the difference makes it negative
        (to_text([5, 5]), "covers 10 pixels, not 4 x 5 = 20"),
        (to_text([5, 16]), "covers 21 pixels"),
        (to_text([2**30]), f"covers {2**30} pixels"),
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
        fault = find_fault([item], (3, 4))
        if fault is None:
            assert decode_masks([item], (3, 4)).shape == (1, 3, 4)


def test_masks_of_another_size():
    counts = encode_masks(random_masks(1, 2, 6, 7))
    assert find_fault(counts, (7, 6)) is None, "as many pixels"
    assert find_fault(counts, (6, 8)) is not None


def pair(n: int = 5, feats: bool = True) -> tuple[Proposals, EncodedProposals]:
    masks = random_masks(3, n, 9, 7)
    known = torch.ones(n, dtype=torch.bool)
    known[1::3] = False
    proposals = Proposals(
        torch.rand(n, 4) + torch.tensor([0.0, 0, 2, 2]),
        masks & known[:, None, None],
        torch.rand(n),
        round_features(torch.randn(n, 6)) if feats else None,
        has_mask=known,
    )
    return proposals, EncodedProposals.from_proposals(proposals)


@pytest.mark.parametrize(
    "index",
    [slice(None), slice(1, 4), 2, -1, [], [4, 0, 0], torch.tensor([3, 1]), [True, False, True, False, False]],
    ids=repr,
)
@pytest.mark.parametrize("feats", [True, False])
def test_select(index, feats):
    proposals, encoded = pair(feats=feats)
    assert len(encoded) == 5 and encoded.size == (9, 7)
    assert torch.equal(encoded.has_mask, proposals.has_mask)
    expected, got = proposals.select(index), encoded.select(index)
    for name in ("boxes", "masks", "scores"):
        assert torch.equal(getattr(got, name), getattr(expected, name)), name
    assert torch.equal(got.mask_known, expected.mask_known)
    assert (got.feats is None and not feats) or torch.equal(got.feats, expected.feats)
    assert torch.equal(encoded.keep(index).boxes, expected.boxes)


def test_select_decodes_only_what_is_chosen():
    _, encoded = pair()
    encoded.counts[4] = b"no mask"  # nobody looks at it
    assert encoded.select([3, 1]).has_mask.tolist() == [True, False] and encoded.select([0, 2]).has_mask is None
    with pytest.raises(InputError):
        encoded.select([0, 4])
    for index in (5, -6, [5], [True, False]):
        with pytest.raises(IndexError):
            encoded.select(index)


def test_no_masks_at_all_and_nothing_at_all():
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


@pytest.mark.parametrize(
    ("width", "counts", "message"), [(4, [None], "counts has 1 entries for 2 boxes"), (5, [None] * 2, r"\[N, 4\]")]
)
def test_fields_must_agree(width, counts, message):
    with pytest.raises(InputError, match=message):
        EncodedProposals(torch.zeros(2, width), torch.zeros(2), counts, (4, 5))
