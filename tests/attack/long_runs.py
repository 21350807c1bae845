"""Trains a tiny model for 2,000 steps under memory watch: `python -m tests.attack.long_runs`.

Not a test of pytest: it takes a minute or more. KERAS_BACKEND chooses the engine. It trains with
everything that `keras_fsa.training.fit` does (checkpoints, validation, best model, history), and
prints the process's memory before and after the steps that follow a warm-up. The exit code is 1
where memory grew by more than the bar.

    python -m tests.attack.long_runs --steps 2000 --bar 0.01
"""

import argparse
import gc
import os
import sys
import tempfile

import keras

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


def main() -> int:
    """Train, print, and return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--steps", type=int, default=2000, help="of training")
    parser.add_argument("--warm-up", type=float, default=0.25, help="share of the steps before")
    parser.add_argument("--bar", type=float, default=0.01, help="growth that passes, as a share")
    options = parser.parse_args()
    every = max(1, options.steps // 40)
    model = tiny_training.build(tiny_training.recipe(""), tiny_training.CLASSES)
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
            epochs=options.steps // every,
            callbacks=callbacks,
            verbose=0,
        )
    before = watch.seen[int(options.warm_up * len(watch.seen))]
    growth = watch.seen[-1] / before - 1
    print(
        f"{keras.backend.backend()}: {options.steps} steps, {before / 1e6:.1f} MB after the "
        f"warm-up, {watch.seen[-1] / 1e6:.1f} MB at the end, growth {100 * growth:.2f} %"
    )
    return int(growth > options.bar)


if __name__ == "__main__":
    sys.exit(main())
