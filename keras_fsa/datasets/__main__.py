"""The earlier door to `keras_fsa check`: `python -m keras_fsa.datasets check [NAME] [flags]`."""

import importlib
import sys
from collections.abc import Sequence

from keras_fsa.datasets.registry import NAMES

_WITHOUT_VALUE = ("check", "--download", "--skip-unreadable", "--fail-fast")


def main(arguments: Sequence[str] | None = None) -> None:
    """Run `keras_fsa check`, with the flags that this command had.

    Raises:
        SystemExit: as that does.
    """
    words = list(sys.argv[1:] if arguments is None else arguments)
    print("python -m keras_fsa.datasets is deprecated. Use keras_fsa check.", file=sys.stderr)
    result, splits, before = [], [], "check"
    for word in words[words[:1] == ["check"] :]:
        if before == "--split":
            splits.append(word)
        elif word in NAMES and (before in _WITHOUT_VALUE or not before.startswith("--")):
            result += ["--dataset", word]
        elif word != "--split":
            result.append(word)
        before = word
    # Above this room: `keras_fsa.commands` imports the datasets.
    command = importlib.import_module("keras_fsa.commands.check")
    command.main([*result, *(["--split", *splits] if splits else [])], "keras_fsa check")


if __name__ == "__main__":
    main()
