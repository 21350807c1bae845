"""Batch norms folded into convolutions: the same logits, fewer layers, also from a file."""

import keras
import numpy as np
import pytest
from keras import layers

import keras_fsa
from keras_fsa.backbones.dilation import dilate
from keras_fsa.models.exporting import largest_deviation, load_exported
from keras_fsa.models.folding import fold_batch_norm
from tests.helpers import BACKEND, array, predict_in_new_process, randomize
from tests.test_backbones_by_object import vit


def norms(model):
    return [
        layer.name
        for layer in model._flatten_layers(include_self=False)
        if type(layer) is layers.BatchNormalization
    ]


def backbone():
    """What convolutions before a batch norm may have: strides, dilation, bias, padding around."""
    images = keras.Input((None, None, 3))
    x = layers.ZeroPadding2D(1)(images)
    x = layers.Conv2D(6, 3, 2, use_bias=False)(x)
    x = layers.BatchNormalization(epsilon=1e-2)(x)
    x = layers.ReLU()(layers.ZeroPadding2D(((0, 1), (1, 0)))(x))
    x = layers.DepthwiseConv2D(3, padding="same", depth_multiplier=2)(x)
    x = layers.BatchNormalization(center=False)(x)
    shortcut = layers.Conv2D(8, 1, use_bias=False)(x)
    shortcut = layers.BatchNormalization(scale=False)(shortcut)
    x = layers.Conv2D(8, 3, padding="same", dilation_rate=2)(x)
    x = layers.BatchNormalization()(x)
    stage4 = layers.ReLU()(x + shortcut)
    return keras.Model(images, {"stage4": stage4, "stage5": layers.Conv2D(8, 1)(stage4)})


def network(rng, **settings):
    model = keras_fsa.FsaNet(
        5, backbone(), head_channels=8, frequencies=3, normalization="imagenet", **settings
    )
    return randomize(model, rng)


# Sums of float32 in another order; half precision rounds kernels of another scale.
CLOSE = {"float32": 1e-5, "mixed_float16": 1e-2, "mixed_bfloat16": 8e-2}


@pytest.mark.parametrize("policy", CLOSE)
def test_a_network_keeps_its_logits(rng, policy):
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(policy)
    try:
        model = network(rng)
    finally:
        keras.config.set_dtype_policy(before)
    folded = fold_batch_norm(model)
    assert isinstance(folded, keras_fsa.FsaNet) and folded.auxiliary_head is None
    assert len(norms(model)) == 8 and not norms(folded)
    images = rng.integers(0, 256, (2, 33, 47, 3)).astype("uint8")
    want = model.predict_on_batch(images)
    got = folded.predict_on_batch(images)
    assert got.dtype == want.dtype == np.float32
    scale = np.abs(want).max()
    assert want.std() > 0.01 * scale
    np.testing.assert_allclose(got, want, atol=CLOSE[policy] * scale)
    # The original is as it was.
    np.testing.assert_array_equal(model.predict_on_batch(images), want)


def test_kernels_against_the_formula(rng):
    x = keras.Input((None, None, 3))
    convolution = layers.Conv2D(4, 3, name="conv")
    norm = layers.BatchNormalization(epsilon=0.01, name="norm")
    model = randomize(keras.Model(x, norm(convolution(x))), rng)
    kernel, bias = (array(w).astype("float64") for w in convolution.weights)
    gamma, beta = array(norm.gamma), array(norm.beta)
    mean, variance = array(norm.moving_mean), array(norm.moving_variance)
    factor = gamma.astype("float64") / np.sqrt(variance.astype("float64") + 0.01)
    folded = fold_batch_norm(model)
    assert [layer.name for layer in folded.layers[1:]] == ["conv"]
    got = [array(w) for w in folded.get_layer("conv").weights]
    np.testing.assert_allclose(got[0], kernel * factor, rtol=1e-6)
    np.testing.assert_allclose(got[1], beta + factor * (bias - mean), rtol=1e-5, atol=1e-7)


