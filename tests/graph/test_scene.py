import torch

from stg_pyg.graph.scene import SceneMemory


def frame(t, objects=2):
    masks = torch.zeros(objects, 8, 12)
    masks[0, :4, :6] = 1
    if objects > 1:
        masks[1, 4:, 6:] = 1
    return torch.full((3, 2, 3), float(t)), masks


def written(gaps, given, last, objects=lambda t: 2, detail=1):
    memory = SceneMemory(gaps, detail)
    for t in range(last + 1):
        memory.write(t, *frame(t, objects(t)), given=t in given)
    return memory


def times(memory, t):
    keys, shares, local = memory.read(t)
    assert len(keys) == len(shares) == len(local)
    return list(zip(keys[:, 0, 0, 0].int().tolist(), local.tolist(), strict=True))


def test_given_frames_are_read_everywhere_and_recent_ones_nearby():
    assert times(written((1, 2, 4), {0}, 8), 9) == [(0, False), (8, True), (7, True), (5, True)]


def test_a_given_frame_is_read_once():
    assert times(written((1, 2), {0}, 1), 2) == [(0, False), (1, True)]
    assert times(written((1, 2), {0}, 0), 1) == [(0, False)]


def test_the_first_and_the_latest_given_frames_stay():
    memory = written((1,), {0, 2, 3, 4, 6}, 8)
    assert times(memory, 9) == [(0, False), (3, False), (4, False), (6, False), (8, True)]


def test_frames_that_nobody_reads_any_more_are_forgotten():
    assert len(vars(written((1, 2, 4), {0}, 50))["_keys"]) == 1 + 4


def test_shares_are_those_of_the_cells():
    _, shares, _ = written((1,), {0}, 0).read(1)
    assert shares.shape == (1, 3, 2, 3)
    torch.testing.assert_close(shares.sum(dim=1), torch.ones(1, 2, 3))
    torch.testing.assert_close(shares[0, 1], torch.tensor([[1.0, 0.5, 0.0], [0.0, 0.0, 0.0]]))


def test_shares_of_parts_of_cells():
    _, shares, _ = written((1,), {0}, 0, detail=2).read(1)
    rows = [[1.0, 1.0, 1.0, 0.0, 0.0, 0.0]] * 2 + [[0.0] * 6] * 2
    torch.testing.assert_close(shares[0, 1], torch.tensor(rows))


def test_an_object_that_came_later_had_no_share_before():
    memory = written((1, 2), {0, 3}, 3, objects=lambda t: 2 if t == 3 else 1)
    keys, shares, _ = memory.read(4)
    assert keys[:, 0, 0, 0].tolist() == [0, 3, 2]
    assert shares[0, 2].sum() == shares[2, 2].sum() == 0 and shares[1, 2].sum() > 0
    torch.testing.assert_close(shares.sum(dim=1), torch.ones(3, 2, 3))
