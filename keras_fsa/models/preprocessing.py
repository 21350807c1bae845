"""Normalisation of images from 0 to 255 as a backbone was trained with."""

import os
import warnings
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_fsa.backbones.efficientnet_lite import SCALES
from keras_fsa.spectral import token_dtype
from keras_fsa.types import Path

# Mean and standard deviation of each channel, red first; whether the network wants blue first.
STATISTICS: dict[str, tuple[Any, Any, bool]] = {
    "imagenet": ((123.675, 116.28, 103.53), (58.395, 57.12, 57.375), False),
    "caffe": ((123.68, 116.779, 103.939), (1.0, 1.0, 1.0), True),
    "ccnet": ((122.67891434, 116.66876762, 104.00698793), (1.0, 1.0, 1.0), True),
    "tf": (127.5, 127.5, False),
    "efficientnet_lite": (127.0, 128.0, False),
}

HALF_MAXIMUM = float(np.finfo("float16").max)


def choose_normalization(
    normalization: str | tuple | None,
    weights: Path | None,
    channels: int,
    backbone: Any = None,
) -> str | tuple | None:
    """The preprocessing that a backbone's weights expect, if the user leaves it open.

    Args:
        normalization: `normalization` of `FsaNet`; `"auto"` leaves it open.
        weights: `backbone_weights` of `FsaNet`.
        channels: number of channels of the images.
        backbone: `backbone` of `FsaNet`: a name or a model.

    Returns:
        `"efficientnet_lite"` for a backbone of that name, `"caffe"` for the weights of
        `keras.applications`' ResNets, else `"imagenet"`; if there are not 3 channels, `"caffe"` is
        replaced by the mean over the channels of what it subtracts.

    Warns:
        UserWarning: if `"imagenet"` is assumed for a backbone that is a model.

    Raises:
        ValueError: if the user requests `"imagenet"` with weights that expect another. Anything
            else that the user requests is taken as intended.
    """
    wanted = None
    if isinstance(backbone, str) and backbone in SCALES:
        wanted = "efficientnet_lite"
    elif weights == "imagenet" or _ends_with(weights, ".h5"):
        wanted = None if _ends_with(weights, ".weights.h5") else "caffe"
    if normalization == "auto":
        if wanted is None and isinstance(backbone, keras.Model):
            warnings.warn(
                "normalization='imagenet' is taken for a backbone that is a model, since nothing "
                f"tells what it was trained on. Received: backbone={backbone.name!r} and no "
                "`normalization`. Pass the one that its weights want, such as 'imagenet', 'caffe', "
                "'tf', or None where the backbone does it itself.",
                stacklevel=3,
            )
        if wanted == "caffe" and channels != 3:
            return (float(np.mean(STATISTICS["caffe"][0])), 1.0)
        return wanted or "imagenet"
    # Into a backbone that is a model these weights do not go at all: `build_backbone` says so.
    named = not isinstance(backbone, keras.Model)
    if normalization == "imagenet" and wanted and weights is not None and named:
        raise ValueError(
            f"These weights want normalization={wanted!r}. Received: normalization='imagenet' "
            f"with backbone_weights={weights!r}. Leave `normalization` out, and the model does "
            "what its weights want."
        )
    return normalization


def as_numbers(normalization: str | None) -> tuple:
    """A normalization by name as a pair `(mean, std)`, for images with values other than 8 bits.

    Raises:
        ValueError: for a name with channels in BGR order, which numbers cannot express.
    """
    mean, std, reverse = STATISTICS[normalization] if normalization else (0.0, 1.0, False)
    if reverse:
        raise ValueError(
            "`normalization` must keep the order of the channels where files are read in the "
            f"values that they store. Received: normalization={normalization!r}. Leave it out."
        )
    return mean, std


def _ends_with(weights, suffix):
    return isinstance(weights, (str, os.PathLike)) and os.fspath(weights).endswith(suffix)