def test_low_rank_adaptation(rng):
    model = network(rng)
    for layer in model._flatten_layers():
        if type(layer) is layers.Conv2D:
            layer.enable_lora(2)
    randomize(model, rng)
    x = rng.integers(0, 256, (1, 37, 53, 3)).astype("uint8")
    expected, folded = model.predict_on_batch(x), fold_batch_norm(model)
    assert norms(folded) == []
    np.testing.assert_allclose(
        folded.predict_on_batch(x), expected, atol=1e-5 * np.abs(expected).max()
    )


def test_low_rank_adaptation_of_what_is_copied(rng):
    """Keras 3.15 forgets the scale of a dense layer's when it builds it."""
    x = keras.Input((12, 14, 3))
    model = keras.Model(x, layers.Dense(4)(x))
    model.layers[-1].enable_lora(2, lora_alpha=6)
    randomize(model, rng)
    images = rng.standard_normal((1, 12, 14, 3)).astype("float32")
    np.testing.assert_array_equal(
        fold_batch_norm(model).predict_on_batch(images), model.predict_on_batch(images)
    )


def test_what_cannot_be_folded_stays(rng):
    x = keras.Input((12, 14, 3))
    first = layers.BatchNormalization(name="before_a_convolution")(x)
    read_twice = layers.Conv2D(4, 3, name="read_twice")(first)
    a = layers.BatchNormalization(name="reads_it")(read_twice)
    b = layers.Conv2D(4, 3, padding="same", activation="relu")(read_twice)
    b = layers.BatchNormalization(name="behind_an_activation")(b)
    c = layers.ZeroPadding2D(1)(layers.Conv2D(4, 3)(a + b))
    c = layers.BatchNormalization(name="behind_padding")(c)
    c = layers.Conv2D(4, 3, padding="same")(c)
    c = layers.BatchNormalization(axis=1, name="over_rows")(c)
    c = layers.Conv2D(4, 3, padding="same")(c)
    c = layers.BatchNormalization(name="folds")(c)
    model = randomize(keras.Model(x, c), rng)
    folded = fold_batch_norm(model)
    assert set(norms(model)) - set(norms(folded)) == {"folds"}
    images = rng.standard_normal((2, 12, 14, 3)).astype("float32")
    want = model.predict_on_batch(images)
    np.testing.assert_allclose(
        folded.predict_on_batch(images), want, atol=1e-5 * np.abs(want).max()
    )


def convolution(**settings):
    return layers.Conv2D(3, 3, padding="same", **settings)


def convolution_read_by_a_shared_layer():
    x, relu = keras.Input((None, None, 3)), layers.ReLU()
    y = convolution()(relu(x))
    return keras.Model(x, layers.Add()([layers.BatchNormalization()(y), relu(y)])), 0


def convolution_read_by_a_nested_model():
    x, z = keras.Input((None, None, 3)), keras.Input((None, None, 3))
    y = convolution()(x)
    nested = keras.Model(z, layers.ReLU()(z))(y)
    return keras.Model(x, layers.Add()([layers.BatchNormalization()(y), nested])), 0


def shared_convolution():
    x, shared = keras.Input((None, None, 3)), convolution()
    return keras.Model(x, shared(layers.BatchNormalization()(shared(x)))), 0


def shared_norm():
    x, norm = keras.Input((None, None, 3)), layers.BatchNormalization()
    return keras.Model(x, norm(layers.ReLU()(norm(convolution()(x))))), 0


def layers_of_another_model():
    x, z = keras.Input((None, None, 3)), keras.Input((None, None, 3))
    first, last, norm = convolution(), convolution(), layers.BatchNormalization()
    keras.Model(x, last(norm(layers.ReLU()(first(x)))))
    return keras.Model(z, norm(last(first(z)))), 1


def norm_that_another_model_has_elsewhere():
    x, z = keras.Input((None, None, 3)), keras.Input((None, None, 3))
    first, norm = convolution(), layers.BatchNormalization()
    keras.Model(x, norm(first(x)))
    return keras.Model(z, norm(layers.ReLU()(first(z)))), 0


