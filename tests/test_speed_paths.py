"""The speed paths of each engine: the same numbers, files and gradients as Keras' own layers."""

import copy
import pickle

import keras
import numpy as np
import pytest

from keras_fsa import FsaNet
from keras_fsa.models.exporting import largest_deviation, load_exported
from keras_fsa.models.speed import neutral_twins, use_speed_paths
from tests.helpers import BACKEND, array, gradients, randomize

CASES = {
    "1x1": {"kernel_size": 1, "activation": "relu"},
    "strided 1x1": {"kernel_size": 1, "strides": 2, "padding": "same"},
    "3x3": {"kernel_size": 3, "padding": "same", "use_bias": False},
    "dilated": {"kernel_size": (3, 5), "padding": "same", "dilation_rate": (2, 3)},
    "valid": {"kernel_size": (3, 2), "strides": 2},
    "grouped": {"kernel_size": 3, "groups": 2, "activation": "relu"},
}
DEPTHWISE = {
    "depthwise": {"kernel_size": 3, "padding": "same", "activation": "relu"},
    "depthwise dilated": {"kernel_size": (3, 5), "padding": "same", "dilation_rate": (2, 3)},
    "depthwise valid": {"kernel_size": (3, 2), "strides": 2, "use_bias": False},
    "depthwise 1x1": {"kernel_size": 1, "strides": 2},
}
STRIDED = {
    "depthwise strided": {"kernel_size": 3, "strides": 2, "padding": "same"},
    "depthwise even": {"kernel_size": (2, 4), "padding": "same"},
    "depthwise skips": {"kernel_size": 2, "strides": 3, "padding": "same"},
}
SEVERAL = {"depthwise, several": {"kernel_size": 3, "depth_multiplier": 3}}
# Uneven padding is left to Keras.
LEFT = {
    "even kernel": {"kernel_size": 2, "padding": "same"},
    "strided": {"kernel_size": 3, "strides": 2, "padding": "same"},
    "channels first": {"kernel_size": 1, "data_format": "channels_first"},
    "depthwise channels first": {"kernel_size": 1, "data_format": "channels_first"},
}
ALL = {**CASES, **DEPTHWISE, **STRIDED, **SEVERAL, **LEFT}
REPLACED = {
    "torch": [*CASES, *DEPTHWISE, *SEVERAL],
    "jax": ["1x1", "strided 1x1", *DEPTHWISE, *STRIDED],
}


def network(name):
    arguments = ALL[name]
    shape = (4, None, None) if "data_format" in arguments else (None, None, 4)
    if name.startswith("depthwise"):
        layer = keras.layers.DepthwiseConv2D(**arguments)
    else:
        layer = keras.layers.Conv2D(6, **arguments)
    return keras.Sequential([keras.Input(shape), layer])


def check_equal(fast, plain, x, rng):
    expected = array(plain(x))
    np.testing.assert_allclose(array(fast(x)), expected, atol=2e-6 * np.abs(expected).max())
    upstream = rng.standard_normal(expected.shape).astype("float32")
    for got, want in zip(gradients(fast, x, upstream), gradients(plain, x, upstream), strict=True):
        np.testing.assert_allclose(got, want, atol=1e-5 * np.abs(want).max())


@pytest.mark.parametrize("name", ALL)
def test_equals_the_neutral_twin(rng, name):
    plain = randomize(network(name), rng, 0.5)
    fast = keras.models.clone_model(plain)
    use_speed_paths(fast)
    # Weights that are assigned later go into the same memory.
    fast.set_weights(plain.get_weights())
    replaced = name in REPLACED.get(BACKEND, ())
    # TensorFlow has no channels-first convolution on some processors; there, both are Keras' own.
    if BACKEND != "tensorflow" or "channels first" not in name or replaced:
        x = rng.standard_normal((2, 4, 4, 4) if "channels first" in name else (2, 11, 13, 4))
        check_equal(fast, plain, x.astype("float32"), rng)
    assert ("call" in vars(fast.layers[0])) == replaced
    with neutral_twins(fast):
        assert "call" not in vars(fast.layers[0])
    assert ("call" in vars(fast.layers[0])) == replaced
    if BACKEND == "torch" and replaced:
        kernel = fast.layers[0].kernel.value
        order = (2, 3, 0, 1) if name.startswith("depthwise") else (3, 0, 1, 2)
        assert kernel.permute(order).is_contiguous()
        assert tuple(kernel.shape) == tuple(plain.layers[0].kernel.shape)


