"""The three affinities of linear form, between positions and between frequencies.

Attention gives position `n` the values of all positions `m`, weighted by an affinity of the query
at `n` to the key at `m`. Where the affinity is of first order in query and key, the sum over `m`
needs no table of all pairs, and if the map is low-frequency it needs its tokens only. With `N`
positions, `qh = q / |q|`, `kh = k / |k|` and `s = 1 / sqrt(width of the keys)`:

| name             | affinity of n to m | output at n                                             |
| ---------------- | ------------------ | ------------------------------------------------------- |
| `dot_product`    | `q_n . k_m / N`    | `(sum_m v_m k_m^T) q_n / N`                             |
| `linear_softmax` | `1 + qh_n . kh_m`  | `(sum v + (sum v kh^T) qh_n) / (N + (sum kh) . qh_n)`   |
| `linear`         | `1 + s q_n . k_m`  | `(sum v + s (sum v k^T) q_n) / (N + s (sum k) . q_n)`   |

The last two are normalised to sum to one over `m`. A zero query or key has cosine 0 with all.

`dot_product` serves positions and frequencies alike. For the other two there is one function for
positions `(B, N, C)` and one for tokens `(B, T, C)`, whose token 0 is the constant one; the latter
takes the transform as two functions. Spectral and positional forms agree to rounding where q, k and
v are low-frequency (the paper's equivalence).

Source: arXiv:2211.15595; the `linear` form is the first-order expansion of softmax attention.
"""

from collections.abc import Callable

from keras import ops

from keras_fsa.types import Size, Tensor

# Below this share of N a denominator counts as zero. The denominator of the linear softmax is a sum
# of N affinities of 0 to 2, so it gets there only where every key is opposite to the query.
_SMALLEST_DENOMINATOR = 1e-6
# The square of a norm below which a vector counts as zero; the gradient of its inverse root is
# still a float32.
_SMALLEST_SQUARE = 1e-24


def _outer(key, value):
    """`sum_m k_m v_m^T`: `(B, M, Ck)` and `(B, M, Cv)` to `(B, Ck, Cv)`."""
    return ops.transpose(key, (0, 2, 1)) @ value


def _inverse_norm(x):
    square = ops.sum(ops.square(x), axis=-1, keepdims=True)
    return ops.rsqrt(ops.where(square < _SMALLEST_SQUARE, _SMALLEST_SQUARE, square))


def _divide(numerator, denominator, positions):
    smallest = _SMALLEST_DENOMINATOR * ops.cast(positions, denominator.dtype)
    near_zero = ops.abs(denominator) < smallest
    return numerator / ops.where(near_zero, smallest, denominator)


def dot_product(query: Tensor, key: Tensor, value: Tensor, positions: Size) -> Tensor:
    """`(Q K^T / N) V`, on positions or on tokens, without the table of all pairs."""
    return query @ _outer(key, value) / ops.cast(positions, value.dtype)


def linear(query: Tensor, key: Tensor, value: Tensor, positions: Size) -> Tensor:
    """First-order softmax attention on positions."""
    scale = key.shape[-1] ** -0.5
    numerator = ops.sum(value, axis=1, keepdims=True) + scale * (query @ _outer(key, value))
    key_sum = ops.sum(key, axis=1, keepdims=True)
    projected = ops.sum(query * key_sum, axis=-1, keepdims=True)
    return _divide(numerator, ops.cast(positions, value.dtype) + scale * projected, positions)


def linear_softmax(query: Tensor, key: Tensor, value: Tensor, positions: Size) -> Tensor:
    """First-order softmax attention of unit vectors on positions."""
    scale = key.shape[-1] ** 0.5
    unit_query, unit_key = query * _inverse_norm(query), key * _inverse_norm(key)
    return linear(scale * unit_query, unit_key, value, positions)


# The spectral forms are `(sqrt(N) V_0 + w P Q M) / (N + w sqrt(N) P Q K_0)`, with `M` the outer
# product and `w` a number, or one for each position. The denominator is a map of one channel. It
# enters the synthesis of the numerator as a weight, so that the full map is written only once.


def _denominator_tokens(query, key, positions):
    return query @ ops.transpose(key[:, :1], (0, 2, 1)) * ops.sqrt(ops.cast(positions, key.dtype))


def _normalised(query, key, value, weight, projected, positions, synthesis):
    n = ops.cast(positions, value.dtype)
    inverse = _divide(1.0, n + weight * projected, positions)
    value_sum = value[:, :1] * ops.sqrt(n)
    return synthesis(
        query @ _outer(key, value), weight=weight * inverse, offset=(inverse, value_sum)
    )


def spectral_linear(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    positions: Size,
    analysis: Callable,
    synthesis: Callable,
) -> Tensor:
    """`linear` from tokens to positions `(B, H, W, Cv)`. Both parts of it are low-frequency.

    Args:
        query, key, value: tokens, the constant one first.
        positions: number of positions of the map.
        analysis, synthesis: the transform of a map to tokens, and back: see `keras_fsa.spectral`.
    """
    del analysis
    scale = key.shape[-1] ** -0.5
    projected = synthesis(_denominator_tokens(query, key, positions))
    return _normalised(query, key, value, scale, projected, positions, synthesis)


def spectral_linear_softmax(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    positions: Size,
    analysis: Callable,
    synthesis: Callable,
) -> Tensor:
    """`linear_softmax` from tokens to positions `(B, H, W, Cv)`. Arguments as `spectral_linear`.

    Norms belong to positions, so query and key visit them: the unit keys come back as tokens, which
    suffice because the values they meet are low-frequency; the queries leave their norms there.
    """
    key_map = synthesis(key)
    key = analysis(key_map * _inverse_norm(key_map))
    both = ops.concatenate([query, _denominator_tokens(query, key, positions)], axis=-1)
    both = synthesis(both)
    weight = _inverse_norm(both[..., :-1])
    return _normalised(query, key, value, weight, both[..., -1:], positions, synthesis)


POSITIONAL = {"dot_product": dot_product, "linear_softmax": linear_softmax, "linear": linear}
