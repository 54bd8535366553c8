"""Trains STG-Net and scores it: python -m experiments.train"""

from __future__ import annotations

import argparse
import copy
import dataclasses
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
import torchvision
from torch import nn
from torch.nn.parameter import is_lazy

from datasets.base import VideoSequence
from datasets.cache import cached
from datasets.coco import COCO
from datasets.stills import Stills
from experiments.common import checkpoints, cli, distributed
from experiments.common.constants import add_constants, with_constants
from experiments.common.layers_option import add_layers, with_layers
from experiments.common.presets import PRESETS, Preset, find_preset, open_split
from experiments.common.proposals_option import BESIDE, DETECTOR, add_proposals, find_proposals, proposals_spec
from experiments.runs.rows import format_table, table_rows
from experiments.runs.scoring import Job, score_videos, summarize_row
from experiments.runs.settings import path_state, state_digest, weights_digest
from experiments.train import process_group
from experiments.train.board import check_installed
from experiments.train.stages.detector import evaluate_detector, load_detector, train_detector
from experiments.train.stages.graph import CLIP_FRAMES, train_graph
from experiments.train.stages.segmentation import evaluate_segmentation, load_segmentation, train_segmentation
from experiments.train.trainer import PRECISIONS, Log, choose_precision
from stg_pyg.errors import InputError
from stg_pyg.lucid.samples import AnnotatedVideo
from stg_pyg.model.stgnet import STGNet
from stg_pyg.nn.detector.mask_rcnn import Detector
from stg_pyg.utils.images import write_json, write_text

FINE = "segmentation_fine.pt"
STAGES = ("detector", "segmentation", "graph", "table", "all")


def parse() -> argparse.Namespace:
    parser = cli.make_parser(
        "Trains the segmentation network and the spatiotemporal graph and prints the table of what each part adds. "
        "Without arguments: synthetic videos, made from the seed, in minutes on a CPU.",
        out="runs/train",
    )
    parser.add_argument("--preset", default="synthetic", help=f"one of {', '.join(PRESETS)}")
    parser.add_argument("--root", type=Path, help="folder of the data set (not for synthetic)")
    parser.add_argument("--split", help="videos to train on; default: the preset's")
    parser.add_argument("--val-split", help="videos to score on; default: the preset's")
    parser.add_argument(
        "--stage",
        choices=STAGES,
        default="all",
        help="do this stage only; all is segmentation, graph and table, and for a paper preset the detector before "
        "them, which the small method does not need: its proposals come from propagation",
    )
    parser.add_argument("--resume", action="store_true", help="go on from the checkpoints in --out")
    parser.add_argument(
        "--coco",
        type=Path,
        metavar="ROOT",
        help="train detector and segmentation network on COCO first; "
        "the paper's detector then starts from ImageNet's ResNet-50, without it from COCO's Mask R-CNN",
    )
    parser.add_argument("--coco-split", default="train2017", help="images of COCO to train on")
    lengths = {
        "--coco-steps": "length of the phase on COCO",
        "--detector-steps": "length of the detector's stage",
        "--segmentation-steps": "length of the first phase of the segmentation network",
        "--fine-steps": "length of its second phase, with lucid dreams",
        "--graph-steps": "frames of videos that the graph is trained on",
        "--online-steps": "steps of online learning on a first frame",
        "--batch-size": "samples of a step of detector or segmentation, over all processes",
        "--graph-batch-size": "clips of a step of the graph, over all processes",
        "--crop-size": "side in pixels of the crops that the segmentation network is trained on and used with",
        "--detector-size": "shorter side in pixels of the pictures of the detector",
    }
    for option, text in lengths.items():
        parser.add_argument(option, type=cli.whole, help=f"{text}; default: the preset's")
    add_layers(parser, "the preset's")
    add_constants(parser)
    parser.add_argument(
        "--weights",
        metavar="auto|none|imagenet|PATH",
        help="pretrained weights that the networks start from. Small presets: imagenet (default), installed for "
        "tf_efficientnet_lite0 and timm's own for other backbones; none; a state dict of timm's model. Paper presets: "
        "auto (default), torchvision's; none; a folder with torchvision's files, with the paper's rvos.pt for X; for "
        "--stage detector also a file; experiments.weights checks them",
    )
    parser.add_argument(
        "--backbone",
        help="what the networks of a small preset look through: a model of timm, or small, which is learned from "
        "random weights; a name that ends in +q: Q enters after its stem, too, and proposals share no pass of it. Of a "
        "paper preset: a ResNet of torchvision for all networks, such as resnet18; default: the preset's",
    )
    parser.add_argument(
        "--recipe",
        choices=("printed", "own"),
        help="how a paper preset is trained: as printed (default), or by our optimiser, rates and loss",
    )
    add_proposals(parser)
    parser.add_argument(
        "--static",
        type=Path,
        metavar="DIR",
        help="pictures to train the segmentation network on beside the videos: DIR/images, DIR/masks/<name>.png",
    )
    parser.add_argument(
        "--init",
        type=Path,
        metavar="C",
        help="checkpoint.pt (detector.pt for --stage detector) of an earlier run to start from, as the paper starts on "
        "DAVIS from YouTube-VOS",
    )
    parser.add_argument(
        "--accumulate",
        type=cli.whole,
        default=1,
        help="parts that a process takes its samples of a step in, for memory",
    )
    parser.add_argument(
        "--precision",
        choices=("auto", *PRECISIONS),
        default="auto",
        help="of the forward pass; auto: bfloat16 where it is fast",
    )
    parser.add_argument("--tensorboard", action="store_true", help="write curves and pictures to OUT/tensorboard")
    parser.add_argument("--workers", type=cli.whole, default=1, help="processes that draw training samples")
    parser.add_argument(
        "--threads",
        type=cli.whole,
        default=0,
        help="of training on the CPU, on whose number rounding depends; 0: the cores that --workers leave",
    )
    parser.add_argument("--processes", type=cli.whole, default=0, help="sequences scored at a time; 0: one a core")
    parser.add_argument("--cache-gb", type=float, default=4.0, help="memory for decoded frames")
    return parser.parse_args()


