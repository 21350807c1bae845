"""What the experiments with one trained network share: flags, images, result files."""

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path

import keras

from benchmarks import scoring
from benchmarks.camvid import open_model
from keras_fsa.datasets import describe, load

RESULTS = Path(__file__).parent / "results"
SPLITS = {"camvid": "val", "signal_harbor": "test"}


def run(
    name: str,
    description: str,
    flag: str,
    values: Sequence[int],
    measure: Callable,
    plot: Callable,
    arguments: Sequence[str] | None = None,
    more_flags: Sequence[tuple[str, int | str, str]] = (),
) -> None:
    """Measure one network at several values; write the figures as JSON, and a plot.

    Args:
        name: of the experiment: its module, and the folder of its results.
        description: its first line is that of the help page.
        flag: of the values at which the network is measured.
        values: their default.
        measure: a function from the network, examples, class names and options to rows; the values
            are `options.values`.
        plot: a function from rows and a path.
        arguments: a list of flags instead of the command line's.
        more_flags: `(flag, default, help)` of each of the experiment's own.
    """
    parser = argparse.ArgumentParser(description=description.split("\n", 1)[0])
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--dataset", choices=SPLITS, default="camvid")
    parser.add_argument("--data-dir", help="folder of the dataset. CamVid has to have one")
    parser.add_argument("--name", required=True, help="of the result files")
    parser.add_argument("--note", default="", help="what a reader of the figures must know")
    parser.add_argument(flag, dest="values", type=int, nargs="+", default=values)
    parser.add_argument("--every", type=int, default=1, help="one image of so many")
    parser.add_argument("--results", type=Path, help="default: benchmarks/results/DATASET/" + name)
    for own, default, explanation in more_flags:
        parser.add_argument(own, type=type(default), default=default, help=explanation)
    options = parser.parse_args(arguments)
    model = open_model(options.model)
    examples = load(options.dataset, SPLITS[options.dataset], options.data_dir)
    examples = examples[:: options.every].in_memory()
    is_camvid = options.dataset == "camvid"
    place = "--data-dir CamVid" if is_camvid else f"--dataset {options.dataset}"
    command = (
        f"KERAS_BACKEND={keras.backend.backend()} python -m benchmarks.{name} --model "
        f".../{options.model.name} {place} --name {options.name} "
        f"{flag} {' '.join(map(str, options.values))} --every {options.every}"
    )
    for own, default, _ in more_flags:
        value = getattr(options, own[2:])
        command += f" {own} {value}" if value != default else ""
    result = {
        "experiment": name,
        "name": options.name,
        "note": options.note,
        **scoring.circumstances(command),
        "rows": measure(model, examples, describe(options.dataset).class_names, options),
    }
    folder = options.results or RESULTS / options.dataset / name
    scoring.write(folder / f"{options.name}.json", result)
    plot(result["rows"], folder / f"{options.name}.png")
