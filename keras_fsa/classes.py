"""What a model predicts for a pixel, one class or several, and the names of its classes.

With logits `z` of `C` classes, `(B, H, W, C)`:

| `activation` | question | probability of class c | mask | answer |
| --- | --- | --- | --- | --- |
| `"softmax"` | which class is it? | `exp(z[c]) / sum(exp(z))` | ids 0 to C - 1, `(B, H, W)` | id of the most probable class, `(B, H, W)` |
| `"sigmoid"` | is class c there? | `1 / (1 + exp(-z[c]))` | 0 or 1 for each class, `(B, H, W, C)` | 1 where it is at least the threshold, `(B, H, W, C)` |

255 in a mask means "ignore this pixel"; with the sigmoid, "ignore this pixel for this class".

A binary task is the sigmoid with one class: masks and answers then have no last axis, 1 is the
class and 0 everything else. The softmax of one class is 1 everywhere, so `num_classes=1` means the
sigmoid, and requesting the softmax is then an error.

The activation belongs to the model (`FsaNet(activation=)`) and is saved with it and with exported
files; losses, metrics, inference, exports and plots depend on nothing else. Scores of the sigmoid
are those of `C` tasks of two classes, and their means are over the `C` answers "yes".
"""  # noqa: E501

from collections.abc import Sequence
from typing import Any

import numpy as np

from keras_fsa.arguments import is_integer, number, one_of

ACTIVATIONS = ("softmax", "sigmoid")
# Rows of a map that are worked on at a time, so that temporary arrays stay small.
_STRIP = 64


def choose_activation(activation: str | None, num_classes: int) -> str:
    """The activation of a model; None chooses it by the number of classes.

    Raises:
        ValueError: for an unknown activation, and for the softmax of one class.
    """
    one_of("activation", activation, (*ACTIVATIONS, None))
    if activation == "softmax" and num_classes == 1:
        raise ValueError(
            "`activation` must be 'sigmoid' for one class, since its softmax is 1 everywhere. "
            "Received: activation='softmax', num_classes=1. Leave `activation` out, or count the "
            "background as a class: num_classes=2."
        )
    return activation or ("sigmoid" if num_classes == 1 else "softmax")


def activation_of(model: Any) -> str:
    """The activation of a model, or of a function that runs an exported one; else the softmax."""
    # Models of others may have an attribute of this name, such as a function.
    found = getattr(model, "activation", None)
    return found if isinstance(found, str) and found in ACTIVATIONS else "softmax"


def dtype_of_ids(num_classes: int) -> str:
    """The dtype of class ids: uint8, or uint16 if there are too many for uint8 beside the 255."""
    return "uint8" if num_classes <= 255 else "uint16"


def decide(probabilities: np.ndarray, activation: str, threshold: float = 0.5) -> np.ndarray:
    """The answer for each pixel, from its probabilities.

    Args:
        probabilities: float `(..., H, W, num_classes)`, or of pixels `(..., num_classes)`.
        activation: `"softmax"` or `"sigmoid"`.
        threshold: with the sigmoid, the lowest probability that counts as "yes".

    Returns:
        uint8: for the softmax, ids `(..., H, W)` (see `dtype_of_ids`); for the sigmoid, 0 and 1,
        `(..., H, W, num_classes)`, or `(..., H, W)` for one class.
    """
    one_of("activation", activation, ACTIVATIONS)
    number("threshold", threshold, 0, 1)
    if activation == "softmax":
        dtype = dtype_of_ids(probabilities.shape[-1])
        if probabilities.ndim < 3:
            return probabilities.argmax(-1).astype(dtype)
        strips = range(0, probabilities.shape[-3], _STRIP)
        parts = [probabilities[..., i : i + _STRIP, :, :].argmax(-1).astype(dtype) for i in strips]
        return np.concatenate(parts, axis=-2)
    yes = (probabilities >= threshold).astype("uint8")
    return yes[..., 0] if yes.shape[-1] == 1 else yes


def answers(logits: np.ndarray, activation: str) -> np.ndarray:
    """`decide` for logits, at the threshold 1/2. With the sigmoid the last axis is always kept."""
    one_of("activation", activation, ACTIVATIONS)
    if activation == "softmax":
        return logits.argmax(-1).astype(dtype_of_ids(logits.shape[-1]))
    return (logits >= 0).astype("uint8")


def by_class(mask: Any, num_classes: int) -> np.ndarray:
    """A mask for the sigmoid with its last axis, `(..., H, W, num_classes)`, even for one class.

    Raises:
        ValueError: for a mask with another number of classes.
    """
    mask = np.asarray(mask)
    if num_classes == 1 and (mask.ndim < 3 or mask.shape[-1] != 1):
        mask = mask[..., None]
    if mask.shape[-1:] != (num_classes,):
        raise ValueError(
            "Masks of the sigmoid must be (H, W, num_classes), or (H, W) for one class. Received: "
            f"a mask of shape {mask.shape} for {num_classes} classes. Stack one mask for each "
            "class."
        )
    return mask


def counted(mask: np.ndarray, num_classes: int, activation: str) -> tuple[np.ndarray, np.ndarray]:
    """The answer for one image in the form `keras_fsa.visualize` accepts, and pixels per class."""
    if activation == "softmax":
        return mask, np.bincount(mask.reshape(-1), minlength=num_classes)
    mask = by_class(mask, num_classes)
    return mask, mask.sum(axis=(0, 1), dtype="int64")


def checked_names(class_names: Any, num_classes: int) -> tuple[str, ...] | None:
    """The names of the classes as a tuple; None stays None.

    Raises:
        ValueError: unless there is one string for each class, and all differ.
    """
    if class_names is None:
        return None
    valid = not isinstance(class_names, str) and isinstance(class_names, Sequence)
    valid = valid and all(isinstance(name, str) and name for name in class_names)
    if not valid or len(class_names) != num_classes or len(set(class_names)) != num_classes:
        raise ValueError(
            "`class_names` must be a name for each class, no two alike, or None. Received: "
            f"class_names={class_names!r:.200} for num_classes={num_classes}. Name every class "
            "once."
        )
    return tuple(class_names)


def checked_palette(palette: Any, num_classes: int) -> tuple[tuple[int, ...], ...] | None:
    """The colours of the classes as a tuple of `(red, green, blue)`; None stays None.

    Raises:
        ValueError: unless there are three whole numbers from 0 to 255 for each class.
    """
    if palette is None:
        return None
    try:
        colours = [list(colour) for colour in palette]
        valid = len(colours) == num_classes and all(
            len(colour) == 3 and all(is_integer(part) and 0 <= part <= 255 for part in colour)
            for colour in colours
        )
    except TypeError:
        valid = False
    if not valid:
        raise ValueError(
            "`palette` must be (red, green, blue) of 0 to 255 for each class, or None. Received: "
            f"palette={palette!r:.200} for num_classes={num_classes}. Give every class a colour."
        )
    return tuple(tuple(int(part) for part in colour) for colour in colours)


def names_of(model: Any, num_classes: int) -> list[str]:
    """The names that a model has for its classes, else `class 0`, `class 1` and so on."""
    return list(getattr(model, "class_names", None) or (f"class {i}" for i in range(num_classes)))
