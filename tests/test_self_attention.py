"""What both attention layers promise, as layers."""

import json

import keras
import numpy as np
import pytest
from keras import ops

import keras_fsa
from keras_fsa.affinities import Linear
from keras_fsa.layers import FrequencySelfAttention, SpatialSelfAttention
from tests import golden_modules, reference
from tests.helpers import (
    array,
    call,
    default_dtype,
    gradients,
    predict_in_new_process,
    randomize,
    weights_by_name,
)

SHAPE = (2, 11, 13, 16)
MMSEG = {"key_dim": 5, "value_dim": 7, "residual": "batch_norm", "use_bias": True}
HEADS = {"key_dim": 6, "value_dim": 10, "num_heads": 2}
LAYERS = {
    "dot_product": lambda **kw: FrequencySelfAttention(3, recurrence=2, **kw),
    "dot_product_mmseg": lambda **kw: FrequencySelfAttention((3, 4), recurrence=2, **MMSEG, **kw),
    "no_constant": lambda **kw: FrequencySelfAttention(((1, 4), (0, 3)), use_bias=True, **kw),
    "linear_softmax": lambda **kw: FrequencySelfAttention(3, "linear_softmax", **kw),
    "linear_mmseg": lambda **kw: FrequencySelfAttention(4, "linear", recurrence=2, **MMSEG, **kw),
    "relu_linear": lambda **kw: FrequencySelfAttention(3, "relu_linear", 2, use_bias=True, **kw),
    "relu_linear_mmseg": lambda **kw: FrequencySelfAttention(
        ((1, 4), (0, 3)), "relu_linear", **{**MMSEG, "use_bias": False}, **kw
    ),
    "heads": lambda **kw: FrequencySelfAttention(3, recurrence=2, num_heads=4, **kw),
    "linear_softmax_heads": lambda **kw: FrequencySelfAttention(
        ((1, 4), (0, 3)), "linear_softmax", 2, 6, 10, True, num_heads=2, **kw
    ),
    "relu_linear_heads": lambda **kw: FrequencySelfAttention(
        3, "relu_linear", value_dim=10, num_heads=2, **kw
    ),
    "softmax_heads": lambda **kw: SpatialSelfAttention(num_heads=2, use_bias=True, **kw),
    "softmax": lambda **kw: SpatialSelfAttention(**kw),
    "softmax_low_pass": lambda **kw: SpatialSelfAttention("softmax", 3, 2, **MMSEG, **kw),
    "spatial_linear": lambda **kw: SpatialSelfAttention("linear", use_bias=True, **kw),
}
each_layer = pytest.mark.parametrize("make", LAYERS.values(), ids=LAYERS)


def ready(make, rng, shape=SHAPE, **kwargs):
    layer = make(**kwargs)
    layer.build(shape)
    return randomize(layer, rng)


def picture(rng, shape=SHAPE):
    return rng.standard_normal(shape).astype("float32")


@each_layer
def test_starts_as_the_identity(make, rng):
    x = picture(rng)
    np.testing.assert_array_equal(array(call(make(), x)), x)


@each_layer
def test_config_round_trip(make, rng):
    layer = ready(make, rng)
    copy = type(layer).from_config(json.loads(json.dumps(layer.get_config())))
    copy.build(SHAPE)
    copy.set_weights(layer.get_weights())
    x = picture(rng)
    np.testing.assert_array_equal(array(call(copy, x)), array(call(layer, x)))
    assert json.dumps(copy.get_config()) == json.dumps(layer.get_config())


def test_reload_in_a_new_process(rng, tmp_path):
    models, inputs, expected = {}, {}, {}
    for name, make in LAYERS.items():
        layer = ready(make, rng, (None, None, None, 16))
        models[name] = keras.Sequential([keras.Input((None, None, 16)), layer])
        inputs[name] = picture(rng)
        expected[name] = models[name].predict(inputs[name], verbose=0)
    outputs = predict_in_new_process(models, inputs, tmp_path)
    for name, y in expected.items():
        np.testing.assert_allclose(outputs[name], y, atol=1e-5 * np.abs(y).max(), err_msg=name)


