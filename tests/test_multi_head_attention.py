"""Keras' multi-head attention, found in a model and truncated."""

import keras
import numpy as np
import pytest
from keras import layers

import keras_fsa
from keras_fsa.layers import FrequencySelfAttention, SpatialSelfAttention
from tests import reference
from tests.helpers import array, randomize

# Three heads; queries of 5 channels each, values of 7.
HEIGHT, WIDTH, CHANNELS, HEADS = 7, 11, 13, 3
BAND = ((0, 3), (0, 5))


def attention(name="attention", **settings):
    # Without dropout, Keras wants values as wide as keys under JAX.
    settings = {"dropout": 0.1, **settings}
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

    def weights(name):
        dense = getattr(layer, f"{name}_dense")
        bias = array(dense.bias) if layer.use_bias else np.zeros(dense.kernel.shape[1:])
        return array(dense.kernel).astype("float64"), bias.astype("float64")

    low_pass = np.eye(HEIGHT * WIDTH)
    if band is not None:
        low_pass = reference.projector(HEIGHT, WIDTH, band)
    outputs = []
    for z in low_pass @ x.reshape(len(x), HEIGHT * WIDTH, -1).astype("float64"):
        y = 0
        for head in range(HEADS):
            q, k, v = (
                z @ kernel[:, head] + bias[head]
                for kernel, bias in map(weights, ("query", "key", "value"))
            )
            y = y + reference.affinity(affinity, q, k) @ v @ weights("output")[0][head]
        outputs.append(y + (weights("output")[1] if layer.use_bias else 0))
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
        y = attention(f"attention_{i}")(y, y)
        x = layers.Add()([x, y])
        y = layers.Dense(17, activation="gelu")(layers.LayerNormalization()(x))
        x = x + layers.Dense(CHANNELS)(y)
    return x


def test_a_transformer(rng, tmp_path):
    model = of_a_map(transformer)
    # Larger ones bring the denominators of the linear form near zero, and show its rounding.
    randomize(model, rng, scale=0.1)
    x = picture(rng)
    everything = keras_fsa.to_frequency(model, (HEIGHT, WIDTH))
    assert_close(everything(x), array(model(x)))
    new = keras_fsa.to_frequency(model, 3, affinity="linear")
    kinds = [type(layer) for layer in new.layers]
    assert kinds.count(FrequencySelfAttention) == 2 and layers.MultiHeadAttention not in kinds
    assert_close(keras_fsa.to_spatial(new)(x), array(new(x)))
    lower = keras_fsa.to_frequency(new, 2)
    assert lower.get_layer("attention_1").frequencies == 2
    new.save(tmp_path / "new.keras")
    loaded = keras.saving.load_model(tmp_path / "new.keras")
    # Any number of examples.
    outputs = loaded.predict(np.concatenate([x] * 3), verbose=0)
    assert_close(outputs[4:], array(new(x)))


def in_a_model(rng):
    """A part of the model that does not show where its sequence comes from."""
    x = keras.Input((HEIGHT * WIDTH, CHANNELS))
    block = keras.Model(x, x + attention()(x, x), name="block")
    return of_a_map(lambda x: layers.ReLU()(block(block(x))), rng)


def on_the_map(rng):
    x = keras.Input((None, None, CHANNELS))
    return randomize(keras.Model(x, attention()(x, x)), rng)


def several_times(rng):
    """One layer on two maps, and on one of them once more."""
    layer = attention()
    x = keras.Input((HEIGHT, WIDTH, CHANNELS))
    small = layers.Reshape((-1, CHANNELS))(layers.MaxPooling2D(2)(x))
    sequences = (layers.Reshape((-1, CHANNELS))(x), small, layers.ReLU()(small))
    y = layers.Concatenate(axis=1)([layer(z, z) for z in sequences])
    return randomize(keras.Model(x, y), rng)


def operations(rng):
    """`keras.ops` in place of layers, and only the scores' dropout to tell from inference."""
    ops, x = keras.ops, keras.Input((HEIGHT, WIDTH, CHANNELS))
    y = ops.reshape(x, (-1, HEIGHT * WIDTH, CHANNELS))
    z = ops.gelu(y)
    z = attention(dropout=0.5)(query=z, value=z, training=False)
    return randomize(keras.Model(x, ops.reshape(z + y, (-1, HEIGHT, WIDTH, CHANNELS))), rng)


