"""The skip connection from a finer stage: against its pieces, and in all that takes networks."""

import keras
import numpy as np
import pytest
from keras import layers

import keras_fsa
from keras_fsa.backbones.features import build_backbone
from keras_fsa.commands.train import Train, build_model
from keras_fsa.layers.resize_like import ResizeLike
from keras_fsa.models.exporting import largest_deviation, load_exported
from keras_fsa.models.folding import fold_batch_norm
from keras_fsa.resize import resize_bilinear
from keras_fsa.training import Recipe, loop
from tests.helpers import BACKEND, array, predict_in_new_process, randomize


def backbone(*stages, channels=3):
    """Stages of stride 1, 2, 4, 8 and 8, with channels that tell them apart."""
    x = images = keras.Input((None, None, channels))
    outputs = {}
    widths = (("stage1", 4, 1), ("stage2", 5, 2), ("stage3", 6, 2), ("stage4", 7, 2))
    for stage, width, stride in widths:
        x = layers.Conv2D(width, 3, stride, padding="same", activation="relu")(x)
        outputs[stage] = x
    outputs["stage5"] = layers.Conv2D(11, 1)(x)
    return keras.Model(images, {stage: outputs[stage] for stage in stages}, name="plain")


def network(rng, low_level="stage3", **settings):
    arguments = {"head_channels": 8, "frequencies": 2, "normalization": "imagenet", **settings}
    arguments.setdefault("backbone", backbone("stage1", "stage2", "stage3", "stage4", "stage5"))
    return randomize(keras_fsa.FsaNet(4, low_level=low_level, **arguments), rng)


def pictures(rng, *size):
    return rng.integers(0, 256, (2, *size, 3)).astype("uint8")


def resized(x, size, align_corners, stride):
    """Bilinear interpolation, axis by axis, in float64."""
    for axis, new in ((1, size[0]), (2, size[1])):
        old, j = x.shape[axis], np.arange(new)
        step = stride if align_corners is None else new / old
        at = j * (old - 1) / max(new - 1, 1) if align_corners else (j + 0.5) / step - 0.5
        x = np.apply_along_axis(lambda v, at=at, old=old: np.interp(at, range(old), v), axis, x)
    return x


