"""Dot product: the affinity of `n` to `m` is `q_n . k_m / N`."""

import keras
from keras import ops

from keras_fsa.affinities.base import Affinity, outer


@keras.saving.register_keras_serializable(package="keras_fsa")
class DotProduct(Affinity):
    """`y = (Q K^T / N) V`, on positions and on tokens alike: the transform is orthonormal.

    Not normalised, so affinities may be negative. The output stays in the band of the queries, so
    recurrence needs the map only once.

    Source: arXiv:2211.15595.
    """

    name = "dot_product"
    stays_in_band = True
    sums_to_one = False

    def on_positions(self, query, key, value, positions):
        return query @ outer(key, value) / ops.cast(positions, value.dtype)

    def row(self, query, key):
        return ops.sum(query * key, axis=-1) / key.shape[0]

    def operations(self, positions, key_dim, value_dim):
        return 4 * positions * key_dim * value_dim

    def context(self, query, key, value, positions, visit):
        return (self.on_positions(query, key, value, positions),)

    def at_positions(self, context, positions, synthesis):
        return synthesis(*context)

    def spectral_operations(self, tokens, positions, key_dim, value_dim, transform):
        return 4 * tokens * key_dim * value_dim + transform(value_dim)
