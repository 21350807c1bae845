"""Other attention in a trained model: the numbers, the structure of the model, and what stays."""

import functools
import re

import keras
import numpy as np
import pytest
from keras import layers

import keras_fsa
from keras_fsa.layers import FrequencyBands, FrequencySelfAttention, SpatialSelfAttention
from keras_fsa.models.fsanet import FsaNet
from keras_fsa.models.trained import adapted
from tests import reference
from tests.helpers import array, randomize, weights_by_name

# One shape throughout: JAX compiles each operation once for each shape.
HEIGHT, WIDTH, CHANNELS = 8, 12, 8


def picture(rng, *size):
    return rng.standard_normal((2, *(size or (HEIGHT, WIDTH)), 3)).astype("float32")


def network(attention, rng, size=(HEIGHT, WIDTH), dtype=None):
    """Random weights everywhere: an attention layer whose gain is zero would hide all mistakes."""
    x = keras.Input((*size, 3), name="picture")
    y = attention(layers.Conv2D(CHANNELS, 3, padding="same", dtype=dtype, name="before")(x))
    model = keras.Model(x, layers.Conv2D(4, 1, dtype=dtype, name="after")(y), name="network")
    return randomize(model, rng)


def output(model, x):
    return keras.tree.map_structure(array, model(x))


def expected(model, x, affinity, band, recurrence=1):
    """The network's output where its attention is the witness's."""
    y = array(model.get_layer("before")(x))
    y = reference.self_attention(
        y, weights_by_name(model.get_layer("attention")), affinity, band, recurrence
    )
    return array(model.get_layer("after")(y.astype("float32")))


def assert_close(a, b):
    a, b = (np.concatenate([np.ravel(x) for x in keras.tree.flatten(y)]) for y in (a, b))
    np.testing.assert_allclose(a, b, rtol=0, atol=1e-5 * np.abs(b).max())


def differ(a, b):
    a, b = keras.tree.flatten(a)[0], keras.tree.flatten(b)[0]
    return np.abs(a - b).max() > 1e-3 * np.abs(b).max()


def attention_layers(model):
    """All attention in the models that the tests build."""
    if isinstance(model, FsaNet):
        return attention_layers(model.backbone) + attention_layers(model.head)
    if hasattr(model, "layers"):
        return [found for layer in model.layers for found in attention_layers(layer)]
    return [model] * isinstance(model, (FrequencySelfAttention, SpatialSelfAttention))


# The layers and their numbers.


@pytest.mark.parametrize("options", [{}, {"recurrence": 2, "use_bias": True, "value_dim": 5}])
@pytest.mark.parametrize("affinity", reference.SPECTRAL)
def test_linear_forms_become_frequency_attention(rng, affinity, options):
    model = network(SpatialSelfAttention(affinity, name="attention", **options), rng)
    new = keras_fsa.to_frequency(model, (4, 5))
    layer = new.get_layer("attention")
    assert type(layer) is FrequencySelfAttention
    assert layer.affinity == affinity and layer.band == ((0, 4), (0, 5))
    x, recurrence = picture(rng), options.get("recurrence", 1)
    assert_close(output(new, x), expected(model, x, affinity, ((0, 4), (0, 5)), recurrence))
    assert differ(output(new, x), output(model, x))


def test_softmax_stays(rng):
    model = network(SpatialSelfAttention(use_bias=True, recurrence=2, name="attention"), rng)
    x = picture(rng)
    new = keras_fsa.to_frequency(model, 4)
    layer = new.get_layer("attention")
    assert type(layer) is SpatialSelfAttention
    assert layer.affinity == "softmax" and layer.low_pass == 4
    assert_close(output(new, x), expected(model, x, "softmax", ((0, 4), (0, 4)), 2))
    assert differ(output(new, x), output(model, x))
    everything = keras_fsa.to_frequency(model, (HEIGHT, WIDTH))
    assert_close(output(everything, x), output(model, x))