def preset_of(args: argparse.Namespace) -> Preset:
    """The preset with what the options change.

    Raises:
        InputError: options do not go with it or with each other.
    """
    preset = find_preset(args.preset)
    lengths = ("detector_steps", "coco_steps", "segmentation_steps", "fine_steps", "graph_steps", "detector_size")
    changes = {name: getattr(args, name) for name in (*lengths, "batch_size", "graph_batch_size")}
    changes |= {"detector_batch_size": args.batch_size, "train_split": args.split, "val_split": args.val_split}
    config = preset.config
    if args.online_steps is not None:
        config = config.replace("online.steps", args.online_steps)
    config = with_constants(with_layers(config, args.spatial_conv, args.temporal_conv), args.set)
    changes = {name: value for name, value in changes.items() if value is not None}
    preset = dataclasses.replace(preset, config=config, **changes)
    if args.recipe is not None and find_preset(args.preset).recipe == "own":
        raise InputError(f"--recipe {args.recipe}: preset {preset.name} has one recipe; a paper preset has two")
    preset = preset.with_recipe(args.recipe or preset.recipe)
    if args.crop_size is not None:
        preset = with_crops(preset, args.crop_size)
    for option in ("batch_size", "graph_batch_size", "accumulate"):
        if getattr(args, option) == 0:
            raise InputError(f"--{option.replace('_', '-')} 0: give at least 1")
    frames = CLIP_FRAMES * preset.graph_batch_size
    if 0 < preset.graph_steps < frames:
        raise InputError(f"--graph-steps {preset.graph_steps}: a step takes {frames} frames, give 0 or at least that")
    if find_preset(args.preset).test_only:
        raise InputError(f"--preset {args.preset}: has no videos to train on; train on another and evaluate there")
    if args.backbone is not None:
        resnets = [name for name in torchvision.models.list_models() if re.fullmatch(r"resnet\d+", name)]
        if preset.size != "small" and args.backbone not in resnets:
            raise InputError(f"--backbone {args.backbone}: preset {preset.name} takes one of {', '.join(resnets)}")
        preset = dataclasses.replace(preset, backbone=None if args.backbone == "small" else args.backbone)
    from_scratch = preset.size == "small" and (preset.backbone is None or args.stage == "detector")
    if from_scratch and args.weights not in (None, "none"):
        raise InputError(
            f"--weights {args.weights}: the networks of preset {preset.name} have no pretrained weights; choose a "
            "--backbone or a paper preset"
        )
    of_many = preset.size == "paper" and args.stage != "detector" and args.init is None
    if of_many and args.weights not in (None, "auto", "none") and not Path(args.weights).is_dir():
        raise InputError(
            f"--weights {args.weights}: preset {preset.name} starts from three networks, which no one file holds; give "
            "a folder with resnet101.pth (or rvos.pt), resnet50.pth and deeplabv3_resnet101.pth, or these under "
            "torchvision's names"
        )
    return preset