@each_layer
def test_symbolic_shape_and_unknown_sizes(make, rng):
    layer = ready(make, rng, (None, None, None, 16))
    pictures = keras.Input((None, None, 16))
    y = layer(pictures)
    assert y.shape == (None, None, None, 16)
    model = keras.Model(pictures, y)
    for shape in (SHAPE, (1, 5, 17, 16)):
        x = picture(rng, shape)
        expected = array(call(layer, x))
        # Compiled, as predict does it; the basis may be computed in the graph, to 2e-7.
        np.testing.assert_allclose(
            model.predict(x, verbose=0), expected, atol=2e-5 * np.abs(expected).max()
        )


@each_layer
def test_channels_first(make, rng):
    last = ready(make, rng)
    first = make(data_format="channels_first")
    first.build((2, 16, 11, 13))
    first.set_weights(last.get_weights())
    x = picture(rng)
    y = array(call(first, x.transpose(0, 3, 1, 2))).transpose(0, 2, 3, 1)
    expected = array(call(last, x))
    np.testing.assert_allclose(y, expected, atol=2e-6 * np.abs(expected).max())


@each_layer
@pytest.mark.parametrize(("dtype", "unit"), [("mixed_float16", 2**-11), ("mixed_bfloat16", 2**-8)])
def test_half_precision(make, rng, dtype, unit):
    full, half = ready(make, rng), make(dtype=dtype)
    half.build(SHAPE)
    half.set_weights(full.get_weights())
    stored = ops.cast(picture(rng), half.compute_dtype)
    y = call(half, stored)
    assert keras.backend.standardize_dtype(y.dtype) == half.compute_dtype
    expected = array(call(full, ops.cast(stored, "float32")))
    error = np.abs(array(ops.cast(y, "float32")) - expected).max() / np.abs(expected).max()
    # Tokens and linear forms are float32: only the result is rounded to the storage type. The
    # softmax's queries, keys, values and weights are stored in it as well.
    softmax = getattr(full, "affinity", "") == "softmax"
    assert error <= (16 if softmax else 1) * unit


@pytest.mark.parametrize("value_dim", [16, 7])
def test_scores_beyond_float16(rng, value_dim):
    """Queries and keys of a bright map are in the range of float16, their products are not."""
    settings = {"key_dim": 16, "value_dim": value_dim}
    layer = ready(lambda **kw: SpatialSelfAttention(**settings, **kw), rng, dtype="mixed_float16")
    x = rng.uniform(-400, 400, SHAPE).astype("float16")
    query, key = (array(z)[0].astype("float32") for z in layer.queries_and_keys(x[:1]))
    assert np.abs(query @ key.T).max() > 1e5
    assert np.isfinite(array(layer(x))).all()


@each_layer
def test_fit_step_moves_every_weight(make, rng):
    layer = ready(make, rng)
    model = keras.Sequential([keras.Input(SHAPE[1:]), layer])
    model.compile("sgd", "mse")
    before = weights_by_name(layer)
    x = picture(rng)
    model.fit(x, picture(rng), batch_size=2, verbose=0)
    after = weights_by_name(layer)
    # A shift of all keys, or of all queries, changes nothing in some affinities.
    unmoved = [name for name in before if np.array_equal(before[name], after[name])]
    assert set(unmoved) <= {"key_bias"}
    assert all(np.isfinite(value).all() for value in after.values())


@pytest.mark.parametrize("name", reference.AFFINITIES)
@pytest.mark.parametrize("low_pass", [None, ((0, 3), (0, 5))])
def test_spatial_equals_the_reference(rng, name, low_pass):
    layer = SpatialSelfAttention(name, low_pass, recurrence=2, use_bias=True)
    layer.build((2, 5, 7, 3))
    randomize(layer, rng)
    x = picture(rng, (2, 5, 7, 3))
    expected = reference.self_attention(x, weights_by_name(layer), name, low_pass, 2)
    np.testing.assert_allclose(array(call(layer, x)), expected, atol=1e-5 * np.abs(expected).max())


