"""The attention of an FsaNet: built from a name, found in the head, described in the config."""

from typing import Any

import keras

from keras_fsa.affinities import Affinity
from keras_fsa.arguments import one_of
from keras_fsa.layers import FrequencySelfAttention, SpatialSelfAttention
from keras_fsa.layers.self_attention import SelfAttention
from keras_fsa.types import DType, Frequencies

_IN_HEAD = "in_head"


def build_attention(
    attention: str | keras.Layer | None,
    frequencies: Frequencies,
    affinity: str | Affinity | None,
    recurrence: int,
    num_heads: int,
    dtype: DType,
) -> keras.Layer | None:
    """The attention layer that `FsaNet` puts into its head; arguments as for `FsaNet`."""
    if isinstance(attention, keras.layers.Layer):
        # A map of known size would go through it, its rows taken for channels.
        if getattr(attention, "data_format", None) == "channels_first":
            raise ValueError(
                "`attention` must take maps with the channels last. Received: attention="
                f"{attention!r} with data_format='channels_first'. Give it "
                "data_format='channels_last', whatever Keras is configured to."
            )
        return attention
    if attention is None:
        return None
    one_of("attention", attention, ("frequency", "spatial", None))
    common = {
        "recurrence": recurrence,
        "num_heads": num_heads,
        "data_format": "channels_last",
        "dtype": dtype,
        "name": "attention",
    }
    if attention == "frequency":
        return FrequencySelfAttention(frequencies, affinity or "dot_product", **common)
    return SpatialSelfAttention(affinity or "softmax", **common)


def name_in_head(head: keras.Model, layer: keras.Layer | None) -> str | None:
    """The name of the attention in a head: the layer it was made with, or one of the head's own."""
    inside = [own.name for own in head.layers]
    own = [own.name for own in head.layers if isinstance(own, SelfAttention)]
    return next((name for name in (getattr(layer, "name", None), *own) if name in inside), None)


def describe_attention(attention: Any, head: keras.Model | None) -> Any:
    """An attention as a config stores it.

    Args:
        attention: a name, a layer or None.
        head: the head, if the config describes it, too. For a layer in it, the name is enough:
            described twice, it would be loaded as two layers, one of them unused.
    """
    if not isinstance(attention, keras.Layer):
        return attention
    if head is not None and any(layer is attention for layer in head.layers):
        return {_IN_HEAD: attention.name}
    return keras.saving.serialize_keras_object(attention)


def in_head(described: Any) -> str | None:
    """The name of the layer in the head, from `describe_attention`; None for anything else."""
    return described.get(_IN_HEAD) if isinstance(described, dict) else None