def proposals_of(
    args: argparse.Namespace, preset: Preset, videos: Sequence[VideoSequence], device: torch.device
) -> Path | None:
    """Where the proposals of videos come from, those of the detector of this training if the preset has one."""
    spec, checkpoint = proposals_spec(args.proposals, preset), args.out / "checkpoint.pt"
    return find_proposals(spec, args.detector, checkpoint, videos, preset, args.out, device, args.seed)


def with_crops(preset: Preset, size: int) -> Preset:
    """The preset with crops of another size, in all phases.

    Raises:
        InputError: the network has no use for it.
    """
    if size < 32 or size % 32:
        raise InputError(f"--crop-size {size}: give a multiple of 32")
    fine = preset.fine_lucid and dataclasses.replace(preset.fine_lucid, size=size)
    lucid = dataclasses.replace(preset.lucid, size=size)
    return dataclasses.replace(preset, crop_size=size, lucid=lucid, fine_lucid=fine)


def score_table(args: argparse.Namespace, preset: Preset) -> None:
    """Scores all rows on the validation videos; writes the masks, ``table.json``, ``table.md`` and ``metrics.json``."""
    rows = table_rows(preset.config)
    videos = open_split(preset, preset.val_split, args.root, args.seed)
    checkpoint = args.out / "checkpoint.pt"
    device = cli.choose_device(args.device)
    job = Job(
        checkpoint,
        preset,
        preset.val_split,
        args.root,
        tuple(rows),
        args.out,
        device.type,
        args.seed,
        overlays=True,
        proposals=proposals_of(args, preset, videos, device),
    )
    results = score_videos(job, [video.name for video in videos], args.processes)
    summaries = {row.name: summarize_row(results, row.name, row.config) for row in rows}
    write_json(args.out / "table.json", summaries)
    write_json(args.out / "metrics.json", summaries["temporal"])
    table = format_table(summaries, rows)
    write_text(args.out / "table.md", table + "\n")
    print(f"\n{preset.val_split} of {preset.dataset}, {len(videos)} videos:\n\n{table}\n")


def build_model(args: argparse.Namespace, preset: Preset) -> STGNet:
    """The network of a preset, from the weights of ``--init`` or ``--weights``."""
    if args.init is None:
        return checkpoints.build_model(preset, weights=weights_of(args, preset))
    earlier, origin = checkpoints.load_model(args.init)
    if (origin.size, origin.width, origin.backbone) != (preset.size, preset.width, preset.backbone):
        raise InputError(f"{args.init}: is of preset {origin.name}, whose networks are not those of {preset.name}")
    model = checkpoints.build_model(preset)
    wanted = model.state_dict()
    model.load_state_dict({name: value for name, value in earlier.state_dict().items() if name in wanted}, strict=False)
    return model


def weights_of(args: argparse.Namespace, preset: Preset) -> str:
    """What ``--weights`` says: ``auto``, ``none``, ``imagenet`` or a path."""
    if args.weights is not None and not (args.weights == "auto" and preset.size == "small"):
        return str(args.weights)
    return "auto" if preset.size == "paper" else "none" if preset.backbone is None else "imagenet"


