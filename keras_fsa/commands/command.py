"""What all commands share: from flags to checked settings, and from errors to two lines.

A command is a frozen dataclass of settings and a function that takes one. `tyro` makes the flags
and the help page of the dataclass; the rules in its annotations (`Count`, `ExistingFile`, ...) are
checked for all flags before any work begins. Whatever goes wrong then is printed as a line or two,
with exit code 2; `--traceback` shows all of it.
"""

import contextlib
import dataclasses
import io
import json
import math
import os
import re
import sys
import traceback
import typing
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any

from keras_fsa.arguments import integer, number, optional_import
from keras_fsa.files import whole_file

# Earlier names of flags.
RENAMED = {
    "--data-set": "--dataset",
    "--validation-pictures": "--validation-images",
    "--drawn-pictures": "--drawn-images",
}
EVERYWHERE = """
Flags of every command, beside those below: --recipe FILE takes the settings of an earlier run from
its recipe.json, which further flags override; --traceback shows the whole of an error."""
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
    """A rule: a finite number in a range, bounds included but for `above` and `below`."""

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
        """Raise a `ValueError` for a value that breaks the rule. Nothing is made on the disk."""
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
NotNegative = Annotated[float, Real(minimum=0)]
ExistingFile = Annotated[Path, Exists("file")]
ExistingFolder = Annotated[Path, Exists("folder")]
ExistingPath = Annotated[Path, Exists("file or folder")]
OutputFolder = Annotated[Path, Writable()]
OutputPath = Annotated[Path, Writable("file or folder")]


def command(
    settings: Any,
    work: Callable[[Any], Any],
    arguments: Sequence[str] | None = None,
    program: str | None = None,
    description: str | None = None,
) -> Any:
    """Run a command: parse its flags, check them, do the work.

    Args:
        settings: a dataclass, or an instance of one whose values are the defaults. It may have a
            method `check`, which raises a `ValueError` for flags that do not go together.
        work: a function of such an instance.
        arguments: the flags. Default: those of the command line.
        program: the command's name in messages. Default: the script's.
        description: of the help page. Default: the dataclass's docstring.

    Returns:
        What `work` returns.

    Raises:
        SystemExit: with code 2 for a mistake in the flags, or an error in the work; 130 where the
            user stopped it.
    """
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    program = program or Path(sys.argv[0]).name
    show_all = "--traceback" in arguments
    arguments = [argument for argument in arguments if argument != "--traceback"]
    with brief_errors(program, settings, show_all):
        given = parse(settings, arguments, program, description)
        check(given)
        return work(given)


@contextlib.contextmanager
def brief_errors(program: str, settings: Any = None, show_all: bool = False) -> Iterator[None]:
    """Turn any error in the block into a line or two and exit code 2."""
    try:
        yield
    except KeyboardInterrupt:
        print(f"{program}: stopped", file=sys.stderr)
        raise SystemExit(130) from None
    except Exception as error:
        if show_all:
            traceback.print_exc()
        print(f"{program}: error: {_brief(error, settings)}", file=sys.stderr)
        if not isinstance(error, (ValueError, OSError, ImportError)) and not show_all:
            print("With --traceback the command says where this comes from.", file=sys.stderr)
        raise SystemExit(2) from (error if show_all else None)


def _brief(error, settings, lines=3, length=900):
    """An error in at most three lines, which names flags, not arguments."""
    text = str(error).strip() or type(error).__name__
    if not isinstance(error, (ValueError, OSError, ImportError)):
        text = f"{type(error).__name__}: {text}"
    found = [line for line in text.splitlines() if line.strip()]
    if len(found) > lines:
        found = [*found[:lines], f"({len(found) - lines} more lines with --traceback)"]
    text = "\n".join(found)
    if len(text) > length:
        text = f"{text[:length]}..."
    names = {item.name for item in dataclasses.fields(settings)} if settings else ()
    return re.sub(r"`(\w+)`", lambda m: f"`{flag(m[1])}`" if m[1] in names else m[0], text)


def flag(name: str) -> str:
    """The flag of a setting."""
    return "--" + name.replace("_", "-")


def parse(
    settings: Any,
    arguments: Sequence[str],
    program: str | None = None,
    description: str | None = None,
) -> Any:
    """The settings that flags give. `none` stands for None, wherever None is possible.

    Raises:
        ValueError: for a flag that is not known, or a value that is not of its type.
    """
    tyro = optional_import("tyro", "commands")
    kind = settings if isinstance(settings, type) else type(settings)
    default = None if isinstance(settings, type) else settings
    arguments, file = _take_recipe(_modern(arguments, kind))
    if file:
        default = read_recipe(kind, file, default)
    registry = tyro.constructors.ConstructorRegistry()

    @registry.primitive_rule
    def none(info):
        if info.type is not type(None):
            return None
        return tyro.constructors.PrimitiveConstructorSpec(
            nargs=1,
            metavar="none",
            choices=("none",),
            instance_from_str=lambda _: None,
            is_instance=lambda value: value is None,
            str_from_instance=lambda _: ["none"],
        )

    errors = io.StringIO()
    try:
        with contextlib.redirect_stderr(errors):
            return tyro.cli(
                kind,
                args=arguments,
                prog=program,
                description=(description or kind.__doc__).strip() + "\n" + EVERYWHERE,
                registry=registry,
                **({} if default is None else {"default": default}),
            )
    except SystemExit as stop:
        if not stop.code:  # the help page
            raise
        raise ValueError(_without_box(errors.getvalue())) from None


