"""ImageNet's weights for the KerasCV ResNets: those of `keras.applications`, without biases."""

import os
import re

import keras
import numpy as np

from keras_fsa.types import Path

NAMES = {"resnet50": "ResNet50", "resnet101": "ResNet101", "resnet152": "ResNet152"}


def check_name(name: str | None) -> None:
    """Raise a `ValueError` unless there are ImageNet weights for the backbone of that name."""
    if name not in NAMES:
        received = "a backbone that is a model" if name is None else f"backbone={name!r}"
        raise ValueError(
            f"ImageNet weights exist for {', '.join(map(repr, NAMES))}, the ResNets of "
            f"keras.applications. Received: {received}. Choose one of these, or give a backbone "
            "model that has its weights, such as keras_hub.models.ResNetBackbone.from_preset("
            "'resnet_18_imagenet'), and no `backbone_weights`."
        )


def load(backbone: keras.Model, name: str | None, path: Path | None = None) -> None:
    """Load the weights of a ResNet of `keras.applications` into KerasCV's of the same depth.

    Args:
        backbone: made by `resnet(name, ...)`, of any output stride. Where its pictures have other
            than 3 channels, each of these gets the mean of the first convolution's kernels over
            red, green and blue, times 3 / channels: channels that are all alike make the features
            of the grey picture.
        name: a key of `NAMES`.
        path: a file of weights without top. Default: the published one, which Keras downloads once.

    Raises:
        ValueError: for another name, or a file that does not fit.
        ConnectionError: where the download fails; it says which file to put where.
    """
    check_name(name)
    build = getattr(keras.applications, NAMES[name])
    if path is not None:
        source = build(weights=None, include_top=False)
        try:
            source.load_weights(path)
        except Exception as error:
            raise ValueError(
                f"An .h5 file must hold the weights of keras.applications.{NAMES[name]} without "
                f"top. Received: {os.fspath(path)!r}, which did not load ({error}). Take the file "
                f"{_file(name)}."
            ) from error
    else:
        try:
            source = build(weights="imagenet", include_top=False)
        except Exception as error:
            folder = os.path.join(os.environ.get("KERAS_HOME", "~/.keras"), "models")
            raise ConnectionError(
                "The weights of ImageNet are downloaded once, and the download failed. Received: "
                f"{error}. Where there is a network, fetch "
                "https://storage.googleapis.com/tensorflow/keras-applications/resnet/"
                f"{_file(name)} and put it in {folder}, or give its path as `backbone_weights`."
            ) from error
    fold_biases(source, backbone)


def _file(name):
    return f"{name}_weights_tf_dim_ordering_tf_kernels_notop.h5"


def fold_biases(source: keras.Model, backbone: keras.Model) -> None:
    """Copy a ResNet of `keras.applications` into KerasCV's, which has no convolution biases.

    The batch norm that follows each convolution takes the bias in: `moving_mean - bias` for its
    mean, so that `(w x + b) - mean = w x - (mean - b)`. The features are the same, to rounding.
    """
    for layer in backbone.layers:
        if not layer.name.endswith("_conv"):
            continue
        name = re.sub(r"^v2_stack_(\d)", lambda m: f"conv{int(m[1]) + 2}", layer.name)
        kernel, bias = source.get_layer(name).get_weights()
        channels = layer.kernel.shape[2]
        if channels != kernel.shape[2]:
            kernel = np.repeat(kernel.sum(axis=2, keepdims=True) / channels, channels, axis=2)
        layer.set_weights([kernel])
        norm = source.get_layer(f"{name[: -len('_conv')]}_bn")
        gamma, beta, mean, variance = norm.get_weights()
        target = backbone.get_layer(f"{layer.name[: -len('_conv')]}_bn")
        target.set_weights([gamma, beta, mean - bias, variance])