def origin_of(args: argparse.Namespace, preset: Preset) -> dict[str, Any]:
    """What the weights are before the training of a stage, as plain values."""
    spec = weights_of(args, preset)
    return {
        "init": path_state(args.init),
        "weights": spec if spec in ("auto", "none", "imagenet") else path_state(Path(spec)),
        "coco": args.coco and [args.coco_split, state_digest([COCO.file_of(args.coco, args.coco_split)])],
        "static": args.static is not None,  # its files are among those of the videos
    }


def build_detector(args: argparse.Namespace, preset: Preset) -> Detector:
    """The detector of a preset; one that is resumed needs no pretrained weights."""
    for name in ("detector.pt", "detector_coco.pt"):
        if args.resume and (args.out / name).is_file():
            return load_detector(args.out / name)
    earlier = earlier_detector(args)
    if earlier is not None:
        return load_detector(earlier)
    if preset.size == "small":
        return Detector.small(preset.detector_width, preset.detector_size)
    made_of: dict[str, Any] = {"backbone": preset.backbone or "resnet50", "imagenet": args.coco is not None}
    if args.detector_size is not None:
        made_of["size"] = args.detector_size
    return Detector.one_class(weights_of(args, preset), **made_of)


def earlier_detector(args: argparse.Namespace) -> Path | None:
    """The detector that ``--init`` says to start from, of all stages the one beside that checkpoint.

    Raises:
        InputError: there is none beside it.
    """
    if args.init is None or args.stage == "detector":
        return args.init
    beside: Path = args.init.parent / BESIDE
    if not beside.is_file():
        raise InputError(f"{beside}: no such file; put the detector of {args.init} there, or give it with --detector")
    return beside


def trains_detector(args: argparse.Namespace, preset: Preset) -> bool:
    """Whether the detector is one of the stages: alone, or where the proposals are to be its own."""
    if args.stage != "all":
        return bool(args.stage == "detector")
    return args.detector is None and proposals_spec(args.proposals, preset) == DETECTOR


def train_in_phases(
    train: Callable[..., Log],
    net: nn.Module,
    videos: Sequence[AnnotatedVideo],
    preset: Preset,
    name: str,
    args: argparse.Namespace,
    options: dict[str, Any],
) -> None:
    """Trains on COCO, if it is given, into ``<name>_coco.pt`` and then on the videos into ``<name>.pt``."""
    first, second = (args.out / f"{name}{phase}.pt" for phase in ("_coco", ""))
    begun = args.resume and second.is_file()
    if args.coco is not None and begun and not first.is_file():
        raise InputError(f"{second}: was not started from COCO; take --coco away, or choose another --out")
    if args.coco is not None and not begun:
        steps, longer = preset.coco_steps, preset
        if steps:
            longer = dataclasses.replace(preset, detector_steps=steps, segmentation_steps=steps)
        log = train(net, COCO(args.coco, args.coco_split), longer, first, **options)
        write_log(args.out / f"{name}_coco_log.json", log)
    log = train(net, videos, preset, second, **options)
    write_log(args.out / f"{name}_log.json", log)


def write_log(path: Path, log: Log) -> None:
    """Writes the log of a stage once, however many processes have it."""
    if process_group.is_main():
        write_json(path, log)


def score_detector(args: argparse.Namespace, preset: Preset, detector: Detector) -> None:
    """Recall of the proposals on the validation videos: ``detector.json``, ``detector.md``."""
    scores, table = evaluate_detector(detector, open_split(preset, preset.val_split, args.root, args.seed))
    write_json(args.out / "detector.json", scores)
    write_text(args.out / "detector.md", table + "\n")
    print(f"\nproposals on {preset.val_split} of {preset.dataset}, recall in percent:\n\n{table}\n")


def score_segmentation(args: argparse.Namespace, preset: Preset, net: nn.Module) -> None:
    """J of crops of the validation videos with and without Q: ``segmentation.json``."""
    scores = evaluate_segmentation(net, open_split(preset, preset.val_split, args.root, args.seed), preset)
    write_json(args.out / "segmentation.json", scores)
    with_q, without = scores["with_q"], scores["without_q"]
    print(f"{scores['crops']} crops of {preset.val_split}: J {with_q:.1f} with Q, {without:.1f} without")


