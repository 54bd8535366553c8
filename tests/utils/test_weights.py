import hashlib
import re
import socket

import pytest
import torch
import torchvision
from torchvision.models import Weights, WeightsEnum
from torchvision.transforms.functional import normalize

from stg_pyg import InputError
from stg_pyg.ops.crops import normalize_image
from stg_pyg.utils.pretrained import PAPER_PARTS, _template, convert_rvos, load_torchvision, weights_file

NETWORKS = list(dict.fromkeys(part.network for part in PAPER_PARTS))


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
    torch.save(state, tmp_path / "any")
    digest = hashlib.sha256((tmp_path / "any").read_bytes()).hexdigest()
    (tmp_path / "server").mkdir()
    path = (tmp_path / "any").rename(tmp_path / "server" / f"resnet18-{digest[:8]}.pth")

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


@pytest.mark.parametrize("name", NETWORKS)
def test_files_of_all_networks_are_found_or_asked_for(name, tmp_path, no_network):
    url = torchvision.models.get_model_weights(name).DEFAULT.url
    file = url.rsplit("/", 1)[1]
    digest = re.fullmatch(r".*-([0-9a-f]{8})\.pth", file)[1]
    for spec in (tmp_path, tmp_path / "absent.pth"):
        line = line_of(name, spec)
        assert line.startswith(f"{spec}: ")
        for part in (f"put {file}", f"SHA-256 {digest}", f"from {url}", f"into {tmp_path}"):
            assert part in line
    state = shapes(name)
    torch.save(state, tmp_path / f"{name}.pth")
    assert equal(load_torchvision(name, tmp_path), state)
    assert equal(load_torchvision(name, str(tmp_path / f"{name}.pth")), state)
    other = NETWORKS[NETWORKS.index(name) - 1]
    assert f"not a torchvision state dict of {other}" in line_of(other, tmp_path / f"{name}.pth")
    assert load_torchvision(name, None) is load_torchvision(name, "none") is None
    assert not no_network


def test_offline_auto_is_one_line(no_network, tmp_path):
    line = line_of("deeplabv3_resnet101", "auto")
    folder = tmp_path / "home" / "hub" / "checkpoints"
    assert no_network
    for part in ("network is unreachable", "SHA-256 586e9e4e", "from https://", f"into {folder}", "PATH or none"):
        assert part in line
    assert line.startswith(f"{folder}/deeplabv3_resnet101_coco-586e9e4e.pth: not there")
    assert not list(folder.iterdir())


def test_auto_downloads_into_the_cache_once_and_mends_it(published, tmp_path, state):
    cached, content = tmp_path / "home" / "hub" / "checkpoints" / published.name, published.read_bytes()
    assert equal(load_torchvision("resnet18", "auto"), state) and cached.read_bytes() == content
    published.write_bytes(b"another file")
    assert equal(load_torchvision("resnet18", "auto"), state)
    cached.write_bytes(content[:1000])
    assert "invalid hash value" in line_of("resnet18", "auto")
    published.unlink()
    assert line_of("resnet18", "auto").startswith(f"{cached}: damaged and cannot be downloaded")
    assert cached.stat().st_size == 1000
    published.write_bytes(content)
    assert equal(load_torchvision("resnet18", "auto"), state) and cached.read_bytes() == content


def test_a_copy_that_broke_off_is_refused(published, state):
    torch.save(shapes("resnet18"), published.parent / "resnet18.pth")
    assert equal(load_torchvision("resnet18", published.parent), state), "a folder prefers the published name"
    published.write_bytes(published.read_bytes()[:-100])
    for spec in (published, published.parent):
        line = line_of("resnet18", spec)
        assert line.startswith(f"{published}: damaged or not copied to its end")
        assert f"put {published.name} (SHA-256 {published.stem[-8:]}" in line and f"into {published.parent}" in line


@pytest.mark.parametrize(
    ("name", "value", "problem"),
    [
        ("layer2.0.conv1.weight", torch.zeros(128, 64, 5, 5), "has shape [128, 64, 5, 5] instead of [128, 64, 3, 3]"),
        ("layer3.0.conv2.weight", None, "is missing"),
        ("layer5.weight", torch.zeros(1), "is not in the network"),
        ("epoch", 3, "is no tensor"),
    ],
)
def test_the_first_wrong_weight_is_named(name, value, problem, tmp_path):
    state = {**shapes("resnet18"), name: value}
    torch.save({key: value for key, value in state.items() if value is not None}, tmp_path / "own.pth")
    line = line_of("resnet18", tmp_path / "own.pth")
    assert line.startswith(f"{tmp_path / 'own.pth'}: not a torchvision state dict of resnet18 (")
    assert f"{name!r} {problem}" in line