@pytest.mark.parametrize("make", [in_a_model, on_the_map, several_times, operations])
def test_other_graphs(rng, make):
    model = make(rng)
    x = 0.3 * picture(rng)
    size = {"map_size": [HEIGHT, WIDTH]} if make is in_a_model else {}
    before = array(model(x))
    if make is not several_times:
        everything = keras_fsa.to_frequency(model, (HEIGHT, WIDTH), **size)
        assert_close(everything(x), before)
    new = keras_fsa.to_frequency(model, 3, "linear", **size)
    assert_close(keras_fsa.to_spatial(new)(x), array(new(x)))
    assert np.abs(array(new(x)) - before).max() > 1e-3
    assert new.output_shape == model.output_shape
    assert new.count_params() == model.count_params()


def test_fsanet_on_a_transformer(rng):
    x = keras.Input((4 * HEIGHT, 4 * WIDTH, 3))
    y = layers.Conv2D(CHANNELS, 4, 4)(x)
    y = layers.Reshape((HEIGHT, WIDTH, CHANNELS))(transformer(layers.Reshape((-1, CHANNELS))(y)))
    backbone = keras.Model(x, {"stage5": y})
    net = keras_fsa.FsaNet(
        3,
        backbone,
        (4 * HEIGHT, 4 * WIDTH, 3),
        frequencies=4,
        head_channels=8,
        normalization=None,
        auxiliary_loss_weight=0,
    )
    randomize(net, rng, scale=0.1)
    new = keras_fsa.to_frequency(net, 3, affinity="linear")
    assert new.backbone.get_layer("attention_1").frequencies == 3
    assert new.attention_layer().frequencies == 3
    x = rng.standard_normal((2, 4 * HEIGHT, 4 * WIDTH, 3)).astype("float32")
    assert_close(keras_fsa.to_spatial(new)(x), array(new(x)))


def test_dtype_policy_and_flag_stay(rng):
    model = of_a_map(lambda x: attention(dtype="mixed_bfloat16")(x, x), rng)
    model.get_layer("attention").trainable = False
    new = keras_fsa.to_frequency(model, 3, "linear")
    assert new.output.dtype == model.output.dtype == "bfloat16"
    assert not new.trainable_weights and len(new.weights) == 8
    x = 0.3 * picture(rng)
    wanted = expected(model, x, "linear", ((0, 3), (0, 3)))
    # The input is rounded on its way, and so is the result.
    y = array(keras.ops.cast(new(x), "float32"))
    np.testing.assert_allclose(y, wanted, atol=2**-7 * np.abs(wanted).max())


class Subclass(layers.MultiHeadAttention):
    pass


