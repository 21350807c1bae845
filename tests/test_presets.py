import keras
import keras_hub
import numpy as np
import pytest

import keras_fsa
from keras_fsa.backbones.resnet import deep_stem_resnet
from keras_fsa.models.presets import STEMS
from tests.helpers import array
from tests.test_backbones import randomize_network
from tests.test_resnet import layer_settings

CLASSES = {"cityscapes": 19, "ade20k": 150, "voc_aug": 21}


def tiny_backbone():
    images = keras.Input((None, None, 3))
    stage4 = keras.layers.Conv2D(6, 3, 8, "same")(images)
    return keras.Model(images, {"stage4": stage4, "stage5": keras.layers.ReLU()(stage4)})


def test_there_is_one_for_each_published_setting():
    assert len(keras_fsa.PRESETS) == 1 + 3 * 2 * 2
    assert "ccnet_dot_r2_cityscapes" in keras_fsa.PRESETS


@pytest.mark.parametrize("name", keras_fsa.PRESETS)
def test_settings(rng, name):
    family, affinity, recurrence, data_set = name.split("_", 3)
    model = keras_fsa.FsaNet.from_preset(name, backbone=tiny_backbone())
    assert model.num_classes == CLASSES[data_set]
    assert model.align_corners == (data_set == "cityscapes")
    attention = model.head.get_layer("attention")
    k = 8 if family == "ccnet" else 10 if name == "mmseg_linear_r2_voc_aug" else 5
    expected = {"dot": "dot_product", "linear": "linear_softmax"}[affinity]
    assert (attention.frequencies, attention.affinity) == (k, expected)
    assert attention.recurrence == int(recurrence[1])
    shapes = {weight.name: tuple(weight.shape) for weight in attention.weights}
    first = model.auxiliary_head.get_layer("auxiliary_conv")
    images = rng.integers(0, 256, (1, 4, 5, 3)).astype("uint8")
    if family == "ccnet":
        assert shapes["query_kernel"] == (512, 64) and shapes["value_kernel"] == (512, 512)
        assert attention.residual == "gain"
        assert first.filters == 512 and first.use_bias
        normalized = images[..., ::-1] - np.array([104.00698793, 116.66876762, 122.67891434])
    else:
        assert shapes["query_kernel"] == (512, 256) and shapes["output_kernel"] == (256, 512)
        assert attention.residual == "batch_norm"
        assert first.filters == 256 and not first.use_bias
        normalized = (images - np.array([123.675, 116.28, 103.53])) / [58.395, 57.12, 57.375]
    np.testing.assert_allclose(array(model.normalize(images)), normalized, atol=1e-5)
    assert all(layer.use_bias is False for layer in model.head.layers if "_conv" in layer.name)


def test_arguments_replace_those_of_the_preset(tmp_path):
    model = keras_fsa.FsaNet.from_preset(
        "mmseg_dot_r1_ade20k",
        backbone=tiny_backbone(),
        num_classes=4,
        head_channels=8,
        frequencies=2,
        auxiliary_loss_weight=0,
        num_heads=2,
        dtype="mixed_bfloat16",
    )
    attention = model.head.get_layer("attention")
    assert (model.num_classes, attention.frequencies, attention.key_dim) == (4, 2, 4)
    assert attention.dtype_policy.name == "mixed_bfloat16"
    assert model.auxiliary_head is None
    assert model.attention_layer().num_heads == 2
    # None is the default of `FsaNet`.
    model = keras_fsa.FsaNet.from_preset(
        "mmseg_linear_r1_ade20k", backbone=tiny_backbone(), head_channels=8, affinity=None
    )
    assert model.attention_layer().affinity == "dot_product"
    # They are in the file too.
    model = keras_fsa.FsaNet.from_preset(
        "ccnet_dot_r2_cityscapes",
        backbone=tiny_backbone(),
        num_classes=4,
        head_channels=8,
        auxiliary_channels=6,
    )
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    for name in ("num_classes", "auxiliary_channels", "auxiliary_use_bias", "normalization"):
        assert loaded.get_config()[name] == model.get_config()[name]
    assert [w.shape for w in loaded.weights] == [w.shape for w in model.weights]


