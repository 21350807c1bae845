"""Pictures of what a network sees, thinks and learns.

Each function draws one picture, returns the matplotlib figure, and writes a PNG where it is given a
`path`. Colours are those of Okabe and Ito, or maps that are even in lightness: colour-blind readers
can tell them apart.
"""

from keras_fsa.visualize.attention import attention_picture
from keras_fsa.visualize.frequencies import spectrum_picture, truncation_picture
from keras_fsa.visualize.masks import (
    colour_mask,
    comparison,
    default_palette,
    overlay,
    overlay_picture,
)
from keras_fsa.visualize.scores import confusion_picture, iou_picture, training_picture

__all__ = [
    "attention_picture",
    "colour_mask",
    "comparison",
    "confusion_picture",
    "default_palette",
    "iou_picture",
    "overlay",
    "overlay_picture",
    "spectrum_picture",
    "training_picture",
    "truncation_picture",
]
