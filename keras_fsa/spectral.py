"""The discrete cosine transform behind frequency self-attention.

A feature map `x` of height `H` and width `W` is described by a few low frequencies. With the
orthonormal DCT-II basis of length `n`,

    D[i, 0] = 1 / sqrt(n)        D[i, u] = sqrt(2 / n) * cos(pi * u * (2 i + 1) / (2 n))

`analysis` computes the coefficients of a band of frequencies, `X = D_H^T x D_W` per channel, and
`synthesis` maps them back, `x = D_H X D_W^T`. The columns of `D` are orthonormal, so synthesis
after analysis is the projector onto the band: `low_pass`.

The two-dimensional basis is the Kronecker product of two small ones. It is never formed: two thin
matrix products replace it, along the width first, so that the second runs on the smaller result.
Both are batched products. With a shared factor, compilers would merge the batch into one large
product and transpose the whole map for it, there and back.

A *band* is a pair of half-open ranges of frequencies, `((u0, u1), (v0, v1))`: rows (vertical
frequencies, along the height), then columns (horizontal frequencies, along the width). Wherever
`frequencies` is an argument, an int `k` stands for `((0, k), (0, k))` and a pair of ints `(ku, kv)`
for `((0, ku), (0, kv))`.

Tokens are computed in at least float32, whatever the precision of the map: attention on tokens is
cubic in its input, and the constant token of a bright map alone overflows float16. The code uses
the operator `@`, and sums in place of means, because `keras.ops.matmul` and `keras.ops.mean` round
float64 to float32 under torch.

Source: Zhang, Panahi, Gao, "FsaNet: Frequency Self-attention for Semantic Segmentation",
arXiv:2211.15595. The separable form is original to this library.
"""

import functools
import operator
from typing import Any

import numpy as np
from keras import backend, ops

from keras_fsa import patches
from keras_fsa.arguments import MOST
from keras_fsa.compilation import xla_compiles
from keras_fsa.compilation import xla_scope as xla_scope  # Its name in 0.1.0.
from keras_fsa.types import Band, Frequencies, Shape, Size, Tensor

__all__ = [
    "add_constant",
    "analysis",
    "check_band_fits",
    "dct_basis",
    "has_constant",
    "low_pass",
    "moments",
    "number_of_tokens",
    "parse_frequencies",
    "synthesis",
]


def parse_frequencies(frequencies: Frequencies, name: str = "frequencies") -> Band:
    """Normalise `frequencies` to a band `((u0, u1), (v0, v1))`.

    Args:
        frequencies: an int, a pair of ints (rows, columns) or a pair of half-open ranges.
        name: the argument's name in error messages.

    Returns:
        A pair of pairs of ints.

    Raises:
        ValueError: for anything else, an empty range, or one that starts below zero.
    """
    rule = (
        f"`{name}` must be a positive int, a pair of them (rows, columns), or a band "
        f"((u0, u1), (v0, v1)) with 0 <= u0 < u1 and 0 <= v0 < v1, none above {MOST}. "
        f"Received: {name}={frequencies!r}. For the eight lowest frequencies of rows and columns, "
        f"write {name}=8."
    )

    def integer(value):
        if isinstance(value, bool):
            raise TypeError
        return operator.index(value)

    def interval(value):
        start, stop = value if isinstance(value, (tuple, list)) else (0, value)
        return integer(start), integer(stop)

    try:
        pair = frequencies if isinstance(frequencies, (tuple, list)) else (frequencies,) * 2
        rows, columns = (interval(value) for value in pair)
    except (TypeError, ValueError):
        raise ValueError(rule) from None
    if not all(0 <= start < stop <= MOST for start, stop in (rows, columns)):
        raise ValueError(rule)
    return rows, columns


