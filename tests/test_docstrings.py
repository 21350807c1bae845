"""The examples in docstrings run, and give what they say; public signatures say their types."""

import dataclasses
import doctest
import importlib
import inspect
import pkgutil
import re
import types
import typing
from pathlib import Path

import pytest

import keras_fsa
from keras_fsa import layers
from keras_fsa.models import fsanet

pytestmark = pytest.mark.once

MODULES = [
    module.name
    for module in pkgutil.walk_packages(keras_fsa.__path__, "keras_fsa.")
    if not module.name.endswith("__main__")
]


@pytest.mark.parametrize("name", MODULES)
def test_examples(name):
    module = importlib.import_module(name)
    globs = {"keras_fsa": keras_fsa}
    flags = doctest.NORMALIZE_WHITESPACE
    runner = doctest.DocTestRunner(optionflags=flags)
    for test in doctest.DocTestFinder().find(module, globs=globs):
        runner.run(test)
    assert runner.failures == 0
    # An example that is not found is not run.
    assert bool(runner.tries) == (">>> " in inspect.getsource(module))


def test_there_are_examples():
    examples = [
        name for name in MODULES if ">>> " in inspect.getsource(importlib.import_module(name))
    ]
    assert {"keras_fsa.spectral", "keras_fsa.layers.frequency_self_attention"} < set(examples)


def public_callables(module):
    """Functions, constructors and methods that a module defines under public names.

    Methods that a base class has, too, are Keras' to call. The fields of data classes have types.
    """
    for name, item in vars(module).items():
        if name.startswith("_") or getattr(item, "__module__", None) != module.__name__:
            continue
        if inspect.isfunction(item):
            yield item
        elif inspect.isclass(item) and not dataclasses.is_dataclass(item):
            inherited = {method for base in item.__mro__[1:] for method in dir(base)}
            for method, function in vars(item).items():
                if getattr(item, "_is_protocol", False):
                    continue  # it has no constructor
                function = getattr(function, "__func__", function)  # of a class method
                own = not method.startswith("_") and method not in inherited
                if inspect.isfunction(function) and (own or method == "__init__"):
                    yield function


@pytest.mark.parametrize("name", MODULES)
def test_signatures(name):
    for function in public_callables(importlib.import_module(name)):
        hints = typing.get_type_hints(function)
        parameters = dict(inspect.signature(function).parameters)
        parameters.pop("self", None)
        parameters.pop("cls", None)
        untyped = [p for p in (*parameters, "return") if p not in hints]
        assert not untyped, f"{function.__qualname__}: {untyped}"
        for p, parameter in parameters.items():
            if parameter.default is not parameter.empty:
                assert fits(parameter.default, hints[p]), f"{function.__qualname__}: {p}"


def fits(value, kind):
    """Whether a default is of the type that its parameter has."""
    members = typing.get_args(kind) if is_union(kind) else (kind,)
    kinds = tuple(typing.get_origin(member) or member for member in members)
    return typing.Any in kinds or isinstance(value, kinds) or (float in kinds and value == 0)


def is_union(kind):
    return typing.get_origin(kind) in (typing.Union, types.UnionType)


def test_signatures_are_found():
    names = {function.__qualname__ for function in public_callables(fsanet)}
    assert names >= {"FsaNet.__init__", "FsaNet.from_preset", "FsaNet.attention_layer"}
    assert fits(None, int | None) and fits((1, 2), str | tuple[int, int])
    assert not fits(None, int) and not fits("8", int | tuple[int, int])


def test_public_names():
    assert keras_fsa.FsaNet is fsanet.FsaNet
    for name in layers.__all__:
        assert issubclass(getattr(layers, name), object)


def test_the_citation_names_this_version():
    text = (Path(__file__).parent.parent / "CITATION.cff").read_text()
    assert re.findall(r"^version: (.*)$", text, re.MULTILINE) == [keras_fsa.__version__]
