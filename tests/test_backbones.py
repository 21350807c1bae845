"""Backbones that the user brings: dilated where they are ResNets, else as they come."""

import warnings

import keras
import keras_hub
import numpy as np
import pytest

import keras_fsa
from keras_fsa.backbones.dilation import dilate
from keras_fsa.backbones.features import build_backbone
from keras_fsa.graphs import outputs_of
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
sys.modules["keras_hub"] = None
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
    features = build_backbone(given, ANY, None, None)
    x = rng.standard_normal((1, 66, 77, 3)).astype("float32")
    levels = keras.Model(given.input, given.pyramid_outputs)(x)
    for stage, level in (("stage4", "P4"), ("stage5", "P5")):
        np.testing.assert_array_equal(array(features(x)[stage]), array(levels[level]))
    model = keras_fsa.FsaNet(3, given, head_channels=8, frequencies=2)
    assert model.backbone.compute_output_shape((1, 64, 96, 3))["stage5"][1:3] == (2, 3)


def test_a_layer_that_cannot_be_dilated():
    images = keras.Input(ANY)
    x = keras.layers.Conv2D(4, 3, 8, "same")(images)
    x = keras.layers.ReLU(name="conv4_block1_out")(x)
    x = keras.layers.MaxPooling2D(3, 2, "same", name="pool")(x)
    x = keras.layers.ReLU(name="conv5_block1_out")(x)
    model = keras.Model(images, x)
    with pytest.raises(ValueError, match=r"must be a convolution, .*layer='pool', a MaxPooling2D"):
        build_backbone(model, ANY, 8, None)
    assert build_backbone(model, ANY, 16, None).compute_output_shape((1, 64, 64, 3)) == {
        "stage4": (1, 8, 8, 4),
        "stage5": (1, 4, 4, 4),
    }
    with pytest.raises(ValueError, match=r"`output_stride` must be one of 8, 16, 32, None"):
        build_backbone(model, ANY, 4, None)


def plain(stride=2, **arguments):
    """A backbone by the contract, at stride `8 * stride`."""
    images = keras.Input(ANY)
    x = keras.layers.Conv2D(4, 3, 8, "same")(images)
    stage4 = keras.layers.ReLU()(keras.layers.Conv2D(5, 3, padding="same")(x))
    pad = keras.layers.ZeroPadding2D(1)(stage4)
    stage5 = keras.layers.DepthwiseConv2D(3, stride, **arguments)(pad)
    return keras.Model(images, {"stage4": stage4, "stage5": stage5}, name="plain")


def test_any_convolutional_model_is_dilated_where_an_output_stride_is_asked_for(rng):
    given = randomize_network(plain(), rng)
    x = rng.standard_normal((1, 66, 77, 3)).astype("float32")
    assert build_backbone(given, ANY, None, None) is given
    assert build_backbone(given, ANY, 16, None) is given
    coarse, fine = given(x), build_backbone(given, ANY, 8, None)(x)
    np.testing.assert_allclose(
        array(fine["stage5"])[:, ::2, ::2], array(coarse["stage5"]), atol=1e-5
    )


def test_a_removed_stride_reads_the_same_pixels_at_any_size(rng):
    """Those around its own place: of the strided network at even sizes, the second of two."""
    images = keras.Input(ANY)
    stage4 = keras.layers.Conv2D(4, 8, 8)(images)
    x = keras.layers.Conv2D(5, (3, 5), 2, padding="same")(stage4)
    model = keras.Model(images, {"stage4": stage4, "stage5": x})
    coarse, fine = randomize_network(model, rng), build_backbone(model, ANY, 8, None)
    x = rng.standard_normal((1, 128, 160, 3)).astype("float32")
    whole = array(fine(x)["stage5"])
    np.testing.assert_allclose(whole[:, 1::2, 1::2], array(coarse(x)["stage5"]), atol=1e-5)
    # Rows and columns of an odd number of positions.
    x = x[:, :120, :152]
    odd = array(fine(x)["stage5"])
    np.testing.assert_allclose(odd[:, ::2, ::2], array(coarse(x)["stage5"]), atol=1e-5)
    np.testing.assert_allclose(odd[:, :14, :17], whole[:, :14, :17], atol=1e-5)


def strided(activations):
    """A strided convolution before each of these, and one more convolution."""
    x = images = keras.Input(ANY)
    for activation in activations:
        x = activation(keras.layers.Conv2D(4, 3, 2)(keras.layers.ZeroPadding2D(1)(x)))
    return keras.Model(images, keras.layers.Conv2D(4, 3, padding="same")(x))