@pytest.mark.parametrize("align_corners", [None, False, True])
@pytest.mark.parametrize(
    "low_level",
    [
        "stage2",
        "stage3",
        ("stage3", "stage2"),
        ["stage2", "stage1"],
        ("stage3", "stage2", "stage1"),
    ],
)
def test_logits_against_the_pieces_at_odd_sizes(rng, low_level, align_corners):
    model = network(rng, low_level, align_corners=align_corners)
    images = pictures(rng, 29, 37)
    stages = {k: array(v) for k, v in model.backbone(model.normalize(images)).items()}
    head = model.head.get_layer

    def block(name, x):
        y = head(f"{name}_bn")(head(f"{name}_conv")(np.asarray(x, "float32")))
        return np.maximum(array(y), 0).astype("float64")

    x = array(model.attention_layer()(block("before", stages["stage5"]).astype("float32")))
    x = block("fuse", np.concatenate([stages["stage5"], block("after", x)], -1))
    stride, finer = 8, [low_level] if isinstance(low_level, str) else low_level
    for n, stage in enumerate(finer):
        suffix = f"_{stage}" if n else ""
        fine, coarser = block(f"low_level{suffix}", stages[stage]), stride
        stride = {"stage3": 4, "stage2": 2, "stage1": 1}[stage]
        assert fine.shape == (2, -(-29 // stride), -(-37 // stride), 48 // 2**n)
        x = resized(x, fine.shape[1:3], align_corners, coarser // stride)
        x = block(f"refine{suffix}", np.concatenate([x, fine], -1))
        assert x.shape[-1] == 8 // 2**n
    logits = array(head("logits")(x.astype("float32")))
    want = resized(logits.astype("float64"), (29, 37), align_corners, stride)
    got = model.predict_on_batch(images)
    # float32 sums of up to 500 products, one after the other.
    np.testing.assert_allclose(got, want, atol=2e-5 * np.abs(want).max())
    assert want.std() > 0.01 * np.abs(want).max()
    # Each low-level map matters.
    for n, stage in enumerate(finer):
        gamma = head(f"low_level_{stage}_bn" if n else "low_level_bn").gamma
        before = array(gamma)
        gamma.assign(0 * before)
        assert np.abs(model.predict_on_batch(images) - want).max() > 1e-3 * np.abs(want).max()
        gamma.assign(before)


def test_resizing_alone(rng):
    # Strides of 2 and 4, of 18 x 22 pixels.
    x, like = rng.standard_normal((2, 5, 6, 3)), np.zeros((2, 9, 11, 1))
    for align_corners in (None, False, True):
        layer = ResizeLike(align_corners)
        copy = ResizeLike.from_config(layer.get_config())
        got = array(copy([x.astype("float32"), like.astype("float32")]))
        np.testing.assert_allclose(got, resized(x, (9, 11), align_corners, 2), atol=2e-6)
    maps = keras.Input((None, None, 3)), keras.Input((None, 11, 1))
    assert layer(maps).shape == (None, None, 11, 3)
    with pytest.raises(ValueError, match=r"`align_corners` must be .*Received: align_corners=1"):
        ResizeLike(1)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_half_precision_finds_positions_of_a_large_map_of_unknown_size(rng, dtype):
    x = keras.ops.convert_to_tensor(rng.standard_normal((1, 3, 3001, 2)), dtype)
    known, unknown = (
        array(keras.ops.cast(resize_bilinear(x, 2, width), "float32"))
        for width in (4999, keras.ops.convert_to_tensor(4999, "int32"))
    )
    # The weights are rounded to half precision, not the positions.
    np.testing.assert_allclose(unknown, known, atol={"float16": 5e-3, "bfloat16": 4e-2}[dtype])


@pytest.mark.parametrize("low_level", ["stage3", ("stage3", "stage1")])
def test_config_and_files(rng, tmp_path, low_level):
    model = network(rng, low_level)
    assert model.get_config()["low_level"] == low_level
    copy = keras_fsa.FsaNet.from_config(model.get_config())
    assert copy.get_config() == model.get_config()
    # Files of before the connection have no such entry.
    config = model.get_config()
    del config["low_level"]
    assert keras_fsa.FsaNet.from_config(config).low_level is None
    images = pictures(rng, 29, 37)
    models = {"plain": model, "folded": fold_batch_norm(model)}
    for loaded, one in zip(
        predict_in_new_process(models, dict.fromkeys(models, images), tmp_path).values(),
        models.values(),
        strict=True,
    ):
        np.testing.assert_allclose(loaded, one.predict_on_batch(images), atol=1e-5)


@pytest.mark.parametrize("policy", ["float32", "mixed_float16", "mixed_bfloat16"])
def test_one_step_of_training(rng, policy):
    model = network(rng, dtype=policy)
    model.compile()
    images, masks = pictures(rng, 29, 37), rng.integers(0, 4, (2, 29, 37))
    before = array(model.head.get_layer("low_level_conv").kernel)
    history = model.fit(images, masks, batch_size=2, verbose=0).history
    assert np.isfinite(history["loss"]).all()
    assert (array(model.head.get_layer("low_level_conv").kernel) != before).any()
    assert array(model(images)).dtype == "float32"
    outputs = model(images, training=True)
    assert {name: x.shape for name, x in outputs.items()} == {
        "logits": (2, 29, 37, 4),
        "auxiliary": (2, 29, 37, 4),
    }


def test_what_the_attention_sees_and_truncation(rng):
    model = network(rng)
    images = pictures(rng, 29, 37)
    assert model.attention_features(images).shape == (2, 4, 5, 8)
    narrow = keras_fsa.to_frequency(model, frequencies=1)
    assert narrow.low_level == "stage3"
    again = keras_fsa.to_frequency(model, frequencies=2)
    np.testing.assert_allclose(
        again.predict_on_batch(images), model.predict_on_batch(images), rtol=1e-6
    )


def test_folding(rng):
    model = network(rng)
    folded = fold_batch_norm(model)
    names = [type(layer) for layer in folded._flatten_layers(include_self=False)]
    assert layers.BatchNormalization not in names
    assert folded.low_level == "stage3"
    images = pictures(rng, 29, 37)
    want = model.predict_on_batch(images)
    got = folded.predict_on_batch(images)
    np.testing.assert_allclose(got, want, atol=1e-5 * np.abs(want).max())
    assert folded.attention_features(images).shape == (2, 4, 5, 8)


@pytest.mark.skipif(BACKEND == "torch", reason="no exporter of torch keeps sizes open")
def test_an_exported_network_at_odd_sizes(rng, tmp_path):
    model = network(rng)
    model.export(tmp_path / "served", verbose=False)
    serve = load_exported(tmp_path / "served")
    scale = np.abs(model.predict_on_batch(pictures(rng, 29, 37))).max()
    assert largest_deviation(model, serve) < 1e-4 * scale


@pytest.mark.parametrize("name", ["resnet18", "efficientnet_lite0"])
def test_named_backbones_give_the_stage(rng, name):
    model = keras_fsa.FsaNet(
        4, name, output_stride=16, head_channels=8, frequencies=2, low_level=("stage3", "stage1")
    )
    assert sorted(model.backbone.output) == ["stage1", "stage3", "stage4", "stage5"]
    channels = {"resnet18": (128, 64), "efficientnet_lite0": (40, 16)}[name]
    shapes = model.backbone.compute_output_shape((1, 49, 65, 3))
    assert shapes["stage3"] == (1, 7, 9, channels[0]) and shapes["stage5"][1:3] == (4, 5)
    assert shapes["stage1"] == (1, 25, 33, channels[1])
    # Weights come in the order that they have without: files of a backbone fit both.
    plain = build_backbone(name, (None, None, 3), 16, None)
    assert [w.path for w in plain.weights] == [w.path for w in model.backbone.weights]


def test_a_model_with_the_names_of_a_resnet():
    given = keras.applications.ResNet50(weights=None, include_top=False, input_shape=(64, 64, 3))
    features = build_backbone(given, (64, 64, 3), 16, None, stages=("stage1", "stage2", "stage5"))
    assert {name: x.shape[1:3] for name, x in features.output.items()} == {
        "stage1": (32, 32),
        "stage2": (16, 16),
        "stage5": (4, 4),
    }


def test_a_pyramid_of_levels():
    given = backbone("stage3", "stage4", "stage5")
    levels = zip(("P3", "P4", "P5"), given.output.values(), strict=True)
    pyramid = keras.Model(given.input, given.output["stage5"])
    pyramid.pyramid_outputs = dict(levels)
    features = build_backbone(pyramid, (None, None, 3), None, None, None, ("stage3", "stage5"))
    assert {name: x.shape[-1] for name, x in features.output.items()} == {
        "stage3": 6,
        "stage5": 11,
    }


def test_recipes_and_flags(tmp_path):
    recipe = Recipe(
        dataset="signal_harbor",
        preset="mmseg_dot_r2_ade20k",
        backbone="preset",
        weights=None,
        head_channels=8,
        low_level=("stage2", "stage1"),
    )
    assert loop.build_model(recipe, 3).low_level == ("stage2", "stage1")
    assert loop.build_model(Recipe("signal_harbor", backbone="resnet18", weights=None), 3)
    settings = Train(
        images=tmp_path,
        masks=tmp_path,
        num_classes=3,
        low_level=("stage3",),
        head_channels=8,
        weights=None,
        frequencies=2,
    )
    assert build_model(settings).low_level == "stage3"


def test_errors(rng):
    with pytest.raises(
        ValueError,
        match=r"`low_level` must be one of 'stage3', 'stage2', 'stage1', None\. .*'stage4'",
    ):
        keras_fsa.FsaNet(4, "resnet18", low_level="stage4")
    with pytest.raises(ValueError, match=r"`low_level` must be one of .*'stage1'\. .*'stage5'"):
        keras_fsa.FsaNet(4, "resnet18", low_level=["stage3", "stage5"])
    with pytest.raises(ValueError, match=r"`low_level` must be one of .*'stage6'"):
        keras_fsa.FsaNet.from_preset("mmseg_dot_r2_ade20k", low_level="stage6")
    for wrong in (("stage2", "stage3"), ("stage2", "stage2")):
        with pytest.raises(ValueError, match=r"`low_level` must name stages from coarse to fine"):
            keras_fsa.FsaNet(4, "resnet18", low_level=wrong)
    with pytest.raises(
        ValueError,
        match=r"lacks \['stage3'\] and has \['stage4', 'stage5'\]\. .*"
        r'\{"stage3": model\.get_layer\(\.\.\.\)\.output, "stage4"',
    ):
        network(rng, backbone=backbone("stage4", "stage5"))
    with pytest.raises(ValueError, match=r"`head` must take stage 5, .*takes one map.*'stage3'"):
        network(rng, head=network(rng, None).head)
    with pytest.raises(
        ValueError, match=r"takes \['stage3', 'stage5'\], with low_level=\('stage2',\)\. Build"
    ):
        network(rng, "stage2", head=network(rng).head)
