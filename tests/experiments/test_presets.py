import dataclasses

import numpy as np
import pytest

from datasets.fixtures import write_fixture
from experiments.common.presets import OPENERS, PRESETS, Preset, benchmark_alpha, find_preset, open_split
from experiments.runs.rows import format_table, table_rows
from stg_pyg.config import STGConfig
from stg_pyg.errors import InputError

BENCHMARKS = ("davis2016", "davis2017", "youtube_vos", "segtrack_v2", "youtube_objects")
TESTS = ("segtrack_v2", "youtube_objects")


def test_names():
    for name, preset in PRESETS.items():
        assert find_preset(name) is preset and preset.name == name
    assert find_preset("synthetic") is PRESETS["synthetic-small"]
    with pytest.raises(InputError, match="'davis2015'.*" + ".*".join(PRESETS)):
        find_preset("davis2015")
    assert {preset.dataset for preset in PRESETS.values()} == {"synthetic", *OPENERS}
    assert {f"{name}-{size}" for name in BENCHMARKS for size in ("small", "paper")} <= PRESETS.keys()


@pytest.mark.parametrize("name", BENCHMARKS)
def test_paper_presets_hold_the_printed_constants(name):
    preset, alpha = PRESETS[f"{name}-paper"], 0.1 if name in TESTS else 0.7
    added = {"spatial.alpha": alpha, "proposals.resegment": True, "online.key_steps": 50}
    assert preset.config == STGConfig.paper().replace(added)
    assert preset.size == "paper" and preset.proposals == "detector" and PRESETS[f"{name}-small"].proposals is None
    assert preset.test_alpha == benchmark_alpha(name, "paper") == (alpha if name in TESTS else None)
    assert preset.test_only == (name in TESTS) and benchmark_alpha(name, "small") is None
    assert preset.crop_size == 512 and preset.lucid.margin == preset.config.proposals.crop_margin == 0.15
    assert preset.learning_rate == 1e-5 and preset.coco_steps > 0 and PRESETS[f"{name}-small"].size == "small"
    assert (preset.recipe, preset.graph_learning_rate, preset.config.loss.gamma) == ("printed", 0.1, 100)
    assert preset.segmentation_steps * preset.batch_size == pytest.approx(5 * preset.graph_steps, rel=1e-3), (
        "100 and 20"
    )
    own = preset.with_recipe("own")
    assert (own.recipe, own.graph_learning_rate, own.config.loss.reading) == ("own", 2e-4, "probability")


@pytest.mark.parametrize("preset", PRESETS.values(), ids=PRESETS)
def test_presets_fit_together(preset: Preset):
    assert preset.lucid.size % 16 == 0 and preset.crop_size % 16 == 0  # the network has four stages of stride 2
    last = preset.fine_lucid or preset.lucid
    if preset.backbone is None or preset.size == "paper":
        assert last.size == preset.crop_size, "the network is trained on crops of the size that it is used with"
    else:
        assert preset.crop_size in (last.size, 1.5 * last.size) and preset.crop_size % 32 == 0 == last.size % 32
    assert preset.config.warping.gaps[0] == 1, "Q of Eq. 6 is the warped mask of the frame before"
    assert (preset.train_split == preset.val_split) == preset.test_only == (preset.val_split == "all")
    counts = ("segmentation_steps", "batch_size", "graph_steps", "width", "detector_steps")
    assert all(getattr(preset, name) > 0 for name in counts)
    assert STGConfig.from_dict(preset.config.to_dict()) == preset.config
    sizes = {row.config.temporal.key_size for row in table_rows(preset.config) if row.config is not None}
    assert sizes == {preset.config.temporal.key_size}, "rows share the size of the keys"


def test_synthetic_splits_are_reproducible_and_disjoint():
    preset = find_preset("synthetic")
    one, again, other = (open_split(preset, split, None, seed=3) for split in ("train", "train", "test"))
    assert [video.name for video in one] == [video.name for video in again]
    np.testing.assert_array_equal(one[0].image(0), again[0].image(0))
    assert not {video.name for video in one} & {video.name for video in other}
    assert not np.array_equal(one[0].image(0), other[0].image(0))
    with pytest.raises(InputError, match=r"'dev' is unknown .*train"):
        open_split(preset, "dev", None)


