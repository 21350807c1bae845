"""The public surface, a line for each name: `python -m tests.public_api > docs/api.txt`.

`tests/test_public_api.py` compares that file with the code, so that a change of the surface is seen
when it is reviewed.
"""

import inspect
import types
from collections.abc import Iterator
from typing import Any

import keras_fsa


def listing() -> str:
    """All public names with their signatures, sorted."""
    lines = []
    for name in keras_fsa.__all__:
        item = getattr(keras_fsa, name)
        if isinstance(item, types.ModuleType):
            for inner in item.__all__:
                lines += _lines(f"{name}.{inner}", getattr(item, inner))
        else:
            lines += _lines(name, item)
    return "\n".join(f"keras_fsa.{line}" for line in sorted(lines)) + "\n"


def _lines(name: str, item: Any) -> Iterator[str]:
    if inspect.isclass(item):
        yield f"{name}{_arguments(item)}"
        inherited = {method for base in item.__mro__[1:] for method in dir(base)}
        for method, function in vars(item).items():
            if method.startswith("_") or method in inherited:
                continue
            function = getattr(function, "__func__", function)
            yield f"{name}.{method}{_arguments(function) if callable(function) else ''}"
    elif inspect.isfunction(item):
        yield f"{name}{_arguments(item)}"
    else:
        yield name


def _arguments(item: Any) -> str:
    """Names and defaults; annotations and `self` are left out."""
    shown = []
    for name, parameter in inspect.signature(item).parameters.items():
        if name in ("self", "cls"):
            continue
        default = parameter.default
        text = {parameter.VAR_POSITIONAL: "*", parameter.VAR_KEYWORD: "**"}.get(
            parameter.kind, ""
        ) + name
        if default is not parameter.empty:
            text += f"={default.__name__ if callable(default) else repr(default)}"
        if parameter.kind is parameter.KEYWORD_ONLY and "*" not in "".join(shown):
            shown.append("*")
        shown.append(text)
    return f"({', '.join(shown)})"


if __name__ == "__main__":
    print(listing(), end="")
