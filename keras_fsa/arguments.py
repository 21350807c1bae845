"""Checks of arguments: an error states the rule, then what was received, then the fix."""

import importlib
import math
import numbers
import operator
import os
from collections.abc import Callable, Sequence
from types import ModuleType
from typing import Any

import numpy as np

MOST = 2**20
"""The largest width or count that is accepted; a larger one is taken for a mistake."""


def integer(
    name: str, value: Any, minimum: int = 1, optional: bool = False, maximum: int | None = None
) -> None:
    """Raise a `ValueError` unless the value is an int of at least `minimum`, at most `maximum`."""
    if optional and value is None:
        return
    if is_integer(value) and value >= minimum and (maximum is None or value <= maximum):
        return
    kind = {0: "a non-negative int", 1: "a positive int"}.get(
        minimum, f"an int of at least {minimum}"
    )
    # The lower bound is the rule that most meet; the upper one is said where it is broken.
    high = is_integer(value) and value >= minimum
    raise ValueError(
        f"`{name}` must be {kind}{f' of at most {maximum}' if high else ''}"
        f"{' or None' if optional else ''}. Received: {name}={_shown(value)}. "
        f"Give a whole number of at {f'most {maximum}' if high else f'least {minimum}'}."
    )


def positive_int(name: str, value: Any, optional: bool = False) -> None:
    """Raise a `ValueError` unless the value is an int of one or more (or None, if optional)."""
    integer(name, value, 1, optional)


def number(
    name: str,
    value: Any,
    minimum: float = -math.inf,
    maximum: float = math.inf,
    above: float = -math.inf,
    below: float = math.inf,
    optional: bool = False,
) -> None:
    """Raise a `ValueError` unless the value is a finite real number in a range.

    Args:
        name, value: the argument.
        minimum, maximum: inclusive bounds.
        above, below: exclusive bounds.
        optional: whether None is allowed.
    """
    if optional and value is None:
        return
    real = isinstance(value, (numbers.Real, np.number)) and not isinstance(value, (bool, np.bool_))
    if real and math.isfinite(value) and minimum <= value <= maximum and above < value < below:
        return
    bounds = [
        f"{words} {bound:g}"
        for words, bound in (
            ("at least", minimum),
            ("above", above),
            ("at most", maximum),
            ("below", below),
        )
        if math.isfinite(bound)
    ]
    rule = " ".join(["a finite number", " and ".join(bounds)]).strip()
    raise ValueError(
        f"`{name}` must be {rule}{' or None' if optional else ''}. "
        f"Received: {name}={_shown(value)}. Give a number in that range."
    )


def boolean(name: str, value: Any, optional: bool = False) -> None:
    """Raise a `ValueError` unless the value is True or False, since `"no"` would count as true."""
    if optional and value is None:
        return
    if not isinstance(value, (bool, np.bool_)):
        choices = "True, False or None" if optional else "True or False"
        raise ValueError(
            f"`{name}` must be {choices}. Received: {name}={_shown(value)}. Choose one of these."
        )


def positive_ints(name: str, value: Any, count: int, optional: bool = False) -> None:
    """Raise a `ValueError` unless the value is a sequence of `count` ints of one or more."""
    if optional and value is None:
        return
    sequence = isinstance(value, (tuple, list))
    if (
        not sequence
        or len(value) != count
        or not all(is_integer(item) and item > 0 for item in value)
    ):
        raise ValueError(
            f"`{name}` must be {count} positive ints{' or None' if optional else ''}. "
            f"Received: {name}={_shown(value)}. Give a tuple of {count} whole numbers."
        )


def one_of(name: str, value: Any, known: Sequence) -> None:
    """Raise a `ValueError` unless the value is one of the known ones."""
    # Arrays compare element by element, and unhashable values are no key of a dict.
    if not any(isinstance(value, type(item)) and value == item for item in known):
        names = ", ".join(repr(item) for item in known)
        raise ValueError(
            f"`{name}` must be one of {names}. Received: {name}={_shown(value)}. Choose one of the "
            "list."
        )


def check_image_shape(image_shape: Any) -> None:
    """Raise a `ValueError` unless it is `(height, width, channels)`, of which two may be None."""
    valid = isinstance(image_shape, (tuple, list)) and len(image_shape) == 3
    if valid:
        *size, channels = image_shape
        valid = is_integer(channels) and channels > 0
        valid &= all(side is None or (is_integer(side) and side > 0) for side in size)
    if not valid:
        raise ValueError(
            "`image_shape` must be (height, width, channels) in positive ints, of which height and "
            f"width may be None. Received: image_shape={image_shape!r}. Write (None, None, 3)."
        )


def path_or_none(name: str, value: Any) -> None:
    """Raise a `ValueError` unless the value can name a file or is None."""
    if value is not None and (not isinstance(value, (str, os.PathLike)) or not os.fspath(value)):
        raise ValueError(
            f"`{name}` must be a path or None. Received: {name}={_shown(value)}. Give a string or "
            "a pathlib.Path."
        )


def floating_dtype(dtype: str) -> None:
    """Raise a `ValueError` unless a layer's `dtype` computes in floating point."""
    if "float" not in dtype:
        raise ValueError(
            "`dtype` must be a floating point type or a policy that computes in one. Received: "
            f"dtype={dtype!r}. Leave it out for Keras' setting, or write dtype='float32'."
        )


def interpreted(name: str, value: Any, interpret: Callable[[Any], Any]) -> Any:
    """What one of Keras' `get` functions returns for an argument.

    Raises:
        ValueError: naming the argument, if Keras cannot interpret it.
    """
    try:
        return interpret(value)
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"`{name}` must be what {interpret.__module__}.{interpret.__name__} takes. "
            f"Received: {name}={_shown(value)}. Keras says: {error}"
        ) from error


def optional_import(module: str, extra: str) -> ModuleType:
    """Import an optional package at the point of use.

    Raises:
        ImportError: with the pip command, if the package is missing.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise ImportError(
            f"This needs the package {module!r}, which did not import ({error}). "
            f'Received: no working {module!r}. Run: pip install "keras_fsa[{extra}]"'
        ) from error


def is_integer(value: Any) -> bool:
    """Whether a value is a Python or NumPy int, and not a bool."""
    try:
        return not isinstance(value, (bool, np.bool_)) and operator.index(value) == value
    except TypeError:
        return False


def _shown(value, length=200):
    text = repr(value)
    return text if len(text) <= length else f"{text[:length]}..."