@pytest.mark.parametrize("family", ["ccnet", "mmseg"])
def test_dilation_of_the_families(family):
    """Of every 3x3 convolution, in the first block of a stage and in the next."""
    model = deep_stem_resnet(blocks=(1, 2, 2, 2), **STEMS[family])
    rates = {
        layer.name: layer.dilation_rate[0]
        for layer in model.layers
        if isinstance(layer, keras.layers.Conv2D) and layer.kernel_size == (3, 3)
    }
    first = {"ccnet": [1, 2, 4], "mmseg": [1, 1, 2]}[family]
    assert [rates[f"stack{i}_block0_2_conv"] for i in (1, 2, 3)] == first
    assert [rates[f"stack{i}_block1_2_conv"] for i in (1, 2, 3)] == [1, 2, 4]
    stem = [model.get_layer(f"conv{i}_conv").filters for i in (1, 2, 3)]
    assert tuple(stem) == STEMS[family]["stem"]


@pytest.mark.parametrize("family", ["ccnet", "mmseg"])
def test_max_pooling_rounds_as_the_family_does(rng, family):
    import torch

    model = deep_stem_resnet(blocks=(1, 1, 1, 1), **STEMS[family])
    outputs = [model.get_layer(name).output for name in ("conv3_relu", "pool1_pool")]
    stem = keras.Model(model.input, outputs)
    for size in ((61, 62), (63, 64)):
        x, y = stem(rng.standard_normal((1, *size, 3)).astype("float32"))
        x = torch.tensor(array(x)).permute(0, 3, 1, 2)
        expected = torch.nn.functional.max_pool2d(x, 3, 2, 1, ceil_mode=family == "ccnet")
        np.testing.assert_array_equal(array(y), expected.permute(0, 2, 3, 1))


def test_dtype_policy():
    model = deep_stem_resnet(blocks=(1, 1, 1, 1), dtype="mixed_bfloat16")
    policies = {layer.dtype_policy.name for layer in model.layers if layer.weights}
    assert policies == {"mixed_bfloat16"}


@pytest.mark.parametrize("family", ["ccnet", "mmseg"])
def test_the_backbones_layers_are_keras_hubs(rng, family):
    """Names, settings and order of weights, and every feature of the strided network."""
    settings = STEMS[family]
    ours = deep_stem_resnet(
        blocks=(1, 2, 1, 2),
        output_stride=32,
        stages=("stage2", "stage3", "stage4", "stage5"),
        **{**settings, "pool_rounds_up": False},
    )
    theirs = keras_hub.models.ResNetBackbone(
        list(settings["stem"]),
        [3, 3, 3],
        [64, 128, 256, 512],
        [1, 2, 1, 2],
        [1, 2, 2, 2],
        "bottleneck_block",
    )
    assert layer_settings(ours) == layer_settings(theirs)
    assert [weight.path for weight in ours.weights] == [weight.path for weight in theirs.weights]
    randomize_network(theirs, rng)
    ours.set_weights(theirs.get_weights())
    levels = keras.Model(theirs.input, theirs.pyramid_outputs)
    for size in ((65, 64), (66, 67)):
        x = rng.standard_normal((1, *size, 3)).astype("float32")
        expected = levels(x)
        for stage, feature in ours(x).items():
            np.testing.assert_array_equal(array(feature), array(expected[f"P{stage[-1]}"]))


@pytest.mark.once
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"head_channels": "16"}, r"`head_channels` must be .*Received: head_channels='16'"),
        ({"num_heads": 3}, r"must be a multiple of `num_heads`.*num_heads=3"),
        (
            {"backbone_weights": "imagenet"},
            r"ImageNet weights exist for .*a backbone that is a mod",
        ),
    ],
)
def test_wrong_arguments_beside_a_preset(arguments, message):
    with pytest.raises(ValueError, match=message):
        keras_fsa.FsaNet.from_preset("mmseg_dot_r1_ade20k", backbone=tiny_backbone(), **arguments)


@pytest.mark.once
@pytest.mark.parametrize("image_shape", [512, (512, 512), (512, 512, "3")])
def test_wrong_image_shapes_beside_a_preset(image_shape):
    with pytest.raises(ValueError, match=r"`image_shape` must be .*Received: image_shape="):
        keras_fsa.FsaNet.from_preset("mmseg_dot_r1_ade20k", image_shape=image_shape)


def test_unknown_preset():
    with pytest.raises(ValueError, match=r"random weights: 'ccnet_dot_r2_cityscapes', 'mmseg"):
        keras_fsa.FsaNet.from_preset("resnet101")
