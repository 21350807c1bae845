"""The command line: `keras_fsa check|train|evaluate|predict|segment|export|benchmark|demo|doctor`.

Each command is a module with a dataclass of its flags and a function that does the work; what they
share is in `command.py`.
"""

import importlib
import sys
from collections.abc import Sequence
from typing import Any

COMMANDS = {
    "check": "look through images and masks before hours of training",
    "train": "train FsaNet on your own images and masks",
    "evaluate": "score a model on a dataset, or write predictions for its server",
    "predict": "what a model sees in any image, and what it attends to",
    "segment": "a scene or slide of any size, with the attention of the whole",
    "export": "write a model for serving, and prove that it is the same",
    "benchmark": "how long a model takes, what it needs of memory, what of it is attention",
    "demo": "a page in the browser: masks, and what each pixel attends to",
    "doctor": "which engines work here, and what is missing for what",
}


def main(arguments: Sequence[str] | None = None) -> Any:
    """Run the command that the first argument names.

    Args:
        arguments: a list of words instead of the command line's.

    Raises:
        SystemExit: with code 2 for a mistake, see `command.command`.
    """
    name, *rest = list(sys.argv[1:] if arguments is None else arguments) or ["--help"]
    if name in ("-h", "--help"):
        print("usage: keras_fsa COMMAND [flags]\n")
        print("\n".join(f"  {name:<10} {text}" for name, text in COMMANDS.items()))
        print("\nkeras_fsa COMMAND --help lists its flags. KERAS_BACKEND chooses the engine.")
        return None
    if name not in COMMANDS:
        print(
            f"keras_fsa: error: the command must be one of {', '.join(COMMANDS)}. Received: "
            f"{name}. keras_fsa --help says what each is for.",
            file=sys.stderr,
        )
        raise SystemExit(2)
    module = importlib.import_module(f"keras_fsa.commands.{name}")
    return module.main(rest, f"keras_fsa {name}")


def console() -> None:
    """`main` for the console script, whose return value would be its exit code."""
    main()