@pytest.mark.parametrize("low_pass", [None, 6])
def test_softmax_becomes_linear_where_asked(rng, low_pass):
    model = network(SpatialSelfAttention(use_bias=True, low_pass=low_pass, name="attention"), rng)
    new = keras_fsa.to_frequency(model, 4, affinity="linear")
    layer = new.get_layer("attention")
    assert type(layer) is FrequencySelfAttention and layer.affinity == "linear"
    x = picture(rng)
    assert_close(output(new, x), expected(model, x, "linear", ((0, 4), (0, 4))))


def test_the_expansion_is_of_first_order(rng):
    """Half the query, a quarter of the error: what is left out is of second order in `q.k`."""
    attention = SpatialSelfAttention(use_bias=True, name="attention")
    model = network(attention, rng)
    attention.gain.assign(1.0)
    x, errors = 0.2 * picture(rng), []
    for _ in range(2):
        for weight in (attention.query_kernel, attention.query_bias):
            weight.assign(weight * 0.5)
        new = keras_fsa.to_frequency(model, (HEIGHT, WIDTH), affinity="linear")
        errors.append(np.abs(output(new, x) - output(model, x)).max())
    assert 3.5 < errors[0] / errors[1] < 4.5


@pytest.mark.parametrize("affinity", reference.SPECTRAL)
def test_affinity_concerns_softmax_only(rng, affinity):
    model = network(SpatialSelfAttention(affinity, name="attention"), rng)
    new = keras_fsa.to_frequency(model, 5, affinity="linear")
    assert new.get_layer("attention").affinity == affinity


@pytest.mark.parametrize(
    ("layer", "kind"),
    [
        (FrequencySelfAttention(((1, 7), (0, 8)), "linear", name="attention"), "Frequency"),
        (SpatialSelfAttention("linear", low_pass=8, name="attention"), "Frequency"),
        (SpatialSelfAttention("softmax", low_pass=8, name="attention"), "Spatial"),
    ],
    ids=["frequency", "linear", "softmax"],
)
def test_a_smaller_band(rng, layer, kind):
    model = network(layer, rng)
    band = ((1, 5), (0, 6))
    new = keras_fsa.to_frequency(model, band)
    assert type(new.get_layer("attention")).__name__ == f"{kind}SelfAttention"
    x = picture(rng)
    assert_close(output(new, x), expected(model, x, layer.affinity, band))
    assert differ(output(new, x), output(model, x))


@pytest.mark.parametrize("residual", ["gain", "batch_norm"])
@pytest.mark.parametrize("frequencies", [5, ((2, 6), (1, 4))])
@pytest.mark.parametrize("affinity", reference.SPECTRAL)
def test_to_spatial_is_equal(rng, affinity, frequencies, residual):
    attention = FrequencySelfAttention(
        frequencies, affinity, recurrence=2, use_bias=True, residual=residual, name="attention"
    )
    model = network(attention, rng)
    new = keras_fsa.to_spatial(model)
    layer = new.get_layer("attention")
    assert type(layer) is SpatialSelfAttention
    assert layer.affinity == affinity and layer.low_pass == frequencies
    # Larger ones make the denominators of the linear form small, and its rounding errors large.
    x = 0.3 * picture(rng)
    assert_close(output(new, x), output(model, x))


# The models.


def nested(rng):
    inner = keras.Sequential(
        [
            layers.Conv2D(CHANNELS, 3, padding="same"),
            SpatialSelfAttention(name="deep"),
            layers.ReLU(),
        ]
    )
    x = keras.Input((HEIGHT, WIDTH, CHANNELS))
    middle = keras.Model(x, inner(x), name="middle")
    y = keras.Input((HEIGHT, WIDTH, 3))
    z = SpatialSelfAttention(name="top")(middle(layers.Conv2D(CHANNELS, 1)(y)))
    return keras.Model(y, z), picture(rng)


def sequential(rng):
    model = keras.Sequential(
        [
            keras.Input((HEIGHT, WIDTH, 3)),
            layers.Conv2D(CHANNELS, 1),
            SpatialSelfAttention(name="a"),
        ],
        name="row",
    )
    return model, picture(rng)


def sequential_without_input(rng):
    model = keras.Sequential([layers.Conv2D(CHANNELS, 1), SpatialSelfAttention(name="a")])
    x = picture(rng)
    model(x)
    return model, x