@pytest.mark.parametrize("value_dim", [None, 33])
@pytest.mark.parametrize("name", reference.AFFINITIES)
def test_heads_equal_the_reference(rng, name, value_dim):
    """Three heads with queries of 7 channels and values of 5 or 11, in a band without (0, 0)."""
    band, shape = ((1, 4), (0, 3)), (2, 5, 7, 15)
    arguments = {"recurrence": 2, "use_bias": True, "key_dim": 21, "value_dim": value_dim}
    spatial = SpatialSelfAttention(name, band, num_heads=3, **arguments)
    spatial.build(shape)
    randomize(spatial, rng)
    spatial.gain.assign(1.0)
    x = picture(rng, shape)
    expected = reference.self_attention(x, weights_by_name(spatial), name, band, 2, heads=3)
    scale = np.abs(expected).max()
    np.testing.assert_allclose(array(call(spatial, x)), expected, atol=1e-5 * scale)
    if name in reference.SPECTRAL:
        frequency = FrequencySelfAttention(band, name, num_heads=3, **arguments)
        frequency.build(shape)
        frequency.set_weights(spatial.get_weights())
        np.testing.assert_allclose(array(call(frequency, x)), expected, atol=1e-5 * scale)
    # Other heads are another function.
    wrong = reference.self_attention(x, weights_by_name(spatial), name, band, 2)
    assert np.abs(wrong - expected).max() > 0.01 * scale


@pytest.mark.parametrize(
    "initializer",
    [
        "glorot_uniform",
        keras.initializers.HeNormal(),
        keras.initializers.HeNormal(seed=7),
        keras.initializers.HeNormal(seed=keras.random.SeedGenerator(7)),
    ],
)
def test_each_kernel_is_drawn_for_itself(initializer):
    """Queries equal to keys would make a Gram matrix of the affinity."""
    layer = FrequencySelfAttention(
        3, key_dim=8, value_dim=8, kernel_initializer=initializer, residual=None
    )
    layer.build((None, 5, 7, 8))
    kernels = [array(weight) for weight in layer.weights]
    assert len(kernels) == 4
    for i, kernel in enumerate(kernels):
        for other in kernels[:i]:
            assert abs(np.corrcoef(kernel.ravel(), other.ravel())[0, 1]) < 0.6
    again = FrequencySelfAttention.from_config(layer.get_config())
    again.build((None, 5, 7, 8))
    seeded = initializer != "glorot_uniform" and initializer.get_config()["seed"] is not None
    assert np.array_equal(again.get_weights()[1], kernels[1]) == seeded


@pytest.mark.parametrize("use_bias", [False, True])
def test_without_a_residual(rng, use_bias):
    """Keras' own attention between all positions, with the weights of ours."""
    layer = SpatialSelfAttention(
        key_dim=6, value_dim=10, use_bias=use_bias, residual=None, num_heads=2
    )
    x = picture(rng)
    layer.build(x.shape)
    randomize(layer, rng)
    # Without dropout, it wants values as wide as keys under JAX.
    keras_layer = keras.layers.MultiHeadAttention(2, 3, 5, 0.1, use_bias)
    keras_layer.build(x.shape, x.shape)
    for name, dense in (
        ("query", keras_layer.query_dense),
        ("key", keras_layer.key_dense),
        ("value", keras_layer.value_dense),
        ("output", keras_layer.output_dense),
    ):
        dense.kernel.assign(ops.reshape(getattr(layer, f"{name}_kernel"), dense.kernel.shape))
        bias = getattr(layer, f"{name}_bias")
        assert (bias is not None) == use_bias
        if use_bias:
            dense.bias.assign(ops.reshape(bias, dense.bias.shape))
    expected = array(keras_layer(x, x))
    np.testing.assert_allclose(array(call(layer, x)), expected, atol=1e-5 * np.abs(expected).max())


def test_the_number_of_heads_in_weights_and_configs():
    """Weights are those of one head; so is the config of one, which 0.1.0 reads."""
    one, four = FrequencySelfAttention(3), FrequencySelfAttention(3, num_heads=4)
    for layer in (one, four):
        layer.build((None, None, None, 48))
    shapes = [{name: w.shape for name, w in weights_by_name(x).items()} for x in (one, four)]
    assert shapes[0]["query_kernel"] == (48, 6) and shapes[1]["query_kernel"] == (48, 8)
    assert shapes[0] | {"query_kernel": (48, 8), "key_kernel": (48, 8)} == shapes[1]
    assert "num_heads" not in one.get_config() and four.get_config()["num_heads"] == 4
    assert FrequencySelfAttention.from_config(one.get_config()).num_heads == 1


