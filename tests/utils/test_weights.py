import argparse
import hashlib
import re
import socket

import pytest
import torch
import torchvision
from torchvision.models import Weights, WeightsEnum
from torchvision.models.segmentation import DeepLabV3_ResNet101_Weights

from experiments.common.cli import run
from experiments.common.weights_option import add_weights_argument
from stg_pyg import InputError
from stg_pyg.utils.pretrained import NETWORKS, _template, convert_rvos, load_torchvision


@pytest.fixture(autouse=True)
def no_network(monkeypatch, tmp_path):
    """Whatever would go out fails as it does offline, and is noted; the cache of torch.hub is empty."""
    tried = []

    def refuse(*args, **kwargs):
        tried.append(args)
        raise OSError("network is unreachable")

    monkeypatch.setattr(socket, "socket", refuse)
    monkeypatch.setattr(socket, "create_connection", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(torch.hub, "_hub_dir", None)
    return tried


@pytest.fixture
def cache(tmp_path):
    folder = tmp_path / "home" / "hub" / "checkpoints"
    folder.mkdir(parents=True)
    return folder


def shapes(name):
    """A state dict of a network that takes no room in memory nor on the disk."""
    return {key: torch.zeros((), dtype=v.dtype).expand(v.shape) for key, v in _template(name).state_dict().items()}


@pytest.fixture
def state():
    """Weights of resnet18 that differ from each other."""
    values = enumerate(shapes("resnet18").items())
    return {key: torch.tensor(k).to(zero.dtype).expand(zero.shape) for k, (key, zero) in values}


@pytest.fixture
def published(monkeypatch, tmp_path, state):
    """Weights of resnet18 at an address of this machine, whose name tells their hash."""
    folder = tmp_path / "server"
    folder.mkdir()
    torch.save(state, folder / "any")
    digest = hashlib.sha256((folder / "any").read_bytes()).hexdigest()
    path = (folder / "any").rename(folder / f"resnet18-{digest[:8]}.pth")

    class Published(WeightsEnum):
        V1 = Weights(url=path.as_uri(), transforms=None, meta={})
        DEFAULT = V1

    monkeypatch.setattr(torchvision.models, "get_model_weights", lambda name: Published)
    return path


def equal(found, expected):
    return found.keys() == expected.keys() and all(torch.equal(found[key], expected[key]) for key in expected)


def line_of(name, spec):
    with pytest.raises(InputError) as error:
        load_torchvision(name, spec)
    line = str(error.value)
    assert "\n" not in line
    return line


@pytest.mark.parametrize("spec", [None, "none"])
def test_no_weights(spec, no_network):
    assert load_torchvision("resnet101", spec) is None
    assert not no_network


@pytest.mark.parametrize("name", NETWORKS)
def test_a_folder_holds_the_files_of_all_networks(name, tmp_path, no_network):
    state = shapes(name)
    torch.save(state, tmp_path / f"{name}.pth")
    assert equal(load_torchvision(name, tmp_path), state)
    assert equal(load_torchvision(name, str(tmp_path / f"{name}.pth")), state)
    assert not no_network


@pytest.mark.parametrize("name", NETWORKS)
def test_missing_files_say_which_hash_and_folder(name, tmp_path, no_network):
    url = torchvision.models.get_model_weights(name).DEFAULT.url
    file = url.rsplit("/", 1)[1]
    digest = re.fullmatch(r".*-([0-9a-f]{8})\.pth", file)[1]
    for spec in (tmp_path, tmp_path / "absent.pth"):
        line = line_of(name, spec)
        assert line.startswith(f"{spec}: ")
        for part in (f"put {file}", f"SHA-256 {digest}", f"from {url}", f"into {tmp_path}"):
            assert part in line
    assert not no_network


def test_offline_auto_is_one_line(no_network, tmp_path, capsys):
    line = line_of("deeplabv3_resnet101", "auto")
    url = DeepLabV3_ResNet101_Weights.DEFAULT.url
    folder = tmp_path / "home" / "hub" / "checkpoints"
    assert no_network
    for part in ("network is unreachable", "SHA-256 586e9e4e", url, f"into {folder}", "PATH or none"):
        assert part in line
    assert line.startswith(f"{folder}/deeplabv3_resnet101_coco-586e9e4e.pth: not there")
    assert not list(folder.iterdir())
    capsys.readouterr()
    with pytest.raises(SystemExit) as status:
        run(lambda: load_torchvision("raft_small", "auto"))
    assert status.value.code == 2 and capsys.readouterr().err.count("\n") == 1


def test_auto_takes_the_cache(published, cache, no_network, state):
    published.rename(cache / published.name)
    assert equal(load_torchvision("resnet18", "auto"), state)
    assert not no_network


def test_auto_downloads_into_the_cache(published, cache, state):
    assert equal(load_torchvision("resnet18", "auto"), state)
    assert (cache / published.name).read_bytes() == published.read_bytes()


def test_auto_replaces_a_damaged_file_when_it_can(published, cache, state):
    (cache / published.name).write_bytes(published.read_bytes()[:1000])
    hidden = published.rename(published.with_suffix(".hidden"))
    assert line_of("resnet18", "auto").startswith(f"{cache / published.name}: damaged and cannot be downloaded")
    assert (cache / published.name).stat().st_size == 1000
    hidden.rename(published)
    assert equal(load_torchvision("resnet18", "auto"), state)
    assert (cache / published.name).read_bytes() == published.read_bytes()


def test_auto_refuses_what_is_not_the_published_file(published, cache):
    published.write_bytes(b"another file")
    assert "invalid hash value" in line_of("resnet18", "auto")
    assert not list(cache.iterdir())


def test_a_folder_prefers_the_published_name(published, state):
    torch.save(shapes("resnet18"), published.parent / "resnet18.pth")
    assert equal(load_torchvision("resnet18", published.parent), state)


@pytest.mark.parametrize("by", ["file", "folder"])
def test_a_copy_that_broke_off_is_refused(published, by):
    published.write_bytes(published.read_bytes()[:-100])
    line = line_of("resnet18", published if by == "file" else published.parent)
    assert line.startswith(f"{published}: damaged or not copied to its end")
    assert f"put {published.name} (SHA-256 {published.stem[-8:]}" in line and f"into {published.parent}" in line


def changed(state, kind):
    if kind == "shape":
        state["layer2.0.conv1.weight"] = torch.zeros(128, 64, 5, 5)
    elif kind == "missing":
        del state["layer3.0.conv2.weight"]
    elif kind == "unexpected":
        state["layer5.weight"] = torch.zeros(1)
    elif kind == "number":
        state["epoch"] = 3
    return state


@pytest.mark.parametrize(
    ("kind", "problem"),
    [
        ("shape", "'layer2.0.conv1.weight' has shape [128, 64, 5, 5] instead of [128, 64, 3, 3]"),
        ("missing", "'layer3.0.conv2.weight' is missing"),
        ("unexpected", "'layer5.weight' is not in the network"),
        ("number", "'epoch' is no tensor"),
    ],
)
def test_the_first_wrong_weight_is_named(kind, problem, tmp_path):
    path = tmp_path / "own.pth"
    torch.save(changed(shapes("resnet18"), kind), path)
    line = line_of("resnet18", path)
    assert line.startswith(f"{path}: not a torchvision state dict of resnet18 (") and problem in line


def test_weights_of_another_network_are_refused(tmp_path):
    torch.save(shapes("raft_small"), tmp_path / "own.pth")
    for name in set(NETWORKS) - {"raft_small"}:
        assert f"not a torchvision state dict of {name}" in line_of(name, tmp_path / "own.pth")


@pytest.mark.parametrize("classes", [None, 1, 1000])
def test_the_classifier_of_a_resnet_does_not_matter(classes, tmp_path):
    state = {key: value for key, value in shapes("resnet18").items() if not key.startswith("fc.")}
    backbone = set(state)
    if classes:
        state |= {"fc.weight": torch.zeros(classes, 512), "fc.bias": torch.zeros(classes)}
    torch.save(state, tmp_path / "own.pth")
    found = load_torchvision("resnet18", tmp_path / "own.pth")
    assert set(found) - backbone == ({"fc.weight", "fc.bias"} if classes == 1000 else set())


def test_the_classifiers_of_deeplab_do_not_matter_but_its_pyramid_does(tmp_path):
    state = {key: v for key, v in shapes("deeplabv3_resnet101").items() if not key.startswith("aux_classifier.")}
    state["classifier.4.weight"] = torch.zeros(2, 256, 1, 1)
    torch.save(state, tmp_path / "own.pth")
    found = load_torchvision("deeplabv3_resnet101", tmp_path / "own.pth")
    assert set(state) - set(found) == {"classifier.4.weight"}
    state["classifier.0.convs.1.0.weight"] = torch.zeros(1)
    torch.save(state, tmp_path / "own.pth")
    assert "'classifier.0.convs.1.0.weight' has shape [1]" in line_of("deeplabv3_resnet101", tmp_path / "own.pth")


def old_name(name):
    name = name.replace("rpn.head.conv.0.0.", "rpn.head.conv.")
    name = re.sub(r"(inner|layer)_blocks\.(\d)\.0\.", r"\1_blocks.\2.", name)
    return re.sub(r"mask_head\.(\d)\.0\.", lambda found: f"mask_head.mask_fcn{int(found[1]) + 1}.", name)


def test_files_of_older_versions_get_their_present_names(tmp_path):
    state = shapes("maskrcnn_resnet50_fpn")
    old = {old_name(key): value for key, value in state.items() if "num_batches_tracked" not in key}
    assert set(old) - set(state)
    torch.save(old, tmp_path / "own.pth")
    assert load_torchvision("maskrcnn_resnet50_fpn", tmp_path / "own.pth").keys() == state.keys()


@pytest.mark.parametrize("prefix", ["", "module."])
@pytest.mark.parametrize("nested", [False, True])
def test_the_encoder_of_rvos(prefix, nested, state, tmp_path):
    heads = {f"{head}{k}.weight": torch.zeros(2) for head in ("sk", "bn") for k in range(2, 6)}
    rvos = {prefix + name: v for name, v in {**{f"base.{n}": v for n, v in state.items()}, **heads}.items()}
    rvos = {"state_dict": rvos, "epoch": 7} if nested else rvos
    assert equal(convert_rvos(rvos), state)
    torch.save(rvos, tmp_path / "encoder.pt")
    assert equal(load_torchvision("resnet18", tmp_path / "encoder.pt"), state)
    assert equal(load_torchvision("resnet18", tmp_path), state)


def test_an_encoder_of_rvos_with_other_weights_is_refused(tmp_path):
    state = {f"base.{name}": value for name, value in shapes("resnet18").items()}
    torch.save({**state, "decoder.weight": torch.zeros(1)}, tmp_path / "encoder.pt")
    assert "'decoder.weight' is not in the network" in line_of("resnet18", tmp_path / "encoder.pt")
    assert "not a torchvision state dict of resnet34" in line_of("resnet34", tmp_path / "encoder.pt")
    with pytest.raises(ValueError, match="base"):
        convert_rvos(shapes("resnet18"))


def test_code_in_a_file_is_not_run(tmp_path):
    class Harmful:
        def __reduce__(self):
            return (open, (str(tmp_path / "written"), "w"))

    torch.save({"conv1.weight": Harmful()}, tmp_path / "own.pth")
    line_of("resnet18", tmp_path / "own.pth")
    assert not (tmp_path / "written").exists()


def test_the_argument():
    parser = argparse.ArgumentParser()
    add_weights_argument(parser, "none")
    assert parser.parse_args([]).weights == "none"
    assert parser.parse_args(["--weights", "some/file.pth"]).weights == "some/file.pth"
    assert "--weights auto|none|PATH" in parser.format_help()