def shared(rng):
    """One attention twice in a model, and in a model within."""
    attention = SpatialSelfAttention(name="shared")
    z = keras.Input((HEIGHT, WIDTH, CHANNELS))
    inner = keras.Model(z, attention(layers.Conv2D(CHANNELS, 1)(z)))
    x = keras.Input((HEIGHT, WIDTH, 3))
    y = attention(layers.Conv2D(CHANNELS, 1)(x))
    return keras.Model(x, {"once": y, "more": 0.5 * attention(inner(y)) + y}), picture(rng)


def two_inputs(rng):
    first, second = keras.Input((HEIGHT, WIDTH, 3)), keras.Input((HEIGHT, WIDTH, 3), name="b")
    y = layers.Conv2D(CHANNELS, 1)(layers.Concatenate()([first, second]))
    model = keras.Model([first, second], SpatialSelfAttention()(y))
    return model, [picture(rng), picture(rng)]


def from_the_middle(rng):
    """A model that starts at an inner tensor of another."""
    x = keras.Input((HEIGHT, WIDTH, 3))
    y = layers.Conv2D(CHANNELS, 1)(x)
    tail = keras.Model(y, layers.Conv2D(4, 1)(SpatialSelfAttention()(y)))
    return keras.Model(x, tail(y)), picture(rng)


def unknown_sizes(rng):
    return network(SpatialSelfAttention(), rng, size=(None, None)), picture(rng)


def tiny_fsanet(rng, backbone=None, **options):
    if backbone is None:
        x = keras.Input((None, None, 3))
        stage4 = layers.Conv2D(CHANNELS, 3, 4, "same", name="stage4")(x)
        backbone = keras.Model(
            x, {"stage4": stage4, "stage5": layers.Conv2D(CHANNELS, 3, 1, "same")(stage4)}
        )
    options = {"attention": "spatial", "head_channels": CHANNELS, "normalization": None, **options}
    return FsaNet(4, backbone, **options), picture(rng, 4 * HEIGHT, 4 * WIDTH)


def fsanet_of_a_layer(rng):
    return tiny_fsanet(rng, attention=SpatialSelfAttention(use_bias=True, name="mine"))


def fsanet_in_a_model(rng):
    model, x = tiny_fsanet(rng, auxiliary_loss_weight=0)
    return keras.Sequential([layers.Rescaling(0.5), model, layers.Softmax()]), x


def attention_in_the_backbone(rng):
    x = keras.Input((None, None, 3))
    stage4 = SpatialSelfAttention(name="stage4")(layers.Conv2D(CHANNELS, 3, 4, "same")(x))
    return tiny_fsanet(
        rng,
        keras.Model(x, {"stage4": stage4, "stage5": stage4}),
        attention=layers.Conv2D(CHANNELS, 1),
    )


MODELS = [
    nested,
    sequential,
    sequential_without_input,
    shared,
    two_inputs,
    from_the_middle,
    unknown_sizes,
    tiny_fsanet,
    fsanet_of_a_layer,
    fsanet_in_a_model,
    attention_in_the_backbone,
]


@pytest.mark.parametrize("make", MODELS)
def test_any_model(rng, make):
    model, x = make(rng)
    output(model, x)
    randomize(model, rng)
    for layer in attention_layers(model):
        layer.gain.assign(1.0)
    before, weights = output(model, x), model.get_weights()

    everything = keras_fsa.to_frequency(model, (HEIGHT, WIDTH))
    assert_close(output(everything, x), before)
    low = keras_fsa.to_frequency(model, (1, 2), affinity="linear")
    assert differ(output(low, x), before)
    spatial = keras_fsa.to_spatial(low)
    assert_close(output(spatial, x), output(low, x))

    of_positions, of_frequencies = {SpatialSelfAttention}, {FrequencySelfAttention}
    for new, kind in (everything, of_positions), (low, of_frequencies), (spatial, of_positions):
        assert {type(layer) for layer in attention_layers(new)} == kind
        names = [[layer.name for layer in attention_layers(m)] for m in (model, new)]
        assert names[0] == names[1]
        assert {w.path for w in new.weights} == {w.path for w in model.weights}
        if not isinstance(model, FsaNet):
            assert [layer.name for layer in new.layers] == [layer.name for layer in model.layers]

    assert {layer.low_pass for layer in attention_layers(model)} == {None}
    assert_close(output(model, x), before)
    for now, then in zip(model.get_weights(), weights, strict=True):
        np.testing.assert_array_equal(now, then)