def check_band_fits(
    frequencies: Frequencies, height: Size | None, width: Size | None, name: str = "frequencies"
) -> None:
    """Raise a `ValueError` if the band exceeds a known height or width.

    An axis of `n` positions has the frequencies `0 .. n - 1`. `None` stands for an unknown size and
    never raises. `name` is the argument's name in the message.
    """
    rows, columns = parse_frequencies(frequencies, name)
    for side, (_, stop), size in (("height", rows, height), ("width", columns, width)):
        if isinstance(size, int) and stop > size:
            raise ValueError(
                f"`{name}` must not go beyond the size of the feature map: a {side} of {size} has "
                f"the frequencies 0 to {size - 1}. Received: {name}={frequencies!r} for a map of "
                f"height {height} and width {width}. Ask for fewer frequencies, or use a larger "
                "image or a smaller output stride."
            )


def spatial_size(shape: Shape, data_format: str) -> tuple[Any, Any]:
    """Height and width from the shape of a feature map; for a patch, those of the whole map."""
    patch = patches.current()
    whole = shape[1:3] if data_format == "channels_last" else shape[2:4]
    height, width = whole if patch is None else patch.size
    return height, width


def has_constant(frequencies: Frequencies) -> bool:
    """Whether the band includes the constant frequency (0, 0)."""
    rows, columns = parse_frequencies(frequencies)
    return rows[0] == 0 and columns[0] == 0


def number_of_tokens(frequencies: Frequencies) -> int:
    """Number of tokens in the band: rows times columns."""
    rows, columns = parse_frequencies(frequencies)
    return (rows[1] - rows[0]) * (columns[1] - columns[0])


def token_dtype(dtype: str) -> str:
    """The dtype of the tokens of a map of this dtype: float64 for float64, else float32."""
    return "float64" if backend.standardize_dtype(dtype) == "float64" else "float32"


@functools.lru_cache(maxsize=256)
def _known_basis(size, start, stop):
    """`dct_basis` in float64 NumPy. Columns at or beyond the size are zero."""
    u = np.arange(start, stop)
    angle = (2 * np.arange(size)[:, None] + 1) * u % (4 * size)
    basis = np.sqrt(np.where(u == 0, 1.0, 2.0) / size) * np.cos(np.pi * angle / (2 * size))
    basis[:, u >= size] = 0.0
    return basis


def _unknown_basis(size, start, stop, dtype, positions=None):
    """`dct_basis` for a size known only at run time, or for some positions only.

    The angle is reduced to the first quarter wave in integer arithmetic, before it becomes a float:
    a float32 cosine of `pi u (2 i + 1) / (2 n)` itself would be off by 1.6e-4 at u = 385.
    """
    u = ops.arange(start, stop, dtype="int32")
    if positions is None:
        positions = ops.arange(0, size, dtype="int32")
    position = 2 * positions + 1
    angle = ops.mod(ops.expand_dims(position, 1) * u, 4 * size)
    angle = ops.minimum(angle, 4 * size - angle)
    folded = ops.minimum(angle, 2 * size - angle)
    sign = ops.where(folded < angle, -1.0, 1.0)
    n = ops.cast(size, dtype)
    wave = ops.cast(sign, dtype) * ops.cos(ops.cast(folded, dtype) * (np.pi / 2) / n)
    scale = ops.sqrt(ops.cast(ops.where(u == 0, 1, 2), dtype) / n)
    return wave * ops.where(u < size, scale, ops.zeros_like(scale))


