"""Linear softmax: the affinity of `n` to `m` is `1 + cos(q_n, k_m)`, normalised over `m`."""

import keras
from keras import ops

from keras_fsa.affinities.base import divide, inverse_norm, outer, total
from keras_fsa.affinities.linear import Linear


def _unit(x):
    return x * inverse_norm(x)


@keras.saving.register_keras_serializable(package="keras_fsa")
class LinearSoftmax(Linear):
    """The first-order expansion of softmax attention on unit queries and keys.

    With `qh = q / |q|` and `kh = k / |k|` at each position,

        y_n = (sum v + (sum v kh^T) qh_n) / (N + (sum kh) . qh_n)

    A zero query or key has cosine 0 with everything. Norms belong to positions, so in the form on
    tokens queries and keys are evaluated at the positions: the unit keys are transformed back to
    tokens, which suffices because the values they are multiplied with are low-frequency; the norms
    of the queries stay at the positions.

    Source: arXiv:2211.15595.
    """

    name = "linear_softmax"

    def on_positions(self, query, key, value, positions):
        # The scale of the linear affinity is not wanted here.
        query = key.shape[-1] ** 0.5 * _unit(query)
        return super().on_positions(query, _unit(key), value, positions)

    def row(self, query, key):
        table = 1 + ops.sum(_unit(query) * _unit(key), axis=-1)
        return divide(table, ops.sum(table), key.shape[0])

    def context(self, query, key, value, positions, visit):
        key = visit(key, _unit)
        projected = query @ ops.transpose(total(key, positions), (0, 2, 1))
        queries = ops.concatenate([query, projected], axis=-1)
        return query @ outer(key, value), queries, total(value, positions)

    def at_positions(self, context, positions, synthesis):
        mixed, queries, value_sum = context
        queries = synthesis(queries)
        weight, projected = inverse_norm(queries[..., :-1]), queries[..., -1:]
        denominator = ops.cast(positions, mixed.dtype) + weight * projected
        inverse = divide(1.0, denominator, positions)
        return synthesis(mixed, weight=weight * inverse, offset=(inverse, value_sum))

    def spectral_operations(self, tokens, positions, key_dim, value_dim, transform):
        linear = super().spectral_operations(tokens, positions, key_dim, value_dim, transform)
        # Keys to positions and back, queries to positions.
        return linear + 3 * transform(key_dim)