@functools.cache
def mobilenet():
    network = keras.applications.MobileNetV2(
        (4 * HEIGHT, 4 * WIDTH, 3), alpha=0.35, include_top=False, weights=None
    )
    return keras.Model(network.input, network.get_layer("block_2_add").output, name="mobilenet")


@pytest.mark.parametrize("unrolled", [True, False])
def test_a_backbone_of_keras_applications(rng, unrolled):
    backbone, attention = mobilenet(), SpatialSelfAttention()
    if unrolled:
        model = keras.Model(backbone.input, attention(backbone.output))
    else:
        x = keras.Input((4 * HEIGHT, 4 * WIDTH, 3))
        model = keras.Model(x, attention(backbone(x)))
    randomize(model, rng, scale=0.6)
    x = picture(rng, 4 * HEIGHT, 4 * WIDTH)
    new = keras_fsa.to_frequency(model, (2, 1))
    features, band = output(backbone, x), ((0, 2), (0, 1))
    weights = weights_by_name(attention)
    assert_close(output(new, x), reference.self_attention(features, weights, "softmax", band))
    assert differ(output(new, x), output(model, x))
    assert [w.path for w in new.weights] == [w.path for w in model.weights]


def test_shared_layers_stay_shared(rng):
    model, _ = shared(rng)
    new = keras_fsa.to_frequency(model, 3)
    assert len(attention_layers(new)) == len(attention_layers(model)) == 2
    assert len({id(layer) for layer in attention_layers(new)}) == 1
    assert len(new.weights) == len(model.weights)


@pytest.mark.parametrize("make", [nested, tiny_fsanet, fsanet_of_a_layer])
def test_saved_and_loaded(rng, make, tmp_path):
    model, x = make(rng)
    randomize(model, rng)
    for i, affinity in enumerate((None, "linear")):
        new = keras_fsa.to_frequency(model, 4, affinity)
        new.save(tmp_path / f"{i}.keras")
        loaded = keras.saving.load_model(tmp_path / f"{i}.keras")
        assert_close(output(loaded, x), output(new, x))
        kinds = [type(layer) for layer in attention_layers(loaded)]
        assert kinds == [type(layer) for layer in attention_layers(new)]


# What stays.


def test_dtype_policies_and_configs_stay(rng):
    attention = SpatialSelfAttention(
        "linear", recurrence=2, value_dim=6, key_dim=3, name="attention", dtype="mixed_bfloat16"
    )
    model = network(attention, rng, dtype="mixed_bfloat16")
    new = keras_fsa.to_frequency(model, 4)
    assert new.output.dtype == model.output.dtype == "bfloat16"
    old_config, config = attention.get_config(), new.get_layer("attention").get_config()
    assert config.pop("frequencies") == 4 and old_config.pop("low_pass") is None
    assert config == old_config
    assert new.get_layer("after").get_config() == model.get_layer("after").get_config()


def test_fsanet_keeps_its_arguments(rng):
    model, _ = tiny_fsanet(rng, dropout=0.3, auxiliary_loss_weight=0.1, dtype="mixed_bfloat16")
    old_config, config = model.get_config(), keras_fsa.to_frequency(model, 4).get_config()
    for name in ("attention", "backbone"):
        del old_config[name], config[name]
    assert config == old_config


def test_trainable_flags_stay(rng):
    model, _ = nested(rng)
    middle = model.get_layer("middle")
    middle.trainable = False
    middle.layers[-1].layers[0].trainable = True
    new = keras_fsa.to_frequency(model, 4)
    new_middle = new.get_layer("middle")
    assert not new_middle.trainable and new.trainable
    assert [layer.trainable for layer in new_middle.layers[-1].layers] == [True, False, False]
    names = [[w.path for w in m.trainable_weights] for m in (model, new)]
    assert names[0] == names[1]


