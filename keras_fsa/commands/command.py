"""What all commands share: flags become checked settings, and errors become two lines.

A command is a frozen dataclass of settings and a function that takes one. `tyro` makes the flags
and the help page from the dataclass; the rules in its annotations (see `keras_fsa/settings.py`) are
checked for all flags before any work begins. Any later error is printed as a line or two, with exit
code 2; `--traceback` shows it in full.
"""

import contextlib
import dataclasses
import io
import re
import sys
import traceback
import typing
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from keras_fsa.arguments import optional_import
from keras_fsa.settings import check, read_recipe

# Earlier names of flags.
RENAMED = {
    "--data-set": "--dataset",
    "--validation-pictures": "--validation-images",
    "--drawn-pictures": "--drawn-images",
}
EVERYWHERE = """
Flags of every command, beside those below: --recipe FILE takes the settings of an earlier run from
its recipe.json, which further flags override; --traceback shows the whole of an error."""


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
        description: text of the help page. Default: the dataclass's docstring.

    Returns:
        What `work` returns.

    Raises:
        SystemExit: with code 2 for a mistake in the flags or an error in the work; 130 if the user
            stopped it.
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
    return named_by_flags(text, settings) if settings else text


def named_by_flags(text: str, settings: Any) -> str:
    """A message in which settings, in backquotes, are replaced by the names of their flags."""
    names = {item.name for item in dataclasses.fields(settings)}
    return re.sub(r"`(\w+)`", lambda m: f"`{flag(m[1])}`" if m[1] in names else m[0], text)


def flag(name: str) -> str:
    """The flag of a setting."""
    return "--" + name.replace("_", "-")


def in_bytes(count: float) -> str:
    """A number of bytes in GB (1e9) or MB (1e6), to three digits."""
    return f"{count / 1e9:.3g} GB" if count >= 1e9 else f"{count / 1e6:.3g} MB"


def parse(
    settings: Any,
    arguments: Sequence[str],
    program: str | None = None,
    description: str | None = None,
) -> Any:
    """The settings that the flags specify. `none` stands for None wherever None is possible.

    Raises:
        ValueError: for an unknown flag, or a value of the wrong type.
    """
    tyro = optional_import("tyro", "tools")
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
                description=(description or kind.__doc__ or "").strip() + "\n" + EVERYWHERE,
                registry=registry,
                **({} if default is None else {"default": default}),
            )
    except SystemExit as stop:
        if not stop.code:  # the help page
            raise
        raise ValueError(_without_box(errors.getvalue())) from None


def _modern(arguments, kind):
    """Flags under their current names; `--flag` and `--no-flag` where None is possible, too."""
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
    """Tyro's message for an error, without the frame, hints and help."""
    lines = [line.strip("│ ") for line in text.splitlines()]
    # The title, in the frame's first line; or above a rule, where the terminal takes ASCII only.
    lines = lines[1 if text.startswith("╭") else 2 :]
    end = next((i for i, line in enumerate(lines) if re.match("---|──|╰", line)), len(lines))
    text = " ".join(line for line in lines[:end] if line)
    text = re.sub(r"\[/?bold\]", "", text)
    wrong = r"Error parsing (\S+): no type matching (.+?) could be instantiated from \[(.*?)\]\."
    if found := re.match(wrong, text):
        text = "`{}` must be {}. Received: {}.".format(*found.groups())
    text = re.sub(r"^Error parsing \w+: ", "", text)  # by the dataclass itself
    return text if text.endswith(".") else f"{text}."


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
