"""The duties of a training, one callback each, for any `model.fit`.

| callback | at the end of each step | at the end of an epoch |
| --- | --- | --- |
| `StopAtStep` | stops after a number of steps | |
| `StopAtNonFinite` | raises where the loss is NaN or infinite | |
| `JoinProcesses` | | makes figures and statistics those of all processes |
| `Validation` | | adds `val_...` to the figures |
| `DrawPredictions` | | draws images with their truth and prediction |
| `SwapAverages` | | exchanges the weights and their moving averages |
| `BestModel` | | saves the model if its figure is the best so far |
| `StopEarly` | | stops where a figure has not improved for long |
| `History` | | appends a row to a CSV file |
| `TensorBoardByStep` | | writes the figures for TensorBoard |
| `Report` | | prints a line |
| `Checkpoint` | | saves the state to resume from |

Those that act at the end of an epoch count steps, which restarts do not change: an epoch here is
the stretch between two checkpoints (`steps_per_epoch` of `fit`), whatever the size of the dataset.
They pass figures on through Keras' `logs`, in the order of the list above:

```python
checkpoint = Checkpoint("run/checkpoint.npz", {"seed": 0}, history := History("run/history.csv"))
step = checkpoint.restore(model)  # 0, or where the last run was stopped
model.fit(
    batches(step),  # endless, from this step on
    steps_per_epoch=500,
    initial_epoch=step // 500,
    epochs=100,
    callbacks=[
        StopAtNonFinite(step),
        Validation(examples, size=(512, 512), every=5000, start_step=step),
        BestModel("run/best.keras"),
        history,
        checkpoint,
    ],
)
```

`keras_fsa.training.fit` composes all of them.
"""

import csv
import itertools
import json
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np

from keras_fsa import types
from keras_fsa.arguments import integer, optional_import, positive_ints
from keras_fsa.classes import activation_of, answers, by_class
from keras_fsa.files import whole_file
from keras_fsa.metrics import IGNORE_LABEL
from keras_fsa.training import batch_norm
from keras_fsa.training.checkpoint import check_finite, restore_latest, save_checkpoint
from keras_fsa.training.devices import (
    Devices,
    join_metrics,
    join_statistics,
    mean_of_processes,
)
from keras_fsa.training.examples import as_arrays, check_examples, known_length


class StepCallback(keras.callbacks.Callback):
    """Counts steps over restarts.

    Attributes:
        step: number of steps done, those of earlier runs included.

    Args:
        start_step: number of steps that earlier runs did.
        every: at the end of which epochs `is_due`: where a multiple of so many steps was reached.
            Default: of all.
    """

    def __init__(self, start_step: int = 0, every: int = 1) -> None:
        super().__init__()
        integer("start_step", start_step, 0)
        integer("every", every)
        self.step = self.first_step = start_step
        self.every = every

    def on_epoch_begin(self, epoch, logs=None):
        self.first_step = self.step

    def on_train_batch_end(self, batch, logs=None):
        self.step = self.first_step + batch + 1

    def is_due(self, epoch: int) -> bool:
        """Whether to act at the end of this epoch; the last one always counts."""
        reached = self.step // self.every > self.first_step // self.every
        return reached or self.model.stop_training or epoch + 1 == self.params["epochs"]


class StopAtStep(StepCallback):
    """Stops a training after a number of steps, in the middle of an epoch too.

    Args:
        steps: number of steps, those of earlier runs included.
        start_step: as in `StepCallback`.

    Raises:
        ValueError: at the end of an epoch that was shorter than `steps_per_epoch`, since Keras
            then ends the training as if it were complete.
    """

    def __init__(self, steps: int, start_step: int = 0) -> None:
        super().__init__(start_step)
        integer("steps", steps)
        self.steps = steps

    def on_train_batch_end(self, batch, logs=None):
        super().on_train_batch_end(batch, logs)
        if self.step >= self.steps:
            self.model.stop_training = True

    def on_epoch_end(self, epoch, logs=None):
        planned = self.params["steps"]
        if planned and self.step - self.first_step < planned and self.step < self.steps:
            raise ValueError(
                f"The batches must not end. Received: an end after step {self.step} of "
                f"{self.steps}. Repeat the dataset."
            )


