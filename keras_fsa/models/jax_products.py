"""Convolutions by 1x1 as matrix products: the speed path under JAX.

A window of 1x1 multiplies each position with one matrix. XLA takes its general convolution for
that; on a CPU the product is a fifth faster, and its gradients are two to three times as fast.
"""

import types
from typing import Any

import keras
from keras import ops


def multiply_positions(layer: keras.Layer) -> None:
    """Let a built layer multiply if it is a channels-last convolution by 1x1.

    Values differ by rounding at most. Nothing of this shows in a file.

    Args:
        layer: any; changed in place.
    """
    if type(layer) is keras.layers.Conv2D and _is_product(layer):
        layer.call = types.MethodType(_multiply, layer)


def _is_product(layer):
    plain = (layer.data_format, layer.groups) == ("channels_last", 1)
    return plain and max(layer.kernel_size) == 1


def _multiply(self: keras.layers.Conv2D, inputs: Any) -> Any:
    """`Conv2D.call` as a matrix product; the neutral twin is Keras' own."""
    rows, columns = self.strides
    if max(self.strides) > 1:
        inputs = inputs[:, ::rows, ::columns]
    outputs = ops.matmul(inputs, self.kernel[0, 0])
    if self.use_bias:
        outputs = ops.add(outputs, self.bias)
    return outputs if self.activation is None else self.activation(outputs)
