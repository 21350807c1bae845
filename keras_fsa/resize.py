"""Bilinear resizing as two thin matrix products, for any size and either corner convention."""

import numpy as np
from keras import backend, ops

from keras_fsa.types import Size, Tensor


def positions(size: int, new_size: int, align_corners: bool = False) -> np.ndarray:
    """Input coordinate of each output position, as float64 NumPy `(new_size,)`."""
    j = np.arange(new_size)
    if align_corners:
        position = j * (size - 1) / max(new_size - 1, 1)
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
        position = (j + 0.5) * ops.cast(size, dtype) / ops.cast(new_size, dtype) - 0.5
    position = ops.minimum(ops.maximum(position, 0), last)
    index = ops.cast(ops.arange(0, size, dtype="int32"), dtype)
    return ops.relu(1 - ops.abs(ops.expand_dims(position, 1) - index))


def _matrix(size, new_size, align_corners, dtype):
    if isinstance(size, int) and isinstance(new_size, int):
        return ops.convert_to_tensor(_known_matrix(size, new_size, align_corners), dtype)
    # Half precision cannot tell neighbouring positions of a large map apart.
    wide = "float64" if backend.standardize_dtype(dtype) == "float64" else "float32"
    return ops.cast(_unknown_matrix(size, new_size, align_corners, wide), dtype)


def resize_bilinear(x: Tensor, height: Size, width: Size, align_corners: bool = False) -> Tensor:
    """Resize a feature map bilinearly, without antialiasing.

    Along an axis resized from `m` to `n` positions, output `j` samples the input at
    `j (m - 1) / (n - 1)` with aligned corners, else at `(j + 1/2) m / n - 1/2`, clipped to the map.
    These are PyTorch's conventions.

    Args:
        x: `(B, H, W, C)`, of a floating dtype. Height and width may be unknown when the graph is
            built.
        height, width: the new size: ints, or integer scalar tensors.
        align_corners: whether the centres of the corner positions coincide.

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