def dct_basis(
    size: Size, frequencies: int | tuple[int, int], dtype: str = "float32", strict: bool = True
) -> Tensor:
    """Columns `start .. stop - 1` of the orthonormal DCT-II basis of length `size`.

    `D[i, 0] = 1 / sqrt(n)` and `D[i, u] = sqrt(2 / n) cos(pi u (2 i + 1) / (2 n))` with
    `n = size`. A known size gives a constant, computed in float64 and rounded once. A size known
    only at run time gives the same values to 2e-7.

    Args:
        size: number of positions: an int, or an integer scalar tensor.
        frequencies: an int `k` for the columns `0 .. k - 1`, or a pair `(start, stop)`.
        dtype: dtype of the result.
        strict: whether a frequency at or beyond a known size raises an error. If not, or if the
            size is unknown, its column is zero: the map has no such frequency.

    Returns:
        A tensor of shape `(size, stop - start)`.

    Raises:
        ValueError: for a frequency at or beyond a known size, unless `strict=False`.
    """
    start, stop = frequencies if isinstance(frequencies, (tuple, list)) else (0, frequencies)
    if not isinstance(size, int):
        return _unknown_basis(size, start, stop, dtype)
    if strict and stop > size:
        raise ValueError(
            "`frequencies` of a DCT basis must lie below its size. "
            f"Received: size={size}, frequencies={frequencies!r}. Ask for at most {size}."
        )
    return ops.convert_to_tensor(_known_basis(size, start, stop), dtype)


def _each(matrix, x):
    """The matrix, repeated for each matrix in `x`: a batched product, not one large one."""
    return ops.broadcast_to(matrix, (*ops.shape(x)[:-2], *ops.shape(matrix)))


# Only the products with the basis along the width read or write a whole map. XLA does not fuse a
# matrix product with the addition that follows it, so synthesis and the residual sum would each
# materialise a map. It does fuse an explicit sum over a few frequencies. Without XLA each term of
# that sum would be a map of its own, so there the matrix product stays.

_FEW = 16


def _spread(a, b):
    """`a @ b` of shapes `(..., n, k)` and `(..., k, m)`, from a few frequencies to positions."""
    return _joined_spread(a, b) if _joins(a, b, a.shape[-1]) else a @ b


def _gather(a, b):
    """`a @ b` of shapes `(..., k, n)` and `(..., n, m)`, from positions to a few frequencies."""
    return _joined_gather(a, b) if _joins(a, b, a.shape[-2]) else a @ b


def _joins(a, b, frequencies):
    symbolic = backend.is_keras_tensor(a) or backend.is_keras_tensor(b)
    return xla_compiles() and frequencies <= _FEW and not symbolic


# Each appears in the other's gradient. Differentiating the sum itself would give one product per
# term.


@ops.custom_gradient
def _joined_spread(a, b):
    terms = (a[..., i, None] * b[..., None, i, :] for i in range(a.shape[-1]))
    return functools.reduce(operator.add, terms), lambda upstream: (
        upstream @ ops.swapaxes(b, -1, -2),
        _gather(ops.swapaxes(a, -1, -2), upstream),
    )


@ops.custom_gradient
def _joined_gather(a, b):
    return a @ b, lambda upstream: (
        upstream @ ops.swapaxes(b, -1, -2),
        _spread(ops.swapaxes(a, -1, -2), upstream),
    )


def analysis(
    x: Tensor, frequencies: Frequencies, data_format: str = "channels_last", strict: bool = True
) -> Tensor:
    """Spectral tokens of a feature map: `X = D_H^T x D_W` for each channel.

    Args:
        x: feature map `(B, H, W, C)`, or `(B, C, H, W)` with `data_format="channels_first"`. Its
            height and width may be unknown when the graph is built.
        frequencies: the band, see `parse_frequencies`.
        data_format: `"channels_last"` or `"channels_first"`.
        strict: see `dct_basis`.

    Returns:
        `(B, T, C)` in either data format, float32 (float64 for a float64 map), with `T` the number
        of frequencies; rows vary slowest. Token 0 of a band that starts at (0, 0) is the constant
        token: `sqrt(H W)` times the mean of the map.

    Raises:
        ValueError: for a frequency at or beyond a known height or width, unless `strict=False`.
    """
    rows, columns = parse_frequencies(frequencies)
    dtype = token_dtype(x.dtype)
    x = ops.cast(x, dtype)
    patch = patches.current()
    if patch is not None:
        return patch.sum_of(lambda: _share(x, rows, columns, data_format, patch))
    height, width = spatial_size(ops.shape(x), data_format)
    d_h = dct_basis(height, rows, dtype, strict)
    d_w = dct_basis(width, columns, dtype, strict)
    return _analysis(x, d_h, d_w, data_format)


