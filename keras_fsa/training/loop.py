"""From a recipe and batches to a trained FsaNet."""

import csv
import math
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import keras
import numpy as np

from keras_fsa.arguments import optional_import
from keras_fsa.files import whole_file
from keras_fsa.losses import CrossEntropy, OhemCrossEntropy
from keras_fsa.metrics import IGNORE_LABEL, MeanIoU
from keras_fsa.models.fsanet import FsaNet
from keras_fsa.models.presets import preset_arguments
from keras_fsa.training.batch_norm import synchronize, use_moving_statistics
from keras_fsa.training.checkpoint import (
    check_room,
    check_writable,
    restore_checkpoint,
    save_checkpoint,
)
from keras_fsa.training.devices import (
    add_up,
    find_devices,
    join_gradients,
    part_of_batches,
)
from keras_fsa.training.optimizer import SGD, poly_decay
from keras_fsa.training.recipe import Recipe
from keras_fsa.types import Dataset
from keras_fsa.visualize import comparison


def train(
    recipe: Recipe,
    num_classes: int,
    batches: Callable,
    validation: Dataset | None = None,
    build: Callable | None = None,
    class_names: Sequence[str] | None = None,
    palette: np.ndarray | None = None,
) -> keras.Model:
    """Train FsaNet by a recipe, or go on with a training that was stopped.

    In the folder `recipe.output` there are, at any moment, complete files or none:

    - `checkpoint.npz`: all that is needed to go on at its step, written every
      `recipe.checkpoint_every` steps;
    - `history.csv`: step, loss and mean IoU on the training crops since the line before, learning
      rate, mean IoU on the validation pictures, seconds for each step;
    - `tensorboard`, if `recipe.tensorboard`: the same figures for TensorBoard, by step;
    - `predictions/step_*.png`: the first validation pictures beside truth and prediction, at each
      validation;
    - `best.keras`: the network of the best validation so far;
    - `model.keras`: the trained network, at the end.

    On a terminal a progress bar shows the steps to the next checkpoint. A killed training goes on
    from its last checkpoint when it is called again with the same recipe, with the weights, the
    optimizer, the schedule, dropout and the order of the data as they were.

    Args:
        recipe: a `Recipe`.
        num_classes: number of classes.
        batches: a function from a number of steps, and a part, to an endless `tf.data.Dataset`
            of pictures `(batch, *crop, 3)` and masks `(batch, *crop)` that begins behind those of
            so many steps. The n-th batch must not depend on where it begins. The part is
            `(0, 1)`; of torch's processes each asks for its own `(i, n)`, the i-th of n equal
            parts of each batch.
        validation: a `tf.data.Dataset` of single pictures and masks, or None.
        build: a function from the recipe and the number of classes to the model. Default:
            `build_model`.
        class_names, palette: names and RGB colours of the classes in drawn predictions.

    Returns:
        The trained `FsaNet`.

    Raises:
        ValueError: for an output that is not writable, a checkpoint of other settings or another
            architecture, a batch that does not divide among the devices, or data without examples.
        OSError: for a disk without room for the files.
        ImportError: where matplotlib or tensorboard is missing for what the recipe wants of them,
            with the pip command.
        FloatingPointError: where the loss is not finite: it names the step, and the last
            checkpoint stands as it was.
    """
    check_writable(recipe.output)
    keras.utils.set_random_seed(recipe.seed)
    _tensorflow_only_reads()
    devices = find_devices(recipe.devices)
    if recipe.batch % devices.count:
        raise ValueError(
            "`batch` must be a multiple of the number of devices. Received: "
            f"batch={recipe.batch} on {devices.count} devices. Change one of them."
        )
    with devices.scope():
        iou = MeanIoU(num_classes, ignore_class=IGNORE_LABEL, sparse_y_pred=False, name="mean_iou")
        model = (build or build_model)(recipe, num_classes)
        _prepare_batch_norm(model, recipe, devices)
        model.compile(_optimizer(recipe), _loss(recipe), [iou])
        model.optimizer.build(model.trainable_variables)
        if devices.process == 0:
            files = ("checkpoint.npz", "model.keras", *(("best.keras",) if validation else ()))
            check_room(recipe.output, model, files)
        progress = _Progress(recipe, iou, validation, devices, class_names, palette)
        step = progress.restore(model)
        join_gradients(model, devices)
        if step < recipe.steps:
            data = batches(step, part_of_batches(devices))
            if data.cardinality() == 0 or (validation and validation.cardinality() == 0):
                raise ValueError(
                    "Training and validation need examples. Received: batches(step) or validation "
                    "of none. Look at the folder of the data set."
                )
            done = step // recipe.checkpoint_every
            model.fit(
                data,
                steps_per_epoch=recipe.checkpoint_every,
                initial_epoch=done,
                epochs=done + math.ceil((recipe.steps - step) / recipe.checkpoint_every),
                # The bar's line ends before the line of figures begins.
                callbacks=[keras.callbacks.ProgbarLogger(), progress],
                verbose=int(devices.process == 0 and sys.stdout.isatty()),
                shuffle=False,  # the data set does so itself
            )
        _plain_batch_norm(model)
        if devices.process == 0:
            with whole_file(Path(recipe.output) / "model.keras") as path:
                model.save(path)
    return model


