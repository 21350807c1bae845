"""Segmentation heads: from backbone features to logits at the same resolution."""

from collections.abc import Mapping, Sequence
from typing import Any

import keras
from keras import layers

from keras_fsa.arguments import one_of
from keras_fsa.layers.resize_like import ResizeLike
from keras_fsa.spectral import token_dtype
from keras_fsa.types import DType, Shape

MAPS = {"data_format": "channels_last"}
"""Argument of every layer that has it, however Keras is configured."""

LOW_LEVELS = ("stage3", "stage2", "stage1")
"""The stages that may be low-level maps, from coarse to fine."""

LOW_LEVEL_CHANNELS = 48
"""Width of the projected low-level map: small, so as not to outweigh the features it refines."""


def _convolution(x, filters, name, dtype, use_bias=False, window=3):
    settings = {**MAPS, "use_bias": use_bias, "dtype": dtype, "name": f"{name}_conv"}
    x = layers.Conv2D(filters, window, padding="same", **settings)(x)
    x = layers.BatchNormalization(momentum=0.9, epsilon=1e-5, dtype=dtype, name=f"{name}_bn")(x)
    return layers.ReLU(dtype=dtype, name=f"{name}_relu")(x)


def _classifier(x, num_classes, dropout, dtype):
    """Dropout of whole channels, then logits, which are float32 under mixed precision."""
    x = layers.SpatialDropout2D(dropout, **MAPS, dtype=dtype, name="dropout")(x)
    wide = token_dtype(keras.dtype_policies.get(dtype).compute_dtype)
    return layers.Conv2D(num_classes, 1, **MAPS, dtype=wide, name="logits")(x)


def finer_stages(low_level: str | Sequence[str] | None) -> tuple[str, ...]:
    """The stages that `low_level` names, from coarse to fine.

    Raises:
        ValueError: for another name, or another order.
    """
    if low_level is None:
        return ()
    if not isinstance(low_level, (tuple, list)) or not low_level:
        one_of("low_level", low_level, (*LOW_LEVELS, None))
        return (str(low_level),)
    for stage in low_level:
        one_of("low_level", stage, LOW_LEVELS)
    finer = tuple(low_level)
    if finer != tuple(stage for stage in LOW_LEVELS if stage in finer):
        raise ValueError(
            "`low_level` must name stages from coarse to fine, each once. Received: low_level="
            f"{low_level!r}. Put them in the order of {', '.join(map(repr, LOW_LEVELS))}."
        )
    return finer


def seen_by_head(features: dict, low_level: str | Sequence[str] | None) -> Any:
    """The part of a backbone's stages a head takes: stage 5, or with low-level maps a dict."""
    if low_level is None:
        return features["stage5"]
    return {stage: features[stage] for stage in (*finer_stages(low_level), "stage5")}


def check_head(head: Any, finer: Sequence[str], num_classes: int) -> None:
    """Raise a `ValueError` for a head that FsaNet cannot take: wrong stages, or wrong logits."""
    if head is None:
        return
    if not isinstance(head, keras.Model) or not hasattr(head, "output"):
        raise ValueError(
            "`head` must be a functional Keras model from stage 5 to logits, or None. Received: "
            f"head={head!r}. Leave it out for FsaNet's own; of a Sequential one write "
            "keras.Model(head.inputs, head.outputs[0])."
        )
    found = sorted(head.input) if isinstance(head.input, dict) else []
    wanted = sorted((*finer, "stage5")) if finer else []
    if found != wanted:
        raise ValueError(
            "`head` must take stage 5, or with `low_level` a dict of its stages and 'stage5'. "
            f"Received: head={head.name!r}, which takes {found or 'one map'}, with "
            f"low_level={finer or None}. Build it of keras.Input(..., name=stage) for each stage."
        )
    shape = tuple(getattr(head.output, "shape", ()))
    if len(shape) != 4 or shape[-1] != num_classes:
        raise ValueError(
            "`head` must give one map of a logit for each class. Received: "
            f"head={head.name!r}, whose output has the shape {shape}, for num_classes="
            f"{num_classes}. Build it for as many; a folded network keeps its classes, so change "
            "them before `fold_batch_norm`."
        )


