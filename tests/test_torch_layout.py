"""Convolutions without copies under torch: the same numbers, files and gradients as Keras' own."""

import copy

import keras
import numpy as np
import pytest

from keras_fsa.models.torch_layout import avoid_copies
from tests.helpers import BACKEND, array, gradients, randomize

CASES = {
    "1x1": {"kernel_size": 1},
    "strided 1x1": {"kernel_size": 1, "strides": 2, "padding": "same"},
    "3x3": {"kernel_size": 3, "padding": "same", "use_bias": False},
    "dilated": {"kernel_size": (3, 5), "padding": "same", "dilation_rate": (2, 3)},
    "valid": {"kernel_size": (3, 2), "strides": 2},
    "grouped": {"kernel_size": 3, "groups": 2, "activation": "relu"},
}
# Uneven padding is left to Keras.
LEFT = {
    "even kernel": {"kernel_size": 2, "padding": "same"},
    "strided": {"kernel_size": 3, "strides": 2, "padding": "same"},
    "channels first": {"kernel_size": 1, "data_format": "channels_first"},
}


def network(arguments):
    shape = (4, None, None) if "data_format" in arguments else (None, None, 4)
    return keras.Sequential([keras.Input(shape), keras.layers.Conv2D(6, **arguments)])


@pytest.mark.parametrize("name", [*CASES, *LEFT])
def test_equals_the_neutral_twin(rng, name):
    plain = randomize(network({**CASES, **LEFT}[name]), rng, 0.5)
    fast = keras.models.clone_model(plain)
    avoid_copies(fast)
    # Weights that are assigned later go into the same memory.
    fast.set_weights(plain.get_weights())
    x = rng.standard_normal((2, 4, 4, 4) if name == "channels first" else (2, 11, 13, 4))
    x = x.astype("float32")
    expected = array(plain(x))
    np.testing.assert_allclose(array(fast(x)), expected, atol=2e-6 * np.abs(expected).max())
    upstream = rng.standard_normal(expected.shape).astype("float32")
    for got, want in zip(gradients(fast, x, upstream), gradients(plain, x, upstream), strict=True):
        np.testing.assert_allclose(got, want, atol=1e-5 * np.abs(want).max())
    replaced = BACKEND == "torch" and name in CASES
    assert ("convolution_op" in vars(fast.layers[0])) == replaced
    if replaced:
        kernel = fast.layers[0].kernel.value
        assert kernel.permute(3, 0, 1, 2).is_contiguous()
        assert tuple(kernel.shape) == tuple(plain.layers[0].kernel.shape)


def test_trains_saves_and_copies(rng, tmp_path):
    """As the plain network does, step by step."""
    x = rng.standard_normal((2, 11, 13, 4)).astype("float32")
    models = [network(CASES["3x3"]) for _ in range(2)]
    models[1].set_weights(models[0].get_weights())
    avoid_copies(models[1])
    for model in models:
        model.compile("adam", "mse", jit_compile=False)
        model.fit(x, np.ones((2, 11, 13, 6), "float32"), epochs=3, verbose=0)
    kernels = [array(model.layers[0].kernel) for model in models]
    np.testing.assert_allclose(*kernels, atol=1e-6)
    models[1].save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    assert type(loaded.layers[0]) is keras.layers.Conv2D
    np.testing.assert_array_equal(array(loaded.layers[0].kernel), kernels[1])
    np.testing.assert_allclose(array(loaded(x)), array(models[1](x)), atol=1e-6)
    twin = copy.deepcopy(models[1])
    np.testing.assert_array_equal(array(twin(x)), array(models[1](x)))
    # The copy has weights of its own.
    twin.layers[0].kernel.assign(0 * kernels[1])
    assert np.abs(array(twin(x))).max() < 0.1 < np.abs(array(models[1](x))).max()


def test_half_precision(rng):
    x = rng.standard_normal((1, 7, 9, 4)).astype("float32")
    layer = keras.layers.Conv2D(6, 3, padding="same", dtype="mixed_bfloat16")
    model = keras.Sequential([keras.Input((None, None, 4)), layer])
    expected = array(keras.ops.cast(model(x), "float32"))
    avoid_copies(model)
    got = array(keras.ops.cast(model(x), "float32"))
    # Two roundings of bfloat16's 8 bits.
    np.testing.assert_allclose(got, expected, atol=2**-7 * np.abs(expected).max())
