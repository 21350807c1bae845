r"""What attention is good for: the quickstart's small network with each method in its place.

    KERAS_BACKEND=torch python -m benchmarks.use --json benchmarks/results/rivals-use.json

In `signal_harbor` two classes, boats that enter and boats that leave, are told apart by a lamp
further away than the network sees; see `examples/quickstart.py`. Every method has that network, the
residual by batch norm, the data, the budget and the seeds. A run that the file already holds is not
repeated.
"""

import argparse
import datetime as dt
import importlib.metadata
import importlib.util
import json
import time
from pathlib import Path

import keras
import numpy as np

from benchmarks import measuring
from benchmarks.methods import METHODS
from keras_fsa.files import whole_file

CONTEXT_CLASSES = ("inbound", "outbound")
FREQUENCIES = 8
# `dense` is `dot_product`, computed otherwise; one recurrence for all.
NOT_TRAINED = ("copy", "dense", *(name for name in METHODS if name[-2:] in ("r2", "r4")))
NAMES = ("none", *(name for name in METHODS if name not in NOT_TRAINED))


def quickstart():
    """The module `examples/quickstart.py`, whose network, training and scores these are."""
    path = Path(__file__).parent.parent / "examples" / "quickstart.py"
    spec = importlib.util.spec_from_file_location("quickstart", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def make_attention(name: str, shape: tuple[int, int]) -> keras.Layer | None:
    """A method's layer as it starts, with the quickstart's residual; `shape` is the map's."""
    if name == "none":
        return None
    size = {"size": shape} if name == "global_filter" else {}
    return METHODS[name](FREQUENCIES, residual="batch_norm", dtype="float32", **size)


def train(example, name: str, seed: int, training, test, epochs: int) -> dict:
    """One run: what is kept of it."""
    images, masks = training
    keras.utils.set_random_seed(seed)
    attention = make_attention(name, tuple(side // 4 for side in images.shape[1:3]))
    start = time.perf_counter()
    model = example.train(attention, images, masks, epochs, seed)
    seconds = time.perf_counter() - start
    scores = example.class_scores(model, *test)
    return {
        "method": name,
        "seed": seed,
        "epochs": epochs,
        "iou": {key: float(value) for key, value in scores.items()},
        "context": float(np.mean([scores[key] for key in CONTEXT_CLASSES])),
        "parameters": attention.count_params() if attention is not None else 0,
        "seconds": seconds,
        "date": dt.datetime.now(dt.UTC).isoformat(timespec="seconds"),
    }


def write(file: Path, result: dict) -> None:
    """The whole file, or the one before."""
    with whole_file(file) as name, open(name, "w") as stream:
        json.dump(result, stream, indent=1)


def main(arguments=None):
    """Train what the file lacks, one seed of all methods after the other."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    add = parser.add_argument
    add("--json", type=Path, required=True, metavar="FILE")
    add("--methods", nargs="+", choices=NAMES, default=NAMES, metavar="METHOD")
    add("--seeds", nargs="+", type=int, default=[0, 1, 2])
    add("--epochs", type=int, default=6)
    add("--data-dir", help="where the dataset is kept; default: TFDS's folder")
    options = parser.parse_args(arguments)

    result = {"runs": []}
    if options.json.exists():
        result = json.loads(options.json.read_text())
    versions = ("keras", "numpy", measuring.BACKEND)
    about = {
        "backend": measuring.BACKEND,
        "versions": {name: importlib.metadata.version(name) for name in versions},
    }
    if result["runs"] and {key: result[key] for key in about} != about:
        raise ValueError(
            "The runs of one file must share engine and versions. Received: a file of "
            f"{result['versions']} under {about['versions']}. Name another file."
        )
    result = {**about, "runs": result["runs"]}
    done = {(run["method"], run["seed"], run["epochs"]) for run in result["runs"]}
    example = quickstart()
    training, test = (example.harbor(split, options.data_dir) for split in ("train", "test"))
    for seed in options.seeds:
        for name in options.methods:
            if (name, seed, options.epochs) in done:
                continue
            run = train(example, name, seed, training, test, options.epochs)
            print(f"{name}, seed {seed}: {run['context']:.3f}, {run['iou']['mean']:.3f}")
            result["runs"].append(run)
            write(options.json, result)
    return result


if __name__ == "__main__":
    main()