class StopAtNonFinite(StepCallback):
    """Raises a `FloatingPointError` where the loss is NaN or infinite: files stay as they were.

    `keras.callbacks.TerminateOnNaN` ends the training as if it had succeeded.

    Args:
        start_step: as in `StepCallback`.
        devices: of several processes, all stop at the same step.
    """

    def __init__(self, start_step: int = 0, devices: Devices | None = None) -> None:
        super().__init__(start_step)
        self.devices = devices or Devices()

    def on_train_batch_end(self, batch, logs=None):
        super().on_train_batch_end(batch, logs)
        loss = mean_of_processes(float(logs["loss"]), self.devices)
        if not np.isfinite(loss):
            raise FloatingPointError(
                f"The loss must be finite. Received: loss={loss} in step {self.step}. Earlier "
                "files are unchanged. Lower the learning rate, and check images and masks."
            )


class JoinProcesses(keras.callbacks.Callback):
    """Makes an epoch's figures and statistics those of all torch processes; others do themselves.

    Args:
        devices: those that the model trains on.
    """

    def __init__(self, devices: Devices) -> None:
        super().__init__()
        self.devices = devices

    def on_epoch_end(self, epoch, logs=None):
        join_statistics(self.model, self.devices)
        logs.update(join_metrics(self.model, self.devices))