# Files of 0.1.0 have it by its first name.
@keras.saving.register_keras_serializable(package="keras_fsa", name="PictureNormalization")
class ImageNormalization(keras.layers.Layer):
    """`(image - mean) / std` for each channel, optionally with channels reversed.

    It is computed in float32 under every policy except float64, which uses float64.

    | normalization | mean | standard deviation | channels | for the weights of |
    | --- | --- | --- | --- | --- |
    | `"imagenet"` | 123.675, 116.28, 103.53 | 58.395, 57.12, 57.375 | RGB | torchvision, mmseg |
    | `"caffe"` | 123.68, 116.779, 103.939 | 1 | BGR | `keras.applications`' ResNets |
    | `"ccnet"` | 122.679, 116.669, 104.007 | 1 | BGR | the ccnet family |
    | `"tf"` | 127.5 | 127.5 | RGB | `keras.applications` scaled to -1..1 (ResNetV2, MobileNet) |
    | `"efficientnet_lite"` | 127 | 128 | RGB | EfficientNet-Lite |

    For the named statistics, valid images have values from 0 to 255. In float32, values beyond that
    are normalised as they are. Under a float16 policy, where they would overflow in the network,
    they are clipped first: to 0..255 for the named statistics; for others, the normalised image is
    clipped to float16's range.

    Args:
        normalization: a name from the table, a pair `(mean, std)` of numbers or of sequences with a
            number for each channel, or None to leave images as they are.
        **kwargs: of `keras.layers.Layer`.

    Call arguments:
        images: `(B, H, W, channels)` of any numeric dtype.

    Output:
        `(B, H, W, channels)`, float32; float64 under a float64 policy.

    Raises:
        ValueError: for anything else, such as NaN, or if the channels do not fit the statistics.
    """

    def __init__(self, normalization: str | tuple | None = "imagenet", **kwargs: Any) -> None:
        # A half-precision cast before the subtraction would cost grey levels.
        super().__init__(**{**kwargs, "autocast": False})
        self.wide = token_dtype(self.compute_dtype)
        try:
            # Before `wide` rounds it, and without arrays of NumPy, with which no file would open.
            plain = _plain_pair(normalization)
            mean, std, self.reverse = self._statistics(plain)
            self.mean, self.std = np.asarray(mean, self.wide), np.asarray(std, self.wide)
            valid = self.mean.ndim <= 1 and self.std.ndim <= 1 and (self.std > 0).all()
            valid = valid and np.isfinite(self.mean).all() and np.isfinite(self.std).all()
        except (TypeError, ValueError):
            valid = False
        if not valid:
            raise ValueError(
                f"`normalization` must be one of {', '.join(map(repr, STATISTICS))}, a pair (mean, "
                "std) of finite numbers with std > 0, or None. Received: "
                f"normalization={normalization!r}. For images scaled to 0..1 write "
                "normalization=(0, 255)."
            )
        self.normalization = plain

    @staticmethod
    def _statistics(normalization):
        if normalization is None:
            return 0.0, 1.0, False
        if isinstance(normalization, str):
            return STATISTICS.get(normalization, ())
        mean, std = normalization
        return mean, std, False

    def build(self, input_shape):
        for size in (self.mean.size, self.std.size):
            if size not in (1, input_shape[-1]):
                raise ValueError(
                    "`normalization` must have one number for each channel of the image, or one "
                    f"for all. Received: normalization={self.normalization!r} for images of "
                    f"{input_shape[-1]} channels. Pass normalization=(mean, std) of your images."
                )

    def call(self, images):
        x = ops.cast(images, self.wide)
        half, named = self.compute_dtype == "float16", isinstance(self.normalization, str)
        if half and named:
            x = ops.clip(x, 0.0, 255.0)
        x = ops.divide(ops.subtract(x, self.mean), self.std)
        if half and not named:
            x = ops.clip(x, -HALF_MAXIMUM, HALF_MAXIMUM)
        return ops.flip(x, axis=-1) if self.reverse else x

    def compute_output_spec(self, images):
        return keras.KerasTensor(images.shape, self.wide)

    def get_config(self):
        return {**super().get_config(), "normalization": self.normalization}

    @classmethod
    def from_config(cls, config):
        # Earlier files hold arrays as they were given.
        normalization = keras.saving.deserialize_keras_object(config["normalization"])
        return super().from_config({**config, "normalization": normalization})


def _plain_pair(normalization):
    """`(mean, std)` as Python floats, or tuples of them; a name or None unchanged."""
    if normalization is None or isinstance(normalization, str):
        return normalization
    values = (np.asarray(part, "float64").tolist() for part in normalization)
    return tuple(tuple(part) if isinstance(part, list) else part for part in values)


PictureNormalization = ImageNormalization  # its name in 0.1.0
