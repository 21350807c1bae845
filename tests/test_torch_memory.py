"""Maps freed early under torch: the numbers of Keras' own run, and no map more than needed."""

import copy
import weakref

import keras
import numpy as np
import pytest

import keras_fsa
from keras_fsa.models.torch_memory import free_early
from tests.helpers import BACKEND, array, gradients


@keras.saving.register_keras_serializable(package="tests")
class Probe(keras.layers.Layer):
    """Adds one, and counts which maps of its like are alive."""

    made: list[weakref.ref] = []
    alive: list[int] = []

    def call(self, x):
        y = x + 1
        if BACKEND == "torch":
            Probe.made.append(weakref.ref(y))
            Probe.alive.append(sum(made() is not None for made in Probe.made))
        return y


def chain():
    """Twenty layers in a row, with a shortcut over five of them, and two outputs."""
    x = image = keras.Input((None, None, 3))
    middle = None
    for i in range(20):
        x = Probe(name=f"probe{i}")(x)
        if i == 4:
            shortcut = x
        if i == 9:
            x = keras.layers.Add()([x, shortcut])
        if i == 11:
            middle = x
    return keras.Model(image, {"last": x, "middle": middle})


def twin(model):
    """The same layers, run by Keras."""
    return keras.Model(model.input, model.output)


def predicted(model, inputs):
    if BACKEND == "torch":
        import torch

        with torch.no_grad():
            outputs = model(inputs)
    else:
        outputs = model(inputs)
    return keras.tree.map_structure(array, outputs)


def frees(model):
    return "call" in vars(model)


def test_equals_the_neutral_twin(rng):
    model = chain()
    plain = twin(model)
    free_early(model)
    assert frees(model) == (BACKEND == "torch")
    x = rng.standard_normal((2, 5, 7, 3)).astype("float32")
    got, want = model.predict_on_batch(x), plain.predict_on_batch(x)
    assert set(got) == set(want) == {"last", "middle"}
    for name in want:
        np.testing.assert_array_equal(got[name], want[name])


def test_lists_of_inputs(rng):
    a, b = keras.Input((None, None, 3)), keras.Input((None, None, 2))
    model = keras.Model([a, b], [keras.layers.Concatenate()([a, b])])
    plain = twin(model)
    free_early(model)
    assert frees(model) == (BACKEND == "torch")
    x = [rng.standard_normal((2, 5, 7, n)).astype("float32") for n in (3, 2)]
    got, want = predicted(model, x), predicted(plain, x)
    np.testing.assert_array_equal(got, want)


@pytest.mark.skipif(BACKEND != "torch", reason="the other engines compile the graph")
def test_holds_no_map_longer_than_needed(rng):
    model = chain()
    plain = twin(model)
    free_early(model)
    x = rng.standard_normal((1, 11, 13, 3)).astype("float32")
    most = []
    for each in (model, plain):
        each.predict_on_batch(x)  # The first call builds, with symbolic maps.
        Probe.made.clear(), Probe.alive.clear()
        each.predict_on_batch(x)
        most.append(max(Probe.alive))
    # Of twenty: what the layer takes and gives, and the shortcut or the middle.
    assert most == [3, 20]


def test_gradients_are_keras_own(rng):
    image = keras.Input((None, None, 3))
    model = keras.Model(image, keras.layers.Dense(5)(keras.layers.Dense(4, "tanh")(image)))
    plain = twin(model)
    free_early(model)
    x = rng.standard_normal((2, 5, 7, 3)).astype("float32")
    upstream = rng.standard_normal((2, 5, 7, 5)).astype("float32")
    pairs = zip(gradients(model, x, upstream), gradients(plain, x, upstream), strict=True)
    for got, want in pairs:
        np.testing.assert_allclose(got, want, atol=1e-6 * np.abs(want).max())


def test_training_is_keras_own(rng):
    """Dropout in training, none in inference."""
    image = keras.Input((None, None, 3))
    model = keras.Model(image, keras.layers.Dropout(0.5)(image))
    free_early(model)
    assert frees(model) == (BACKEND == "torch")
    x = rng.standard_normal((2, 5, 7, 3)).astype("float32")
    assert (array(model(x, training=True)) == 0).any()
    np.testing.assert_array_equal(predicted(model, x), x)


def test_copies_run_their_own_layers(rng):
    model = keras_fsa.FsaNet(5, backbone="resnet18", head_channels=16)
    x = rng.uniform(0, 255, (1, 33, 65, 3)).astype("float32")
    before = model.predict_on_batch(x)
    copied = copy.deepcopy(model)
    for weight in copied.weights:
        weight.assign(0 * weight)
    np.testing.assert_array_equal(model.predict_on_batch(x), before)
    assert np.abs(copied.predict_on_batch(x)).max() == 0


def shared():
    layer = keras.layers.Dense(3)
    x = keras.Input((None, None, 3))
    return keras.Model(x, layer(layer(x)))


def always_training():
    x = keras.Input((None, None, 3))
    return keras.Model(x, keras.layers.Dropout(0.5)(x, training=True))


def two_arguments():
    x = keras.Input((None, 4))
    return keras.Model(x, keras.layers.MultiHeadAttention(2, 2)(x, x))


@pytest.mark.parametrize("make", [shared, always_training, two_arguments])
def test_leaves_other_graphs_to_keras(make):
    model = make()
    free_early(model)
    assert not frees(model)


def test_inputs_of_another_form_are_left_to_keras(rng):
    """Keras converts dtypes, and takes inputs of one model in several forms."""
    x = keras.Input((4,), name="x")
    model = keras.Model({"x": x}, keras.layers.Dense(3)(x))
    plain = twin(model)
    free_early(model)
    for value in (
        {"x": np.ones((2, 4), "float32")},
        {"x": np.ones((2, 4), "int32")},
        np.ones((2, 4), "float32"),
    ):
        np.testing.assert_array_equal(predicted(model, value), predicted(plain, value))
