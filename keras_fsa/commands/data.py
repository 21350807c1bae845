"""Data as the commands read it, whichever engine computes."""

import sys
from collections.abc import Iterable
from typing import Any

import keras


def keep_tensorflow_off_gpus() -> None:
    """Where TensorFlow is loaded behind another engine, it only reads data.

    It would take all memory of the GPUs otherwise.
    """
    if keras.backend.backend() != "tensorflow" and "tensorflow" in sys.modules:
        sys.modules["tensorflow"].config.set_visible_devices([], "GPU")


def as_pairs(data: Any) -> Iterable[tuple]:
    """The elements of a dataset as NumPy arrays."""
    if hasattr(type(data), "as_numpy_iterator"):
        return data.as_numpy_iterator()
    return iter(data)
