"""Affinities: how strongly one position attends to another, one file for each.

Attention gives position `n` the values of all positions `m`, weighted by an affinity of the query
at `n` to the key at `m`. Where the affinity is a product of a function of the query and a function
of the key, the sum over `m` needs no table of all pairs; if the map is low-frequency, it needs only
the tokens. With `N` positions, `qh = q / |q|`, `kh = k / |k|`, `s = 1 / sqrt(width of the keys)`
and `r = ReLU`:

| name             | affinity of n to m   | output at n                                           |
| ---------------- | -------------------- | ----------------------------------------------------- |
| `dot_product`    | `q_n . k_m / N`      | `(sum_m v_m k_m^T) q_n / N`                           |
| `linear_softmax` | `1 + qh_n . kh_m`    | `(sum v + (sum v kh^T) qh_n) / (N + (sum kh) . qh_n)` |
| `linear`         | `1 + s q_n . k_m`    | `(sum v + s (sum v k^T) q_n) / (N + s (sum k) . q_n)` |
| `relu_linear`    | `r(q_n) . r(k_m)`    | `(sum v r(k)^T) r(q_n) / ((sum r(k)) . r(q_n))`       |
| `softmax`        | `exp(s q_n . k_m)`   | needs the table of all pairs                          |

All but the first are normalised to sum to one over `m`. Every affinity with a form on tokens has
two forms, on positions and on tokens, which agree to rounding where q, k and v are low-frequency
(the paper's equivalence).

The attention layers take an affinity by name or as an object. A new one is a subclass of `Affinity`
in a file of its own; pass an instance to a layer, and it is saved with the model. To make it
available by name as well, list it here.
"""

from typing import Any

import keras

from keras_fsa.affinities.base import Affinity, Context
from keras_fsa.affinities.dot_product import DotProduct
from keras_fsa.affinities.linear import Linear
from keras_fsa.affinities.linear_softmax import LinearSoftmax
from keras_fsa.affinities.relu_linear import ReluLinear
from keras_fsa.affinities.softmax import Softmax

__all__ = [
    "BUILT_IN",
    "Affinity",
    "Context",
    "DotProduct",
    "Linear",
    "LinearSoftmax",
    "ReluLinear",
    "Softmax",
    "get",
    "names",
    "serialize",
]

BUILT_IN: dict[str, type[Affinity]] = {
    kind.name: kind for kind in (Softmax, DotProduct, LinearSoftmax, Linear, ReluLinear)
}
"""The affinities that layers know by name."""


def names(spectral: bool = False) -> tuple[str, ...]:
    """The names of the built-in affinities, or (`spectral`) of those with a form on tokens."""
    return tuple(name for name, kind in BUILT_IN.items() if kind.spectral or not spectral)


def get(affinity: str | Affinity | dict[str, Any], spectral: bool = False) -> Affinity:
    """The affinity that a layer's argument refers to.

    Args:
        affinity: a name, an object, or the config of a saved one.
        spectral: whether it must have a form on tokens.

    Raises:
        ValueError: for anything else.
    """
    if isinstance(affinity, dict):
        affinity = keras.saving.deserialize_keras_object(affinity)
    if isinstance(affinity, str) and affinity in names(spectral):
        return BUILT_IN[affinity]()
    if isinstance(affinity, Affinity) and (affinity.spectral or not spectral):
        return affinity
    known = ", ".join(repr(name) for name in names(spectral))
    kind = "an `Affinity` with a form on tokens" if spectral else "an `Affinity`"
    raise ValueError(
        f"`affinity` must be one of {known}, or {kind}. Received: affinity={affinity!r}. "
        "See keras_fsa.affinities for their formulas."
    )


def is_built_in(affinity: Affinity) -> bool:
    """Whether it is one of this library's own, not an instance of a subclass of one."""
    return type(affinity) is BUILT_IN.get(affinity.name)


def serialize(affinity: Affinity) -> str | dict[str, Any]:
    """An affinity as a config stores it: the name of a built-in one, else the serialised object."""
    if is_built_in(affinity):
        return affinity.name
    return keras.saving.serialize_keras_object(affinity)
