"""Networks of KerasHub and `keras.applications` as backbones: a small one of each family.

One row a family: whether its features at a finer output stride are compared with its own, and the
output strides that it can have. The table in docs/settings.md is about these families.
"""

import keras
import keras_hub
import numpy as np
import pytest

import keras_fsa
from keras_fsa.backbones.features import build_backbone
from keras_fsa.backbones.stages import find_stages
from tests.helpers import array, call
from tests.test_backbones import randomize_network

ANY = (None, None, 3)
MODELS = keras_hub.models


def efficientnet(blocks="v1", squeeze=0):
    """The last strides of the network, as its presets have them."""
    return MODELS.EfficientNetBackbone(
        stackwise_width_coefficients=[1.0] * 5,
        stackwise_depth_coefficients=[1.0] * 5,
        stackwise_kernel_sizes=[3, 3, 5, 3, 5],
        stackwise_num_repeats=[1] * 5,
        stackwise_input_filters=[8] * 5,
        stackwise_output_filters=[8, 8, 8, 16, 16],
        stackwise_expansion_ratios=[1, 2, 2, 2, 2],
        stackwise_squeeze_and_excite_ratios=[squeeze] * 5,
        stackwise_strides=[1, 2, 2, 2, 2],
        stackwise_block_types=[blocks] * 5,
        stackwise_force_input_filters=[0] * 5,
        stackwise_nores_option=[False] * 5,
        num_features=24,
    )


def mobilenet():
    return MODELS.MobileNetBackbone(
        stackwise_expansion=[[8], [8], [16]],
        stackwise_num_blocks=[1, 1, 1],
        stackwise_num_filters=[[8], [8], [16]],
        stackwise_kernel_size=[[3], [3], [5]],
        stackwise_num_strides=[[2], [2], [2]],
        stackwise_se_ratio=[[0.25], [None], [0.25]],
        stackwise_activation=[["relu"], ["relu"], ["hard_swish"]],
        stackwise_padding=[[1], [1], [2]],
        output_num_filters=16,
        depthwise_filters=8,
        depthwise_stride=2,
        depthwise_residual=False,
        last_layer_filter=16,
        input_num_filters=8,
        image_shape=ANY,
    )


def mobilenet_v5():
    """With MobileNetV4's inverted bottlenecks."""
    ones, zeros = [[1]] * 4, [[0]] * 4
    return MODELS.MobileNetV5Backbone(
        stackwise_block_types=[["er"], ["uir"], ["uir"], ["uir"]],
        stackwise_num_blocks=[1] * 4,
        stackwise_num_filters=[[8], [8], [16], [16]],
        stackwise_strides=[[2]] * 4,
        stackwise_act_layers=[["relu"]] * 4,
        stackwise_exp_ratios=[[2.0]] * 4,
        stackwise_se_ratios=[[0.0]] * 4,
        stackwise_dw_kernel_sizes=[[0], [3], [3], [5]],
        stackwise_dw_start_kernel_sizes=zeros,
        stackwise_dw_end_kernel_sizes=zeros,
        stackwise_exp_kernel_sizes=[[3], [0], [0], [0]],
        stackwise_pw_kernel_sizes=ones,
        stackwise_num_heads=zeros,
        stackwise_key_dims=zeros,
        stackwise_value_dims=zeros,
        stackwise_kv_strides=zeros,
        stackwise_use_cpe=[[False]] * 4,
        use_msfa=False,
        stem_size=8,
    )


def cspnet(stage_type, block_type, ratio):
    return MODELS.CSPNetBackbone(
        stem_filters=8,
        stem_kernel_size=3,
        stem_strides=2,
        stackwise_depth=[1] * 4,
        stackwise_strides=[2] * 4,
        stackwise_num_filters=[8, 8, 16, 16],
        block_type=block_type,
        stage_type=stage_type,
        bottle_ratio=[ratio],
        block_ratio=[ratio],
        expand_ratio=[1.0],
    )