@pytest.mark.parametrize("file", golden_modules.MODULES, ids=lambda path: path.stem)
@pytest.mark.parametrize("cls", [FrequencySelfAttention, SpatialSelfAttention])
def test_golden(file, cls):
    """The authors' modules, to 1e-5 of the output's scale, and their running statistics to 1e-6."""
    module = golden_modules.module(file, cls)
    y = array(call(module.layer, module.x, module.training))
    np.testing.assert_allclose(y, module.y, atol=1e-5 * np.abs(module.y).max())
    for weight, expected in module.statistics:
        np.testing.assert_allclose(array(weight), expected, atol=1e-6)


@pytest.mark.parametrize("residual", ["gain", "batch_norm"])
@pytest.mark.parametrize("band", [3, ((1, 4), (0, 3))])
def test_recurrence_is_the_block_again(rng, residual, band):
    twice = FrequencySelfAttention(band, recurrence=3, residual=residual, use_bias=True)
    once = FrequencySelfAttention(band, recurrence=1, residual=residual, use_bias=True)
    for layer in (twice, once):
        layer.build(SHAPE)
    randomize(twice, rng, 0.2)
    once.set_weights(twice.get_weights())
    x = picture(rng)
    y, z = array(call(twice, x, training=True)), x
    for _ in range(3):
        z = array(call(once, z, training=True))
    np.testing.assert_allclose(y, z, atol=1e-5 * np.abs(z).max())
    # The moving statistics too: once for each recurrence.
    for a, b in zip(twice.non_trainable_weights, once.non_trainable_weights, strict=True):
        np.testing.assert_allclose(array(a), array(b), rtol=1e-5, atol=1e-6)


def test_frozen_batch_norm(rng):
    layer = ready(LAYERS["dot_product_mmseg"], rng)
    layer.trainable = False
    x = picture(rng)
    before = weights_by_name(layer)
    np.testing.assert_array_equal(array(layer(x, training=True)), array(layer(x, training=False)))
    for name, value in weights_by_name(layer).items():
        np.testing.assert_array_equal(value, before[name])


@pytest.mark.parametrize("affinity", reference.SPECTRAL)
@pytest.mark.parametrize("arguments", [{}, MMSEG, HEADS], ids=["ccnet", "mmseg", "heads"])
def test_gradients_equal_those_of_the_spatial_form(rng, affinity, arguments):
    frequency = FrequencySelfAttention((3, 4), affinity, **arguments)
    spatial = SpatialSelfAttention(affinity, (3, 4), **arguments)
    for layer in (frequency, spatial):
        layer.build(SHAPE)
    randomize(frequency, rng)
    spatial.set_weights(frequency.get_weights())
    x, upstream = picture(rng), picture(rng)
    for a, b in zip(
        gradients(frequency, x, upstream), gradients(spatial, x, upstream), strict=True
    ):
        # Sums over 286 positions and two cubic forms, in float32.
        np.testing.assert_allclose(a, b, atol=3e-5 * max(1, np.abs(b).max()))


@pytest.mark.parametrize("affinity", reference.SPECTRAL)
@pytest.mark.parametrize("kind", ["zeros", "constant", "huge", "tiny", "one_position"])
def test_extreme_inputs_give_finite_values_and_gradients(rng, affinity, kind):
    x = {
        "zeros": np.zeros(SHAPE, "float32"),
        "constant": np.full(SHAPE, 700, "float32"),
        "huge": 1e4 * picture(rng),
        "tiny": 1e-6 * picture(rng),
        "one_position": picture(rng, (1, 1, 1, 16)),
    }[kind]
    layer = FrequencySelfAttention(1 if kind == "one_position" else 3, affinity)
    layer.build(x.shape)
    randomize(layer, rng)
    y = array(call(layer, x))
    assert np.isfinite(y).all()
    for gradient in gradients(layer, x, np.ones(x.shape, "float32")):
        assert np.isfinite(gradient).all()


@pytest.mark.parametrize("affinity", reference.SPECTRAL)
def test_zeros_stay_finite_where_the_default_dtype_is_float16(rng, affinity):
    with default_dtype("float16"):
        layer = FrequencySelfAttention(3, affinity, dtype="float16")
        layer.build(SHAPE)
        randomize(layer, rng)
        y = array(call(layer, np.zeros(SHAPE, "float16")))
    assert y.dtype == "float16" and np.isfinite(y).all()