@pytest.mark.parametrize("name", [name for name in PRESETS if name.endswith("-small") and name != "synthetic-small"])
def test_splits_of_presets_open(name, tmp_path):
    preset = find_preset(name)
    for root, words in ((None, "--root"), (tmp_path / "nowhere", str(tmp_path / "nowhere"))):
        with pytest.raises(InputError, match=words):
            open_split(preset, preset.val_split, root)
    root = write_fixture("davis2016" if preset.dataset == "composed" else preset.dataset, tmp_path, num_frames=6)
    names = []
    for split in (preset.train_split, preset.val_split):
        videos = open_split(preset, split, root)
        names.append({video.name for video in videos})
        given = videos[0].labels(min(videos[0].first_frame_of.values()))
        assert len(names[-1]) == len(videos) > 0 and given is not None and given.any()
    assert preset.test_only or not names[0] & names[1]


def test_training_sees_frames_with_masks_and_tests_see_all(tmp_path):
    preset, root = find_preset("youtube_vos"), write_fixture("youtube_vos", tmp_path)
    for split in ("train", "fit", "dev"):
        for video in open_split(preset, split, root):
            assert len(video) == 4 and all(video.annotated(t) for t in range(4))
    assert [len(video) for video in open_split(preset, "valid", root)] == [16, 16]
    assert [len(video.requested_frames) for video in open_split(preset, "val", root)] == [4, 3]


def test_composed_videos_are_made_of_davis_2016(tmp_path):
    preset, root = find_preset("composed"), write_fixture("davis2016", tmp_path)
    assert len(open_split(preset, "train", root)) == 12
    videos, again, other = (open_split(preset, "val", root, seed) for seed in (0, 0, 1))
    assert len(videos) == 6 and {video.name[4:] for video in videos} == {"cows", "libby"}
    np.testing.assert_array_equal(videos[3].image(2), again[3].image(2))
    assert not np.array_equal(videos[0].image(2), other[0].image(2))
    assert 2 <= len(videos[0].object_ids) <= 4


def test_folds_and_joined_splits(tmp_path):
    preset, root = find_preset("davis2016"), write_fixture("davis2016", tmp_path, num_frames=3)

    def names(split):
        return [video.name for video in open_split(preset, split, root)]

    both = names("train") + names("val")
    assert names("train+val") == both and len(set(both)) == len(both) > 2
    for fold in range(2):
        assert names(f"train+val:{fold}of2") == both[fold::2]
        assert sorted(names(f"train+val:{fold}of2") + names(f"train+val:not{fold}of2")) == sorted(both)
    for wrong, text in (
        ("train:2of2", "0of2"),
        ("train:x", "0of2"),
        ("train+train:0of2", "share"),
        ("val:8of9", "few"),
    ):
        with pytest.raises(InputError, match=text):
            names(wrong)


def test_full_resolution(tmp_path):
    root = write_fixture("davis2017", tmp_path, num_frames=2)
    preset = dataclasses.replace(find_preset("davis2017"), resolution="Full-Resolution")
    assert open_split(preset, "val", root)[0].size == (128, 192)
    assert open_split(find_preset("davis2017"), "test-dev", root)[0].size == (64, 96)


def test_rows_add_one_part_at_a_time():
    config = find_preset("davis2017").config
    rows = {row.name: row.config for row in table_rows(config)}
    assert rows["flow"] is None and rows["temporal"] == config
    switches = ("motion.enabled", "spatial.enabled", "temporal.enabled")
    steps = [tuple(rows[name].get(s) for s in switches) for name in ("baseline", "motion", "spatial", "temporal")]
    assert steps == [(False, False, False), (True, False, False), (True, True, False), (True, True, True)]
    for name in ("baseline", "motion", "spatial"):
        assert rows[name].replace(dict.fromkeys(switches, True)) == config, "nothing else changes"
    for path in (
        *("spatial.alpha", "spatial.num_steps", "spatial.edge_iou", "spatial.node_gate"),
        *("selection.lambda1", "selection.thr", "temporal.update", "loss.reading"),
    ):
        assert rows["printed"].get(path) == STGConfig.paper().get(path)


def test_table():
    rows = table_rows(STGConfig.small())
    scores = {
        row.name: {"J": {"mean": 50.0 + i}, "F": {"mean": 60.0}, "G": 55.0 + i / 2, "fps": 3.0}
        for i, row in enumerate(rows)
    }
    lines = format_table(scores, rows).splitlines()
    by_label = {line.split("|")[1].strip(): [cell.strip() for cell in line.split("|")[2:-1]] for line in lines[2:]}
    assert list(by_label) == [row.label for row in rows]
    assert by_label["+ temporal graph"] == ["54.0", "60.0", "57.0", "+0.5", "3.0"]
    assert by_label["baseline"][3] == by_label["flow only"][3] == ""
    assert len(format_table({"flow": scores["flow"]}, rows).splitlines()) == 3
