"""ReLU linear attention: the affinity of `n` to `m` is `ReLU(q_n) . ReLU(k_m)`, normalised."""

import keras
from keras import ops

from keras_fsa.affinities.base import Affinity, at_least, outer, total

# The authors' guard. Queries have no natural scale here, so neither has the denominator.
_SMALLEST = 1e-15


def _denominator(query, key_sum):
    """`ReLU(q_n) . sum_m ReLU(k_m)`, kept from zero."""
    return at_least(_SMALLEST, ops.sum(query * key_sum, axis=-1, keepdims=True))


@keras.saving.register_keras_serializable(package="keras_fsa")
class ReluLinear(Affinity):
    """The multi-scale attention block of EfficientViT, at one scale and with one head.

        y_n = (sum_m v_m ReLU(k_m)^T) ReLU(q_n) / ((sum_m ReLU(k_m)) . ReLU(q_n))

    A position whose query has no positive component attends to nothing: its output is zero.

    In the form on tokens, the ReLU of the keys is taken at the positions and transformed back to
    tokens. This is exact, because the values they are multiplied with are low-frequency. Neither
    the numerator nor the denominator of the output is low-frequency: each position multiplies its
    query with the context, `2 N K V` operations that the other affinities do not have. The division
    is applied to the queries, because they are narrow.

    Source: Cai et al., "EfficientViT: Multi-Scale Linear Attention for High-Resolution Dense
    Prediction", arXiv:2205.14756. The form on tokens is original to this library.
    """

    name = "relu_linear"
    # Nothing sums to nothing where a query has no positive component.
    sums_to_one = False

    def on_positions(self, query, key, value, positions):
        query, key = ops.relu(query), ops.relu(key)
        query = query / _denominator(query, ops.sum(key, axis=1, keepdims=True))
        return query @ outer(key, value)

    def row(self, query, key):
        table = ops.sum(ops.relu(query) * ops.relu(key), axis=-1)
        return table / at_least(_SMALLEST, ops.sum(table))

    def operations(self, positions, key_dim, value_dim):
        return 4 * positions * key_dim * value_dim

    def context(self, query, key, value, positions, visit):
        key = visit(key, ops.relu)
        return query, outer(key, value), total(key, positions)

    def at_positions(self, context, positions, synthesis):
        query, mixed, key_sum = context
        query = ops.relu(synthesis(query))
        _, height, width, key_dim = ops.shape(query)
        query = ops.reshape(query, (-1, height * width, key_dim))
        y = (query / _denominator(query, key_sum)) @ mixed
        return ops.reshape(y, (-1, height, width, mixed.shape[-1]))

    def spectral_operations(self, tokens, positions, key_dim, value_dim, transform):
        return 2 * (tokens + positions) * key_dim * value_dim + 3 * transform(key_dim)