def build_model(recipe: Recipe, num_classes: int) -> FsaNet:
    """The network of a recipe: the head of its preset on its backbone."""
    own = {} if recipe.backbone == "preset" else {"backbone": recipe.backbone}
    arguments = preset_arguments(
        recipe.preset,
        num_classes=num_classes,
        backbone_weights=recipe.weights,
        output_stride=recipe.output_stride,
        affinity=recipe.affinity,
        frequencies=recipe.frequencies,
        recurrence=recipe.recurrence,
        head_channels=recipe.head_channels,
        dropout=recipe.dropout,
        auxiliary_loss_weight=recipe.auxiliary_loss_weight,
        align_corners=recipe.align_corners,
        dtype=recipe.mixed_precision,
        **own,
    )
    if own:
        # A preset's pictures are those of its own backbone.
        arguments["normalization"] = "auto"
    return FsaNet(**arguments)


def fit_into(examples: Dataset, size: tuple[int, int]) -> Dataset:
    """Shrink pictures and masks to fit into a size, where larger, and fill up to that size.

    All pictures then have one shape, for which the step is compiled once. What is filled has the
    mean colour of ImageNet and the ignore label.

    Args:
        examples: a `tf.data.Dataset` of pictures `(H, W, 3)` and masks `(H, W)`, uint8.
        size: `(height, width)`.

    Returns:
        The same of pictures `(*size, 3)` and masks `size`.
    """
    tf = optional_import("tensorflow", "tensorflow")

    def fit(image, mask):
        shape = tf.cast(tf.shape(mask), "float32")
        scale = tf.minimum(1.0, tf.reduce_min(tf.constant(size, "float32") / shape))
        small = tf.cast(tf.maximum(tf.round(scale * shape), 1), "int32")
        # Not antialiased, as in training.
        image = tf.round(tf.image.resize(image, small))
        mask = tf.image.resize(mask[..., None], small, method="nearest")[..., 0]
        border = tf.stack([tf.zeros(2, "int32"), size - small], axis=1)
        mean = tf.constant([124.0, 116.0, 104.0])
        # Less the mean, zeros stand for it.
        image = tf.pad(image - mean, tf.concat([border, [[0, 0]]], axis=0)) + mean
        mask = tf.pad(mask, border, constant_values=tf.constant(IGNORE_LABEL, "uint8"))
        image = tf.ensure_shape(tf.cast(image, "uint8"), (*size, 3))
        return image, tf.ensure_shape(mask, size)

    return examples.map(fit, num_parallel_calls=tf.data.AUTOTUNE)


def _optimizer(recipe):
    rate = poly_decay(recipe.learning_rate, recipe.final_learning_rate, recipe.steps)
    return SGD(rate, recipe.momentum, l2=recipe.weight_decay)


def _loss(recipe):
    if recipe.loss == "ohem":
        return OhemCrossEntropy(
            recipe.ohem_threshold,
            recipe.ohem_keep,
            class_weights=recipe.class_weights,
            ignore_label=IGNORE_LABEL,
        )
    return CrossEntropy(recipe.class_weights, ignore_label=IGNORE_LABEL)


def _prepare_batch_norm(model, recipe, devices):
    use_moving_statistics(model, recipe.batch_norm == "moving")
    synchronize(model, recipe.batch_norm == "batch" and devices.count > 1)


def _plain_batch_norm(model):
    """As others load it: see `batch_norm.py`."""
    use_moving_statistics(model, False)
    synchronize(model, False)


def _tensorflow_only_reads():
    """Keep TensorFlow off the GPU where it only reads the data: it would take all its memory."""
    if keras.backend.backend() != "tensorflow":
        tf = optional_import("tensorflow", "tensorflow")
        tf.config.set_visible_devices([], "GPU")