@pytest.mark.skipif(BACKEND != "jax", reason="JAX's transformations")
def test_shifted_maps_take_all_derivatives(rng):
    """Forward, backward, and for each image; as Keras' own convolution does."""
    import jax

    plain = randomize(network("depthwise dilated"), rng, 0.5)
    fast = keras.models.clone_model(plain)
    use_speed_paths(fast)
    fast.set_weights(plain.get_weights())
    kernel, bias = (weight.value for weight in plain.weights)
    x = jax.numpy.asarray(rng.standard_normal((3, 1, 11, 13, 4)), "float32")
    tangents = rng.standard_normal(kernel.shape).astype("float32")

    def derivatives(model):
        def loss(kernel, x):
            return (model.stateless_call([kernel, bias], [], x)[0] ** 2).sum()

        forward = jax.jvp(loss, (kernel, x[0]), (tangents, x[1]))
        return *forward, jax.vmap(jax.grad(loss, (0, 1)), (None, 0))(kernel, x)

    for got, want in zip(*(jax.tree.leaves(derivatives(m)) for m in (fast, plain)), strict=True):
        np.testing.assert_allclose(got, want, atol=1e-5 * np.abs(want).max())


@pytest.mark.skipif(BACKEND != "jax", reason="sizes that are symbols while JAX exports")
def test_shifted_maps_in_a_file_for_any_size(rng, tmp_path):
    images = x = keras.Input((None, None, 3))
    for arguments in (*DEPTHWISE.values(), STRIDED["depthwise strided"]):
        x = keras.layers.DepthwiseConv2D(**arguments)(keras.layers.ZeroPadding2D(2)(x))
    backbone = keras.Model(images, {"stage5": x})
    settings = {"auxiliary_loss_weight": 0, "normalization": "imagenet"}
    model = FsaNet(3, backbone, head_channels=4, frequencies=2, **settings)
    randomize(model, rng)
    model.export(tmp_path / "folder", verbose=False)
    assert largest_deviation(model, load_exported(tmp_path / "folder")) < 1e-5


def test_trains_saves_and_copies(rng, tmp_path):
    """As the plain network does, step by step."""
    x = rng.standard_normal((2, 11, 13, 4)).astype("float32")
    models = [network("3x3") for _ in range(2)]
    models[1].set_weights(models[0].get_weights())
    use_speed_paths(models[1])
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


@pytest.mark.parametrize("kind", [keras.layers.Conv2D, keras.layers.DepthwiseConv2D])
def test_half_precision(rng, kind):
    x = rng.standard_normal((1, 7, 9, 4)).astype("float32")
    first = {"filters": 6} if kind is keras.layers.Conv2D else {}
    layer = kind(**first, kernel_size=3, padding="same", dtype="mixed_bfloat16")
    model = keras.Sequential([keras.Input((None, None, 4)), layer])
    expected = array(keras.ops.cast(model(x), "float32"))
    use_speed_paths(model)
    got = array(keras.ops.cast(model(x), "float32"))
    # Two roundings of bfloat16's 8 bits.
    np.testing.assert_allclose(got, expected, atol=2**-7 * np.abs(expected).max())


def block(x, **settings):
    """What a ResNet's block has, and a shortcut."""
    y = keras.layers.Conv2D(4, 3, padding="same", use_bias=False, **settings)(x)
    y = keras.layers.BatchNormalization(momentum=0.9, epsilon=1e-3)(y)
    y = keras.layers.ReLU()(y)
    y = keras.layers.Conv2D(4, 1)(y)
    y = keras.layers.BatchNormalization(center=False)(y)
    y = keras.layers.Add()([x, y])
    return keras.layers.Activation("relu")(y)


