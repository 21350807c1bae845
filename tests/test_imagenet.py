"""ImageNet's weights, in their true file format but with random values: no network."""

import os
import sys

import h5py
import keras
import numpy as np
import pytest

import keras_fsa
from keras_fsa.backbones import imagenet
from keras_fsa.backbones.features import build_backbone
from keras_fsa.backbones.resnet import resnet
from keras_fsa.models.preprocessing import choose_normalization
from tests.helpers import array, run_python
from tests.test_backbones import randomize_network
from tests.test_fsanet import tiny_backbone

ANY = (None, None, 3)


@pytest.fixture(scope="module")
def published():
    """Stands for `keras.applications`' ResNet50 with its weights, convolution biases included."""
    model = keras.applications.ResNet50(weights=None, include_top=False, input_shape=ANY)
    return randomize_network(model, np.random.default_rng(5))


@pytest.fixture(scope="module")
def file(published, tmp_path_factory):
    """The file of the published weights: HDF5, a group of named arrays for each layer."""
    path = tmp_path_factory.mktemp("weights") / "resnet50_notop.h5"
    with h5py.File(path, "w") as f:
        f.attrs["layer_names"] = [layer.name.encode() for layer in published.layers]
        for layer in published.layers:
            group = f.create_group(layer.name)
            names = [f"{layer.name}/{weight.name}:0" for weight in layer.weights]
            group.attrs["weight_names"] = [name.encode() for name in names]
            for name, value in zip(names, layer.get_weights(), strict=True):
                group[name] = value
    return path


@pytest.fixture(scope="module")
def backbone(file):
    model = resnet("resnet50", output_stride=32)
    imagenet.load(model, "resnet50", file)
    return model


def stages(model, x):
    outputs = {
        "stage4": model.get_layer("conv4_block6_out").output,
        "stage5": model.get_layer("conv5_block3_out").output,
    }
    return keras.Model(model.input, outputs)(x)


def test_features_are_those_of_keras_applications(rng, published, backbone):
    for size in ((61, 64), (62, 65), (63, 66), (67, 61)):
        x = 30 * rng.standard_normal((1, *size, 3)).astype("float32")
        expected, features = stages(published, x), backbone(x)
        for stage, value in expected.items():
            y, value = array(features[stage]), array(value)
            deviation = np.abs(y - value).max() / np.abs(value).max()
            print(f"{keras.backend.backend()} {size} {stage} {deviation:.1e}")
            assert y.shape == value.shape
            assert deviation < 1e-5


def test_a_given_resnet_of_keras_applications_is_dilated(rng, published):
    x = 30 * rng.standard_normal((1, 61, 66, 3)).astype("float32")
    expected, features = stages(published, x), build_backbone(published, ANY, 8, None)(x)
    for stage, step in (("stage4", 2), ("stage5", 4)):
        value = array(expected[stage])
        np.testing.assert_allclose(
            array(features[stage])[:, ::step, ::step], value, atol=1e-5 * np.abs(value).max()
        )


def test_backbone_weights(rng, published, file, tmp_path, monkeypatch):
    """By name, with the preprocessing they want; a saved model asks for no download again."""
    asked = []

    def get_file(name, url, **kwargs):
        asked.append((name, url, kwargs["cache_subdir"]))
        return str(file)

    # Where Keras' own networks look it up, wherever that is.
    monkeypatch.setattr(sys.modules[keras.utils.get_file.__module__], "get_file", get_file)
    arguments = {"backbone": "resnet50", "head_channels": 8, "frequencies": 2}
    model = keras_fsa.FsaNet(3, backbone_weights="imagenet", output_stride=32, **arguments)
    name = "resnet50_weights_tf_dim_ordering_tf_kernels_notop.h5"
    assert [call[0] for call in asked] == [name] and asked[0][1].endswith(name)
    # What the error for a missing network says to do.
    assert asked[0][1].startswith("https://storage.googleapis.com/tensorflow/keras-applications/")
    assert asked[0][2] == "models"
    images = rng.integers(0, 256, (1, 61, 66, 3)).astype("uint8")
    wanted = keras.applications.resnet.preprocess_input(images.astype("float32"))
    expected = array(stages(published, wanted)["stage5"])
    features = array(model.backbone(model.normalize(images))["stage5"])
    np.testing.assert_allclose(features, expected, atol=1e-5 * np.abs(expected).max())

    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    assert len(asked) == 1
    assert loaded.normalization == "caffe"
    for value, weight in zip(model.get_weights(), loaded.weights, strict=True):
        np.testing.assert_array_equal(array(weight), value)
    # The backbone alone, to a file and back.
    model.backbone.save_weights(tmp_path / "backbone.weights.h5")
    other = build_backbone(tiny_backbone(), ANY, None, None)
    with pytest.raises(ValueError):
        build_backbone(other, ANY, 8, None, tmp_path / "backbone.weights.h5")
    for weight in loaded.backbone.weights:
        weight.assign(np.zeros(weight.shape))
    again = build_backbone(loaded.backbone, ANY, 8, None, tmp_path / "backbone.weights.h5")
    for value, weight in zip(model.backbone.get_weights(), again.weights, strict=True):
        np.testing.assert_array_equal(array(weight), value)