class _Progress(keras.callbacks.Callback):
    """Counts steps, stops at the last one or at NaN, validates, reports, writes all files."""

    def __init__(self, recipe, iou, validation, devices, class_names, palette):
        super().__init__()
        self.recipe, self.iou, self.devices = recipe, iou, devices
        self.class_names, self.palette = class_names, palette
        self.drawn = validation and self._drawn_examples(validation)
        self.validation = validation and self._validation_batches(validation)
        self.path = Path(recipe.output) / "checkpoint.npz"
        self.tensorboard = None
        if recipe.tensorboard and devices.process == 0:
            optional_import("tensorboard", "examples")  # TensorFlow does without, up to its use
            folder = self.path.with_name("tensorboard")
            self.tensorboard = keras.callbacks.TensorBoard(folder, write_graph=False)
        self.step, self.history = 0, []

    def _drawn_examples(self, examples):
        """The examples that are drawn at each validation, or None."""
        many_hosts = keras.backend.backend() == "jax" and self.devices.processes > 1
        if self.recipe.drawn_pictures is None or many_hosts:  # no host has all of a prediction
            return None
        optional_import("matplotlib", "examples")
        examples = examples.take(self.recipe.drawn_pictures)
        return fit_into(examples, self.recipe.validation_size or self.recipe.crop)

    def _validation_batches(self, examples):
        """One picture for each device; what is missing at the end is filled with ignored ones."""
        tf = optional_import("tensorflow", "tensorflow")
        recipe, count = self.recipe, self.devices.count
        if recipe.validation_pictures:
            examples = examples.take(recipe.validation_pictures)
        if recipe.validation_size:
            examples = fit_into(examples, recipe.validation_size)
        filling = examples.take(1).map(lambda x, y: (x, tf.ones_like(y) * IGNORE_LABEL))
        filling = filling.repeat(count - 1)
        batches = examples.concatenate(filling).batch(count, drop_remainder=True)
        number, parts = part_of_batches(self.devices)
        if parts > 1:
            batches = batches.rebatch(count // parts).shard(parts, number)
        return batches.prefetch(1)

    def restore(self, model):
        if self.path.exists():
            self.step, self.history = restore_checkpoint(
                self.path, model, self.recipe.what_must_stay()
            )
            self._print(f"Going on from step {self.step} of {self.path}.")
        return self.step

    def on_train_begin(self, logs=None):
        if self.tensorboard:
            self.tensorboard.set_model(self.model)

    def on_train_end(self, logs=None):
        if self.tensorboard:
            self.tensorboard.on_train_end()  # closes its files

    def on_epoch_begin(self, epoch, logs=None):
        self.begin, self.begin_step = time.monotonic(), self.step

    def on_train_batch_end(self, batch, logs=None):
        self.step += 1
        self.logs = logs  # of all processes, where those of an epoch are of this one
        if not np.isfinite(loss := float(logs["loss"])):
            kept = f"{self.path} stands as it was" if self.path.exists() else "there is none yet"
            raise FloatingPointError(
                f"The loss must be finite. Received: loss={loss} in step {self.step}. The last "
                f"checkpoint: {kept}. Lower the learning rate."
            )
        if self.step == self.recipe.steps:
            self.model.stop_training = True

    def on_epoch_end(self, epoch, logs=None):
        recipe, last = self.recipe, self.step == self.recipe.steps
        if self.step - self.begin_step < recipe.checkpoint_every and not last:
            raise ValueError(
                f"`batches` must be endless. Received: an end behind step {self.step} of "
                f"{recipe.steps}. Repeat the data set."
            )
        seconds = (time.monotonic() - self.begin) / (self.step - self.begin_step)
        row = {
            "step": self.step,
            "loss": float(self.logs["loss"]),
            "mean_iou": float(self.logs["mean_iou"]),
            "learning_rate": float(self.model.optimizer.learning_rate),
            "validation_mean_iou": None,
            "seconds_per_step": round(seconds, 4),
        }
        if self.validation and (last or self.step % recipe.validate_every == 0):
            self.model.evaluate(self.validation, verbose=0)
            add_up(self.iou.total_cm, self.devices)
            add_up(self.iou.unscored, self.devices)
            score = row["validation_mean_iou"] = float(self.iou.result())
            self._draw()
            scores = [before["validation_mean_iou"] for before in self.history]
            if all(before is None or score > before for before in scores):
                self._save_best()
        self.history.append(row)
        if self.devices.process == 0:
            save_checkpoint(self.path, self.model, self.step, recipe.what_must_stay(), self.history)
            if self.tensorboard:
                self._log(row)
            with whole_file(self.path.with_name("history.csv")) as path:
                with open(path, "w", newline="") as file:
                    writer = csv.DictWriter(file, row)
                    writer.writeheader()
                    writer.writerows(self.history)
        hours = seconds * (recipe.steps - self.step) / 3600
        self._print(
            "  ".join(f"{name} {value:.5g}" for name, value in row.items() if value is not None)
            + f"  {hours:.1f} hours left"
        )

    def _draw(self):
        if self.drawn is None:
            return
        images, masks = map(np.stack, zip(*self.drawn.as_numpy_iterator(), strict=True))
        # A picture for each device of this process, since engines divide a batch among them; and
        # one after the other, since logits are large.
        count = self.devices.count // self.devices.processes
        ids = []
        for image in images:
            same = np.repeat(image[None], count, axis=0)
            logits = self.model.predict(same, batch_size=count, verbose=0)
            ids.append(np.argmax(logits[0], axis=-1))
        if self.devices.process == 0:
            path = self.path.parent / f"predictions/step_{self.step:06}.png"
            comparison(images, masks, ids, self.class_names, self.palette, path=path)

    def _save_best(self):
        if self.devices.process == 0:
            _plain_batch_norm(self.model)
            with whole_file(self.path.with_name("best.keras")) as path:
                self.model.save(path)
            _prepare_batch_norm(self.model, self.recipe, self.devices)

    def _log(self, row):
        names = ("loss", "mean_iou", "validation_mean_iou")
        logs = {name.replace("validation_", "val_"): row[name] for name in names}
        logs = {name: value for name, value in logs.items() if value is not None}
        self.tensorboard.on_epoch_end(self.step, logs)

    def _print(self, text):
        if self.devices.process == 0:
            print(text, flush=True)