def hgnet():
    return MODELS.HGNetV2Backbone(
        depths=[1] * 4,
        embedding_size=8,
        hidden_sizes=[8, 8, 16, 16],
        stem_channels=[3, 8, 8],
        hidden_act="relu",
        use_learnable_affine_block=False,
        stackwise_stage_filters=[
            (8, 8, 8, 1, 1, 3),
            (8, 8, 8, 1, 1, 3),
            (8, 8, 16, 1, 1, 3),
            (16, 8, 16, 1, 1, 3),
        ],
        apply_downsample=[False, True, True, True],
        use_lightweight_conv_block=[False] * 4,
        image_shape=ANY,
    )


def mit():
    return MODELS.MiTBackbone(
        layerwise_depths=[1] * 4,
        num_layers=4,
        layerwise_num_heads=[1, 1, 2, 2],
        layerwise_sr_ratios=[8, 4, 2, 1],
        max_drop_path_rate=0.1,
        layerwise_patch_sizes=[7, 3, 3, 3],
        layerwise_strides=[4, 2, 2, 2],
        image_shape=(64, 64, 3),
        hidden_dims=[8, 8, 16, 16],
    )


TRANSFORMER = {"num_layers": 1, "num_heads": 2, "hidden_dim": 8}


def vit():
    return MODELS.ViTBackbone(image_shape=(32, 64, 3), patch_size=16, mlp_dim=8, **TRANSFORMER)


def deit():
    return MODELS.DeiTBackbone(
        image_shape=(32, 32, 3), patch_size=16, intermediate_dim=8, **TRANSFORMER
    )


def dinov2():
    return MODELS.DINOV2Backbone(
        patch_size=14,
        intermediate_dim=8,
        image_shape=(56, 56, 3),
        position_embedding_shape=(56, 56, 3),
        **TRANSFORMER,
    )


def dinov3():
    return MODELS.DINOV3Backbone(
        patch_size=16, intermediate_dim=8, image_shape=(64, 64, 3), **TRANSFORMER
    )


def swin():
    return MODELS.SwinTransformerBackbone(
        image_shape=(64, 64, 3), embed_dim=8, depths=(1,) * 4, num_heads=(1, 1, 2, 2), window_size=2
    )


def application(name, **arguments):
    build = getattr(keras.applications, name)
    return lambda: build(weights=None, include_top=False, input_shape=ANY, **arguments)


ALL, OWN = (8, 16, 32), (32,)
# Network; its strides at stages 4 and 5; the output strides that it can have; whether its features
# at a finer one are compared with its own. (Squeeze-and-excitation takes means over more positions,
# so there is nothing to compare. KerasHub's ResNets are in test_backbones.py.)
FAMILIES = {
    "EfficientNet": (lambda: efficientnet(squeeze=0.25), (16, 32), ALL, False),
    "EfficientNet-Lite": (efficientnet, (16, 32), ALL, True),
    "EfficientNetV2": (lambda: efficientnet("fused"), (16, 32), OWN, False),
    "MobileNetV3": (mobilenet, (16, 32), OWN, False),
    "MobileNetV5": (mobilenet_v5, (16, 32), OWN, False),
    "DarkNet": (lambda: cspnet("dark", "dark_block", 1.0), (16, 32), ALL, True),
    "CSPNet": (lambda: cspnet("cs3", "bottleneck_block", 0.5), (16, 32), ALL, True),
    "DenseNet": (lambda: MODELS.DenseNetBackbone([1, 1, 1, 1]), (16, 32), ALL, True),
    "HGNetV2": (hgnet, (16, 32), OWN, False),
    "MiT": (mit, (16, 32), OWN, False),
    "ViT": (vit, (16, 16), (16,), False),
    "DeiT": (deit, (16, 16), (16,), False),
    "DINOv2": (dinov2, (14, 14), (16,), False),  # 16 is the nearest power of two
    "DINOv3": (dinov3, (16, 16), (16,), False),
    "Swin": (swin, (32, 32), OWN, False),
    "MobileNetV2": (application("MobileNetV2", alpha=0.35), (16, 32), ALL, True),
    "MobileNetV3Small": (application("MobileNetV3Small"), (16, 32), ALL, False),
    "VGG16": (application("VGG16"), (16, 32), OWN, False),
    "ConvNeXt": (application("ConvNeXtTiny"), (16, 32), OWN, False),
}


