"""Attention to a few bases, which stand for all positions or all images."""

from typing import Any

from keras import ops

from benchmarks.rivals.base import Attention, flat, linear
from keras_fsa.types import Tensor


class ExpectationMaximizationAttention(Attention):
    """The map is rebuilt from 64 bases, found by three steps of expectation and maximisation.

    With `f = x W1 + b1`: three times `z = softmax(f m)` over the bases, `m = f^T (z / sum z)`, unit
    columns. Then `y = relu(z m^T) W2`. No gradient goes through the steps. The batch norm after the
    second convolution is taken as folded into it; the moving average of the bases, done between
    training steps, is left out.

    Source: Li et al., "Expectation-Maximization Attention Networks", arXiv:1907.13426.
    """

    def __init__(self, bases: int = 64, steps: int = 3, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.bases, self.steps = bases, steps

    def build(self, input_shape):
        super().build(input_shape)
        self.convolution_1 = self.kernel("convolution_1", self.channels, self.channels)
        self.bias_1 = self.add_weight(name="bias_1", shape=(self.channels,), initializer="zeros")
        self.convolution_2 = self.kernel("convolution_2", self.channels, self.channels)
        self.start = self.add_weight(
            name="start", shape=(self.channels, self.bases), trainable=False
        )

    def attend(self, x: Tensor) -> Tensor:
        features = ops.stop_gradient(
            linear(flat(x), self.convolution_1) + ops.cast(self.bias_1, x.dtype)
        )
        transposed = ops.transpose(features, (0, 2, 1))
        mu = ops.expand_dims(ops.cast(self.start, x.dtype), 0)
        for _ in range(self.steps):
            z = ops.softmax(features @ mu)
            mu = transposed @ (z / (1e-6 + ops.sum(z, axis=1, keepdims=True)))
            mu = mu / (1e-6 + ops.sqrt(ops.sum(ops.square(mu), axis=1, keepdims=True)))
        y = linear(ops.relu(z @ ops.transpose(mu, (0, 2, 1))), self.convolution_2)
        return ops.reshape(y, ops.shape(x))

    def flops(self, height: int, width: int) -> int:
        n = height * width
        return 4 * n * self.channels**2 + (4 * self.steps + 2) * n * self.channels * self.bases


class ExternalAttention(Attention):
    """Positions attend to 64 learned memory units, the same for all images.

    With `q = x W1 + b1`: `a = softmax(q M_k)` over the positions, then divided by its sum over the
    units; `y = a M_v W2`. The batch norm after the second convolution is the residual's, or taken
    as folded. Positions meet only in the softmax's denominators.

    Source: Guo et al., "Beyond Self-attention: External Attention using Two Linear Layers for
    Visual Tasks", arXiv:2105.02358.
    """

    def __init__(self, units: int = 64, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.units = units

    def build(self, input_shape):
        super().build(input_shape)
        self.convolution_1 = self.kernel("convolution_1", self.channels, self.channels)
        self.bias_1 = self.add_weight(name="bias_1", shape=(self.channels,), initializer="zeros")
        self.memory_key = self.kernel("memory_key", self.channels, self.units)
        self.memory_value = self.kernel("memory_value", self.units, self.channels)
        self.convolution_2 = self.kernel("convolution_2", self.channels, self.channels)

    def attend(self, x: Tensor) -> Tensor:
        query = linear(flat(x), self.convolution_1) + ops.cast(self.bias_1, x.dtype)
        share = ops.softmax(linear(query, self.memory_key), axis=1)
        share = share / (1e-9 + ops.sum(share, axis=-1, keepdims=True))
        y = linear(linear(share, self.memory_value), self.convolution_2)
        return ops.reshape(y, ops.shape(x))

    def flops(self, height: int, width: int) -> int:
        return 4 * height * width * self.channels * (self.channels + self.units)
