"""From pictures of 0 to 255 to what a backbone was trained on."""

import os
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_fsa.types import Path

# Mean and standard deviation of each channel, red first; whether the network wants blue first.
STATISTICS = {
    "imagenet": ((123.675, 116.28, 103.53), (58.395, 57.12, 57.375), False),
    "caffe": ((123.68, 116.779, 103.939), (1.0, 1.0, 1.0), True),
    "ccnet": ((122.67891434, 116.66876762, 104.00698793), (1.0, 1.0, 1.0), True),
}


def choose_normalization(
    normalization: str | tuple | None, weights: Path | None, channels: int
) -> str | tuple | None:
    """The preprocessing that a backbone's weights want, where the user leaves it open.

    Args:
        normalization: of `FsaNet`; `"auto"` leaves it open.
        weights: `backbone_weights` of `FsaNet`.
        channels: of the pictures.

    Returns:
        `"caffe"` for the weights of `keras.applications`, else `"imagenet"`; for other than 3
        channels, the mean over the channels of what `"caffe"` subtracts.

    Raises:
        ValueError: where the user asks for `"imagenet"` with weights that want `"caffe"`. What else
            the user asks for is the user's word.
    """
    wants_caffe = weights is not None and (
        weights == "imagenet" or os.fspath(weights).endswith(".h5")
    )
    wants_caffe &= not str(weights).endswith(".weights.h5")
    if normalization == "auto":
        if not wants_caffe:
            return "imagenet"
        return "caffe" if channels == 3 else (float(np.mean(STATISTICS["caffe"][0])), 1.0)
    if normalization == "imagenet" and wants_caffe:
        raise ValueError(
            "The ImageNet weights of keras.applications want normalization='caffe'. Received: "
            f"normalization='imagenet' with backbone_weights={weights!r}. Leave `normalization` "
            "out, and the model does what its weights want."
        )
    return normalization


@keras.saving.register_keras_serializable(package="keras_fsa")
class PictureNormalization(keras.layers.Layer):
    """`(picture - mean) / std` for each channel, in float32, optionally with channels reversed.

    Args:
        normalization: `"imagenet"` (RGB, ImageNet's mean and standard deviation), `"caffe"`
            (ImageNet's mean subtracted, then BGR: what the weights of `keras.applications`' ResNets
            want), `"ccnet"` (the same with the mean that the ccnet family subtracts), a pair
            `(mean, std)` of numbers or of sequences with a number for each channel, or None for
            pictures as they are.
        **kwargs: of `keras.layers.Layer`.

    Call arguments:
        pictures: `(B, H, W, channels)` of any numeric dtype, 0 to 255.

    Raises:
        ValueError: for anything else, or where the channels do not fit the statistics.
    """

    def __init__(self, normalization: str | tuple | None = "imagenet", **kwargs: Any) -> None:
        # A half-precision cast before the subtraction would cost grey levels.
        super().__init__(**{**kwargs, "autocast": False})
        self.normalization = normalization
        try:
            mean, std, self.reverse = self._statistics(normalization)
            self.mean, self.std = np.asarray(mean, "float32"), np.asarray(std, "float32")
            valid = self.mean.ndim <= 1 and self.std.ndim <= 1 and (self.std > 0).all()
        except (TypeError, ValueError):
            valid = False
        if not valid:
            raise ValueError(
                f"`normalization` must be one of {', '.join(map(repr, STATISTICS))}, a pair (mean, "
                f"std) with std > 0, or None. Received: normalization={normalization!r}. For "
                "pictures scaled to 0..1 write normalization=(0, 255)."
            )

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
                    "`normalization` must have one number for each channel of the picture, or one "
                    f"for all. Received: normalization={self.normalization!r} for pictures of "
                    f"{input_shape[-1]} channels. Pass normalization=(mean, std) of your pictures."
                )

    def call(self, pictures):
        x = ops.divide(ops.subtract(ops.cast(pictures, "float32"), self.mean), self.std)
        return ops.flip(x, axis=-1) if self.reverse else x

    def compute_output_spec(self, pictures):
        return keras.KerasTensor(pictures.shape, "float32")

    def get_config(self):
        return {**super().get_config(), "normalization": self.normalization}