def graph():
    images = keras.Input((None, None, 4))
    x = keras.layers.ZeroPadding2D(1)(images)
    x = keras.layers.MaxPooling2D(3, 2)(x)
    shown = keras.layers.BatchNormalization(scale=False, name="shown")(x)
    x = block(keras.layers.ReLU(max_value=6)(shown))
    y = block(x, dilation_rate=2)
    z = keras.layers.ReLU(name="second")(keras.layers.Concatenate()([x, y]))
    return keras.Model(images, {"shown": shown, "x": x, "z": z})


def fast_and_plain(rng):
    plain = randomize(graph(), rng, 0.5)
    fast = keras.models.clone_model(plain)
    fast.set_weights(plain.get_weights())
    use_speed_paths(fast)
    return fast, plain


class Joined(keras.layers.Layer):
    """One map of all outputs, so that gradients reach each of them."""

    def __init__(self, model):
        super().__init__()
        self.model = model
        self.built = True

    def call(self, x, training=False):
        found = self.model(x, training=training)
        return keras.ops.concatenate([found[name] for name in ("shown", "x", "z")], -1)


def test_a_graph_equals_its_neutral_twin(rng):
    fast, plain = fast_and_plain(rng)
    x = rng.standard_normal((2, 11, 13, 4)).astype("float32")
    before = x.copy()
    given = keras.ops.convert_to_tensor(x)
    got, want = fast(given), plain(given)
    assert list(got) == list(want)
    for name in want:
        scale = np.abs(array(want[name])).max()
        np.testing.assert_allclose(array(got[name]), array(want[name]), atol=2e-6 * scale)
    # Neither what the caller gave nor what is returned was written over.
    np.testing.assert_array_equal(array(given), before)
    assert array(got["shown"]).min() < 0 <= array(got["x"]).min()
    upstream = rng.standard_normal((2, 6, 7, 16)).astype("float32")
    found = (gradients(Joined(model), x, upstream) for model in (fast, plain))
    for one, other in zip(*found, strict=True):
        np.testing.assert_allclose(one, other, atol=1e-5 * np.abs(other).max())


def test_layers_of_a_graph_are_themselves_outside(rng):
    """In another model, or by hand."""
    fast, plain = fast_and_plain(rng)
    x = rng.standard_normal((1, 11, 13, 4)).astype("float32")
    names = [layer.name for layer in fast.layers[1:]]
    outputs = [layer.output for layer in fast.layers[1:]]
    expected = keras.Model(plain.input, [layer.output for layer in plain.layers[1:]])(x)
    for name, one, other in zip(names, keras.Model(fast.input, outputs)(x), expected, strict=True):
        scale = np.abs(array(other)).max()
        np.testing.assert_allclose(array(one), array(other), atol=2e-6 * scale, err_msg=name)
    y = keras.ops.convert_to_tensor(x)
    for name in ("second", names[0]):
        fast.get_layer(name)(y)
    np.testing.assert_array_equal(array(y), x)


@pytest.mark.parametrize("first", [False, True])
def test_low_rank_adaptation(rng, first):
    """Keras' `enable_lora`, before or after the layers are replaced: kernels are sums."""
    plain = randomize(network("dilated"), rng, 0.5)
    plain.layers[0].enable_lora(2)
    randomize(plain, rng, 0.5)
    fast = keras.models.clone_model(network("dilated"))
    if not first:
        use_speed_paths(fast)
    fast.layers[0].enable_lora(2)
    fast.set_weights(plain.get_weights())
    if first:
        use_speed_paths(fast)
    check_equal(fast, plain, rng.standard_normal((2, 11, 13, 4)).astype("float32"), rng)


def test_layers_may_change_later(rng):
    """As those who look into networks do."""
    fast, plain = fast_and_plain(rng)
    x = rng.standard_normal((1, 11, 13, 4)).astype("float32")
    for model in (fast, plain):
        (activation, _) = (
            layer for layer in model.layers if type(layer) is keras.layers.Activation
        )
        activation.activation = keras.activations.tanh
    np.testing.assert_allclose(array(fast(x)["z"]), array(plain(x)["z"]), atol=1e-5)