def test_zero_queries_have_cosine_zero(rng):
    layer = ready(LAYERS["linear_softmax"], rng)
    layer.query_kernel.assign(np.zeros(layer.query_kernel.shape))
    layer.output_bias.assign(np.zeros(16))
    layer.gain.assign(1.0)
    x = picture(rng)
    # Affinity 1 to all positions: the mean of the values.
    expected = x + (x.mean(axis=(1, 2)) @ array(layer.value_kernel))[:, None, None]
    np.testing.assert_allclose(array(call(layer, x)), expected, atol=1e-5)


def test_a_map_smaller_than_the_band_has_no_higher_frequencies(rng):
    layer = ready(lambda **kw: FrequencySelfAttention(8, **kw), rng, (None, None, None, 16))
    small = FrequencySelfAttention((3, 5))
    small.build((None, None, None, 16))
    small.set_weights(layer.get_weights())
    x = picture(rng, (2, 3, 5, 16))
    np.testing.assert_allclose(array(call(layer, x)), array(call(small, x)), atol=1e-5)


def test_defaults_of_the_families(rng):
    layer = FrequencySelfAttention()
    layer.build((None, None, None, 512))
    assert {name: w.shape for name, w in weights_by_name(layer).items()} == {
        "query_kernel": (512, 64),
        "key_kernel": (512, 64),
        "value_kernel": (512, 512),
        "gain": (),
        "output_bias": (512,),
    }


def test_in_a_subclassed_model(rng):
    class Model(keras.Model):
        def __init__(self):
            super().__init__()
            self.attention = FrequencySelfAttention(3, data_format="channels_last")
            self.classify = keras.layers.Conv2D(2, 1)

        def call(self, x):
            return self.classify(self.attention(x))

    model = Model()
    model.compile("sgd", "mse")
    model.fit(picture(rng), np.zeros((2, 11, 13, 2)), verbose=0)
    assert model.predict(picture(rng), verbose=0).shape == (2, 11, 13, 2)


@pytest.mark.parametrize("cls", [FrequencySelfAttention, SpatialSelfAttention])
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            {"affinity": "cosine"},
            r"`affinity` must be one of .*'linear', .* `Affinity`.*\. Received: aff",
        ),
        ({"recurrence": 0}, r"`recurrence` must be a positive int\. Received: recurrence=0\. Give"),
        ({"recurrence": True}, r"Received: recurrence=True"),
        ({"key_dim": -1}, r"`key_dim` must be a positive int or None\. Received: key_dim=-1"),
        ({"value_dim": 1.5}, r"`value_dim` must be a positive int or None\. Received: value_dim="),
        ({"residual": "add"}, r"`residual` must be one of 'gain', 'batch_norm', None\. Received"),
        (
            {"recurrence": 2, "residual": None},
            r"`recurrence` must be 1 without a residual.*Received: recurrence=2 with resid.* Leave",
        ),
        ({"num_heads": 0}, r"`num_heads` must be a positive int\. Received: num_heads=0"),
        (
            {"key_dim": 7, "num_heads": 2},
            r"`key_dim` must be a multiple of `num_heads`.*Received: key_dim=7, num_heads=2\.",
        ),
        ({"value_dim": 5, "num_heads": 3}, r"`value_dim` must be a multiple of .*value_dim=5, num"),
        ({"data_format": "NHWC"}, r"`data_format` must be one of .* Received: data_format='NHWC'"),
    ],
)
def test_wrong_arguments(cls, arguments, message):
    with pytest.raises(ValueError, match=message):
        cls(**arguments)


@pytest.mark.parametrize("cls", [FrequencySelfAttention, SpatialSelfAttention])
def test_wrong_shapes(cls):
    with pytest.raises(ValueError, match=r"rank 4: .*Received: input_shape=\(2, 7, 3\)\. Reshape"):
        cls().build((2, 7, 3))
    with pytest.raises(ValueError, match=r"number of channels .*Received: input_shape=.*fixed"):
        cls().build((2, 7, 9, None))
    with pytest.raises(ValueError, match=r"`channels` must be a mul.*: channels=16, num_heads=3"):
        cls(num_heads=3).build((2, 8, 9, 16))