def _analysis(x, d_h, d_w, data_format):
    ku, kv = d_h.shape[1], d_w.shape[1]
    if data_format == "channels_last":
        _, height, _, channels = ops.shape(x)
        d_w, d_h = ops.transpose(d_w), ops.transpose(d_h)
        x = _gather(_each(d_w, x), x)
        x = ops.reshape(x, (-1, height, kv * channels))
        x = _each(d_h, x) @ x
        return ops.reshape(x, (-1, ku * kv, channels))
    channels = ops.shape(x)[1]
    x = ops.transpose(d_h) @ (x @ d_w)
    return ops.transpose(ops.reshape(x, (-1, channels, ku * kv)), (0, 2, 1))


def _patch_basis(patch, axis, frequencies, dtype):
    """The rows of the whole map's `dct_basis` at the positions of a patch."""
    start, stop = frequencies
    return _unknown_basis(patch.size[axis], start, stop, dtype, patch.positions(axis))


def _share(x, rows, columns, data_format, patch):
    """The contribution of a patch to the tokens of the whole map."""
    d_h, d_w = (
        _patch_basis(patch, axis, band, x.dtype) * patch.owned(axis, x.dtype)[:, None]
        for axis, band in enumerate((rows, columns))
    )
    if patch.weight is not None:
        weight = ops.cast(patch.weight, x.dtype)
        x = x * (weight if data_format == "channels_last" else ops.moveaxis(weight, 3, 1))
    return _analysis(x, d_h, d_w, data_format)


def synthesis(
    tokens: Tensor,
    height: Size,
    width: Size,
    frequencies: Frequencies,
    data_format: str = "channels_last",
    strict: bool = True,
    weight: Tensor | None = None,
    offset: tuple[Tensor, Tensor] | None = None,
    summed: int = 1,
) -> Tensor:
    """Feature map of spectral tokens: `x = D_H X D_W^T` for each channel.

    With `weight` and `offset` the same products give `weight_n x_n + a_n c` at position `n`,
    without a second map; with `summed`, the sum of several such maps.

    Args:
        tokens: `(B, T, C)`, in the order of `analysis`.
        height, width: size of the map: ints, or integer scalar tensors.
        frequencies: the band, see `parse_frequencies`.
        data_format: `"channels_last"` or `"channels_first"`.
        strict: see `dct_basis`.
        weight: `(B, H, W, 1)`, or None for ones. Like `offset`, for channels last only.
        offset: `(a, c)` of shapes `(B, H, W, 1)` and `(B, 1, C)`, or None for zero.
        summed: of how many maps the result is the sum. The batch holds that many in a row for each
            example of the result, each with a weight of its own.

    Returns:
        `(B, H, W, C)`, or `(B, C, H, W)` with `data_format="channels_first"`, in the dtype of the
        tokens.

    Raises:
        ValueError: for a frequency at or beyond a known height or width, unless `strict=False`.
    """
    rows, columns = parse_frequencies(frequencies)
    ku, kv = rows[1] - rows[0], columns[1] - columns[0]
    channels = tokens.shape[-1]
    patch = patches.current()
    if patch is None:
        d_h = dct_basis(height, rows, tokens.dtype, strict)
        d_w = dct_basis(width, columns, tokens.dtype, strict)
    else:
        d_h, d_w = (
            _patch_basis(patch, axis, band, tokens.dtype)
            for axis, band in enumerate((rows, columns))
        )
        height = patch.shape[0]
    if data_format == "channels_last":
        x = ops.reshape(tokens, (-1, ku, kv * channels))
        x = ops.reshape(_each(d_h, x) @ x, (-1, height, kv, channels))
        d_w = _each(d_w, x) if weight is None else weight * d_w
        if offset is not None:
            column, row = offset
            row = ops.broadcast_to(ops.expand_dims(row, 1), (*ops.shape(x)[:2], 1, channels))
            d_w = ops.concatenate([d_w, column], axis=-1)
            x = ops.concatenate([x, row], axis=2)
        if summed > 1:
            # One product over the frequencies of all.
            _, height, terms, _ = ops.shape(x)
            width = ops.shape(d_w)[2]
            x = ops.reshape(x, (-1, summed, height, terms, channels))
            x = ops.reshape(ops.moveaxis(x, 1, 2), (-1, height, summed * terms, channels))
            d_w = ops.reshape(d_w, (-1, summed, height, width, terms))
            d_w = ops.reshape(ops.moveaxis(d_w, 1, 3), (-1, height, width, summed * terms))
        return _spread(d_w, x)
    x = ops.reshape(ops.transpose(tokens, (0, 2, 1)), (-1, channels, ku, kv))
    return (d_h @ x) @ ops.transpose(d_w)


