"""Keras' multi-head attention, found in a model and truncated."""

import re

import keras
import numpy as np
import pytest
from keras import layers

import keras_fsa
from keras_fsa.layers import FrequencySelfAttention, SpatialSelfAttention
from tests import reference
from tests.helpers import array, predict_in_new_process, randomize

# Three heads; queries of 5 channels each, values of 7.
HEIGHT, WIDTH, CHANNELS, HEADS = 7, 11, 13, 3
BAND = ((0, 3), (0, 5))


def attention(name="attention", **settings):
    return layers.MultiHeadAttention(HEADS, 5, 7, name=name, **settings)


def picture(rng):
    return rng.standard_normal((2, HEIGHT, WIDTH, CHANNELS)).astype("float32")


def of_a_map(make, rng=None):
    """A model of a sequence made of a map; what `make` does with it."""
    x = keras.Input((HEIGHT, WIDTH, CHANNELS))
    sequence = layers.Reshape((-1, CHANNELS))(x)
    model = keras.Model(x, make(sequence), name="network")
    return model if rng is None else randomize(model, rng)


def expected(model, x, affinity, band):
    """Head by head, on the low-passed sequence, with the weights as the layer holds them."""
    layer = model.get_layer("attention")
    w = {
        name: (
            array(dense.kernel).astype("float64"),
            array(dense.bias).astype("float64") if layer.use_bias else 0.0,
        )
        for name, dense in (
            ("query", layer.query_dense),
            ("key", layer.key_dense),
            ("value", layer.value_dense),
            ("output", layer.output_dense),
        )
    }
    low_pass = np.eye(HEIGHT * WIDTH)
    if band is not None:
        low_pass = reference.projector(HEIGHT, WIDTH, band)
    outputs = []
    for z in low_pass @ x.reshape(len(x), HEIGHT * WIDTH, -1).astype("float64"):
        q, k, v = (
            np.einsum("nc,chd->hnd", z, w[name][0]) + np.reshape(w[name][1], (-1, 1, 1))
            if layer.use_bias is False
            else np.einsum("nc,chd->hnd", z, w[name][0]) + w[name][1][:, None]
            for name in ("query", "key", "value")
        )
        heads = [
            reference.affinity(affinity, *pair) @ values
            for *pair, values in zip(q, k, v, strict=True)
        ]
        outputs.append(np.einsum("hnd,hdc->nc", heads, w["output"][0]) + w["output"][1])
    return np.stack(outputs)


def assert_close(y, wanted):
    np.testing.assert_allclose(array(y), wanted, rtol=0, atol=1e-5 * np.abs(wanted).max())


@pytest.mark.parametrize("use_bias", [True, False])
@pytest.mark.parametrize("affinity", [None, "linear"])
def test_is_attention_on_the_low_passed_map(rng, affinity, use_bias):
    model = of_a_map(lambda x: attention(use_bias=use_bias)(x, x), rng)
    x = 0.5 * picture(rng)
    # The witness computes what Keras does, where nothing is cut off.
    assert_close(model(x), expected(model, x, "softmax", None))
    new = keras_fsa.to_frequency(model, (3, 5), affinity)
    layer = new.get_layer("attention")
    assert type(layer) is (FrequencySelfAttention if affinity else SpatialSelfAttention)
    assert layer.num_heads == HEADS and layer.residual is None
    wanted = expected(model, x, affinity or "softmax", BAND)
    assert_close(new(x), wanted)
    assert new.count_params() == model.count_params()
    assert np.abs(wanted - array(model(x))).max() > 0.05 * np.abs(wanted).max()


def test_all_frequencies_of_softmax_are_the_model(rng):
    model = of_a_map(lambda x: attention()(x, x, key=x), rng)
    x = picture(rng)
    assert_close(keras_fsa.to_frequency(model, (HEIGHT, WIDTH))(x), array(model(x)))


def transformer(x):
    """Two blocks, with everything between a map and attention that leaves positions in place."""
    places = keras.Variable(np.zeros((1, HEIGHT * WIDTH, CHANNELS)), name="places")
    x = layers.Dense(CHANNELS)(layers.Dropout(0.1)(x)) + keras.ops.convert_to_tensor(places.value)
    for i in range(2):
        y = layers.LayerNormalization()(x)
        y = attention(f"attention_{i}", dropout=0.1)(y, y)
        x = layers.Add()([x, y])
        y = layers.Dense(17, activation="gelu")(layers.LayerNormalization()(x))
        x = x + layers.Dense(CHANNELS)(y)
    return x


def test_a_transformer(rng, tmp_path):
    model = of_a_map(transformer, rng)
    x = picture(rng)
    everything = keras_fsa.to_frequency(model, (HEIGHT, WIDTH))
    assert_close(everything(x), array(model(x)))
    new = keras_fsa.to_frequency(model, 3, affinity="linear")
    kinds = [type(layer) for layer in new.layers]
    assert kinds.count(FrequencySelfAttention) == 2 and layers.MultiHeadAttention not in kinds
    assert_close(keras_fsa.to_spatial(new)(x), array(new(x)))
    lower = keras_fsa.to_frequency(new, 2)
    assert lower.get_layer("attention_1").frequencies == 2
    # Any number of examples; without the package that made it, but for the layer.
    outputs = predict_in_new_process({"new": new}, {"new": np.concatenate([x] * 3)}, tmp_path)
    assert_close(outputs["new"][4:], array(new(x)))