def sum_of_a_dilated_network():
    x = keras.Input((None, None, 3))
    y = convolution(strides=2)(x)
    return dilate(keras.Model(x, layers.BatchNormalization()(y) + y), 1, (None, None)), 0


@pytest.mark.parametrize(
    "build",
    [
        convolution_read_by_a_shared_layer,
        convolution_read_by_a_nested_model,
        shared_convolution,
        shared_norm,
        layers_of_another_model,
        norm_that_another_model_has_elsewhere,
        sum_of_a_dilated_network,
    ],
)
def test_what_a_layer_reads_is_that_of_its_graph(rng, build):
    """A layer's own `input` is that of its first call, perhaps in another model."""
    model, folds = build()
    folded = fold_batch_norm(randomize(model, rng))
    assert len(norms(model)) - len(norms(folded)) == folds
    images = rng.standard_normal((2, 12, 14, 3)).astype("float32")
    want = model.predict_on_batch(images)
    np.testing.assert_allclose(
        folded.predict_on_batch(images), want, atol=1e-5 * np.abs(want).max()
    )


@pytest.mark.once
def test_a_compiled_model(rng):
    """Its copies are not compiled: a loss may be one that has no configuration."""
    x = keras.Input((None, None, 3))
    model = keras.Model(x, layers.BatchNormalization()(convolution(strides=2)(x)))
    model.compile(loss=lambda y, z: keras.ops.mean(y - z))
    for copy in (fold_batch_norm(model), dilate(model, 1, (None, None))):
        assert not copy.compiled


class WithoutConfig(layers.Layer):
    def __init__(self, width):
        super().__init__()

    def call(self, x):
        return x


class Halved(keras.Model):
    """With a batch norm that only its own `call` knows."""

    def __init__(self, **settings):
        super().__init__(**settings)
        self.norm = layers.BatchNormalization()

    def call(self, x):
        return self.norm(x) / 2


@pytest.mark.once
def test_models_that_are_copied_whole(rng):
    x = keras.Input((32, 64, 3))
    y = Halved()(layers.BatchNormalization()(convolution()(x)))
    image = rng.standard_normal((1, 32, 64, 3)).astype("float32")
    for model in (keras.Model(x, y), vit(), keras.Model(x, vit()(x))):
        randomize(model, rng, 0.1)
        folded, want = fold_batch_norm(model), model.predict_on_batch(image)
        assert len(norms(folded)) == (1 if len(norms(model)) else 0)
        np.testing.assert_allclose(
            folded.predict_on_batch(image), want, atol=1e-5 * np.abs(want).max()
        )
    net = keras_fsa.FsaNet(
        3, vit(), (32, 64, 3), head_channels=8, frequencies=2, normalization="tf"
    )
    assert not norms(fold_batch_norm(net))


def test_nested_and_sequential_models(rng):
    def block(**settings):
        return keras.Sequential(
            [
                keras.Input((None, None, 3)),
                layers.Conv2D(3, 3, **settings),
                layers.BatchNormalization(),
            ]
        )

    x = keras.Input((None, None, 3))
    model = randomize(keras.Model(x, block(padding="same")(block()(x))), rng)
    images = rng.standard_normal((2, 12, 14, 3)).astype("float32")
    for one in (model, randomize(block(), rng)):
        folded = fold_batch_norm(one)
        assert norms(one) and not norms(folded)
        want = one.predict_on_batch(images)
        np.testing.assert_allclose(folded.predict_on_batch(images), want, atol=1e-5)


def test_files_of_folded_networks(rng, tmp_path):
    model = network(rng)
    folded = fold_batch_norm(model)
    images = rng.integers(0, 256, (1, 33, 47, 3)).astype("uint8")
    want = model.predict_on_batch(images)
    (got,) = predict_in_new_process({"folded": folded}, {"folded": images}, tmp_path).values()
    np.testing.assert_allclose(got, want, atol=1e-5 * np.abs(want).max())
    if BACKEND != "torch":
        folded.export(tmp_path / "served", verbose=False)
        serve = load_exported(tmp_path / "served")
        assert largest_deviation(folded, serve) < 1e-5 * np.abs(want).max()