def test_flags_within_layers_stay(rng):
    model, _ = tiny_fsanet(rng, attention=SpatialSelfAttention(residual="batch_norm", name="a"))
    model.head.get_layer("a").norm.trainable = False
    model.head.get_layer("before_bn").trainable = False
    model.auxiliary_head.trainable = False
    new = keras_fsa.to_frequency(model, 4)
    assert new.head.get_layer("a").trainable and not new.head.get_layer("a").norm.trainable
    assert not new.head.get_layer("before_bn").trainable and new.head.trainable
    assert {w.path for w in new.trainable_weights} == {w.path for w in model.trainable_weights}


def test_what_a_layer_derives_from_its_weights_stays(rng):
    normalization = layers.Normalization()
    x = 5 + 3 * picture(rng)
    normalization.adapt(x)
    inputs = keras.Input((HEIGHT, WIDTH, 3))
    y = SpatialSelfAttention()(layers.Conv2D(CHANNELS, 1)(normalization(inputs)))
    model = keras.Model(inputs, y)
    model.layers[-1].gain.assign(0.7)
    assert_close(output(keras_fsa.to_frequency(model, (HEIGHT, WIDTH)), x), output(model, x))


def adapt_by_low_rank(model, rng):
    for layer in model._flatten_layers():
        if hasattr(layer, "enable_lora"):
            layer.enable_lora(2, lora_alpha=6)
    return randomize(model, rng)


def test_low_rank_adaptation(rng):
    """Keras' `enable_lora`: its scale is kept, and the kernels below stay frozen."""
    model = network(SpatialSelfAttention("linear", name="attention"), rng)
    x = keras.Input((HEIGHT, WIDTH, 3))
    model = adapt_by_low_rank(keras.Model(x, layers.Dense(3)(model(x))), rng)
    new = keras_fsa.to_frequency(model, (HEIGHT, WIDTH))
    image = picture(rng)
    assert_close(output(new, image), output(model, image))
    names = [[w.path for w in m.trainable_weights] for m in (model, new)]
    assert names[0] == names[1] and len(names[0]) < len(model.weights)


def test_low_rank_adaptation_of_an_fsanet(rng):
    """Heads are built anew: what was learned is in their kernels then."""
    net, image = tiny_fsanet(rng, attention="frequency", frequencies=4)
    net = adapt_by_low_rank(net, rng)
    assert_close(output(keras_fsa.to_frequency(net, 4), image), output(net, image))
    assert_close(output(adapted(net, "float32"), image), output(net, image))


def test_compiled_state_is_left_behind(rng):
    """A loss that cannot be serialised does no harm."""
    model = network(SpatialSelfAttention(), rng)
    model.compile("sgd", loss=lambda y, y_pred: keras.ops.mean(keras.ops.square(y - y_pred)))
    assert not keras_fsa.to_frequency(model, 4).compiled
    net, _ = tiny_fsanet(rng)
    net.compile()
    assert not keras_fsa.to_frequency(net, 4).compiled


@pytest.mark.once
def test_an_fsanet_says_what_its_attention_is(rng):
    net, _ = tiny_fsanet(rng, attention="frequency", frequencies=4)
    assert keras_fsa.to_frequency(net, 2).frequencies == 2
    spatial, _ = tiny_fsanet(rng, attention="spatial")
    linear = keras_fsa.to_frequency(spatial, 3, affinity="linear")
    assert (linear.frequencies, linear.affinity) == (3, "linear")


def test_training_one_leaves_the_other(rng):
    model = network(SpatialSelfAttention("linear", name="attention"), rng)
    new = keras_fsa.to_frequency(model, 4)
    x, y = picture(rng), rng.standard_normal((2, HEIGHT, WIDTH, 4)).astype("float32")
    for trained, other in ((model, new), (new, model)):
        before, weights = output(other, x), trained.get_weights()
        trained.compile("sgd", loss="mse")
        trained.train_on_batch(x, y)
        assert_close(output(other, x), before)
        assert differ(trained.get_weights()[0], weights[0])