def test_images_of_other_channels(published):
    """Channels that are all alike make what a grey picture makes of the published kernels."""
    images = keras.Input((None, None, 5))
    x = keras.layers.Conv2D(64, 7, use_bias=False, name="conv1_conv")(images)
    x = keras.layers.BatchNormalization(epsilon=1.001e-5, name="conv1_bn")(x)
    model = keras.Model(images, x)
    imagenet.fold_biases(published, model)
    first, norm = (published.get_layer(f"conv1_{kind}") for kind in ("conv", "bn"))
    grey = np.random.default_rng(0).standard_normal((1, 9, 8, 1)).astype("float32")
    kernel, bias = first.get_weights()
    plain = keras.ops.conv(np.repeat(grey, 3, -1), kernel) + keras.ops.convert_to_tensor(bias)
    expected = array(norm(plain))
    y = array(model(np.repeat(grey, 5, -1)))
    np.testing.assert_allclose(y, expected, atol=1e-5 * np.abs(expected).max())


@pytest.mark.parametrize(
    ("asked", "weights", "channels", "expected"),
    [
        ("auto", None, 3, "imagenet"),
        ("auto", "imagenet", 3, "caffe"),
        ("auto", "imagenet", 1, (np.mean([123.68, 116.779, 103.939]), 1.0)),
        ("auto", "folder/resnet50_notop.h5", 3, "caffe"),
        ("auto", "backbone.weights.h5", 3, "imagenet"),
        ("auto", "resnet101.pth", 3, "imagenet"),
        ("caffe", "imagenet", 3, "caffe"),
        (None, "imagenet", 3, None),
        (((1, 2, 3), 4), "imagenet", 3, ((1, 2, 3), 4)),
        ("imagenet", None, 3, "imagenet"),
    ],
)
def test_normalization_follows_the_weights(asked, weights, channels, expected):
    chosen = choose_normalization(asked, weights, channels)
    assert chosen == expected or np.allclose(chosen, expected)


def test_a_contradiction_of_weights_and_normalization():
    with pytest.raises(ValueError, match=r"want normalization='caffe'\. Received: norm"):
        keras_fsa.FsaNet(3, "resnet50", backbone_weights="imagenet", normalization="imagenet")


def test_without_a_network(tmp_path):
    """Every address is refused at once: an error that says which file to put where."""
    code = """
from keras_fsa.backbones import imagenet
try:
    imagenet.load(None, "resnet50")
except ConnectionError as error:
    print(error)
"""
    refused = "http://127.0.0.1:9"
    out = run_python(
        code,
        KERAS_HOME=str(tmp_path),
        KERAS_BACKEND=keras.backend.backend(),
        https_proxy=refused,
        HTTPS_PROXY=refused,
        no_proxy="",
        NO_PROXY="",
    )
    name = "resnet50_weights_tf_dim_ordering_tf_kernels_notop.h5"
    assert "the download failed. Received: URL fetch failure" in out
    assert f"resnet/{name} and put it in {os.path.join(tmp_path, 'models')}, or" in out
    assert not (tmp_path / "models" / name).exists()


def test_wrong_files(file, backbone, tmp_path):
    def load(weights, name="resnet50", model=backbone):
        imagenet.check_name(name)
        build_backbone(model, ANY, None, None, weights)

    with pytest.raises(ValueError, match=r"exist for 'resnet50', .*Received: backbone='resnet18'"):
        keras_fsa.FsaNet(3, "resnet18", backbone_weights="imagenet")
    with pytest.raises(ValueError, match=r"Received: a backbone that is a model\. Choose"):
        load("imagenet")
    with pytest.raises(FileNotFoundError, match=r"'imagenet' or a file\. Received: backbone_weigh"):
        load(tmp_path / "none.h5")
    (tmp_path / "weights.txt").write_text("text")
    with pytest.raises(ValueError, match=r"must be a file of weights: \.weights\.h5, \.h5, \.pth"):
        load(tmp_path / "weights.txt")
    broken = tmp_path / "broken.h5"
    broken.write_bytes(file.read_bytes()[:10_000])
    for path, name in ((broken, "resnet50"), (file, "resnet101")):
        before = array(backbone.get_layer("conv1_conv").kernel)
        with pytest.raises(
            ValueError, match=rf"\.{imagenet.RESNETS[name]} without top\. Received: "
        ):
            imagenet.load(backbone, name, path)
        np.testing.assert_array_equal(array(backbone.get_layer("conv1_conv").kernel), before)
    with h5py.File(file) as f:
        broken.write_bytes(file.read_bytes())
        offset = f["conv2_block1_1_conv/conv2_block1_1_conv/kernel:0"].id.get_offset()
    with open(broken, "rb+") as f:
        f.seek(offset)
        f.write(np.array(np.nan, "float32").tobytes())
    with pytest.raises(ValueError, match=r"must be finite .*'conv2_block1_1_conv/kernel' has NaN"):
        imagenet.load(backbone, "resnet50", broken)
    other = build_backbone("resnet18", ANY, 32, None)
    other.weights[3].assign(np.full(other.weights[3].shape, np.inf))
    other.save_weights(tmp_path / "broken.weights.h5")
    with pytest.raises(
        ValueError, match=r"must be finite .*broken\.weights\.h5' whose entry 'conv1_"
    ):
        load(tmp_path / "broken.weights.h5", model=other)
    with pytest.raises(ValueError, match=r"`backbone_weights` must be 'imagenet', the path .*=3\."):
        load(3)