def test_frequencies_beyond_the_map():
    message = r"`{0}` must .* beyond the size of the .* map: a height of 7 .*Received: {0}=8 for"
    with pytest.raises(ValueError, match=message.format("frequencies")):
        FrequencySelfAttention(8).build((None, 7, 9, 16))
    with pytest.raises(ValueError, match=message.format("low_pass")):
        SpatialSelfAttention(low_pass=8).build((None, 7, 9, 16))
    with pytest.raises(ValueError, match=r"a width of 9 .*Received: frequencies=\(3, 10\)"):
        FrequencySelfAttention((3, 10)).build((None, 7, 9, 16))
    with pytest.raises(ValueError, match="`frequencies` must be a positive int"):
        FrequencySelfAttention(0)
    with pytest.raises(ValueError, match="`low_pass` must be a positive int"):
        SpatialSelfAttention(low_pass="low")


OWN_AFFINITY = """
import keras
from keras_fsa.affinities import DotProduct

class Scaled(DotProduct):
    name = "scaled"

    def __init__(self, factor):
        self.factor = factor

    def context(self, query, key, value, positions, visit):
        return super().context(self.factor * query, key, value, positions, visit)

    def get_config(self):
        return {"factor": self.factor}
"""
REGISTERED = OWN_AFFINITY + 'keras.saving.register_keras_serializable("mine")(Scaled)\n'


def models_with_own_affinity(rng, source):
    scope = {"__name__": "own_affinity"}
    exec(source, scope)
    x, images = keras.Input((None, None, 16)), keras.Input((None, None, 3))
    layer = FrequencySelfAttention(3, scope["Scaled"](2.5), data_format="channels_last")
    stage4 = keras.layers.Conv2D(4, 3, 8, "same", data_format="channels_last")(images)
    backbone = keras.Model(images, {"stage4": stage4, "stage5": keras.layers.ReLU()(stage4)})
    network = keras_fsa.FsaNet(
        3,
        backbone,
        frequencies=2,
        affinity=scope["Scaled"](2.5),
        head_channels=8,
        normalization=None,
    )
    models = {"layer": keras.Model(x, layer(x)), "network": network}
    return {name: randomize(model, rng) for name, model in models.items()}


def test_an_affinity_from_elsewhere_is_saved_with_the_model(rng, tmp_path):
    models = models_with_own_affinity(rng, REGISTERED)
    inputs = {"layer": picture(rng, (2, 7, 11, 16)), "network": picture(rng, (2, 17, 23, 3))}
    outputs = predict_in_new_process(models, inputs, tmp_path, prologue=REGISTERED)
    for name, model in models.items():
        expected = array(call(model, inputs[name]))
        np.testing.assert_allclose(outputs[name], expected, rtol=1e-5, atol=1e-5)


class Mean(Linear):
    """All positions get one value, a view of it."""

    def at_positions(self, context, positions, synthesis):
        y = super().at_positions(context, positions, synthesis)
        return ops.broadcast_to(ops.mean(y, axis=(1, 2), keepdims=True), ops.shape(y))


class Squashed(Linear):
    """The gradient of a sigmoid reads its result."""

    def at_positions(self, context, positions, synthesis):
        return ops.sigmoid(super().at_positions(context, positions, synthesis))


@pytest.mark.parametrize("affinity", [Mean, Squashed])
def test_what_an_affinity_gives_is_left_as_it_is(rng, affinity):
    x = picture(rng)
    layer = ready(lambda **settings: FrequencySelfAttention(3, affinity(), 2, **settings), rng)
    y = array(call(layer, x))
    if affinity is Mean:
        np.testing.assert_allclose(np.ptp(y - x, axis=(1, 2)), 0, atol=1e-5)
    found = gradients(layer, x, rng.standard_normal(y.shape).astype("float32"))
    assert all(np.isfinite(gradient).all() for gradient in found)


def test_an_affinity_that_is_not_registered(rng, tmp_path):
    for name, model in models_with_own_affinity(rng, OWN_AFFINITY).items():
        model.save(tmp_path / f"{name}.keras")
        with pytest.raises(TypeError, match=r"Could not locate class 'Scaled'"):
            keras.saving.load_model(tmp_path / f"{name}.keras")