# Errors.


class Hiding(layers.Layer):
    """Calls its layers in a way that only its code tells."""

    def __init__(self, attention, **kwargs):
        super().__init__(**kwargs)
        self.blocks = {"all": [attention]}

    def build(self, input_shape):
        self.blocks["all"][0].build(input_shape)

    def call(self, x):
        return self.blocks["all"][0](x)

    def compute_output_shape(self, input_shape):
        return input_shape


class Subclassed(keras.Model):
    def __init__(self):
        super().__init__()
        self.attention = SpatialSelfAttention()

    def call(self, x):
        return self.attention(x)


class OwnCall(keras.Model):
    """A functional model that does not run its graph."""

    def __init__(self):
        x = keras.Input((HEIGHT, WIDTH, 3))
        super().__init__(x, SpatialSelfAttention(name="hidden")(x))

    def call(self, x, training=None):
        return 2 * super().call(x, training=training)


class OwnNet(FsaNet):
    def __init__(self):
        x = keras.Input((None, None, 3))
        backbone = keras.Model(x, {"stage5": layers.Conv2D(4, 1)(x)})
        super().__init__(2, backbone, head_channels=4, auxiliary_loss_weight=0)

    def call(self, pictures, training=None):
        return 2 * super().call(pictures, training=training)


@pytest.mark.parametrize(
    "layer",
    [
        lambda: Hiding(SpatialSelfAttention(name="hidden"), name="outer"),
        lambda: Hiding(Hiding(SpatialSelfAttention(name="hidden")), name="outer"),
        lambda: FrequencyBands([FrequencySelfAttention(4, name="hidden")], name="outer"),
    ],
    ids=["layer", "layer in a layer", "FrequencyBands"],
)
def test_attention_hidden_in_a_layer(rng, layer):
    model = keras.Sequential([keras.Input((HEIGHT, WIDTH, 3)), layer()], name="row")
    message = (
        r"Attention must be a layer of a Functional or Sequential model or an FsaNet.*Received: "
        r"model='row', which holds the layer 'hidden' inside 'outer', a \w+\. Build that part"
    )
    with pytest.raises(ValueError, match=message):
        keras_fsa.to_frequency(model, 3)


@pytest.mark.parametrize("hidden", [OwnCall, Subclassed])
def test_attention_hidden_in_a_subclassed_model(rng, hidden):
    x = keras.Input((HEIGHT, WIDTH, 3))
    model = keras.Model(x, hidden()(x))
    with pytest.raises(ValueError, match=rf"Received: model=.* inside '.*', a {hidden.__name__}\."):
        keras_fsa.to_frequency(model, 3)


def test_layers_without_attention_may_be_of_any_class(rng):
    """They are copied with their config, like any layer."""
    x = keras.Input((HEIGHT, WIDTH, 3))
    y = layers.TimeDistributed(layers.Dense(CHANNELS))(x)
    model = randomize(keras.Model(x, SpatialSelfAttention()(y)), rng)
    x = picture(rng)
    assert_close(output(keras_fsa.to_frequency(model, (HEIGHT, WIDTH)), x), output(model, x))


class Embedding(layers.Layer):
    """One that does not reload from what it says of itself, as KerasHub has them."""

    def __init__(self, channels, dense=None, **kwargs):
        super().__init__(**kwargs)
        self.channels = channels
        self.dense = dense or layers.Dense(channels)

    def call(self, x):
        return self.dense(x)

    def get_config(self):
        return {**super().get_config(), "channels": self.channels, "positions": 7}


class BuiltBackbone(keras.Model):
    """A graph that its constructor builds."""

    def __init__(self, channels, dense=None, **kwargs):
        x = keras.Input((HEIGHT, WIDTH, 3))
        super().__init__(x, Embedding(channels, dense, name="embedding")(x), **kwargs)
        self.channels = channels

    def get_config(self):
        return {"name": self.name, "channels": self.channels}


