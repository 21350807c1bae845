"""Linear: the affinity of `n` to `m` is `1 + q_n . k_m / sqrt(K)`, normalised over `m`."""

import keras
from keras import ops

from keras_fsa.affinities.base import Affinity, divide, outer, total


@keras.saving.register_keras_serializable(package="keras_fsa")
class Linear(Affinity):
    """The first-order expansion of softmax attention.

    With `s = 1 / sqrt(K)` and the index 0 for the constant token,

        y_n = (sum v + s (sum v k^T) q_n) / (N + s (sum k) . q_n)                 on positions
        y_n = (sqrt(N) V_0 + s (P Q K^T V)_n) / (N + s sqrt(N) (P Q K_0^T)_n)     on tokens

    Both parts of the latter are low-frequency maps. The denominator is a map of one channel that
    enters the synthesis of the numerator as a weight, so the full map is written only once.

    Source: arXiv:2211.15595, and the authors' notes on attention without retraining.
    """

    name = "linear"
    ends_in_synthesis = True

    def on_positions(self, query, key, value, positions):
        scale = key.shape[-1] ** -0.5
        numerator = ops.sum(value, axis=1, keepdims=True) + scale * (query @ outer(key, value))
        key_sum = ops.sum(key, axis=1, keepdims=True)
        projected = ops.sum(query * key_sum, axis=-1, keepdims=True)
        return divide(numerator, ops.cast(positions, value.dtype) + scale * projected, positions)

    def row(self, query, key):
        table = 1 + ops.sum(query * key, axis=-1) * key.shape[-1] ** -0.5
        return divide(table, ops.sum(table), key.shape[0])

    def operations(self, positions, key_dim, value_dim):
        return 4 * positions * key_dim * value_dim

    def context(self, query, key, value, positions, visit):
        query = query * key.shape[-1] ** -0.5
        projected = query @ ops.transpose(total(key, positions), (0, 2, 1))
        return query @ outer(key, value), projected, total(value, positions)

    def at_positions(self, context, positions, synthesis):
        mixed, projected, value_sum = context
        denominator = ops.cast(positions, mixed.dtype) + synthesis(projected)
        inverse = divide(1.0, denominator, positions)
        return synthesis(mixed, weight=inverse, offset=(inverse, value_sum))

    def spectral_operations(self, tokens, positions, key_dim, value_dim, transform):
        products = 4 * tokens * key_dim * value_dim + 2 * tokens * key_dim
        # The offset is one more column of the last product.
        return products + transform(1) + transform(value_dim) + 2 * positions * value_dim