@pytest.mark.parametrize("settings", [{}, {"attention": "spatial"}, {"recurrence": 1}])
def test_truncation_of_a_folded_network(rng, settings):
    """Folding and truncating may come in either order."""
    model = network(rng, **settings)
    model.attention_layer().gain.assign(10.0)
    images = rng.integers(0, 256, (1, 33, 47, 3)).astype("uint8")
    want = keras_fsa.to_frequency(model, 2).predict_on_batch(images)
    narrow = keras_fsa.to_frequency(fold_batch_norm(model), 2)
    attention = narrow.attention_layer()
    assert (attention.low_pass if settings.get("attention") else attention.frequencies) == 2
    got = narrow.predict_on_batch(images)
    np.testing.assert_allclose(got, want, atol=1e-5 * np.abs(want).max())
    # What the truncation changes is a hundred times that.
    assert np.abs(got - model.predict_on_batch(images)).max() > 1e-3 * np.abs(want).max()


@pytest.mark.once
@pytest.mark.parametrize("folded_first", [True, False])
def test_a_network_folded_and_truncated_has_one_attention(rng, tmp_path, folded_first):
    """A second one, as the argument that made the first, would come with weights of no use."""
    steps = [fold_batch_norm, lambda model: keras_fsa.to_frequency(model, 2)]
    model = network(rng)
    for step in steps if folded_first else steps[::-1]:
        model = step(model)
    assert len(model.weights) == len(model.backbone.weights) + len(model.head.weights)
    assert model.attention is model.attention_layer()
    images = rng.integers(0, 256, (1, 33, 47, 3)).astype("uint8")
    want = model.predict_on_batch(images)
    model.save(tmp_path / "model.keras")
    for name in (None, "other"):
        opened = keras_fsa.FsaNet.from_preset(
            tmp_path / "model.keras", **{"name": name} if name else {}
        )
        assert len(opened.weights) == len(model.weights)
        np.testing.assert_array_equal(opened.predict_on_batch(images), want)


def test_a_folded_network_as_spatial_attention(rng):
    folded = fold_batch_norm(network(rng))
    images = rng.integers(0, 256, (1, 33, 47, 3)).astype("uint8")
    want = folded.predict_on_batch(images)
    spatial = keras_fsa.to_spatial(folded)
    assert isinstance(spatial.attention_layer(), keras_fsa.layers.SpatialSelfAttention)
    got = spatial.predict_on_batch(images)
    np.testing.assert_allclose(got, want, atol=1e-4 * np.abs(want).max())


def test_a_folded_network_keeps_its_classes(rng, tmp_path):
    path = tmp_path / "folded.keras"
    fold_batch_norm(network(rng)).save(path)
    with pytest.raises(ValueError, match=r"`head` must give .*, 5\), for num_classes=4.*before"):
        keras_fsa.FsaNet.from_preset(path, num_classes=4)
    half = keras_fsa.FsaNet.from_preset(path, dtype="mixed_bfloat16")
    assert half.head.get_layer("after_conv").compute_dtype == "bfloat16"
    assert half.head.get_layer("logits").compute_dtype == "float32"
    assert half.predict(np.zeros((1, 33, 47, 3)), verbose=0).dtype == "float32"


def test_errors():
    class Subclass(keras.Model):
        pass

    for model in (Subclass(), None, keras.Sequential([layers.Conv2D(3, 3)])):
        with pytest.raises(ValueError, match="`model` must be an FsaNet, or a .* Received: model="):
            fold_batch_norm(model)
    x = keras.Input((None, None, 3))
    with pytest.raises(
        ValueError, match="`model` must hold layers .* Received: layer=.*get_config"
    ):
        fold_batch_norm(keras.Model(x, WithoutConfig(3)(x)))