def test_a_backbone_that_its_class_builds(rng):
    """Its layers are not made from their configs."""
    x = keras.Input((HEIGHT, WIDTH, 3))
    backbone = BuiltBackbone(CHANNELS)
    backbone.get_layer("embedding").dense.trainable = False
    model = randomize(keras.Model(x, SpatialSelfAttention("dot_product")(backbone(x))), rng)
    new = keras_fsa.to_frequency(model, (HEIGHT, WIDTH))
    x = picture(rng)
    assert_close(output(new, x), output(model, x))
    assert isinstance(new.layers[1], BuiltBackbone)
    assert not new.layers[1].get_layer("embedding").dense.trainable
    assert len(new.trainable_weights) == len(model.trainable_weights)


def test_attention_hidden_in_a_backbone_that_its_class_builds(rng):
    backbone = BuiltBackbone(CHANNELS, SpatialSelfAttention())
    x = keras.Input((HEIGHT, WIDTH, 3))
    model = keras.Model(x, SpatialSelfAttention()(backbone(x)))
    with pytest.raises(ValueError, match=r"inside 'embedding', a Embedding\."):
        keras_fsa.to_frequency(model, 3)


@pytest.mark.parametrize("convert", [keras_fsa.to_frequency, keras_fsa.to_spatial])
@pytest.mark.parametrize(
    "model", [Subclassed, OwnCall, OwnNet, SpatialSelfAttention, lambda: "file.keras"]
)
def test_a_model_of_another_kind(convert, model):
    message = r"`model` must be a Functional or Sequential.*Received: model=.*keras\.Model\(inputs"
    with pytest.raises(ValueError, match=re.compile(message, re.DOTALL)):
        convert(model())


def test_a_model_that_is_not_built():
    model = keras.Sequential([layers.Conv2D(CHANNELS, 1), SpatialSelfAttention()], name="row")
    with pytest.raises(
        ValueError, match=r"`model` must be built.*Received: model='row'.*Call it on"
    ):
        keras_fsa.to_frequency(model)


def test_a_model_without_attention(rng):
    model, _ = tiny_fsanet(rng, attention=None)
    message = r"`model` must hold a SpatialSelfAttention, FrequencySelfAttention or MultiHeadAtt.*"
    with pytest.raises(
        ValueError, match=message + r"Received: model='fsanet', .*Pass a model with"
    ):
        keras_fsa.to_frequency(model)
    model = network(SpatialSelfAttention(), rng)
    with pytest.raises(ValueError, match=r"hold a FrequencySelfAttention layer.*model='network'"):
        keras_fsa.to_spatial(model)


@pytest.mark.parametrize(
    ("layer", "frequencies"),
    [
        (FrequencySelfAttention(5, name="attention"), 6),
        (FrequencySelfAttention(((2, 6), (1, 4)), name="attention"), 3),
        (FrequencySelfAttention((5, 3), name="attention"), (3, 5)),
        (SpatialSelfAttention("softmax", low_pass=5, name="attention"), 6),
        (SpatialSelfAttention("linear", low_pass=5, name="attention"), 6),
    ],
)
def test_a_band_beyond_the_layers(rng, layer, frequencies):
    model = network(layer, rng)
    message = (
        r"`frequencies` must lie inside the band that an attention layer already has\. Received: "
        rf"frequencies={re.escape(repr(frequencies))} for the layer 'attention' with .*Ask for a"
    )
    with pytest.raises(ValueError, match=message):
        keras_fsa.to_frequency(model, frequencies)


@pytest.mark.parametrize("affinity", [None, "linear"])
def test_a_band_beyond_the_map(rng, affinity):
    model = network(SpatialSelfAttention(), rng)
    message = r"`frequencies` must not go beyond the size of the feature map: a height of 8 has"
    with pytest.raises(ValueError, match=message):
        keras_fsa.to_frequency(model, 9, affinity)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"frequencies": 0}, r"`frequencies` must be a positive int, .*Received: frequencies=0\."),
        ({"affinity": "dot_product"}, r"`affinity` must be one of None, 'linear'\. Received: aff"),
    ],
)
def test_wrong_arguments(rng, arguments, message):
    with pytest.raises(ValueError, match=message):
        keras_fsa.to_frequency(network(SpatialSelfAttention(), rng), **arguments)
