"""The earlier name of `keras_fsa.segmenter`."""

from typing import Any

from keras_fsa import _deprecation
from keras_fsa.segmenter import Segmenter


class SlidingWindow(Segmenter):
    """The earlier name of `Segmenter`, which may have a window or not."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        _deprecation.warn("`SlidingWindow`", "`keras_fsa.segmenter.Segmenter`")
        super().__init__(*args, **kwargs)
