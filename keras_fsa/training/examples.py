"""Examples as a training takes them: `Examples`, a list or a `tf.data.Dataset`, of any sizes."""

from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np

from keras_fsa.images import MEAN_COLOUR
from keras_fsa.metrics import IGNORE_LABEL
from keras_fsa.resize import positions


def fit_into(
    image: np.ndarray, mask: np.ndarray, size: tuple[int, int]
) -> tuple[np.ndarray, np.ndarray]:
    """Shrink an image and its mask to fit into a size, if larger, and fill up to that size.

    The image is resized bilinearly without antialiasing, as in training, the mask to the nearest
    pixel. Added pixels have the ignore label, and ImageNet's mean colour, or its mean where the
    channels are not three; in images of other than 8 bits, the image's own mean.

    Args:
        image: `(H, W, channels)`.
        mask: uint8 `(H, W)`, or `(H, W, num_classes)`.
        size: `(height, width)`.

    Returns:
        The same in this size.
    """
    height, width, *classes = mask.shape
    scale = min(1.0, *(new / old for new, old in zip(size, (height, width), strict=True)))
    small = [max(1, round(scale * old)) for old in (height, width)]
    values = image
    for axis, (old, new) in enumerate(zip((height, width), small, strict=True)):
        if old == new:
            continue
        position = positions(old, new)
        lower = np.floor(position).astype(int)
        shape = [1, 1, 1]
        shape[axis] = new
        weight = (position - lower).astype("float32").reshape(shape)
        upper = values.take(np.minimum(lower + 1, old - 1), axis)
        values = values.take(lower, axis) * (1 - weight) + upper * weight
        mask = mask.take(np.floor((np.arange(new) + 0.5) * old / new).astype(int), axis)
    channels = image.shape[-1]
    filled = np.empty((*size, channels), image.dtype)
    if image.dtype == np.uint8:
        filled[:] = MEAN_COLOUR if channels == 3 else round(sum(MEAN_COLOUR) / 3)
    else:
        filled[:] = values.mean(axis=(0, 1))
    filled[: small[0], : small[1]] = values if image.dtype.kind == "f" else np.round(values)
    labels = np.full((*size, *classes), IGNORE_LABEL, "uint8")
    labels[: small[0], : small[1]] = mask
    return filled, labels


def as_arrays(
    examples: Iterable, size: tuple[int, int] | None = None
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Single examples as NumPy arrays, fitted into a size unless it is None."""
    for image, mask in examples:
        pair = np.asarray(image), np.asarray(mask)
        yield pair if size is None else fit_into(*pair, size)


def check_examples(name: str, examples: Any) -> None:
    """Raise a `ValueError` for data that is known to be empty."""
    if known_length(examples) == 0:
        raise ValueError(
            f"`{name}` must hold examples. Received: {name}={examples!r:.100} of length 0. Check "
            "the folder of the dataset."
        )


def known_length(data: Any) -> int | None:
    """`len(data)`; None for data that is endless or does not know its length."""
    try:
        return len(data)
    except TypeError:
        return None
