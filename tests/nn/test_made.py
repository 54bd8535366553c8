"""Layers as texts."""

import pytest
import torch
from own_layers import Blend

from stg_pyg import InputError
from stg_pyg.nn import AttentionPropagation, MaskPropagation, SymmetricPropagation, resolve_spatial_conv
from stg_pyg.nn.made import arguments_of, find_class, format_layer, keeps_arguments, parse_layer, path_of

TEXTS = {
    "stg": ("stg", {}),
    "GraphConv:aggr=mean": ("GraphConv", {"aggr": "mean"}),
    "own_layers:Blend": ("own_layers:Blend", {}),
    "own_layers:Blend:share=0.25,kind=max": ("own_layers:Blend", {"share": 0.25, "kind": "max"}),
    "a.b:C.D:n=-3,flag=True,nothing=None": ("a.b:C.D", {"n": -3, "flag": True, "nothing": None}),
    "X:sizes=(1, 2),words=['a', 'b,c=d']": ("X", {"sizes": (1, 2), "words": ["a", "b,c=d"]}),
    "X:word='true',other='a:b'": ("X", {"word": "true", "other": "a:b"}),
}


@pytest.mark.parametrize("text", TEXTS)
def test_texts(text):
    assert parse_layer(text) == TEXTS[text]
    assert format_layer(*TEXTS[text]) == text
    assert parse_layer("X:a=true,b=none,c=(mean, sum)") == ("X", {"a": True, "b": None, "c": ("mean", "sum")})


@pytest.mark.parametrize(
    "text", ["X:a=", "X:3", "X:a=1,2", "X:a=1,a=2", "X:a=f(1)", "X:a=b.c", "X:**a", "X:a=__import__('os')"]
)
def test_other_forms_are_refused(text):
    with pytest.raises(InputError, match="cannot be read; write NAME:key=value") as error:
        parse_layer(text)
    assert str(error.value).startswith(f"{text}: ")


@pytest.mark.parametrize("value", [torch.zeros(1), len, float("inf"), {"a": 1}, [object()]])
def test_only_plain_values_are_written(value):
    with pytest.raises(InputError, match=r"its argument a is a .*, no plain value"):
        format_layer("X", {"a": value})


def test_classes_by_path():
    assert find_class("own_layers:Blend") is Blend and path_of(Blend) == "own_layers:Blend"
    for path, message in {
        "own_layers:Nothing": "cannot be imported",
        "no_such_module:X": "cannot be imported .*No module named.* PYTHONPATH",
        "own_layers:torch": "no torch.nn.Module",
        "own_layers:scatter": "no torch.nn.Module",
        "antigravity:X": "no layer is there",
        "__main__:X": "no layer is there",
        "../x:Y": "no package.module:Class",
    }.items():
        with pytest.raises(InputError, match=message):
            find_class(path)

    class Local(torch.nn.Module): ...

    with pytest.raises(InputError, match="move it into a module"):
        path_of(Local)


def test_layers_remember_what_they_are_made_with():
    assert arguments_of(MaskPropagation(3)) == {"num_steps": 3, "backend": "auto"}
    assert arguments_of(SymmetricPropagation(backend="fused")) == {"num_steps": 2, "backend": "fused"}
    assert arguments_of(AttentionPropagation(heads=4))["heads"] == 4
    assert arguments_of(Blend()) is None and arguments_of(resolve_spatial_conv(Blend)) == {"share": 0.5, "kind": "mean"}
    assert arguments_of(torch.nn.Identity()) is None

    class Derived(MaskPropagation):
        def __init__(self, size):
            super().__init__(num_steps=size)

    assert arguments_of(Derived(4)) is None
    assert arguments_of(keeps_arguments(Derived)(5)) == {"size": 5}