def train_stages(args: argparse.Namespace, preset: Preset, device: torch.device) -> Detector | STGNet:
    """Trains what ``--stage`` says; returns the detector, if it is that alone, or the model."""
    videos = cached(open_split(preset, preset.train_split, args.root, args.seed), args.cache_gb)
    common = {
        "device": device,
        "precision": choose_precision(args.precision, device),
        "seed": args.seed,
        "resume": args.resume,
        "tensorboard": args.out / "tensorboard" if args.tensorboard else None,
        "origin": origin_of(args, preset),
    }
    in_batches = common | {"workers": args.workers, "accumulate": args.accumulate}
    model = None if args.stage == "detector" else build_model(args, preset)
    if trains_detector(args, preset):
        options = in_batches | {"origin": {**common["origin"], "init": path_state(earlier_detector(args))}}
        detector = build_detector(args, preset)
        train_in_phases(train_detector, detector, videos, preset, "detector", args, options)
    if model is None:
        return detector
    assert model.segmentation is not None
    if preset.graph_steps == 0 and any(is_lazy(value) for value in model.parameters()):
        name = preset.config.spatial.conv
        raise InputError(f"--graph-steps 0: the first step shapes the {name} layer; train it or take another")
    if args.stage in ("segmentation", "all"):
        shown = videos + (cached(list(Stills(args.static)), args.cache_gb / 4) if args.static is not None else [])
        train_in_phases(train_segmentation, model.segmentation, shown, preset, "segmentation", args, in_batches)
        if preset.fine is not None:
            in_batches["origin"] = weights_digest(model.segmentation)
            log = train_segmentation(model.segmentation, shown, preset.fine, args.out / FINE, **in_batches)
            write_log(args.out / "fine_log.json", log)
    elif args.stage == "graph":
        load_segmentation(model.segmentation, args.out / (FINE if preset.fine is not None else "segmentation.pt"))
    if args.stage in ("graph", "all"):
        proposals = proposals_of(args, preset, videos, device)
        log = train_graph(model, videos, preset, args.out / "graph.pt", proposals, **common)
        write_log(args.out / "graph_log.json", log)
        if process_group.is_main():
            checkpoints.save_model(args.out / "checkpoint.pt", model, preset, args.seed)
            if preset.fine is not None:
                save_base(args, preset, model)
    return model


def save_base(args: argparse.Namespace, preset: Preset, model: STGNet) -> None:
    """The model with the segmentation network of the first phase: ``checkpoint_base.pt``, without FT of Table 4."""
    base = copy.deepcopy(model)
    assert base.segmentation is not None
    load_segmentation(base.segmentation, args.out / "segmentation.pt")
    preset = dataclasses.replace(preset, crop_size=preset.lucid.size)
    checkpoints.save_model(args.out / "checkpoint_base.pt", base, preset, args.seed)


def main() -> None:
    args = parse()
    preset = preset_of(args)
    if args.tensorboard:
        check_installed()
    device = distributed.device_of_rank(cli.choose_device(args.device))
    choose_precision(args.precision, device)
    cli.make_folder(args.out)
    cli.seed_everything(args.seed)
    # Threads that wait for a core which draws samples cost more than they bring.
    torch.set_num_threads(args.threads or max(1, distributed.processes_of_rank("cpu") - args.workers))
    open_split(preset, preset.val_split, args.root, args.seed)  # fails now rather than after hours of training
    with process_group.joined(device):
        trained = train_stages(args, preset, device)
    is_main = distributed.world().rank == 0
    if is_main and trains_detector(args, preset):
        found = trained if isinstance(trained, Detector) else load_detector(args.out / BESIDE).to(device)
        score_detector(args, preset, found)
    if is_main and args.stage == "segmentation" and isinstance(trained, STGNet) and trained.segmentation is not None:
        score_segmentation(args, preset, trained.segmentation)
    if args.stage in ("table", "all"):
        score_table(args, preset)
        checkpoint, out = args.out / "checkpoint.pt", args.out
        print(f"checkpoint {checkpoint}, masks and overlays in {out}/temporal, scores in {out}/metrics.json")