class Custom(layers.Layer):
    """Keras' attention inside a layer, as KerasHub's transformers have it."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.inner = layers.MultiHeadAttention(2, 3, name="hidden")

    def build(self, input_shape):
        self.inner.build(input_shape, input_shape)

    def call(self, x):
        return self.inner(x, x)


def masked(x):
    x = layers.LayerNormalization()(layers.Masking()(x))
    return attention()(x, x)


def with_class_token(x):
    return attention()(*[layers.ZeroPadding1D((1, 0))(x)] * 2)


def two_maps(x):
    other = layers.Reshape((-1, CHANNELS))(layers.Reshape((WIDTH, HEIGHT, CHANNELS))(x))
    return attention()(*[layers.Add()([x, other])] * 2)


SIZE = {"map_size": (HEIGHT, WIDTH)}
ATTENTION = r"layer\(x, x\), with x reshaped from .*Received: the layer 'attention', but "
WRONG = {
    "another value": (lambda x: attention()(x, layers.ReLU()(x)), {}, r"not of one tensor\. Rep"),
    "another key": (lambda x: attention()(x, x, key=layers.ReLU()(x)), {}, "not of one tensor"),
    "a causal mask": (lambda x: attention()(x, x, use_causal_mask=True), {}, "by use_causal_mask"),
    "a mask": (
        lambda x: attention()(x, x, attention_mask=np.ones((1, HEIGHT * WIDTH, HEIGHT * WIDTH))),
        {},
        "it is masked by attention_mask",
    ),
    "a mask from before": (masked, {}, r"it is masked\. Replace it"),
    "scores": (
        lambda x: attention()(x, x, return_attention_scores=True)[0],
        {},
        "its scores are used",
    ),
    "an output's width": (
        lambda x: attention(output_shape=4)(x, x),
        {},
        r"it has output_shape=\(4,\)",
    ),
    "a window": (lambda x: attention(sliding_window=3)(x, x), {}, "it has sliding_window=3"),
    "a subclass": (
        lambda x: Subclass(2, 3, name="attention")(x, x),
        {},
        "its class, Subclass, may compute something else",
    ),
    "no map": (
        lambda x: attention()(*[layers.Permute((1, 2))(x)] * 2),
        {},
        r"the sequence of shape \(None, 77, 13\) .* comes from no map of known size\. Say how .*"
        r"map_size=\(H, W\)",
    ),
    "two maps": (two_maps, {}, r"comes from maps of the sizes \[\(7, 11\), \(11, 7\)\]\. Say"),
    "a token for the class": (
        with_class_token,
        SIZE,
        r"a sequence of 78 positions is no map of map_size=\(7, 11\)\. A token for the class",
    ),
}


@pytest.mark.parametrize("case", WRONG)
def test_what_is_not_recognised(case):
    make, arguments, message = WRONG[case]
    with pytest.raises(ValueError, match=ATTENTION + ".*" + message):
        keras_fsa.to_frequency(of_a_map(make), 3, "linear", **arguments)


def test_axes_that_are_not_all():
    x = keras.Input((HEIGHT, WIDTH, CHANNELS))
    model = keras.Model(x, attention(attention_axes=2)(x, x))
    with pytest.raises(ValueError, match=ATTENTION + r"it attends along the axes \(2,\) of \(None"):
        keras_fsa.to_frequency(model, 3)


@pytest.mark.once
@pytest.mark.filterwarnings("ignore:Layer .* does not have a `quantize` method")
def test_quantized_attention():
    """Integers would be taken for the weights that they stand for."""
    model = of_a_map(lambda x: attention()(x, x))
    model.quantize("int8")
    with pytest.raises(ValueError, match=ATTENTION + "it is quantized to int8. Truncate the model"):
        keras_fsa.to_frequency(model, 3)


def test_map_size_is_two_positive_ints():
    with pytest.raises(ValueError, match=r"`map_size` must be 2 positive ints or None\. Received:"):
        keras_fsa.to_frequency(of_a_map(transformer), 3, map_size=7)
    with pytest.raises(ValueError, match=r"beyond the size of the feature map: a height of 7"):
        keras_fsa.to_frequency(of_a_map(transformer), 8)


def test_attention_inside_other_layers(rng):
    """It stays where there is other attention to truncate; alone, it is what cannot be."""
    model = of_a_map(Custom(name="outer"), rng)
    message = r"model='network', which holds the layer 'hidden' inside 'outer', a Custom\. Build"
    with pytest.raises(ValueError, match=message):
        keras_fsa.to_frequency(model, 3, "linear")
    model = of_a_map(lambda x: attention()(*[Custom(name="outer")(x)] * 2), rng)
    # What a custom layer does with positions is unknown.
    with pytest.raises(ValueError, match="comes from no map of known size"):
        keras_fsa.to_frequency(model, 3)
    new = keras_fsa.to_frequency(model, (HEIGHT, WIDTH), map_size=(HEIGHT, WIDTH))
    x = picture(rng)
    assert type(new.get_layer("outer")) is Custom
    assert_close(new(x), array(model(x)))


def test_keras_hubs_mit(rng):
    """Its attention is a layer of its own, with keys from a strided convolution and a norm."""
    from keras_hub.models import MiTBackbone

    backbone = MiTBackbone(
        layerwise_depths=[1],
        num_layers=1,
        layerwise_num_heads=[1],
        layerwise_sr_ratios=[2],
        max_drop_path_rate=0.1,
        layerwise_patch_sizes=[7],
        layerwise_strides=[4],
        image_shape=(32, 32, 3),
        hidden_dims=[8],
    )
    with pytest.raises(ValueError, match=r"must hold a Spatial.* which has none.* is unknown\."):
        keras_fsa.to_frequency(backbone, 3)