@pytest.mark.parametrize("family", FAMILIES)
def test_features(rng, family):
    build, strides, possible, compared = FAMILIES[family]
    given = build()
    image_shape = (*given.inputs[0].shape[1:3], 3)
    size = tuple(side or 64 for side in image_shape[:2])
    taken = build_backbone(given, image_shape, None, None)
    backbones = {None: taken}
    for output_stride in ALL:
        if output_stride in possible:
            backbones[output_stride] = build_backbone(given, image_shape, output_stride, None)
            continue
        with pytest.raises(ValueError, match=r"`output_stride` must be|beyond the output stride"):
            build_backbone(given, image_shape, output_stride, None)
    for output_stride, backbone in backbones.items():
        shapes = backbone.compute_output_shape((1, *size, 3))
        for stage, own in zip(("stage4", "stage5"), strides):
            stride = min(own, output_stride or own)
            assert shapes[stage][1:3] == tuple(side // stride for side in size)
            assert shapes[stage][3] == find_stages(given)[stage].shape[-1]
    if not compared:
        return
    randomize_network(given, rng)
    x = rng.standard_normal((1, 64, 96, 3)).astype("float32")
    coarse, fine = call(taken, x), call(build_backbone(given, image_shape, 8, None), x)
    for stage, step in (("stage4", 2), ("stage5", 4)):
        expected = array(coarse[stage])
        # Sums of some twenty layers in float32, in another order.
        np.testing.assert_allclose(
            array(fine[stage])[:, ::step, ::step],
            expected,
            rtol=0,
            atol=2e-5 * np.abs(expected).max(),
        )


def test_the_last_map_of_each_size():
    """Of the whole network its output; of a finer size what the next stride reads."""
    given = keras.applications.MobileNetV2((None, None, 3), 0.35, False, None)
    names = {
        stage: tensor._keras_history.operation.name for stage, tensor in find_stages(given).items()
    }
    assert names == {
        "stage5": "out_relu",
        "stage4": "block_13_expand_relu",
        "stage3": "block_6_expand_relu",
        "stage2": "block_3_expand_relu",
        "stage1": "block_1_expand_relu",
    }


def test_many_residual_blocks():
    """There are 2**64 paths through them."""
    images = keras.Input((None, None, 3))
    x = stage4 = keras.layers.Conv2D(4, 3, 4, padding="same")(images)
    x = keras.layers.Conv2D(4, 3, 2, padding="same")(stage4)
    for _ in range(64):
        x = keras.layers.Add()([x, keras.layers.ReLU()(x)])
    backbone = build_backbone(keras.Model(images, x), (None, None, 3), None, None)
    assert backbone.input is images and set(backbone.output) == {"stage4", "stage5"}


def test_tokens_in_their_places(rng):
    """Rows first, class tokens left out."""
    given = vit()
    x = rng.standard_normal((1, 32, 64, 3)).astype("float32")
    tokens = array(given(x))
    features = build_backbone(given, (32, 64, 3), None, None)(x)
    assert tokens.shape == (1, 1 + 2 * 4, 8)
    expected = tokens[:, 1:].reshape(1, 2, 4, 8)
    np.testing.assert_allclose(array(features["stage5"]), expected, atol=1e-6)


@pytest.mark.parametrize("family", ["ViT", "MiT"])
def test_networks_on_them(rng, family, tmp_path):
    given = FAMILIES[family][0]()
    shape = (*given.inputs[0].shape[1:3], 3)
    model = keras_fsa.FsaNet(
        3, given, shape, frequencies=2, head_channels=8, normalization="imagenet"
    )
    x = rng.integers(0, 256, (1, *shape)).astype("uint8")
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    np.testing.assert_allclose(loaded.predict(x, verbose=0), model.predict(x, verbose=0), atol=1e-5)


def test_what_a_family_lacks():
    with pytest.raises(ValueError, match=r"`image_shape` must have the size .*\(32, 64\)\. Pass"):
        build_backbone(vit(), ANY, None, None)
    with pytest.raises(ValueError, match=r"must have the maps .*stage3.*which has \['stage4', 's"):
        build_backbone(vit(), (32, 64, 3), None, None, stages=("stage3", "stage4", "stage5"))
    with pytest.raises(ValueError, match=r"strides within .*InvertedResidualBlock cannot be"):
        build_backbone(mobilenet(), ANY, 8, None)