def _modern(arguments, kind):
    """The flags by their names now, and `--flag`, `--no-flag` where there is a third: neither."""
    hints = typing.get_type_hints(kind)
    three = {flag(name) for name, hint in hints.items() if hint == (bool | None)}
    result = []
    for i, argument in enumerate(arguments):
        name, equals, value = argument.partition("=")
        if name in RENAMED:
            print(f"{name} is deprecated. Use {RENAMED[name]}.", file=sys.stderr)
            argument = RENAMED[name] + equals + value
        if argument.replace("--no-", "--", 1) in three:
            following = arguments[i + 1 : i + 2]
            if argument not in three:
                argument = f"{argument.replace('--no-', '--', 1)}=False"
            elif following not in (["True"], ["False"], ["none"]):
                argument += "=True"
        result.append("none" if argument == "None" else argument)
    return result


def _without_box(text):
    """What tyro says of an error, without the frame, hints and help."""
    lines = []
    for line in text.splitlines():
        line = line.strip("│ ")
        if line.startswith("╭") or not line:
            continue
        if line.startswith(("──", "╰")):
            break
        lines.append(line)
    text = re.sub(r"\[/?bold\]", "", " ".join(lines))
    wrong = r"Error parsing (\S+): no type matching (.+?) could be instantiated from \[(.*?)\]\."
    if found := re.match(wrong, text):
        text = "`{}` must be {}. Received: {}.".format(*found.groups())
    return text if text.endswith(".") else f"{text}."


def check(settings: Any) -> None:
    """Hold all settings against the rules of their annotations, then against each other.

    Everywhere floats must be finite, text not empty, and of a list there must be at least one.

    Raises:
        ValueError: for the first that breaks a rule; it names the flag.
    """
    for name, hint in typing.get_type_hints(type(settings), include_extras=True).items():
        value = getattr(settings, name)
        if value == ():
            raise ValueError(f"`{flag(name)}` must be one or more. Received: none. Give some.")
        for item in value if isinstance(value, (tuple, list)) else (value,):
            if isinstance(item, float):
                number(flag(name), item)
            if item is not None and str(item) in ("", "."):
                raise ValueError(f"`{flag(name)}` must not be empty. Received: {item!r}. Name it.")
            for rule in _rules(hint):
                if item is not None:
                    rule.check(flag(name), item)
    if hasattr(settings, "check"):
        settings.check()


def _rules(hint):
    """The rules anywhere in an annotation."""
    found = [item for item in getattr(hint, "__metadata__", ()) if hasattr(item, "check")]
    for inner in typing.get_args(hint)[: 1 if found else None]:
        found += _rules(inner)
    return found


def _take_recipe(arguments):
    """The flags without `--recipe FILE`, and the file."""
    rest, file, waiting = [], None, False
    for argument in arguments:
        if waiting:
            file, waiting = argument, False
        elif argument == "--recipe":
            waiting = True
        elif argument.startswith("--recipe="):
            file = argument.partition("=")[2]
        else:
            rest.append(argument)
    if waiting:
        raise ValueError("`--recipe` needs a file. Received: nothing behind it. Name a recipe.json")
    return rest, file


def write_recipe(settings: Any, path: Path) -> None:
    """Record settings as JSON, for `--recipe`."""
    values = dataclasses.asdict(settings)
    with whole_file(path) as unfinished:
        unfinished.write_text(json.dumps(values, indent=2, default=str) + "\n")


def read_recipe(kind: type, path: Path | str, default: Any = None) -> Any:
    """The settings of a file that `write_recipe` wrote.

    Args:
        kind: the dataclass.
        path: the file.
        default: an instance with the values of what the file does not have.

    Raises:
        ValueError: for a file that does not hold such settings.
    """
    try:
        values = json.loads(Path(path).read_text())
        if not isinstance(values, dict):
            raise ValueError("no object at the top")
    except (OSError, ValueError) as error:
        raise ValueError(
            f"`--recipe` must be a file that a training recorded. Received: {path} ({error}). Name "
            "the recipe.json next to a trained model."
        ) from error
    hints = typing.get_type_hints(kind)
    if strange := sorted(values.keys() - hints.keys()):
        raise ValueError(
            f"`--recipe` must hold settings of this command. Received: {path} with {strange[0]!r}. "
            "Remove it, or name another file."
        )
    for name, value in values.items():
        if isinstance(value, list):
            values[name] = tuple(value)
        elif isinstance(value, str) and str not in (hints[name], *typing.get_args(hints[name])):
            if Path in (hints[name], *typing.get_args(hints[name])):
                values[name] = Path(value)
    try:
        return dataclasses.replace(default, **values) if default else kind(**values)
    except TypeError as error:
        raise ValueError(f"`--recipe` lacks settings. Received: {path} ({error}).") from error
