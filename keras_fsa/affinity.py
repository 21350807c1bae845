"""The formulas of `keras_fsa.affinities` as functions, under the names they had in 0.1.0."""

from collections.abc import Callable

from keras_fsa.affinities import DotProduct, Linear, LinearSoftmax
from keras_fsa.types import Size, Tensor

dot_product = DotProduct().on_positions
linear = Linear().on_positions
linear_softmax = LinearSoftmax().on_positions


def spectral_linear(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    positions: Size,
    analysis: Callable,
    synthesis: Callable,
) -> Tensor:
    """`Linear` from tokens to positions `(B, H, W, Cv)`."""
    return _spectral(Linear(), query, key, value, positions, analysis, synthesis)


def spectral_linear_softmax(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    positions: Size,
    analysis: Callable,
    synthesis: Callable,
) -> Tensor:
    """`LinearSoftmax` from tokens to positions `(B, H, W, Cv)`."""
    return _spectral(LinearSoftmax(), query, key, value, positions, analysis, synthesis)


def _spectral(affinity, query, key, value, positions, analysis, synthesis):
    def visit(tokens, function):
        return analysis(function(synthesis(tokens)))

    context = affinity.context(query, key, value, positions, visit)
    return affinity.at_positions(context, positions, synthesis)


POSITIONAL = {"dot_product": dot_product, "linear_softmax": linear_softmax, "linear": linear}
