"""The examples in docstrings run, and give what they say."""

import doctest

import pytest

import keras_fsa
from keras_fsa import layers, spectral
from keras_fsa.layers import frequency_bands, frequency_self_attention
from keras_fsa.models import fsanet

MODULES = [spectral, frequency_self_attention, frequency_bands, fsanet]


@pytest.mark.parametrize("module", MODULES, ids=lambda module: module.__name__)
def test_examples(module):
    globs = {"keras_fsa": keras_fsa}
    flags = doctest.NORMALIZE_WHITESPACE
    runner = doctest.DocTestRunner(optionflags=flags)
    found = doctest.DocTestFinder().find(module, globs=globs)
    for test in found:
        runner.run(test)
    assert runner.tries > 0
    assert runner.failures == 0


def test_public_names():
    assert keras_fsa.FsaNet is fsanet.FsaNet
    for name in layers.__all__:
        assert issubclass(getattr(layers, name), object)
