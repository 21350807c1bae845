"""Attention whose affinity is a product, so that the sum over keys comes first."""

from typing import Any

import keras
from keras import ops

from benchmarks.rivals.base import Attention, flat, linear
from keras_fsa.types import Tensor


class EfficientAttention(Attention):
    """`softmax_channels(q) (softmax_positions(k)^T v)`.

    Source: Shen et al., "Efficient Attention: Attention with Linear Complexities",
    arXiv:1812.01243. Values are as wide as the map, so no projection follows them.
    """

    def build(self, input_shape):
        super().build(input_shape)
        self.query_key_value_kernels()

    def attend(self, x: Tensor) -> Tensor:
        positions = flat(x)
        keys = ops.transpose(ops.softmax(linear(positions, self.key), axis=1), (0, 2, 1))
        context = keys @ linear(positions, self.value)
        query = ops.softmax(linear(positions, self.query), axis=-1)
        return ops.reshape(query @ context, ops.shape(x))

    def flops(self, height: int, width: int) -> int:
        n = height * width
        return self.query_key_value_flops(n) + 4 * n * self.key_dim * self.channels


class FocusedLinearAttention(Attention):
    """ReLU linear attention with sharper directions, and a convolution of the values beside it.

        f(z) = |z| z^p / |z^p|,  powers by component    q' = f(relu(q)), k' = f(relu(k)), p = 3
        y_n = (sum_m v_m k'_m^T) q'_n / (q'_n . sum_m k'_m) + depthwise 5x5 convolution of v

    The learned scale of q and k in the authors' code, which is not in the paper's formula, is left
    out. (`"relu_linear"`, in `keras_fsa.affinities`, is the same without `f` and convolution.)

    Source: Han et al., "FLatten Transformer: Vision Transformer using Focused Linear Attention",
    arXiv:2308.00442.
    """

    def __init__(self, power: int = 3, window: int = 5, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.power, self.window = power, window
        self.local = keras.layers.DepthwiseConv2D(window, padding="same", dtype=self.dtype_policy)

    def build(self, input_shape):
        super().build(input_shape)
        self.query_key_value_kernels()
        self.local.build(input_shape)

    def _focused(self, z):
        z = ops.relu(z) + 1e-6
        length = ops.sqrt(ops.sum(ops.square(z), axis=-1, keepdims=True))
        power = (z / length) ** self.power
        return power * (length / ops.sqrt(ops.sum(ops.square(power), axis=-1, keepdims=True)))

    def attend(self, x: Tensor) -> Tensor:
        query, key, value = self.query_key_value(flat(x))
        query, key = self._focused(query), self._focused(key)
        total = ops.sum(key, axis=1, keepdims=True)
        query = query / (1e-6 + ops.sum(query * total, axis=-1, keepdims=True))
        y = query @ (ops.transpose(key, (0, 2, 1)) @ value)
        return ops.reshape(y, ops.shape(x)) + self.local(ops.reshape(value, ops.shape(x)))

    def flops(self, height: int, width: int) -> int:
        n = height * width
        products = self.query_key_value_flops(n) + 4 * n * self.key_dim * self.channels
        return products + 2 * n * self.window**2 * self.channels
