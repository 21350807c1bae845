"""Renamed items keep working for two minor versions, with a warning that gives the new name."""

import functools
import warnings
from collections.abc import Callable
from typing import Any, TypeVar

Function = TypeVar("Function", bound=Callable[..., Any])


def warn(old: str, new: str) -> None:
    """Warn that `old` will be removed and that `new` replaces it."""
    warnings.warn(
        f"{old} is deprecated and will be removed in two minor versions. Use {new}.",
        DeprecationWarning,
        stacklevel=3,
    )


def renamed_arguments(**new_names: str) -> Callable[[Function], Function]:
    """Let a function or class be called with the former names of its arguments.

        @renamed_arguments(picture="image")
        def class_map(model, image): ...

    Args:
        **new_names: the new name of each argument, keyed by its former name.
    """

    def decorate(function):
        if isinstance(function, type):
            kind: Any = function
            kind.__init__ = decorate(kind.__init__)
            return kind

        @functools.wraps(function)
        def run(*args, **kwargs):
            for old, new in new_names.items():
                if old in kwargs:
                    warn(f"The argument `{old}` of `{function.__qualname__}`", f"`{new}`")
                    if new in kwargs:
                        raise TypeError(
                            f"`{new}` must be given once. Received: both {old}= and {new}=. "
                            f"Leave out `{old}`."
                        )
                    kwargs[new] = kwargs.pop(old)
            return function(*args, **kwargs)

        return run

    return decorate