def low_pass(x: Tensor, frequencies: Frequencies, data_format: str = "channels_last") -> Tensor:
    """Project a feature map onto a band: synthesis after analysis.

    Args:
        x: feature map `(B, H, W, C)`, or `(B, C, H, W)` with `data_format="channels_first"`.
        frequencies: the band, see `parse_frequencies`.
        data_format: `"channels_last"` or `"channels_first"`.

    Returns:
        A map of the shape and dtype of `x`; of integers, float32, which is not rounded.

    Raises:
        ValueError: for a frequency at or beyond a known height or width.

    Example:
    >>> import keras
    >>> x = keras.random.normal((1, 97, 131, 3))
    >>> tuple(keras_fsa.spectral.low_pass(x, frequencies=8).shape)
    (1, 97, 131, 3)
    """
    height, width = spatial_size(ops.shape(x), data_format)
    tokens = analysis(x, frequencies, data_format)
    dtype = x.dtype if backend.is_float_dtype(x.dtype) else tokens.dtype
    return ops.cast(synthesis(tokens, height, width, frequencies, data_format), dtype)


def add_constant(tokens: Tensor, constant: Tensor, positions: Size) -> Tensor:
    """Tokens of the map plus a constant at every position.

    Only the constant frequency changes, by `sqrt(positions) * constant`.

    Args:
        tokens: `(B, T, C)`, the constant token first.
        constant: `(C,)`, the value to add in each channel.
        positions: number of positions of the map, `H * W`.
    """
    first = ops.convert_to_tensor(np.eye(tokens.shape[1], 1), tokens.dtype)
    step = ops.sqrt(ops.cast(positions, tokens.dtype)) * ops.cast(constant, tokens.dtype)
    return tokens + first * step


def moments(tokens: Tensor, positions: Size) -> tuple[Tensor, Tensor]:
    """Mean and variance of each channel over batch and positions, from tokens alone (Parseval).

    Each image's map has the mean `X_0 / sqrt(N)` and the variance `(sum over t > 0 of X_t^2) / N`.
    The variance over the batch is the mean of these variances plus the variance of the means. This
    form is free of cancellation.

    Args:
        tokens: `(B, T, C)`, the constant token first.
        positions: number of positions of the map, `N = H * W`.

    Returns:
        `(mean, variance)`, each `(C,)`; the variance is biased.
    """
    n = ops.cast(positions, tokens.dtype)
    batch = ops.cast(ops.shape(tokens)[0], tokens.dtype)
    means = tokens[:, 0] / ops.sqrt(n)
    mean = ops.sum(means, axis=0) / batch
    within = ops.sum(ops.square(tokens[:, 1:]), axis=(0, 1)) / (batch * n)
    return mean, within + ops.sum(ops.square(means - mean), axis=0) / batch
