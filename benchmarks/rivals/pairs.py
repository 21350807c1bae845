"""Tables of pairs: all positions with all, or with those of their row and column."""

from typing import Any

from keras import ops

from benchmarks.rivals.base import Attention, flat, linear, softmax_attention
from keras_fsa.types import Tensor


class RegularAttention(Attention):
    """`softmax(q k^T / sqrt(K)) v` between all positions: the table of all pairs is held.

    Source: Wang et al., "Non-local Neural Networks", arXiv:1711.07971, with softmax affinities.
    """

    def build(self, input_shape):
        super().build(input_shape)
        self.query_key_value_kernels()

    def attend(self, x: Tensor) -> Tensor:
        y = softmax_attention(*self.query_key_value(flat(x)))
        return ops.reshape(y, ops.shape(x))

    def flops(self, height: int, width: int) -> int:
        n = height * width
        pairs = 2 * n * n * (self.key_dim + self.channels)
        return self.query_key_value_flops(n) + pairs


class FusedAttention(Attention):
    """Regular attention by `keras.ops.dot_product_attention`, fused where the backend can.

    Fused kernels want keys as wide as values and narrow heads: heads of at most 64, as many as
    the channels give, queries and keys as wide as the map.
    """

    def build(self, input_shape):
        super().build(input_shape)
        self.heads = next(h for h in range(-(-self.channels // 64), 0, -1) if not self.channels % h)
        self.query_key_value_kernel = self.kernel(
            "query_key_value", self.channels, 3 * self.channels
        )

    def attend(self, x: Tensor) -> Tensor:
        _, height, width, channels = ops.shape(x)
        maps = ops.split(linear(flat(x), self.query_key_value_kernel), 3, axis=-1)
        shape = (-1, height * width, self.heads, channels // self.heads)
        y = ops.dot_product_attention(*(ops.reshape(z, shape) for z in maps))
        return ops.reshape(y, ops.shape(x))

    def flops(self, height: int, width: int) -> int:
        n = height * width
        return 6 * n * self.channels**2 + 4 * n * n * self.channels


class CrissCrossAttention(Attention):
    """Each position attends to its row and its column; twice, so that all reach all.

    The softmax runs over the `H + W - 1` positions of the cross. The position itself is in its row,
    and so left out of its column.

    Source: Huang et al., "CCNet", arXiv:1811.11721.
    """

    def __init__(self, recurrence: int = 2, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.recurrence = recurrence

    def build(self, input_shape):
        super().build(input_shape)
        self.query_key_value_kernels()

    def call(self, x, training=None):
        for _ in range(self.recurrence):
            x = super().call(x, training)
        return x

    def attend(self, x: Tensor) -> Tensor:
        height = ops.shape(x)[1]
        query, key, value = self.query_key_value(x)
        itself = ops.expand_dims(ops.eye(height, dtype="bool"), 1)
        # Columns are put in the batch's place, so that both directions are products of matrices.
        query_c, key_c, value_c = (ops.transpose(z, (0, 2, 1, 3)) for z in (query, key, value))
        column = ops.transpose(query_c @ ops.transpose(key_c, (0, 1, 3, 2)), (0, 2, 1, 3))
        column = ops.where(itself, ops.cast(-1e4, column.dtype), column)
        row = query @ ops.transpose(key, (0, 1, 3, 2))
        cross = ops.softmax(ops.concatenate([column, row], axis=-1))
        column = ops.transpose(cross[..., :height], (0, 2, 1, 3)) @ value_c
        return ops.transpose(column, (0, 2, 1, 3)) + cross[..., height:] @ value

    def flops(self, height: int, width: int) -> int:
        n = height * width
        pairs = 2 * n * (height + width) * (self.key_dim + self.channels)
        return self.recurrence * (self.query_key_value_flops(n) + pairs)
