"""Backbones that the user brings: dilated where they are ResNets, else as they come."""

import keras
import keras_hub
import numpy as np
import pytest

import keras_fsa
from keras_fsa.backbones.features import build_backbone
from tests.helpers import array, predict_in_new_process

ANY = (None, None, 3)


def hub_resnet(block_type, **kwargs):
    return keras_hub.models.ResNetBackbone(
        [8, 8, 64] if "vd" in block_type else [64],
        [3, 3, 3] if "vd" in block_type else [7],
        [64, 16, 24, 32],
        [1, 1, 2, 2],
        [1, 2, 2, 2],
        block_type,
        image_shape=ANY,
        **kwargs,
    )


RESNETS = {
    "KerasHub": lambda: hub_resnet("bottleneck_block"),
    "KerasHub basic": lambda: hub_resnet("basic_block"),
    "KerasHub vd": lambda: hub_resnet("bottleneck_block_vd"),
    "KerasHub basic vd": lambda: hub_resnet("basic_block_vd"),
    "KerasHub V2": lambda: hub_resnet("bottleneck_block", use_pre_activation=True),
    "applications V2": lambda: keras.applications.ResNet50V2(
        weights=None, include_top=False, input_shape=ANY
    ),
}


def randomize_network(model, rng):
    """Weights of a trained network's sizes; batch norm that hides no wrong padding."""
    for weight in model.weights:
        shape = tuple(weight.shape)
        if len(shape) == 4:
            value = rng.standard_normal(shape) * np.sqrt(2 / np.prod(shape[:3]))
        elif weight.name == "moving_variance":
            value = rng.uniform(0.5, 1.5, shape)
        elif weight.name == "gamma":
            value = rng.uniform(0.5, 1, shape)
        else:
            value = 0.1 * rng.standard_normal(shape)
        weight.assign(value)
    return model


@pytest.mark.parametrize("kind", RESNETS)
def test_dilated_features_are_the_given_networks_at_more_positions(rng, kind):
    given = randomize_network(RESNETS[kind](), rng)
    x = rng.standard_normal((1, 66, 77, 3)).astype("float32")
    names = {"stage4": "stack2_block1_out", "stage5": "stack3_block1_out"}
    strides = {"stage4": 16, "stage5": 32}
    if kind == "applications V2":
        names = {"stage4": "conv4_block6_out", "stage5": "conv5_block3_out"}
        strides = {"stage4": 32, "stage5": 32}  # a stage ends with its stride, not begins
    outputs = {stage: given.get_layer(name).output for stage, name in names.items()}
    coarse = keras.Model(given.input, outputs)(x)
    before = [array(weight) for weight in given.weights]
    for output_stride in (8, 16) if kind == "KerasHub vd" else (8,):
        dilated = build_backbone(given, ANY, output_stride, None)(x)
        for stage, stride in strides.items():
            y, expected = array(dilated[stage]), array(coarse[stage])
            assert y.shape[1:3] == tuple(-(-n // min(stride, output_stride)) for n in (66, 77))
            step = max(1, stride // output_stride)
            # Sums of some ten layers in float32, in another order.
            np.testing.assert_allclose(
                y[:, ::step, ::step], expected, rtol=0, atol=1e-5 * np.abs(expected).max()
            )
    for weight, value in zip(given.weights, before, strict=True):
        np.testing.assert_array_equal(array(weight), value)


def test_networks_on_given_resnets_save_and_load_without_their_package(rng, tmp_path):
    arguments = {"head_channels": 8, "frequencies": 3}
    given = randomize_network(RESNETS["KerasHub basic vd"](), rng)
    model = keras_fsa.FsaNet(3, given, **arguments)
    # Its padding by minus infinity is an operation, not a layer.
    path = tmp_path / "v2.keras"
    keras_fsa.FsaNet(3, RESNETS["KerasHub V2"](), **arguments).save(path)
    prologue = f"""
import sys
sys.modules["keras_hub"] = sys.modules["keras_cv"] = None
import keras, keras_fsa
keras.saving.load_model({str(path)!r})
"""
    x = rng.integers(0, 256, (1, 50, 67, 3)).astype("uint8")
    outputs = predict_in_new_process({"vd": model}, {"vd": x}, tmp_path, prologue)
    expected = model.predict(x, verbose=0)
    np.testing.assert_allclose(outputs["vd"], expected, atol=1e-5 * np.abs(expected).max())


def test_other_feature_pyramids_are_taken_as_they_come(rng):
    given = keras_hub.models.DenseNetBackbone([1, 1, 1, 2], image_shape=ANY)
    randomize_network(given, rng)
    features = build_backbone(given, ANY, 8, None)
    x = rng.standard_normal((1, 66, 77, 3)).astype("float32")
    levels = keras.Model(given.input, given.pyramid_outputs)(x)
    for stage, level in (("stage4", "P4"), ("stage5", "P5")):
        np.testing.assert_array_equal(array(features(x)[stage]), array(levels[level]))
    model = keras_fsa.FsaNet(3, given, head_channels=8, frequencies=2)
    assert model.backbone.compute_output_shape((1, 64, 96, 3))["stage5"][1:3] == (2, 3)


def test_a_layer_that_cannot_be_dilated():
    pictures = keras.Input(ANY)
    x = keras.layers.Conv2D(4, 3, 8, "same")(pictures)
    x = keras.layers.ReLU(name="conv4_block1_out")(x)
    x = keras.layers.MaxPooling2D(3, 2, "same", name="pool")(x)
    x = keras.layers.ReLU(name="conv5_block1_out")(x)
    model = keras.Model(pictures, x)
    with pytest.raises(ValueError, match=r"must be a convolution, .*layer='pool', a MaxPooling2D"):
        build_backbone(model, ANY, 8, None)
    assert build_backbone(model, ANY, 16, None).compute_output_shape((1, 64, 64, 3)) == {
        "stage4": (1, 8, 8, 4),
        "stage5": (1, 4, 4, 4),
    }
    with pytest.raises(ValueError, match=r"`output_stride` must be one of 8, 16, 32"):
        build_backbone(model, ANY, 4, None)