def test_classifiers_do_not_matter_but_the_pyramid_of_deeplab_does(tmp_path):
    backbone = {key: value for key, value in shapes("resnet18").items() if not key.startswith("fc.")}
    for classes in (0, 1, 1000):
        head = {"fc.weight": torch.zeros(classes, 512), "fc.bias": torch.zeros(classes)} if classes else {}
        torch.save({**backbone, **head}, tmp_path / "own.pth")
        found = load_torchvision("resnet18", tmp_path / "own.pth")
        assert set(found) - set(backbone) == (set(head) if classes == 1000 else set())
    state = {key: v for key, v in shapes("deeplabv3_resnet101").items() if not key.startswith("aux_classifier.")}
    state["classifier.4.weight"] = torch.zeros(2, 256, 1, 1)
    torch.save(state, tmp_path / "own.pth")
    found = load_torchvision("deeplabv3_resnet101", tmp_path / "own.pth")
    assert set(state) - set(found) == {"classifier.4.weight"}
    state["classifier.0.convs.1.0.weight"] = torch.zeros(1)
    torch.save(state, tmp_path / "own.pth")
    assert "'classifier.0.convs.1.0.weight' has shape [1]" in line_of("deeplabv3_resnet101", tmp_path / "own.pth")


@pytest.mark.parametrize("name", ["resnet101", "resnet50", "deeplabv3_resnet101"])
def test_pictures_are_normalised_as_the_weights_expect(name):
    image, expected = torch.rand(3, 4, 5), torchvision.models.get_model_weights(name).DEFAULT.transforms()
    torch.testing.assert_close(normalize_image(image), normalize(image, expected.mean, expected.std))


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


def test_the_encoder_of_rvos(state, tmp_path):
    heads = {f"{head}{k}.weight": torch.zeros(2) for head in ("sk", "bn") for k in range(2, 6)}
    rvos = {**{f"base.{name}": value for name, value in state.items()}, **heads}
    wrapped = {"state_dict": {f"module.{name}": value for name, value in rvos.items()}, "epoch": 7}
    for content in (rvos, wrapped):
        assert equal(convert_rvos(content), state)
        torch.save(content, tmp_path / "encoder.pt")
        assert equal(load_torchvision("resnet18", tmp_path / "encoder.pt"), state)
    assert "not a torchvision state dict of resnet34" in line_of("resnet34", tmp_path / "encoder.pt")
    with pytest.raises(ValueError, match="base"):
        convert_rvos(state)


def test_x_takes_the_encoder_of_rvos_by_name_and_k_never(tmp_path):
    folder = tmp_path / "home" / "hub" / "checkpoints"
    for part in (
        "put encoder.pt of a released model of RVOS",
        "github.com/imatge-upc/rvos",
        f"{folder}: holds no rvos",
    ):
        assert part in line_of("resnet101", "rvos")
    assert "are those of a resnet101, not of a resnet50" in line_of("resnet50", "rvos")
    state = {key: value for key, value in shapes("resnet101").items() if not key.startswith("fc.")}
    folder.mkdir(parents=True)
    for name in ("resnet101", "resnet50"):
        torch.save(shapes(name), folder / f"{name}.pth")
    assert load_torchvision("resnet101", folder).keys() - state.keys() == {"fc.weight", "fc.bias"}
    for file in ("encoder.pt", "rvos.pt"):
        torch.save({f"base.{name}": value for name, value in state.items()}, folder / file)
        for spec in ("rvos", folder):
            assert weights_file("resnet101", spec) == folder / file and equal(
                load_torchvision("resnet101", spec), state
            )
    assert weights_file("resnet50", folder) == folder / "resnet50.pth"
    (folder / "resnet50.pth").unlink()
    assert "holds neither resnet50-11ad3fa6.pth nor resnet50.pth" in line_of("resnet50", folder)


def test_code_in_a_file_is_not_run(tmp_path):
    class Harmful:
        def __reduce__(self):
            return (open, (str(tmp_path / "written"), "w"))

    torch.save({"conv1.weight": Harmful()}, tmp_path / "own.pth")
    line_of("resnet18", tmp_path / "own.pth")
    assert not (tmp_path / "written").exists()
