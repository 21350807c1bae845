import functools
import re

import keras
import keras_cv
import numpy as np
import pytest

from keras_fsa import FsaNet
from keras_fsa.backbones.features import build_backbone
from keras_fsa.backbones.resnet import BLOCKS, resnet
from tests.helpers import BACKEND, array, run_python


@pytest.mark.parametrize(("name", "output_strides"), [("resnet18", (8, 16)), ("resnet50", (8,))])
def test_dilated_features_are_the_strided_ones_at_more_positions(rng, name, output_strides):
    x = rng.standard_normal((1, 33, 65, 3)).astype("float32")
    strided = resnet(name, output_stride=32)
    coarse = strided.predict_on_batch(x)
    for output_stride in output_strides:
        dilated = resnet(name, output_stride=output_stride)
        dilated.set_weights(strided.get_weights())
        fine = dilated.predict_on_batch(x)
        for stage, stride in (("stage4", 16), ("stage5", 32)):
            step = max(1, stride // output_stride)
            size = tuple(-(-n // min(stride, output_stride)) for n in (33, 65))
            assert fine[stage].shape[1:3] == size
            np.testing.assert_allclose(
                fine[stage][:, ::step, ::step],
                coarse[stage],
                atol=1e-5 * np.abs(coarse[stage]).max(),
            )


@pytest.mark.parametrize("size", [(64, 65), (66, 67)])
def test_padding_is_even_at_every_size(rng, size):
    """As PyTorch pads, and the networks that ImageNet weights come from: alike on both sides."""
    import torch
    from torch.nn import functional

    model = resnet("resnet18", output_stride=32)
    x = rng.standard_normal((1, *size, 3)).astype("float32")

    def convolve(z, name, padding):
        kernel = torch.tensor(array(model.get_layer(name).kernel)).permute(3, 2, 0, 1)
        return functional.conv2d(z, kernel, stride=2, padding=padding)

    def output(name):
        return keras.Model(model.input, model.get_layer(name).output).predict_on_batch(x)

    z = convolve(torch.tensor(x).permute(0, 3, 1, 2), "conv1_conv", 3) / (1 + 1.001e-5) ** 0.5
    z = functional.max_pool2d(functional.relu(z), 3, 2, 1)
    y = output("pool1_pool")
    np.testing.assert_allclose(y, z.permute(0, 2, 3, 1), atol=1e-5)
    z = torch.tensor(output("v2_stack_0_block2_out")).permute(0, 3, 1, 2)
    z = convolve(z, "v2_stack_1_block1_1_conv", 1)
    np.testing.assert_allclose(output("v2_stack_1_block1_1_conv"), z.permute(0, 2, 3, 1), atol=1e-4)


def test_resnet101_builds_offline_at_output_stride_8():
    model = FsaNet(19)
    backbone = model.backbone
    assert backbone.count_params() == 42_605_504
    for height, width in ((769, 769), (512, 1024), (97, 131)):
        images = (1, height, width, 3)
        assert model.compute_output_shape(images) == (1, height, width, 19)
        shapes = backbone.compute_output_shape(images)
        eighth = (-(-height // 8), -(-width // 8))
        assert shapes["stage4"] == (1, *eighth, 1024)
        assert shapes["stage5"] == (1, *eighth, 2048)


def layer_settings(model):
    """Class and config of each layer by name, but for what has no bearing on the result."""
    settings = {}
    for layer in model.layers:
        if not isinstance(layer, keras.layers.InputLayer):
            config = layer.get_config()
            # Channels are the last of four axes; only training sees the momentum.
            config = {key: config[key] for key in config if key not in ("axis", "momentum")}
            settings[layer.name] = type(layer).__name__, config
    return settings


@functools.cache
def keras_cvs(name):
    bottleneck, blocks = BLOCKS[name]
    return keras_cv.models.ResNetBackbone(
        stackwise_filters=[64, 128, 256, 512],
        stackwise_blocks=list(blocks),
        stackwise_strides=[1, 2, 2, 2],
        include_rescaling=False,
        block_type="block" if bottleneck else "basic_block",
    )


@pytest.mark.once
@pytest.mark.parametrize("name", BLOCKS)
def test_layers_are_keras_cvs(name):
    """Names, settings and order of weights: all but how strided windows are padded."""
    theirs, ours = keras_cvs(name), resnet(name, output_stride=32)
    settings = layer_settings(ours)
    padded = [layer for layer in settings if layer.endswith("_pad")]
    for layer in padded:
        assert settings.pop(layer)[0] == "ZeroPadding2D"
        convolution = layer.removesuffix("_pad")
        assert settings[convolution][1]["padding"] == "valid"
        settings[convolution][1]["padding"] = "same"
    assert settings == layer_settings(theirs)
    assert [weight.path for weight in ours.weights] == [weight.path for weight in theirs.weights]


@pytest.mark.parametrize("name", ["resnet18", "resnet50"] if BACKEND == "jax" else BLOCKS)
def test_features_are_keras_cvs(rng, name):
    """At sizes of 32 n + 1, KerasCV's padding is even, too. The others have more of such blocks."""
    theirs = keras_cvs(name)
    ours = resnet(name, output_stride=32, stages=("stage2", "stage3", "stage4", "stage5"))
    ours.set_weights(theirs.get_weights())
    outputs = {stage: last_block(theirs, stage).output for stage in ours.output}
    x = rng.standard_normal((1, 33, 65, 3)).astype("float32")
    expected = keras.Model(theirs.input, outputs).predict_on_batch(x)
    for stage, feature in ours.predict_on_batch(x).items():
        value = expected[stage]
        np.testing.assert_allclose(feature, value, atol=1e-6 * np.abs(value).max())


@pytest.mark.parametrize(
    ("name", "output_strides"), [("resnet18", (8, 16, 32)), ("resnet50", (8,))]
)
def test_a_given_keras_cv_backbone_is_dilated_to_the_named_one(rng, name, output_strides):
    """Of both kinds of blocks, at each output stride; even sizes with the padding made even."""
    for size, theirs in (((33, 65), keras_cvs(name)), ((34, 48), evenly_padded(keras_cvs(name)))):
        x = rng.standard_normal((1, *size, 3)).astype("float32")
        for output_stride in output_strides:
            ours = resnet(name, output_stride=output_stride)
            ours.set_weights(theirs.get_weights())
            given = build_backbone(theirs, (None, None, 3), output_stride, None)
            expected = given.predict_on_batch(x)
            for stage, feature in ours.predict_on_batch(x).items():
                value = expected[stage]
                np.testing.assert_allclose(feature, value, atol=1e-6 * np.abs(value).max())


def last_block(model, stage):
    stack = f"v2_stack_{int(stage[-1]) - 2}_"
    return [layer for layer in model.layers if re.match(f"{stack}.*_out", layer.name)][-1]


def evenly_padded(model):
    def edit(layer):
        config = layer.get_config()
        if config.get("padding") == "same" and max(config["strides"]) > 1:
            config["padding"] = "valid"
        return type(layer).from_config(config)

    def call(layer, x, **kwargs):
        window = getattr(layer, "kernel_size", None) or getattr(layer, "pool_size", (1,))
        if getattr(layer, "padding", None) == "valid" and window[0] > 1:
            x = keras.layers.ZeroPadding2D(window[0] // 2)(x)
        return layer(x, **kwargs)

    images = keras.Input((None, None, 3))
    return keras.models.clone_model(model, images, clone_function=edit, call_function=call)


def test_wrong_names_and_strides():
    with pytest.raises(ValueError, match=r"`backbone` must be one of 'resnet18', .*Received: back"):
        resnet("resnet99")
    with pytest.raises(ValueError, match=r"`output_stride` must be one of 8, 16, 32\. Received: "):
        resnet("resnet18", output_stride=4)


def test_named_and_published_backbones_need_no_other_package():
    """Nor another engine's. Keras comes first: what it looks for is its own."""
    code = f"""
import sys
import keras
others = {{"keras_cv", "keras_hub", "tensorflow_datasets", "tensorflow", "torch"}} - {{{BACKEND!r}}}
sys.modules.update(dict.fromkeys(others))
import keras_fsa
keras_fsa.FsaNet(3, backbone="resnet18", head_channels=8)
from keras_fsa.backbones.resnet import deep_stem_resnet
deep_stem_resnet(blocks=(1, 1, 1, 1))
"""
    run_python(code)


def test_data_format_of_the_machine_does_not_matter(rng):
    keras.config.set_image_data_format("channels_first")
    shape = resnet("resnet18", output_stride=32).compute_output_shape((1, 64, 96, 3))["stage5"]
    assert shape == (1, 2, 3, 512)
