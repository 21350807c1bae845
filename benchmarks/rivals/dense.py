"""Frequency self-attention as it was published."""

from typing import Any

import numpy as np
from keras import ops

from benchmarks.rivals.base import Attention, flat
from keras_fsa.spectral import dct_basis
from keras_fsa.types import Tensor


class DenseFrequencyAttention(Attention):
    """Dot-product frequency self-attention with the dense basis `P` of `N x k k`, as published.

    `P` is made once, when the layer is built for a size, and kept from call to call. In their
    repository the authors make it anew in every call of one of their two modules, which is slower.

    Source: the code of arXiv:2211.15595.
    """

    def __init__(self, frequencies: int = 8, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.frequencies = frequencies

    def build(self, input_shape):
        super().build(input_shape)
        self.query_key_value_kernels()
        _, height, width, _ = input_shape
        rows = ops.convert_to_numpy(dct_basis(height, self.frequencies))
        columns = ops.convert_to_numpy(dct_basis(width, self.frequencies))
        self.basis = self.add_weight(
            name="basis",
            shape=(height * width, self.frequencies**2),
            initializer=lambda shape, dtype: ops.convert_to_tensor(np.kron(rows, columns), dtype),
            trainable=False,
        )

    def attend(self, x: Tensor) -> Tensor:
        _, height, width, _ = ops.shape(x)
        basis = ops.cast(self.basis, x.dtype)
        tokens = ops.transpose(basis) @ flat(x)
        query, key, value = self.query_key_value(tokens)
        pairs = query @ ops.transpose(key, (0, 2, 1)) / (height * width)
        return ops.reshape(basis @ (pairs @ value), ops.shape(x))

    def flops(self, height: int, width: int) -> int:
        tokens = self.frequencies**2
        transforms = 4 * height * width * tokens * self.channels
        pairs = 2 * tokens * tokens * (self.key_dim + self.channels)
        return transforms + self.query_key_value_flops(tokens) + pairs
