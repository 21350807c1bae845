"""Segmentation heads: from backbone features to logits at the same resolution."""

import keras
from keras import layers

from keras_fsa.spectral import token_dtype
from keras_fsa.types import DType, Shape


def _convolution(x, filters, name, dtype, use_bias=False):
    x = layers.Conv2D(
        filters, 3, padding="same", use_bias=use_bias, dtype=dtype, name=f"{name}_conv"
    )(x)
    x = layers.BatchNormalization(momentum=0.9, epsilon=1e-5, dtype=dtype, name=f"{name}_bn")(x)
    return layers.ReLU(dtype=dtype, name=f"{name}_relu")(x)


def _classifier(x, num_classes, dropout, dtype):
    """Dropout of whole channels, then logits, which are float32 under mixed precision."""
    x = layers.SpatialDropout2D(dropout, dtype=dtype, name="dropout")(x)
    wide = token_dtype(keras.dtype_policies.get(dtype).compute_dtype)
    return layers.Conv2D(num_classes, 1, dtype=wide, name="logits")(x)


def fsa_head(
    feature_shape: Shape,
    num_classes: int,
    attention: keras.Layer | None,
    channels: int,
    dropout: float,
    dtype: DType,
) -> keras.Model:
    """The head of FsaNet.

    A 3x3 convolution to `channels`, the attention, and a second 3x3 convolution. The result is
    concatenated with the backbone's feature map and passes through a third 3x3 convolution,
    dropout, and a 1x1 convolution to the classes.

    Args:
        feature_shape: shape of stage 5, `(B, h, w, C)`.
        num_classes: number of classes.
        attention: a layer that preserves the shape of a feature map, or None.
        channels: width of the head.
        dropout: fraction of channels dropped in training.
        dtype: dtype policy of the convolutions.

    Returns:
        A functional model from stage 5 to logits `(B, h, w, num_classes)`.

    Raises:
        ValueError: if the attention layer changes the shape.
    """
    feature = keras.Input(feature_shape[1:], name="stage5")
    x = _convolution(feature, channels, "before", dtype)
    if attention is not None:
        y = attention(x)
        if getattr(y, "shape", None) != x.shape:
            raise ValueError(
                "`attention` must return a map of the shape it is given. Received: attention="
                f"{attention!r}, which maps {x.shape} to {getattr(y, 'shape', y)}. Project its "
                "output back to the channels of its input."
            )
        x = y
    x = _convolution(x, channels, "after", dtype)
    x = layers.Concatenate(dtype=dtype, name="concatenate")([feature, x])
    x = _convolution(x, channels, "fuse", dtype)
    return keras.Model(feature, _classifier(x, num_classes, dropout, dtype), name="head")


def auxiliary_head(
    feature_shape: Shape,
    num_classes: int,
    channels: int,
    dropout: float,
    dtype: DType,
    use_bias: bool = False,
) -> keras.Model:
    """The head on stage 4, used in training only: 3x3 convolution, dropout, 1x1 convolution.

    Args and Returns as in `fsa_head`; `use_bias` applies to the 3x3 convolution.
    """
    feature = keras.Input(feature_shape[1:], name="stage4")
    x = _convolution(feature, channels, "auxiliary", dtype, use_bias)
    return keras.Model(feature, _classifier(x, num_classes, dropout, dtype), name="auxiliary_head")
