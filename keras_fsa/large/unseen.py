"""Pixels where the camera saw nothing: what tells them."""

import math
import numbers
from collections.abc import Sequence
from typing import Any

import numpy as np


def unseen_values(nodata: Any, own: Any) -> list[float]:
    """The values that all channels of an unseen pixel have, any of them.

    Args:
        nodata: the value that is asked for, NaN included; None for the image's own.
        own: the image's; None for none. NaN marks what lies outside a mask of the image, and counts
            beside another value that is asked for.

    Returns:
        Python's floats: NumPy's would be compared in their own precision, which the image may lack.

    Raises:
        ValueError: if `nodata` is no number.
    """
    if nodata is not None and not isinstance(nodata, numbers.Real):
        raise ValueError(
            f"`nodata` must be a number, NaN included, or None. Received: nodata={nodata!r:.200}. "
            "Give the value that all channels of such pixels have."
        )
    values = [own if nodata is None else nodata]
    if own is not None and math.isnan(own):
        values.append(own)
    return [float(value) for value in values if value is not None]


def seen_pixels(pixels: np.ndarray, values: Sequence[float]) -> np.ndarray:
    """Which pixels `(H, W, channels)` were seen, bool `(H, W)`; see `unseen_values`."""
    pixels = pixels.reshape(*pixels.shape[:2], -1)
    seen = np.ones(pixels.shape[:2], bool)
    for value in values:
        empty = np.isnan(pixels) if math.isnan(value) else pixels == value
        seen &= ~empty.all(axis=-1)
    return seen
