"""What the rivals have in common."""

from typing import Any

import keras
from keras import ops

from keras_fsa.types import Size, Tensor


class Copy(keras.layers.Layer):
    """The floor: the map read once and written once. The sign keeps compilers from eliding it."""

    def call(self, x):
        return -x

    def flops(self, height: int, width: int) -> int:
        return 0


def linear(x: Tensor, kernel: Tensor) -> Tensor:
    """`x W`. In a stateless call under JAX, mixed precision leaves weights as they are."""
    return x @ ops.cast(kernel, x.dtype)


def flat(x: Tensor) -> Tensor:
    """A map `(B, H, W, C)` as `(B, H W, C)`."""
    _, height, width, channels = ops.shape(x)
    return ops.reshape(x, (-1, height * width, channels))


def softmax_attention(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """`softmax(q k^T / sqrt(K)) v` of `(B, N, K)`, `(B, M, K)` and `(B, M, V)`."""
    query = query * query.shape[-1] ** -0.5
    return ops.softmax(query @ ops.transpose(key, (0, 2, 1))) @ value


def bins(size: Size, count: int, dtype: str) -> Tensor:
    """`(count, size)`: row `i` averages positions `floor(i size / count)` to `ceil` of the next."""
    i = ops.expand_dims(ops.arange(0, count, dtype="int32"), 1)
    start, stop = i * size // count, -(-(i + 1) * size // count)
    position = ops.arange(0, size, dtype="int32")
    inside = ops.logical_and(position >= start, position < stop)
    return ops.cast(inside, dtype) / ops.cast(stop - start, dtype)


def average_pool(x: Tensor, counts: tuple[int, ...]) -> list[Tensor]:
    """The map in `n x n` averages for each count `n`: PyTorch's adaptive average pooling.

    As two thin products, columns first, of all counts at once.

    Returns:
        A list of `(B, n * n, C)`.
    """
    _, height, width, channels = ops.shape(x)
    columns = ops.concatenate([bins(width, count, x.dtype) for count in counts])
    x = ops.broadcast_to(columns, (*ops.shape(x)[:2], *ops.shape(columns))) @ x
    pooled, start = [], 0
    for count in counts:
        part = ops.reshape(x[:, :, start : start + count], (-1, height, count * channels))
        part = bins(height, count, x.dtype) @ part
        pooled.append(ops.reshape(part, (-1, count * count, channels)))
        start += count
    return pooled


def average_pool_flops(counts: tuple[int, ...], channels: int, height: int, width: int) -> int:
    """Operations of `average_pool`."""
    rows = sum(count * count for count in counts) * height
    return 2 * channels * (sum(counts) * height * width + rows)


def resize_flops(count: int, channels: int, height: int, width: int) -> int:
    """Operations of `resize_bilinear` from `count x count` positions."""
    return 2 * channels * count * height * (count + width)


class Attention(keras.layers.Layer):
    """`x + residual(attend(x))`. Linear maps of all positions are one product each.

    Args:
        residual: `"gain"` for a scalar gain, `"batch_norm"` for a batch norm. Both start at zero.
        **kwargs: of `keras.layers.Layer`.
    """

    def __init__(self, residual: str = "gain", **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.residual = residual
        if residual == "batch_norm":
            self.norm = keras.layers.BatchNormalization(
                momentum=0.9, epsilon=1e-5, gamma_initializer="zeros", dtype=self.dtype_policy
            )

    def build(self, input_shape):
        self.channels = input_shape[-1]
        self.key_dim = max(2, self.channels // 8)
        if self.residual == "gain":
            self.gain = self.add_weight(name="gain", shape=(), initializer="zeros")
        else:
            self.norm.build(input_shape)

    def kernel(self, name: str, rows: int, columns: int) -> keras.Variable:
        return self.add_weight(name=name, shape=(rows, columns))

    def query_key_value_kernels(self) -> None:
        self.query = self.kernel("query", self.channels, self.key_dim)
        self.key = self.kernel("key", self.channels, self.key_dim)
        self.value = self.kernel("value", self.channels, self.channels)

    def query_key_value(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Of a map or of tokens."""
        return linear(x, self.query), linear(x, self.key), linear(x, self.value)

    def query_key_value_flops(self, positions: int) -> int:
        return 2 * positions * self.channels * (2 * self.key_dim + self.channels)

    def attend(self, x: Tensor) -> Tensor:
        """What is added, before the residual's gain."""
        raise NotImplementedError

    def call(self, x, training=None):
        y = self.attend(x)
        if self.residual == "batch_norm":
            y = self.norm(y, training=training)
        else:
            # Under the same name, so that torch frees what is no longer needed.
            y = ops.cast(self.gain, x.dtype) * y
        return x + y

    def compute_output_shape(self, input_shape):
        return tuple(input_shape)