def test_networks_of_shared_layers_are_dilated(rng):
    relu, images = keras.layers.ReLU(), rng.standard_normal((1, 65, 97, 3)).astype("float32")
    own = [keras.layers.ReLU() for _ in range(3)]
    for activations in ([relu] * 5, [relu, *own, relu], [keras.ops.relu] * 5):
        given = randomize_network(strided(activations), rng)
        want = array(given(images))
        twice = dilate(dilate(given, 16, ANY[:2]), 8, ANY[:2])
        for fine in (dilate(given, 8, ANY[:2]), twice):
            y = array(fine(images))
            assert y.shape[1:3] == (9, 13)
            np.testing.assert_allclose(y[:, ::4, ::4], want, atol=1e-5 * np.abs(want).max())
        assert set(build_backbone(given, ANY, 8, None).output) == {"stage4", "stage5"}


def test_a_shared_layer_that_would_be_dilated_in_two_ways():
    shared = keras.layers.Conv2D(4, 3, padding="same", name="shared")
    images = keras.Input(ANY)
    x = shared(keras.layers.Conv2D(4, 3, 8, "same")(images))
    model = keras.Model(images, shared(keras.layers.Conv2D(4, 3, 2, "same")(x)))
    with pytest.raises(ValueError, match=r"dilated alike .*layer='shared', a Conv2D, with output_"):
        dilate(model, 8, ANY[:2])
    dilate(model, 16, ANY[:2])


def test_networks_around_networks(rng):
    """What a layer gives is that of its call in this network."""
    encoder = strided([keras.layers.ReLU() for _ in range(5)])
    images = keras.Input(ANY)
    nested = keras.Model(images, encoder(images / 127.5 - 1), name="nested")
    with pytest.raises(ValueError, match=r"A `backbone` must take one image.*'nested'.*Wrap it"):
        keras_fsa.FsaNet(3, nested, head_channels=8, frequencies=2, normalization=None)
    with pytest.raises(ValueError, match="strides within Functional cannot be removed"):
        build_backbone(keras.Model(images, {"stage5": encoder(images)}), ANY, 8, None)
    x = images / 127.5 - 1
    for layer in encoder.layers[1:]:
        x = layer(x)
    features = build_backbone(keras.Model(images, x), ANY, None, None)
    image = rng.uniform(0, 255, (1, 64, 96, 3)).astype("float32")
    np.testing.assert_allclose(
        array(features(image)["stage5"]), array(nested(image)), rtol=1e-5, atol=1e-6
    )
    ((inside,),), found = outputs_of([encoder], nested, keras.KerasTensor((1, 64, 96, 3)))
    assert inside.shape == found.shape == (1, 2, 3, 4)
    # By the names of a ResNet.
    named = [keras.layers.ReLU(name=f"conv{n}_block1_out") for n in (4, 5)]
    for layer in named:
        layer(keras.Input(ANY))
    x = keras.layers.Conv2D(4, 3, 8)(images)
    features = build_backbone(keras.Model(images, named[1](named[0](x))), ANY, None, None)
    assert set(features.output) == {"stage4", "stage5"}


def test_an_output_stride_that_cannot_be_had(rng):
    with pytest.raises(
        ValueError, match=r"output_stride=32 for backbone='plain', whose stage 5 is "
    ):
        build_backbone(plain(), ANY, 32, None)
    inner = plain()
    images = keras.Input(ANY)
    nested = keras.Model(images, inner(images), name="nested")
    with pytest.raises(ValueError, match=r"'nested', at stride 16: strides within Functional can"):
        build_backbone(nested, ANY, 8, None)
    with pytest.raises(ValueError, match=r"`output_stride` must be one of 8, 16, 32, None\."):
        build_backbone(inner, ANY, 4, None)


def test_a_file_keeps_the_stride_of_its_backbone(tmp_path):
    """0.1.0 recorded an output stride of 8 for backbones that it took as they came."""
    model = keras_fsa.FsaNet(3, plain(), head_channels=8, frequencies=2, normalization=None)
    config = model.get_config()
    assert config["output_stride"] is None
    loaded = keras_fsa.FsaNet.from_config({**config, "output_stride": 8})
    assert loaded.backbone.compute_output_shape((1, 64, 64, 3))["stage5"][1:3] == (4, 4)
    assert loaded.get_config()["output_stride"] == 8


def test_a_model_as_backbone_does_not_tell_its_normalization():
    arguments = {"head_channels": 8, "frequencies": 2}
    with pytest.warns(
        UserWarning, match=r"'imagenet' is taken .*Received: backbone='plain' and no"
    ):
        model = keras_fsa.FsaNet(3, plain(), **arguments)
    assert model.normalization == "imagenet"
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        keras_fsa.FsaNet(3, plain(), normalization="tf", **arguments)
        keras_fsa.FsaNet.from_config(model.get_config())


def test_a_missing_stage_4():
    images = keras.Input(ANY)
    model = keras.Model(images, {"stage5": keras.layers.Conv2D(4, 3, 8)(images)})
    with pytest.raises(
        ValueError, match=r"lacks \['stage4'\] .*by auxiliary_loss_weight=0, or wrap"
    ):
        keras_fsa.FsaNet(3, model, head_channels=8, frequencies=2)