class Validation(StepCallback):
    """Adds the figures on validation examples to the logs, as `val_loss`, `val_mean_iou` and so on.

    Unlike `validation_data` of `fit`, it takes single examples of any sizes, reads them in NumPy,
    counts steps, and divides the images among several devices. (There the last batch may be filled
    up with ignored images: exact for IoU, while `val_loss` counts them as 0.)

    Args:
        examples: `keras_fsa.datasets.examples.Examples`, a list or a `tf.data.Dataset` of images
            `(H, W, channels)` and masks `(H, W)`, uint8, or as `keras_fsa.classes` says.
        size: `(height, width)` that all are fitted into by `fit_into` (`examples.py`), for which
            the step is compiled once. Default: as they are.
        every, start_step: as in `StepCallback`.
        devices: those that the model trains on.
        batch: number of images that each device takes at a time. Where a process takes
            several, all must be of one size.
        monitor: name in the logs of a figure that others wait for; None for no such.

    Raises:
        ValueError: for a wrong argument; for images of several sizes in a batch, at the beginning
            of the training where the first batch has them; for a `monitor` that is no figure, at
            the first validation.
    """

    def __init__(
        self,
        examples: Iterable,
        size: tuple[int, int] | None = None,
        every: int = 1,
        start_step: int = 0,
        devices: Devices | None = None,
        batch: int = 1,
        monitor: str | None = None,
    ) -> None:
        super().__init__(start_step, every)
        positive_ints("size", size, 2, optional=True)
        integer("batch", batch)
        check_examples("examples", examples)
        self.monitor = monitor
        self.examples, self.size = examples, size
        self.devices = devices or Devices()
        self.batch = batch

    def on_train_begin(self, logs=None):
        if self.batch * self.devices.count > 1:
            next(self._batches())

    def on_epoch_end(self, epoch, logs=None):
        if self.is_due(epoch):
            # Without a number of steps Keras warns at the end of the data.
            count = known_length(self.examples)
            steps = count and -(-count // (self.batch * self.devices.count))
            self.model.evaluate(self._data(), steps=steps, verbose=0)
            figures = join_metrics(self.model, self.devices)
            logs.update({f"val_{name}": value for name, value in figures.items()})
            if self.monitor is not None and self.monitor not in logs:
                raise ValueError(
                    f"`monitor` must be a figure of the training. Received: {self.monitor!r}, and "
                    f"the figures are {', '.join(sorted(logs))}. Name one, or give `compile` the "
                    "metric."
                )

    def _data(self):
        if keras.backend.backend() != "tensorflow":
            return self._batches()
        # Not above: under TensorFlow the package of the datasets imports TFDS.
        from keras_fsa.datasets.examples import generated

        # Of a generator Keras would take the sizes of the first images for those of all.
        size = self.size or (None, None)
        return generated(self._batches, lambda shape: (None, *size, *shape[3:]))

    def _batches(self) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """The share of this process in each batch; images that devices lack are ignored ones."""
        part, parts = self.devices.part
        examples = as_arrays(self.examples, self.size)
        while pairs := list(itertools.islice(examples, self.batch * self.devices.count)):
            image, mask = pairs[-1]
            ignored = np.full_like(mask, IGNORE_LABEL)
            pairs += [(image, ignored)] * (-len(pairs) % self.devices.count)
            count = len(pairs) // parts
            sizes = {mask.shape[:2] for _, mask in pairs}
            if len(sizes) > 1 and count > 1:
                raise ValueError(
                    "Images of a batch must be of one size. Received: validation images of "
                    f"{sorted(sizes)} pixels and {count} at a time. Give the size that they are "
                    "fitted into, or take one at a time on one device."
                )
            images, masks = zip(*pairs[part * count : (part + 1) * count], strict=True)
            yield np.stack(images), np.stack(masks)


class DrawPredictions(StepCallback):
    """Draws examples with their truth and prediction, as `step_000500.png` and so on.

    Args:
        examples: as for `Validation`: those to draw.
        folder: where the files go.
        size: `(height, width)` that they are fitted into.
        every, start_step: as in `StepCallback`.
        class_names, palette: names and RGB colours of the classes.
        devices: those that the model trains on.

    Raises:
        ImportError: if matplotlib is missing, with the pip command.
    """

    def __init__(
        self,
        examples: Iterable,
        folder: types.Path,
        size: tuple[int, int],
        every: int = 1,
        start_step: int = 0,
        class_names: Sequence[str] | None = None,
        palette: np.ndarray | None = None,
        devices: Devices | None = None,
    ) -> None:
        super().__init__(start_step, every)
        positive_ints("size", size, 2)
        check_examples("examples", examples)
        optional_import("matplotlib", "tools")
        self.examples, self.folder, self.size = examples, Path(folder), size
        self.class_names, self.palette = class_names, palette
        self.devices = devices or Devices()

    def on_epoch_end(self, epoch, logs=None):
        if not self.is_due(epoch):
            return
        from keras_fsa.visualize import comparison

        images, masks = map(np.stack, zip(*as_arrays(self.examples, self.size), strict=True))
        # A copy for each device of this process, since engines divide a batch among them; and one
        # image after the other, since logits are large.
        count = self.devices.count // self.devices.processes
        ids = []
        for image in images:
            same = np.repeat(image[None], count, axis=0)
            logits = self.model.predict(same, batch_size=count, verbose=0)
            ids.append(answers(logits[0], activation_of(self.model)))
        if activation_of(self.model) == "sigmoid":
            masks = by_class(masks, ids[0].shape[-1])
        path = self.folder / f"step_{self.step:06}.png"
        comparison(images, masks, ids, self.class_names, self.palette, path=path)


class BestModel(keras.callbacks.Callback):
    """Saves the model whose figure is the best so far, over restarts too.

    The figure lies beside the file, in `best.json` for `best.keras`, so that a worse model never
    replaces a better one. (`keras.callbacks.ModelCheckpoint` writes in place and forgets the best
    when it is created again.) What is saved is complete, its weights are finite, and its batch norm
    trains on every backend, see `keras_fsa.training.batch_norm.plain`.

    Args:
        path: a `.keras` file.
        monitor: name of the figure in the logs. Epochs without it are skipped.
        mode: `"max"` or `"min"`.
        best: the best figure of earlier runs whose file does not say it.
    """

    def __init__(
        self,
        path: types.Path,
        monitor: str = "val_mean_iou",
        mode: str = "max",
        best: float | None = None,
    ) -> None:
        super().__init__()
        if mode not in ("max", "min"):
            raise ValueError(f"`mode` must be 'max' or 'min'. Received: mode={mode!r}. Choose one.")
        self.path, self.monitor, self.mode = Path(path), monitor, mode
        self.note = self.path.with_suffix(".json")
        self.best = best
        if not self.path.exists():
            self.best = None
        elif self.note.exists():
            self.best = _read_note(self.note, monitor)

    def on_epoch_end(self, epoch, logs=None):
        value = (logs or {}).get(self.monitor)
        if value is None or not np.isfinite(value):
            return
        sign = 1 if self.mode == "max" else -1
        if self.best is None or sign * value > sign * self.best:
            save_model(self.model, self.path)
            self.best = float(value)
            with whole_file(self.note) as temporary:
                temporary.write_text(json.dumps({self.monitor: self.best}) + "\n")


class SwapAverages(keras.callbacks.Callback):
    """Exchanges the weights and their averages, where the optimizer keeps some (`use_ema=True`).

    It stands twice in the list: before the callbacks that are to see the averages, such as
    `Validation` and `BestModel`, and behind them, so that the training and its checkpoint go on
    with the weights themselves.
    """

    def __init__(self) -> None:
        super().__init__()
        self._swap = keras.callbacks.SwapEMAWeights()
        self._swapped = False

    def set_model(self, model):
        super().set_model(model)
        self._swap.set_model(model)

    def on_epoch_end(self, epoch, logs=None):
        # Keras' callback remembers which are in the model.
        (self._swap.on_test_end if self._swapped else self._swap.on_test_begin)()
        self._swapped = not self._swapped


class StopEarly(keras.callbacks.Callback):
    """Stops a training whose figure has not improved for a number of validations.

    Unlike `keras.callbacks.EarlyStopping` it goes on counting where an earlier run stopped.

    Args:
        monitor: name of the figure in the logs; higher is better. Epochs without it do not count.
        patience: number of validations without a better one.
        rows: of a `History`: those of earlier runs.
    """

    def __init__(self, monitor: str, patience: int, rows: Sequence[dict] = ()) -> None:
        super().__init__()
        integer("patience", patience)
        self.monitor, self.patience = monitor, patience
        self.values = [row[monitor] for row in rows if row.get(monitor) is not None]

    def on_epoch_end(self, epoch, logs=None):
        value = (logs or {}).get(self.monitor)
        if value is not None:
            self.values.append(float(value))
            if self.is_over():
                self.model.stop_training = True

    def is_over(self) -> bool:
        """Whether the last `patience` values are no better than the best before."""
        known = np.nan_to_num(np.array(self.values), nan=-np.inf)
        before, last = known[: -self.patience], known[-self.patience :]
        return bool(len(before)) and bool(last.max() <= before.max())


class History(StepCallback):
    """One row of figures per epoch: step, the logs, learning rate, seconds per step.

    Args:
        path: a CSV file, which is rewritten whole; None for none.
        rows: those of earlier runs.
        start_step: as in `StepCallback`.

    Attributes:
        rows: list of dicts, the last one that of the present epoch.
    """

    def __init__(
        self, path: types.Path | None, rows: Sequence[dict] = (), start_step: int = 0
    ) -> None:
        super().__init__(start_step)
        self.path, self.rows = path and Path(path), list(rows)
        self._begin = 0.0

    def on_epoch_begin(self, epoch, logs=None):
        super().on_epoch_begin(epoch, logs)
        self._begin = time.monotonic()

    def on_train_batch_end(self, batch, logs=None):
        super().on_train_batch_end(batch, logs)
        # Validation and files do not count.
        self._end = time.monotonic()

    def on_epoch_end(self, epoch, logs=None):
        seconds = (self._end - self._begin) / max(1, self.step - self.first_step)
        row = {
            "step": self.step,
            **{name: float(value) for name, value in (logs or {}).items()},
            "learning_rate": float(self.model.optimizer.learning_rate),
            "seconds_per_step": round(seconds, 4),
        }
        self.rows.append(row)
        if self.path:
            write_rows(self.path, self.rows)


class TensorBoardByStep(StepCallback):
    """Writes the figures for TensorBoard, by step, on every backend and without TensorFlow.

    `keras.callbacks.TensorBoard` needs TensorFlow and counts epochs. Figures on training are in
    the run `train`, those on validation, under the same names, in `validation`.

    Args:
        folder: TensorBoard's `--logdir`.
        start_step: as in `StepCallback`.

    Raises:
        ImportError: if tensorboard is missing, with the pip command.
    """

    def __init__(self, folder: types.Path, start_step: int = 0) -> None:
        super().__init__(start_step)
        self._new_writer = optional_import("tensorboard.summary", "examples").Writer
        self.folder = Path(folder)
        self._writers: dict[str, Any] = {}

    def on_epoch_end(self, epoch, logs=None):
        figures = {**(logs or {}), "learning_rate": float(self.model.optimizer.learning_rate)}
        for name, value in figures.items():
            run = "validation" if name.startswith("val_") else "train"
            if run not in self._writers:
                self._writers[run] = self._new_writer(str(self.folder / run))
            self._writers[run].add_scalar(name.removeprefix("val_"), float(value), self.step)
        for writer in self._writers.values():
            writer.flush()

    def on_train_end(self, logs=None):
        for writer in self._writers.values():
            writer.close()
        self._writers.clear()


class Report(keras.callbacks.Callback):
    """Prints the last row of a `History`, and the time left.

    Args:
        history: stands before it in the list of callbacks.
        steps: number of steps of the whole training.
    """

    def __init__(self, history: History, steps: int) -> None:
        super().__init__()
        self.history, self.steps = history, steps

    def on_epoch_end(self, epoch, logs=None):
        row = self.history.rows[-1]
        hours = row["seconds_per_step"] * (self.steps - row["step"]) / 3600
        figures = "  ".join(f"{name} {value:.5g}" for name, value in row.items())
        print(f"{figures}  {hours:.1f} hours left", flush=True)


class Checkpoint(StepCallback):
    """Saves the whole state of a training at the end of each epoch, and restores it.

    Weights, the optimizer's state, random states, step and history are in one file that is always
    complete; the one before it is kept, see `keras_fsa.training.checkpoint`.

    Args:
        path: an `.npz` file.
        settings: a dict of what must be equal when the training continues, of JSON's types.
        history: its rows are saved and restored, too.
        every: as in `StepCallback`; `restore` sets the step.
    """

    def __init__(
        self,
        path: types.Path,
        settings: dict | None = None,
        history: History | None = None,
        every: int = 1,
    ) -> None:
        super().__init__(every=every)
        self.path, self.settings, self.history = Path(path), settings or {}, history
        self._is_whole = True

    def restore(self, model: keras.Model) -> int:
        """Bring a compiled model to the latest state, if there is one.

        Returns:
            The number of steps done, 0 without a checkpoint.

        Raises:
            ValueError: as `keras_fsa.training.checkpoint.restore_latest`.
        """
        model.optimizer.build(model.trainable_variables)
        found = restore_latest(self.path, model, self.settings)
        if found:
            self.step, rows, self._is_whole = found
            if self.history:
                self.history.rows = rows
                self.history.step = self.step
        return self.step

    def on_epoch_end(self, epoch, logs=None):
        if self.is_due(epoch):
            rows = self.history.rows if self.history else []
            # A damaged file must not take the place of the good one before it.
            save_checkpoint(self.path, self.model, self.step, self.settings, rows, self._is_whole)
            self._is_whole = True


def save_model(model: keras.Model, path: types.Path) -> None:
    """Save a model that is in training as a complete `.keras` file that all backends load.

    Raises:
        FloatingPointError: if a weight is not finite. An earlier file is then unchanged.
    """
    check_finite(model, int(keras.ops.convert_to_numpy(model.optimizer.iterations)))
    with whole_file(path) as temporary, batch_norm.plain(model):
        model.save(temporary)


def write_rows(path: types.Path, rows: Sequence[dict]) -> None:
    """Write dicts as a CSV file with a column for each key of any of them."""
    columns = list(dict.fromkeys(itertools.chain.from_iterable(rows)))
    with whole_file(path) as temporary, open(temporary, "w", newline="") as file:
        writer = csv.DictWriter(file, columns)
        writer.writeheader()
        writer.writerows(rows)


def _read_note(path, monitor):
    try:
        return float(json.loads(path.read_text())[monitor])
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(
            f"{path.name} must say the figure of the model beside it. Received: {path} "
            f"({type(error).__name__}: {error}). Write {{{json.dumps(monitor)}: NUMBER}} to it, or "
            "move the model away."
        ) from error


def optional_callback(make: Callable[[], keras.callbacks.Callback], duty: str) -> list:
    """A callback in a list; if its package is missing, none, and a printed line that says so."""
    try:
        return [make()]
    except ImportError as error:
        print(f"{duty} is off: {error}", flush=True)
        return []