@pytest.mark.parametrize("frozen", [False, True])
def test_batch_norm_trains_as_its_neutral_twin(rng, frozen):
    fast, plain = fast_and_plain(rng)
    x = (5 + 2 * rng.standard_normal((3, 11, 13, 4))).astype("float32")
    assert ("call" in vars(fast.get_layer("shown"))) == (BACKEND != "jax")
    for model in (fast, plain):
        model.get_layer("shown").trainable = not frozen
        trained = keras.Sequential([keras.Input((None, None, 4)), Joined(model)])
        trained.compile(keras.optimizers.SGD(0.01), "mse", jit_compile=False)
        trained.fit(x, np.ones((3, 6, 7, 16), "float32"), epochs=3, batch_size=3, verbose=0)
    assert any("moving_variance" in weight.path for weight in fast.weights)
    for one, other in zip(fast.weights, plain.weights, strict=True):
        scale = np.abs(array(other)).max()
        np.testing.assert_allclose(array(one), array(other), atol=1e-5 * scale, err_msg=one.path)


@pytest.mark.parametrize(
    ("arguments", "shape"),
    [
        ({"epsilon": 1e-8}, (2, 5, 7, 4)),
        ({"axis": 1}, (2, 4, 5, 7)),
        ({}, (6, 4)),
        ({}, (2, 5, 4)),
        ({"dtype": "float64"}, (2, 5, 7, 4)),
        ({"renorm": True}, (2, 5, 7, 4)),
    ],
    ids=str,
)
def test_other_batch_norms(rng, arguments, shape):
    """Those that an engine's fused operation does not take, or that are no maps."""
    x = (5 + 2 * rng.standard_normal(shape)).astype(arguments.get("dtype", "float32"))
    results = []
    for fast in (False, True):
        layer = keras.layers.BatchNormalization(**arguments)
        model = keras.Sequential([keras.Input(shape[1:], dtype=x.dtype.name), layer])
        if fast:
            use_speed_paths(model)
        trained = array(model(x, training=True))
        results.append([trained, array(model(x)), *map(array, model.weights)])
    for want, got in zip(*results, strict=True):
        np.testing.assert_allclose(got, want, atol=1e-5 * np.abs(want).max())


def test_batch_norm_of_one_position(rng):
    """Where torch's own refuses."""
    layer = keras.layers.BatchNormalization()
    models = [keras.Sequential([keras.Input((None, None, 4)), layer])]
    models.append(keras.models.clone_model(models[0]))
    use_speed_paths(models[0])
    x = rng.standard_normal((1, 1, 1, 4)).astype("float32")
    got, want = (array(model(x, training=True)) for model in models)
    np.testing.assert_allclose(got, want, atol=1e-6)
    for one, other in zip(models[0].weights, models[1].weights, strict=True):
        np.testing.assert_allclose(array(one), array(other), atol=1e-6)


@pytest.mark.parametrize("policy", ["mixed_bfloat16", "bfloat16", "mixed_float16"])
def test_a_graph_in_half_precision(rng, policy):
    keras.config.set_dtype_policy(policy)
    try:
        fast, plain = fast_and_plain(rng)
    finally:
        keras.config.set_dtype_policy("float32")
    x = rng.standard_normal((2, 11, 13, 4)).astype("float32")
    for training in (False, True):
        got, want = (model(x, training=training)["z"] for model in (fast, plain))
        assert got.dtype == want.dtype
        got, want = (array(keras.ops.cast(y, "float32")) for y in (got, want))
        # A few roundings of bfloat16's 8 bits.
        np.testing.assert_allclose(got, want, atol=2**-6 * np.abs(want).max())


def test_a_graph_saves_and_copies(rng, tmp_path):
    fast, _ = fast_and_plain(rng)
    x = rng.standard_normal((1, 11, 13, 4)).astype("float32")
    expected = array(fast(x)["z"])
    fast.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    pickled = pickle.loads(pickle.dumps(fast))
    for model in (loaded, copy.deepcopy(fast), pickled, keras.models.clone_model(fast)):
        assert [layer.name for layer in model.layers] == [layer.name for layer in fast.layers]
        model.set_weights(fast.get_weights())
        np.testing.assert_allclose(array(model(x)["z"]), expected, atol=1e-5)
    # What Keras sees of the model is as it was.
    assert fast.get_config() == keras.models.clone_model(fast).get_config()