def fsa_head(
    feature_shape: Shape,
    num_classes: int,
    attention: keras.Layer | None,
    channels: int,
    dropout: float,
    dtype: DType,
    low_level: Sequence[tuple[str, Shape]] = (),
    align_corners: bool | None = None,
) -> keras.Model:
    """The head of FsaNet.

    A 3x3 convolution to `channels`, the attention, and a second 3x3 convolution. The result is
    concatenated with the backbone's feature map and passes through a third 3x3 convolution,
    dropout, and a 1x1 convolution to the classes.

    With a low-level map, the output of the third convolution is resized to the size of that map and
    concatenated with a 1x1 projection of the map to 48 channels; a fourth 3x3 convolution comes
    before the dropout. This is the decoder of DeepLabV3+ with one convolution. Further maps are
    joined in the same way, each at half the channels of the one before: as a map has four times the
    positions of the next coarser one, a convolution between half as many channels costs the same.

    Args:
        feature_shape: shape of stage 5, `(B, h, w, C)`.
        num_classes: number of classes.
        attention: a layer that preserves the shape of a feature map, or None.
        channels: width of the head.
        dropout: fraction of channels dropped in training.
        dtype: dtype policy of the convolutions.
        low_level: names and shapes of finer stages, from coarse to fine.
        align_corners: how maps are resized, see `keras_fsa.resize`.

    Returns:
        A functional model from stage 5 to logits `(B, h, w, num_classes)`. With low-level maps,
        from a dict of all stages, `{"stage5": ..., "stage3": ...}`, to logits of the finest's size.

    Raises:
        ValueError: if the attention layer changes the shape.

    Source: arXiv:2211.15595; for a low-level map: Chen et al., arXiv:1802.02611; for several:
    Ronneberger et al., arXiv:1505.04597.
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
    inputs = {"stage5": feature}
    for finer, (stage, shape) in enumerate(low_level):
        # The first has the names of heads that have no other.
        suffix = f"_{stage}" if finer else ""
        inputs[stage] = fine = keras.Input(shape[1:], name=stage)
        width = max(1, LOW_LEVEL_CHANNELS >> finer)
        fine = _convolution(fine, width, f"low_level{suffix}", dtype, window=1)
        x = ResizeLike(align_corners, dtype=dtype, name=f"resize{suffix}")([x, fine])
        x = layers.Concatenate(dtype=dtype, name=f"low_level{suffix}_concatenate")([x, fine])
        x = _convolution(x, max(1, channels >> finer), f"refine{suffix}", dtype)
    logits = _classifier(x, num_classes, dropout, dtype)
    return keras.Model(inputs if low_level else feature, logits, name="head")


def auxiliary_head(
    feature_shape: Shape,
    num_classes: int,
    channels: int,
    dropout: float,
    dtype: DType,
    use_bias: bool = False,
) -> keras.Model:
    """The head on stage 4, used only in training: 3x3 convolution, dropout, 1x1 convolution.

    Args and Returns as in `fsa_head`; `use_bias` applies to the 3x3 convolution.
    """
    feature = keras.Input(feature_shape[1:], name="stage4")
    x = _convolution(feature, channels, "auxiliary", dtype, use_bias)
    return keras.Model(feature, _classifier(x, num_classes, dropout, dtype), name="auxiliary_head")


def frozen_layers(model: keras.Model) -> dict[str, list[str]]:
    """The names of the layers that are not trained, for each head that has any.

    A configuration describes how a head is built, and rebuilding it makes all its layers trainable.

    Args:
        model: an object with a `head` and an `auxiliary_head`, each a model or None.
    """
    found = {
        part: [layer.name for layer in head.layers if not layer.trainable]
        for part, head in _heads(model)
    }
    return {part: names for part, names in found.items() if names}


def freeze(model: keras.Model, frozen: Mapping[str, Sequence[str]]) -> None:
    """Freeze the layers of such a model that `frozen_layers` named."""
    for part, head in _heads(model):
        for layer in head.layers:
            if layer.name in frozen.get(part, ()):
                layer.trainable = False


def _heads(model):
    heads = ("head", model.head), ("auxiliary_head", model.auxiliary_head)
    return [(part, head) for part, head in heads if head is not None]
