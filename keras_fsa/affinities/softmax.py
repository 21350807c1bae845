"""Softmax: the affinity of `n` to `m` is `exp(q_n . k_m / sqrt(K))`, normalised over `m`."""

import keras
from keras import ops

from keras_fsa.affinities.base import Affinity
from keras_fsa.spectral import token_dtype


@keras.saving.register_keras_serializable(package="keras_fsa")
class Softmax(Affinity):
    """Regular self-attention, `y = softmax(Q K^T / sqrt(K)) V`. It has no form on tokens.

    On torch, and on JAX if values are as wide as keys, it runs through
    `keras.ops.dot_product_attention`, which is fused where the device supports it. Otherwise, and
    in float64, which that function would round, the table of all pairs is held in at least float32.

    Source: Vaswani et al., arXiv:1706.03762; Wang et al., arXiv:1711.07971.
    """

    name = "softmax"
    spectral = False
    half_precision = True
    expansion = "linear"

    def on_positions(self, query, key, value, positions):
        scale = key.shape[-1] ** -0.5
        # Kernels want values as wide as keys, but for torch's. Zeros to fill up the keys would buy
        # no kernel at the usual widths, and would cost as much again. Keras has none for
        # TensorFlow, where its own table is of half precision, too.
        equal = key.shape[-1] == value.shape[-1]
        engine = keras.backend.backend()
        kernel = engine == "torch" or (engine == "jax" and equal)
        if kernel and token_dtype(query.dtype) == "float32":
            heads = (ops.expand_dims(z, 2) for z in (query, key, value))  # One of them.
            return ops.squeeze(ops.dot_product_attention(*heads, scale=scale), 2)
        # The product of two numbers that float16 has may be one that it has not.
        query, key = (ops.cast(z, token_dtype(z.dtype)) for z in (query, key))
        pairs = ops.softmax((query * scale) @ ops.transpose(key, (0, 2, 1)))
        return ops.cast(pairs, value.dtype) @ value

    def row(self, query, key):
        return ops.softmax(ops.sum(query * key, axis=-1) * key.shape[-1] ** -0.5)

    def operations(self, positions, key_dim, value_dim):
        return 2 * positions * positions * (key_dim + value_dim)
