"""Wrong arguments of layers, of models, and of the functions that look into them."""

import keras
import numpy as np
import pytest

import keras_fsa
from keras_fsa.attention_map import attention_at, softmax_twin
from keras_fsa.energy import energy_held, energy_shares
from keras_fsa.flops import attention_flops
from keras_fsa.layers import (
    ChannelGain,
    FrequencyBands,
    FrequencySelfAttention,
    SpatialSelfAttention,
)
from keras_fsa.models.preprocessing import PictureNormalization
from tests.attack import attack, wrong_arguments
from tests.helpers import array
from tests.test_fsanet import tiny, tiny_backbone

SHAPE = (1, 7, 9, 4)


def use(layer):
    y = array(keras.ops.cast(layer(np.ones(SHAPE, "float32")), "float32"))
    assert y.shape == SHAPE and np.isfinite(y).all()


def use_layer(cls, good):
    return lambda **changes: use(cls(**{**good, **changes}))


def use_normalization(**changes):
    use(PictureNormalization(**{"normalization": (0, 255), **changes}))


def use_fsanet(**changes):
    good = {"num_classes": 3, "image_shape": (24, 32, 3), "frequencies": 3, "head_channels": 8}
    good["normalization"] = "imagenet"
    changes.setdefault("backbone", tiny_backbone())
    model = keras_fsa.FsaNet(**{**good, **changes})
    y = array(model(np.ones((1, 24, 32, 3), "uint8")))
    assert y.shape == (1, 24, 32, 3) and np.isfinite(y).all()


def use_function(function, **good):
    return lambda **changes: function(**{**good, **changes})


def built_layer():
    layer = FrequencySelfAttention(3)
    layer.build((None, None, None, 4))
    return layer


def with_attention():
    inputs = keras.Input((7, 9, 4))
    return keras.Model(inputs, SpatialSelfAttention()(inputs))


MAP = np.ones((7, 9, 4), "float32")
COMMON = {
    "key_dim": {"None"},
    "value_dim": {"None"},
    "residual": {"None"},
    "kernel_initializer": {"None"},
    "kernel_regularizer": {"None"},
    "data_format": {"None"},
    "dtype": {"None"},
}
# What to attack, how to use it, and which of the values of `WRONG` its arguments may have.
TARGETS = [
    (FrequencySelfAttention, use_layer(FrequencySelfAttention, {"frequencies": 3}), COMMON),
    (
        SpatialSelfAttention,
        use_layer(SpatialSelfAttention, {}),
        {**COMMON, "low_pass": {"None"}},
    ),
    (
        FrequencyBands,
        use_layer(FrequencyBands, {"bands": [(2, ChannelGain())]}),
        {"data_format": {"None"}, "dtype": {"None"}},
    ),
    (
        ChannelGain,
        lambda **changes: use(FrequencyBands([(2, ChannelGain(**changes))])),
        {"dtype": {"None"}},
    ),
    (PictureNormalization, use_normalization, {"normalization": {"None"}, "dtype": {"None"}}),
    (
        keras_fsa.FsaNet,
        use_fsanet,
        {
            "output_stride": {"None"},
            "align_corners": {"None"},
            "low_level": {"None"},
            "attention": {"None"},
            "affinity": {"None"},
            "dropout": {"zero", "a fraction"},
            "auxiliary_loss_weight": {"zero", "a fraction", "too large"},
            "normalization": {"None"},
            "backbone_weights": {"None"},
            "auxiliary_channels": {"None"},
            "head": {"None"},
            "activation": {"None"},
            "class_names": {"None"},
            "palette": {"None"},
            "dtype": {"None"},
        },
    ),
    (
        attention_at,
        use_function(attention_at, layer=built_layer(), feature_map=MAP, row=1, column=2),
        {"row": {"zero"}, "column": {"zero"}, "head": {"None", "zero"}},
    ),
    (softmax_twin, use_function(softmax_twin), {}),
    (
        attention_flops,
        use_function(attention_flops, layer=built_layer(), height=7, width=9),
        {"height": {"too large"}, "width": {"too large"}},
    ),
    (energy_shares, use_function(energy_shares, feature_map=MAP), {}),
    (energy_held, use_function(energy_held), {}),
    (
        keras_fsa.to_frequency,
        use_function(keras_fsa.to_frequency, model=with_attention(), frequencies=3),
        {"affinity": {"None"}, "map_size": {"None"}},
    ),
    (keras_fsa.to_spatial, use_function(keras_fsa.to_spatial), {}),
]
CASES = [
    pytest.param(
        use,
        argument,
        value,
        kind in allowed.get(argument, ()),
        id=f"{f.__name__}-{argument}-{kind}",
    )
    for f, use, allowed in TARGETS
    for argument, kind, value in wrong_arguments(f)
]


@pytest.mark.parametrize(("use", "argument", "value", "right"), CASES)
def test_wrong_arguments_are_refused_by_name(use, argument, value, right):
    attack(lambda: use(**{argument: value}), argument, right)


@pytest.mark.parametrize(
    ("cls", "arguments", "named"),
    [
        (SpatialSelfAttention, {"low_pass": -1}, "low_pass"),
        (FrequencySelfAttention, {"dtype": "int32"}, "dtype"),
        (SpatialSelfAttention, {"dtype": "uint8"}, "dtype"),
        (FrequencySelfAttention, {"affinity": "softmax"}, "affinity"),
        (FrequencySelfAttention, {"affinity": keras_fsa.affinities.Softmax()}, "affinity"),
    ],
)
def test_what_no_table_holds(cls, arguments, named):
    with pytest.raises(ValueError, match=rf"`{named}` must .*Received: {named}="):
        cls(**arguments)


@pytest.mark.parametrize(
    "arguments",
    [
        {"image_shape": (None, 3)},
        {"image_shape": (None, None, None)},
        {"image_shape": (0, 32, 3)},
        {"image_shape": (24.0, 32, 3)},
        {"normalization": (float("nan"), 1)},
        {"normalization": (0, float("inf"))},
        {"normalization": ((), ())},
        {"dtype": "int32"},
    ],
)
def test_what_no_table_holds_of_a_model(arguments):
    (named,) = arguments
    with pytest.raises(ValueError, match=rf"`{named}` must .*Received: {named}="):
        tiny(**arguments)
