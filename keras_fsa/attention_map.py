"""What one position attends to, as a map: one row of the table of affinities.

Attention between all `N = H * W` positions has an `N x N` table of affinities; its row `n` says
how much position `n` takes from each position. Neither the tokens of frequency self-attention nor
the linear forms of spatial attention hold that table. But a single row needs only one query and all
keys, and both can be synthesised from the tokens:

    q_n = (P Q)_n       K = P K_tokens       row n of the table = affinity(q_n, K)

Up to rounding, the result is the row that `SpatialSelfAttention` of the same affinity has on the
low-passed map; the formulas of the affinities are those of `keras_fsa.affinities`.
"""

import operator

from keras import ops

from keras_fsa.arguments import is_integer
from keras_fsa.layers import SpatialSelfAttention
from keras_fsa.layers.self_attention import SelfAttention, check_attention
from keras_fsa.types import Tensor

__all__ = ["attention_at", "softmax_twin"]


def attention_at(
    layer: SelfAttention, feature_map: Tensor, row: int, column: int, head: int | None = None
) -> Tensor:
    """The spatial attention of one position, in a layer's first recurrence.

    Args:
        layer: a built `FrequencySelfAttention` or `SpatialSelfAttention`, of any affinity.
        feature_map: `(H, W, C)`, or `(C, H, W)` if the layer is channels-first: one example of the
            layer's input.
        row, column: the position, `0 <= row < H` and `0 <= column < W`.
        head: index of one of the layer's heads, or None for the mean over all heads.

    Returns:
        A tensor `(H, W)` in the dtype of tokens. It sums to one, with two exceptions: the dot
        product is not normalised and may be negative anywhere; and under ReLU linear attention, a
        query without a positive component attends to nothing, which gives zeros.

    Raises:
        ValueError: for another layer, one that is not built, a map that does not fit it, a position
            outside the map, or a head that the layer does not have.

    Example:
    >>> import keras
    >>> from keras_fsa.attention_map import attention_at
    >>> x = keras.random.normal((1, 24, 32, 16))
    >>> layer = keras_fsa.layers.FrequencySelfAttention(frequencies=8, affinity="linear_softmax")
    >>> y = layer(x)
    >>> attention = attention_at(layer, x[0], row=5, column=20)
    >>> tuple(attention.shape), round(float(keras.ops.sum(attention)), 4)
    ((24, 32), 1.0)
    """
    check_attention(layer)
    channels = layer.query_kernel.shape[0]
    last = layer.data_format == "channels_last"
    shape = tuple(getattr(feature_map, "shape", ()))
    if len(shape) != 3 or shape[-1 if last else 0] != channels:
        wanted = f"(H, W, {channels})" if last else f"({channels}, H, W)"
        raise ValueError(
            f"`feature_map` must be one map of the shape {wanted} that the layer is given. "
            f"Received: feature_map of shape {shape}. Pass one example of the batch: features[0]."
        )
    x = ops.cast(ops.expand_dims(feature_map, 0), layer.token_dtype)
    if not last:
        x = ops.transpose(x, (0, 2, 3, 1))
    height, width = x.shape[1:3]
    row, column = _index("row", row, height), _index("column", column, width)
    heads = range(layer.num_heads) if head is None else [_head(head, layer.num_heads)]
    query, key = (layer.split_heads(z) for z in layer.queries_and_keys(x))
    position = row * width + column
    rows = [layer.affinity.row(query[i, position][None], key[i]) for i in heads]
    return ops.reshape(sum(rows) / len(rows), (height, width))


def softmax_twin(layer: SelfAttention) -> SpatialSelfAttention:
    """Softmax attention between all positions, with the weights of a given attention layer.

    Compared with `attention_at` of the layer itself, it shows what truncation and the linear form
    change.

    Args:
        layer: a built `FrequencySelfAttention` or `SpatialSelfAttention`.

    Returns:
        A built `SpatialSelfAttention` with the layer's arguments and copies of its weights.

    Raises:
        ValueError: for another layer, or one that is not built.
    """
    check_attention(layer)
    config = layer.get_config()
    config.pop("frequencies", None)
    twin = SpatialSelfAttention.from_config({**config, "affinity": "softmax", "low_pass": None})
    shape = [None] * 4
    shape[-1 if layer.data_format == "channels_last" else 1] = layer.query_kernel.shape[0]
    twin.build(shape)
    twin.set_weights(layer.get_weights())
    return twin


def _head(value, count):
    if not is_integer(value) or not 0 <= value < count:
        raise ValueError(
            "`head` must be one of the layer's, or None for the mean: an int from 0 to "
            f"{count - 1}. Received: head={value!r}. The first head is 0."
        )
    return value


def _index(name, value, size):
    try:
        index = operator.index(value)
    except TypeError:
        index = -1
    if not 0 <= index < size:
        raise ValueError(
            f"`{name}` must be a position of the map: an int from 0 to {size - 1}. Received: "
            f"{name}={value!r}. Positions are those of the feature map, not of the image."
        )
    return index
