"""Plots of what a network sees, attends to and learns.

Each function draws one figure, returns it as a matplotlib figure, and writes a PNG if it is given a
`path`. Colours are those of Okabe and Ito, or perceptually uniform maps, which colour-blind readers
can distinguish.
"""

from typing import Any

from keras_fsa import _deprecation
from keras_fsa.visualize.attention import plot_attention
from keras_fsa.visualize.frequencies import plot_spectrum, plot_truncation
from keras_fsa.visualize.masks import (
    as_rgb,
    colour_answers,
    colour_mask,
    comparison,
    default_palette,
    overlay,
    plot_overlay,
)
from keras_fsa.visualize.scores import plot_confusion, plot_iou, plot_overlaps, plot_training
from keras_fsa.visualize.seams import plot_seams, seam_errors

__all__ = [
    "as_rgb",
    "colour_answers",
    "colour_mask",
    "comparison",
    "default_palette",
    "overlay",
    "plot_attention",
    "plot_confusion",
    "plot_iou",
    "plot_overlaps",
    "plot_overlay",
    "plot_seams",
    "plot_spectrum",
    "plot_training",
    "plot_truncation",
    "seam_errors",
]

_EARLIER_NAMES = {
    "attention_picture": plot_attention,
    "confusion_picture": plot_confusion,
    "iou_picture": plot_iou,
    "overlay_picture": plot_overlay,
    "spectrum_picture": plot_spectrum,
    "training_picture": plot_training,
    "truncation_picture": plot_truncation,
}


def __getattr__(name: str) -> Any:
    """The functions under their former names."""
    if name not in _EARLIER_NAMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    function = _EARLIER_NAMES[name]
    _deprecation.warn(f"`{__name__}.{name}`", f"`{function.__name__}`")
    return function
