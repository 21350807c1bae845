"""Checks of arguments: an error says the rule, what came, and what to do."""

import importlib
from collections.abc import Sequence
from types import ModuleType
from typing import Any


def positive_int(name: str, value: Any, optional: bool = False) -> None:
    """Raise a `ValueError` unless the value is an int of one or more (or None, if optional)."""
    if optional and value is None:
        return
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        rule = "a positive int" + (" or None" if optional else "")
        raise ValueError(
            f"`{name}` must be {rule}. Received: {name}={value!r}. Give a whole number of at least "
            "one."
        )


def one_of(name: str, value: Any, known: Sequence) -> None:
    """Raise a `ValueError` unless the value is one of the known ones."""
    if value not in known:
        names = ", ".join(repr(item) for item in known)
        raise ValueError(
            f"`{name}` must be one of {names}. Received: {name}={value!r}. Choose one of the list."
        )


def optional_import(module: str, extra: str) -> ModuleType:
    """Import a package that only some uses need, at the point of use.

    Raises:
        ImportError: naming the pip command, where the package is missing.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise ImportError(
            f"This needs the package {module!r}, which did not import ({error}). "
            f'Received: no working {module!r}. Run: pip install "keras_fsa[{extra}]"'
        ) from error
