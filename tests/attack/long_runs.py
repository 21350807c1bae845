"""Long trainings and services under memory watch: `python -m tests.attack.long_runs`.

Not a test of pytest: it takes a minute or more. KERAS_BACKEND chooses the engine. It trains with
everything that `keras_fsa.training.fit` does (checkpoints, validation, best model, history), and
prints the process's memory before and after the steps that follow a warm-up; then it predicts
images of changing sizes. The exit code is 1 where memory grew by more than the bar.

    python -m tests.attack.long_runs --steps 2000 --predictions 10000 --bar 0.01

JAX compiles once for each size and keeps what it compiled, so there the sizes are 16 different
ones, under TensorFlow and torch 512.
"""

import argparse
import gc
import os
import sys
import tempfile

import keras
import numpy as np

from keras_fsa.inference import class_map
from keras_fsa.training import callbacks as duties
from keras_fsa.training.optimizer import SGD
from tests import tiny_training


def resident() -> int:
    """Bytes of memory that this process holds."""
    gc.collect()
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


class Watch(keras.callbacks.Callback):
    """Notes the memory at the end of each epoch."""

    def __init__(self):
        super().__init__()
        self.seen = []

    def on_epoch_end(self, epoch, logs=None):
        self.seen.append(resident())


def grown(what: str, seen: list[int], warm_up: float) -> float:
    """Print and return by what share memory grew after the warm-up."""
    before = seen[int(warm_up * len(seen))]
    growth = seen[-1] / before - 1
    print(
        f"{keras.backend.backend()}: {what}, {before / 1e6:.1f} MB after the warm-up, "
        f"{seen[-1] / 1e6:.1f} MB at the end, growth {100 * growth:.2f} %",
        flush=True,
    )
    return growth


def train(model: keras.Model, steps: int) -> list[int]:
    """Memory after each fortieth of a training."""
    every = max(1, steps // 40)
    model.compile(SGD(0.01, 0.9))
    watch = Watch()
    examples = [tiny_training.example(1000 + i) for i in range(3)]
    with tempfile.TemporaryDirectory() as folder:
        history = duties.History(f"{folder}/history.csv")
        callbacks = [
            duties.StopAtNonFinite(),
            duties.Validation(examples, tiny_training.CROP),
            duties.BestModel(f"{folder}/best.keras"),
            history,
            duties.Checkpoint(f"{folder}/checkpoint.npz", history=history),
            watch,
        ]
        model.fit(
            tiny_training.batches(0),
            steps_per_epoch=every,
            epochs=steps // every,
            callbacks=callbacks,
            verbose=0,
        )
    return watch.seen


def predict(model: keras.Model, count: int) -> list[int]:
    """Memory after each fortieth of as many predictions of images of changing sizes."""
    random = np.random.default_rng(0)
    sizes = random.integers(33, 98, (16 if keras.backend.backend() == "jax" else 512, 2))
    image = random.integers(0, 256, (97, 97, 3)).astype("uint8")
    seen = []
    for number in range(count):
        height, width = sizes[number % len(sizes)]
        class_map(model, image[:height, :width])
        if number % max(1, count // 40) == 0:
            seen.append(resident())
    return seen


def main() -> int:
    """Train, predict, print, and return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--steps", type=int, default=2000, help="of training")
    parser.add_argument("--predictions", type=int, default=10_000, help="of changing sizes")
    parser.add_argument("--warm-up", type=float, default=0.25, help="share of the steps before")
    parser.add_argument("--bar", type=float, default=0.01, help="growth that passes, as a share")
    options = parser.parse_args()
    model = tiny_training.build(tiny_training.recipe("unused"), tiny_training.CLASSES)
    growths = [0.0]
    if options.steps:
        seen = train(model, options.steps)
        growths.append(grown(f"{options.steps} steps", seen, options.warm_up))
    if options.predictions:
        seen = predict(model, options.predictions)
        growths.append(grown(f"{options.predictions} predictions", seen, options.warm_up))
    return int(max(growths) > options.bar)


if __name__ == "__main__":
    sys.exit(main())
