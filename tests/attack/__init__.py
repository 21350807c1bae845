"""Wrong calls, made from signatures: each must be refused by an error that names the argument.

for argument, kind, value in wrong_arguments(function): ...
attack(lambda: function(**{**good, argument: value}), argument, right=kind in allowed)
"""

import inspect
import math
from collections.abc import Callable, Iterator
from typing import Any

import keras

WRONG: dict[str, Any] = {
    "None": None,
    "an object": object(),
    "text": "no",
    "empty text": "",
    "NaN": math.nan,
    "infinity": math.inf,
    "zero": 0,
    "negative": -1,
    "a fraction": 0.5,
    "empty": (),
    "too large": 10**12,
}
"""Values that few arguments take, by what is wrong with them."""


def arguments_of(function: Callable) -> list[str]:
    """Names of the arguments of a function; of a class, those of its bases, Keras' left out."""
    if inspect.isclass(function):
        own = [base for base in function.__mro__ if not base.__module__.startswith("keras.")]
        functions = [vars(base)["__init__"] for base in own if "__init__" in vars(base)]
        functions = [f for f in functions if inspect.isfunction(f)]
    else:
        functions = [function]
    names = {
        name: None
        for f in functions
        for name, parameter in inspect.signature(f).parameters.items()
        if name != "self"
        and parameter.kind not in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD)
    }
    if inspect.isclass(function) and issubclass(function, keras.layers.Layer):
        names["dtype"] = None
    return list(names)


def wrong_arguments(function: Callable) -> Iterator[tuple[str, str, Any]]:
    """Each argument with each wrong value: its name, what is wrong, the value."""
    for argument in arguments_of(function):
        for kind, value in WRONG.items():
            yield argument, kind, value


def attack(call: Callable[[], Any], argument: str, right: bool) -> None:
    """Fail unless the call is refused, naming the argument, or is one that may be made."""
    message = None
    try:
        call()
    except (TypeError, ValueError, FileNotFoundError) as error:
        message = str(error)
    if right:
        assert message is None, f"refused, though it is right: {message}"
    else:
        assert message is not None, f"a wrong {argument} was taken"
        assert argument in message, f"the error does not name {argument}: {message}"
