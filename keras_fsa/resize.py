"""Bilinear resizing as two thin matrix products, for any size.

Along an axis resized from `m` to `n` positions, output `j` samples the input at, clipped to it,

| `align_corners` | | |
| --- | --- | --- |
| True | `j (m - 1) / (n - 1)` | PyTorch's convention of that name |
| False | `(j + 1/2) m / n - 1/2` | PyTorch's other one |
| None | `(j + 1/2) / s - 1/2` | with the stride `s` of the map |

`s` is the power of two for which `m = ceil(n / s)`, where there is one, else `n / m`. (From two
positions on there is at most one: `s (m - 1) < n <= s m` does not hold for `2 s` as well.) Where
`n` is a multiple of the stride, None and False are the same. Elsewhere True and False stretch or
squeeze the map: at a stride of 16, 23 positions are made of 368 pixels, or of 353 and some zeros.
False lays them over 353 pixels all the same, and what belongs to the last rows is found up to 15
pixels further up. A network gets used to that at the size it is trained at, but at no other; with
None a position lies over the same pixels at any size.
"""

import numpy as np
from keras import backend, ops

from keras_fsa.types import Size, Tensor

_POWERS = 2 ** np.arange(13)


def positions(size: int, new_size: int, align_corners: bool | None = False) -> np.ndarray:
    """Input coordinate of each output position, as float64 NumPy `(new_size,)`."""
    j = np.arange(new_size)
    if align_corners:
        position = j * (size - 1) / max(new_size - 1, 1)
    elif align_corners is None:
        fits = _POWERS[(_POWERS * (size - 1) < new_size) & (new_size <= _POWERS * size)]
        position = (j + 0.5) / max(fits, default=new_size / size) - 0.5
    else:
        position = (j + 0.5) * size / new_size - 0.5
    return np.clip(position, 0, size - 1)


def _known_matrix(size, new_size, align_corners):
    """Interpolation matrix `(new_size, size)` in float64: row j holds the weights of output j."""
    position = positions(size, new_size, align_corners)
    return np.maximum(0.0, 1.0 - np.abs(position[:, None] - np.arange(size)))


def _unknown_matrix(size, new_size, align_corners, dtype):
    """`_known_matrix` for sizes known only at run time."""
    j = ops.cast(ops.arange(0, new_size, dtype="int32"), dtype)
    last = ops.cast(size - 1, dtype)
    if align_corners:
        position = j * last / ops.maximum(ops.cast(new_size - 1, dtype), 1)
    else:
        scale = ops.cast(size, dtype) / ops.cast(new_size, dtype)
        if align_corners is None:
            m, n = ops.cast(size, "int32"), ops.cast(new_size, "int32")
            powers = ops.convert_to_tensor(_POWERS, "int32")
            fits = ops.logical_and(powers * (m - 1) < n, powers * m >= n)
            stride = ops.cast(ops.max(ops.where(fits, powers, 0)), dtype)
            scale = ops.where(stride > 0, 1 / ops.maximum(stride, 1), scale)
        position = (j + 0.5) * scale - 0.5
    position = ops.minimum(ops.maximum(position, 0), last)
    index = ops.cast(ops.arange(0, size, dtype="int32"), dtype)
    return ops.relu(1 - ops.abs(ops.expand_dims(position, 1) - index))


def _matrix(size, new_size, align_corners, dtype):
    if isinstance(size, int) and isinstance(new_size, int):
        return ops.convert_to_tensor(_known_matrix(size, new_size, align_corners), dtype)
    # Half precision cannot tell neighbouring positions of a large map apart.
    wide = "float64" if backend.standardize_dtype(dtype) == "float64" else "float32"
    return ops.cast(_unknown_matrix(size, new_size, align_corners, wide), dtype)


def resize_bilinear(
    x: Tensor, height: Size, width: Size, align_corners: bool | None = False
) -> Tensor:
    """Resize a feature map bilinearly, without antialiasing.

    Args:
        x: `(B, H, W, C)`, of a floating dtype. Height and width may be unknown when the graph is
            built.
        height, width: the new size: ints, or integer scalar tensors.
        align_corners: whether the centres of the corner positions coincide; None: positions keep
            the distance of the map's stride. See the table of `keras_fsa.resize`.

    Returns:
        `(B, height, width, C)` in the dtype of `x`.
    """
    _, old_height, old_width, _ = ops.shape(x)
    rows = _matrix(old_height, height, align_corners, x.dtype)
    columns = _matrix(old_width, width, align_corners, x.dtype)
    return resample(x, rows, columns)


def resample(x: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """Each row and column of a map becomes a sum of its rows and columns.

    Args:
        x: `(B, H, W, C)`.
        rows, columns: the weights, `(new height, H)` and `(new width, W)`, in the dtype of `x`.

    Returns:
        `(B, new height, new width, C)`.
    """
    _, height, width, channels = ops.shape(x)
    x = rows @ ops.reshape(x, (-1, height, width * channels))
    return columns @ ops.reshape(x, (-1, ops.shape(rows)[0], width, channels))
