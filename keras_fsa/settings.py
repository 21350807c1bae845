"""Settings as typed data: dataclasses whose annotations specify what is allowed.

```python
@dataclass(frozen=True)
class Training:
    batch: Count = 8
    learning_rate: Annotated[float, Real(above=0)] = 0.01
```

`check` checks an instance against the rules in its annotations; `write_recipe` and `read_recipe`
write one as JSON and read it back. `keras_fsa.commands.command` turns its fields into flags.
"""

import dataclasses
import json
import math
import os
import typing
from pathlib import Path
from typing import Annotated, Any

from keras_fsa.arguments import boolean, integer, number, one_of
from keras_fsa.files import whole_file

LARGEST = 2**31 - 1


@dataclasses.dataclass(frozen=True)
class Whole:
    """A rule: an int in a range."""

    minimum: int = 1
    maximum: int = LARGEST

    def check(self, name: str, value: Any) -> None:
        """Raise a `ValueError` for a value that breaks the rule."""
        integer(name, value, self.minimum)
        if value > self.maximum:
            raise ValueError(
                f"`{name}` must be at most {self.maximum}. Received: {value}. Give a smaller one."
            )


@dataclasses.dataclass(frozen=True)
class Real:
    """A rule: a finite number in a range, bounds included except for `above` and `below`."""

    minimum: float = -math.inf
    maximum: float = math.inf
    above: float = -math.inf
    below: float = math.inf

    def check(self, name: str, value: Any) -> None:
        """Raise a `ValueError` for a value that breaks the rule."""
        number(name, value, self.minimum, self.maximum, self.above, self.below)


@dataclasses.dataclass(frozen=True)
class Exists:
    """A rule: a path to a `"file"`, a `"folder"` or a `"file or folder"` that can be read."""

    kind: str

    def check(self, name: str, value: Any) -> None:
        """Raise a `ValueError` for a value that breaks the rule."""
        right = {"file": value.is_file, "folder": value.is_dir, "file or folder": value.exists}
        if not right[self.kind]():
            found = "something else" if value.exists() else "nothing"
            raise ValueError(
                f"`{name}` must be a {self.kind} that exists. Received: {value}, where there is "
                f"{found}. Correct the path."
            )
        if not os.access(value, os.R_OK):
            raise ValueError(f"`{name}` cannot be read. Received: {value}. Change its permissions.")


@dataclasses.dataclass(frozen=True)
class Writable:
    """A rule: a path at which a `"folder"`, or a `"file or folder"`, can be written."""

    kind: str = "folder"

    def check(self, name: str, value: Any) -> None:
        """Raise a `ValueError` for a value that breaks the rule. Nothing is written to disk."""
        try:
            if self.kind == "folder" and value.exists() and not value.is_dir():
                raise ValueError(
                    f"`{name}` must be a folder. Received: {value}, a file. Name another one."
                )
            place = value.absolute()
            if self.kind != "folder":
                place = place.parent
            while not place.exists():
                place = place.parent
        except OSError as error:  # a name that is too long, say
            raise ValueError(
                f"`{name}` must be a path that can be written. Received: {error}. Name another one."
            ) from error
        if not place.is_dir() or not os.access(place, os.W_OK | os.X_OK):
            raise ValueError(
                f"`{name}` must lie in a folder that can be written. Received: {value}, in {place}."
                " Name another one."
            )


Count = Annotated[int, Whole()]
Pixels = Annotated[int, Whole(1, 100_000)]
Seed = Annotated[int, Whole(0, 2**32 - 1)]
Label = Annotated[int, Whole(0, 255)]
Classes = Annotated[int, Whole(1, 255)]
Scale = Annotated[float, Real(above=0, maximum=100)]
Share = Annotated[float, Real(minimum=0, maximum=1)]
Threshold = Annotated[float, Real(above=0, below=1)]
NotNegative = Annotated[float, Real(minimum=0)]
ExistingFile = Annotated[Path, Exists("file")]
ExistingFolder = Annotated[Path, Exists("folder")]
ExistingPath = Annotated[Path, Exists("file or folder")]
OutputFolder = Annotated[Path, Writable()]
OutputPath = Annotated[Path, Writable("file or folder")]


def check(settings: Any) -> None:
    """Check all settings against the rules in their annotations, then against each other.

    All floats must be finite, and text and lists must not be empty.

    Raises:
        ValueError: for the first setting that breaks a rule, naming it.
    """
    for name, hint in typing.get_type_hints(type(settings), include_extras=True).items():
        value = getattr(settings, name)
        if value == ():
            raise ValueError(f"`{name}` must be one or more. Received: none. Give some.")
        rules, choices = _rules(hint), _choices(hint)
        for item in value if isinstance(value, (tuple, list)) else (value,):
            if item == "":
                raise ValueError(f"`{name}` must not be empty. Received: {item!r}. Name it.")
            # Beside a choice such as "balanced" there may be numbers.
            if choices and item is not None and (item in choices or not rules):
                one_of(name, item, choices)
                continue
            for rule in rules:
                if item is not None:
                    rule.check(name, item)
            if isinstance(item, float):
                number(name, item)
            if hint is bool:
                boolean(name, item)
    if hasattr(settings, "check"):
        settings.check()


def _rules(hint):
    """The rules anywhere in an annotation."""
    found = [item for item in getattr(hint, "__metadata__", ()) if hasattr(item, "check")]
    for inner in typing.get_args(hint)[: 1 if found else None]:
        found += _rules(inner)
    return found


def _choices(hint):
    """What a `Literal` in an annotation allows."""
    if typing.get_origin(hint) is typing.Literal:
        return typing.get_args(hint)
    return tuple(choice for inner in typing.get_args(hint) for choice in _choices(inner))


def write_recipe(settings: Any, path: Path) -> None:
    """Write settings as JSON."""
    values = dataclasses.asdict(settings)
    with whole_file(path) as unfinished:
        unfinished.write_text(json.dumps(values, indent=2, default=str) + "\n")


def read_recipe(kind: type, path: Path | str, default: Any = None) -> Any:
    """The settings in a file that `write_recipe` wrote.

    Args:
        kind: the dataclass.
        path: the file.
        default: an instance with the values of settings that the file lacks.

    Raises:
        ValueError: for a file that does not hold such settings.
    """
    try:
        values = json.loads(Path(path).read_text())
        if not isinstance(values, dict):
            raise ValueError("no object at the top")
    except (OSError, ValueError) as error:
        raise ValueError(
            f"A recipe must be a file that a training recorded. Received: {path} ({error}). Name "
            "the recipe.json next to a trained model."
        ) from error
    hints = typing.get_type_hints(kind)
    if strange := sorted(values.keys() - hints.keys()):
        raise ValueError(
            f"A recipe must hold settings of this command. Received: {path} with {strange[0]!r}. "
            "Remove it, or name another file."
        )
    for name, value in values.items():
        if isinstance(value, list):
            values[name] = tuple(value)
        elif isinstance(value, str) and Path in (hints[name], *typing.get_args(hints[name])):
            values[name] = Path(value)
    try:
        return dataclasses.replace(default, **values) if default else kind(**values)
    except TypeError as error:
        raise ValueError(f"A recipe lacks settings. Received: {path} ({error}).") from error
