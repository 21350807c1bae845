"""The examples in docstrings run, and give what they say; public signatures say their types."""

import doctest
import importlib
import inspect
import pkgutil
import re
from pathlib import Path

import pytest

import keras_fsa
from keras_fsa import layers
from keras_fsa.models import fsanet

MODULES = [
    module.name
    for module in pkgutil.walk_packages(keras_fsa.__path__, "keras_fsa.")
    if not module.name.endswith("__main__")
]
# Whose signatures are complete. A module joins the list when its last annotation is written.
TYPED = [
    "keras_fsa.attention_map",
    "keras_fsa.energy",
    *(name for name in MODULES if name.startswith("keras_fsa.visualize")),
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


@pytest.mark.parametrize("name", TYPED)
def test_signatures(name):
    module = importlib.import_module(name)
    functions = [
        function
        for public, function in inspect.getmembers(module, inspect.isfunction)
        if function.__module__ == name and not public.startswith("_")
    ]
    for function in functions:
        signature = inspect.signature(function)
        untyped = [p for p, q in signature.parameters.items() if q.annotation is q.empty]
        assert not untyped and signature.return_annotation is not signature.empty, function
    assert functions or name == "keras_fsa.visualize"


def test_public_names():
    assert keras_fsa.FsaNet is fsanet.FsaNet
    for name in layers.__all__:
        assert issubclass(getattr(layers, name), object)


def test_the_citation_names_this_version():
    text = (Path(__file__).parent.parent / "CITATION.cff").read_text()
    assert re.findall(r"^version: (.*)$", text, re.MULTILINE) == [keras_fsa.__version__]
