"""From batches to a trained model, however often it is stopped; from a recipe to an FsaNet."""

import contextlib
import dataclasses
import itertools
import math
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np

from keras_fsa import types
from keras_fsa.arguments import integer, number
from keras_fsa.classes import activation_of
from keras_fsa.files import locked_folder
from keras_fsa.losses import CrossEntropy, OhemCrossEntropy
from keras_fsa.metrics import mean_iou
from keras_fsa.models.fsanet import FsaNet
from keras_fsa.models.presets import preset_arguments
from keras_fsa.settings import write_recipe
from keras_fsa.training import callbacks as duties
from keras_fsa.training.batch_norm import synchronize, use_moving_statistics
from keras_fsa.training.checkpoint import check_room, check_writable, previous
from keras_fsa.training.devices import (
    Devices,
    find_devices,
    join_gradients,
    keep_tensorflow_off_gpus,
)
from keras_fsa.training.examples import check_examples
from keras_fsa.training.optimizer import SGD, cosine_decay, poly_decay
from keras_fsa.training.recipe import Recipe
from keras_fsa.types import Dataset


def fit(
    model: keras.Model,
    batches: Callable,
    output: types.Path,
    steps: int,
    checkpoint_every: int = 500,
    settings: dict | None = None,
    validation: Dataset | None = None,
    validate_every: int | None = None,
    validation_size: tuple[int, int] | None = None,
    drawn: int | None = None,
    drawn_size: tuple[int, int] | None = None,
    class_names: Sequence[str] | None = None,
    palette: np.ndarray | None = None,
    tensorboard: bool = False,
    monitor: str = "val_mean_iou",
    devices: Devices | None = None,
    patience: int | None = None,
    validation_batch: int = 1,
) -> keras.Model:
    """Train a compiled model; called again after a kill, it resumes as if nothing had happened.

    Weights, optimizer, schedule, random states (dropout's) and the order of the data continue
    exactly. In the folder `output` every file is complete at any moment, or not there:

    - `checkpoint.npz`: the state to resume from, written every `checkpoint_every` steps, and
      `checkpoint.previous.npz`, which takes over if that file gets damaged;
    - `history.csv`: step, loss and metrics since the previous row, learning rate, seconds per
      step, and the validation's figures as `val_...`;
    - `best.keras`: the model of the best validation so far, and `best.json`, its figure. A worse
      one never replaces it. Those of an earlier training, of which there is no checkpoint any more,
      become `best.previous.keras` and `best.previous.json`;
    - `model.keras`: the trained model, at the end;
    - `predictions/step_*.png`: the first validation images with their truth and prediction;
    - `tensorboard`: the figures for TensorBoard, by step.

    A process holds the folder while it trains, so a second one gets an error. On a terminal a
    progress bar shows the steps to the next checkpoint.

    Training on two folders, for a number of epochs:

    ```python
    training, validation = split_examples(folder_dataset(images, masks, 11), 0.1, seed=0)
    epoch = len(training) // 8
    model = keras_fsa.FsaNet(11, "resnet18")
    model.compile(SGD(poly_decay(0.01, 1e-4, 60 * epoch), 0.9))
    fit(
        model,
        lambda step, part: training_batches(training, (240, 320), 8, 0, step, part),
        "outputs/street",
        steps=60 * epoch,
        checkpoint_every=epoch,
        settings={"batch": 8, "seed": 0},
        validation=validation,
    )
    ```

    Args:
        model: a compiled `keras.Model`, built by the same code each time.
        batches: a function from the number of steps done, and a part `(i, n)`, to endless data for
            `model.fit` that continues after those steps: a `keras.utils.PyDataset`, a generator of
            NumPy batches, a `tf.data.Dataset` and so on. The n-th batch must not depend on where
            the data begins. The part is `(0, 1)`, unless several processes train: then each asks
            for the i-th of n equal parts of each batch.
        output: the folder.
        steps: number of steps of the whole training.
        checkpoint_every: steps between checkpoints, and between rows of the history. For epochs,
            the steps of one epoch.
        settings: what must be equal when the training resumes, of JSON's types: it is compared with
            the checkpoint's.
        validation: single examples: `keras_fsa.datasets.examples.Examples`, another sequence, or a
            `tf.data.Dataset`, of images `(H, W, channels)` and masks `(H, W)`, uint8 (other types
            and masks as `keras_fsa.datasets.examples` and `keras_fsa.classes` say).
        validate_every: steps between validations, a multiple of `checkpoint_every`. Default:
            `checkpoint_every`.
        validation_size: `(height, width)` that validation images are fitted into, for one
            compilation. Default: as they are.
        drawn: number of validation images to draw at each validation; None for none.
        drawn_size: `(height, width)` that they are fitted into. Default: `validation_size`.
        class_names, palette: names and RGB colours of the classes in drawn predictions.
        tensorboard: whether to write for TensorBoard.
        monitor: the figure that decides which model is the best; higher is better.
        devices: what `find_devices` returned, for several. The model must then be built, compiled
            and fitted within `devices.scope()`.
        patience: number of validations without a better figure after which the training ends.
            Default: it never ends early.
        validation_batch: number of validation images that each device takes at a time. Where a
            process takes several, all must be of one size.

    Where the optimizer averages the weights (`use_ema=True`), validations, `best.keras` and
    `model.keras` are those of the averages.

    Returns:
        The model, trained.

    Raises:
        ValueError: for a wrong argument; an output that is not writable, that another process
            holds, or that holds a trained model but no checkpoint; a checkpoint of other settings
            or another architecture; data without examples, or that ends; a `monitor` that is no
            figure, at the first validation.
        OSError: for a disk without room for the files.
        FloatingPointError: if the loss or a weight is not finite. It names the step; files are
            left as they were.
    """
    devices = devices or Devices()
    with _held(output, devices):
        plan = _Plan(
            output=Path(output),
            steps=steps,
            checkpoint_every=checkpoint_every,
            settings=settings or {},
            validation=validation,
            validate_every=validate_every or checkpoint_every,
            validation_size=validation_size,
            validation_batch=validation_batch,
            drawn=drawn,
            drawn_size=drawn_size or validation_size,
            class_names=class_names,
            palette=palette,
            tensorboard=tensorboard,
            monitor=monitor,
            patience=patience,
        )
        return _fit(model, batches, plan, devices)


def train(
    recipe: Recipe,
    num_classes: int,
    batches: Callable,
    validation: Dataset | None = None,
    build: Callable | None = None,
    class_names: Sequence[str] | None = None,
    palette: np.ndarray | None = None,
) -> keras.Model:
    """Train FsaNet by a recipe, or resume a training that was stopped: `fit` with its settings.

    These are recorded in the output folder, as `recipe.json`.

    Missing packages for drawing (matplotlib) or TensorBoard (tensorboard) turn that off, with one
    printed line.

    Args:
        recipe: a `Recipe`. Files go to `recipe.output`, see `fit`.
        num_classes: number of classes.
        batches, validation, class_names, palette: as in `fit`.
        build: a function from the recipe and the number of classes to the model. Default:
            `build_model`, with the names and colours of the classes.

    Returns:
        The trained `FsaNet`.

    Raises:
        ValueError: as in `fit`, and for a batch that does not divide among the devices.
        OSError, FloatingPointError: as in `fit`.
    """
    keep_tensorflow_off_gpus()
    devices = find_devices(recipe.devices)
    devices.share(recipe.batch)  # an error where it does not divide
    if validation is not None and recipe.validation_images:
        validation = validation.take(recipe.validation_images)
    with _held(recipe.output, devices), devices.scope():
        keras.utils.set_random_seed(recipe.seed)
        if build is None:
            model = build_model(recipe, num_classes, class_names=class_names, palette=palette)
        else:
            model = build(recipe, num_classes)
        use_moving_statistics(model, recipe.batch_norm == "moving")
        synchronize(model, recipe.batch_norm == "batch" and devices.count > 1)
        activation = activation_of(model)
        loss, metric = build_loss(recipe, activation), mean_iou(num_classes, activation)
        model.compile(build_optimizer(recipe), loss, [metric])
        plan = _Plan(
            output=Path(recipe.output),
            steps=recipe.steps,
            checkpoint_every=recipe.checkpoint_every,
            settings=recipe.what_must_stay(),
            validation=validation,
            validate_every=recipe.validate_every,
            validation_size=recipe.validation_size,
            validation_batch=recipe.validation_batch,
            drawn=recipe.drawn_images,
            drawn_size=recipe.validation_size or recipe.crop,
            class_names=class_names,
            palette=palette,
            tensorboard=recipe.tensorboard,
        )
        model = _fit(model, batches, plan, devices)
        if devices.process == 0:
            write_recipe(recipe, plan.output / "recipe.json")
        return model


def split_examples(
    examples: Dataset, fraction: float = 0.1, seed: int = 0
) -> tuple[Dataset, Dataset]:
    """Divide examples at random into those to train on and those to validate on.

    Frames of one video look alike: validate on a folder of their own instead.

    Args:
        examples: `keras_fsa.datasets.examples.Examples`.
        fraction: of the examples, for validation, in (0, 1); at least one stays on either side.
        seed: the same one gives the same division.

    Returns:
        `(training, validation)`, each in the order of `examples`.

    Raises:
        ValueError: for a fraction out of its range, or fewer than two examples.
    """
    # The package of datasets may bring TensorFlow's.
    from keras_fsa.datasets.examples import Examples

    number("fraction", fraction, above=0, below=1)
    integer("seed", seed, 0)
    count = len(examples)
    if count < 2:
        raise ValueError(
            f"`examples` must be two or more. Received: {count} examples. Add some, or validate "
            "on others."
        )
    kept = min(count - 1, max(1, round(fraction * count)))
    order = np.random.default_rng(seed).permutation(count).tolist()

    def part(numbers):
        return Examples(
            len(numbers),
            lambda i: examples[numbers[i]],
            lambda i: examples.name(numbers[i]),
            examples.size,
        )

    return part(sorted(order[kept:])), part(sorted(order[:kept]))


def build_model(recipe: Recipe, num_classes: int, **changes: Any) -> FsaNet:
    """The network of a recipe: the head of its preset on its backbone.

    Args:
        recipe: a `Recipe`.
        num_classes: number of classes.
        **changes: arguments of `FsaNet` in place of the recipe's, such as an attention layer,
            or names of the classes.
    """
    own: dict[str, Any] = {} if recipe.backbone == "preset" else {"backbone": recipe.backbone}
    if recipe.attention != "frequency":
        # A preset may have a layer of its own.
        own["attention"] = None if recipe.attention == "none" else recipe.attention
    given: dict[str, Any] = {
        "num_classes": num_classes,
        "backbone_weights": recipe.weights,
        "output_stride": recipe.output_stride,
        "affinity": recipe.affinity,
        "frequencies": recipe.frequencies,
        "recurrence": recipe.recurrence,
        "head_channels": recipe.head_channels,
        "dropout": recipe.dropout,
        "low_level": recipe.low_level,
        "auxiliary_loss_weight": recipe.auxiliary_loss_weight,
        "align_corners": recipe.align_corners,
        "dtype": recipe.mixed_precision,
    }
    arguments = preset_arguments(recipe.preset, **{**given, **own, **changes})
    if "backbone" in own:
        # A preset's normalization is that of its own backbone.
        arguments["normalization"] = changes.get("normalization", "auto")
    return FsaNet(**arguments)


def build_optimizer(recipe: Recipe) -> keras.optimizers.Optimizer:
    """The optimizer of a recipe: SGD under poly decay, or AdamW under cosine decay."""
    if recipe.optimizer == "adamw":
        rate = cosine_decay(
            recipe.learning_rate, recipe.final_learning_rate, recipe.steps, recipe.warmup_steps
        )
        optimizer = keras.optimizers.AdamW(rate, recipe.weight_decay)
        optimizer.exclude_from_weight_decay(var_names=["bias", "beta", "gamma", "gain"])
        return optimizer
    rate = poly_decay(recipe.learning_rate, recipe.final_learning_rate, recipe.steps)
    return SGD(rate, recipe.momentum, l2=recipe.weight_decay)


def build_loss(recipe: Recipe, activation: str = "softmax") -> keras.losses.Loss:
    """The loss of a recipe, for a model of an activation."""
    if recipe.loss == "ohem":
        return OhemCrossEntropy(
            recipe.ohem_threshold,
            recipe.ohem_keep,
            class_weights=recipe.class_weights,
            activation=activation,
        )
    return CrossEntropy(recipe.class_weights, activation=activation)


@dataclasses.dataclass(frozen=True)
class _Plan:
    """The arguments of `fit` beside model, batches and devices, with their defaults resolved."""

    output: Path
    steps: int
    checkpoint_every: int
    settings: dict
    validation: Dataset | None
    validate_every: int
    validation_size: tuple[int, int] | None
    validation_batch: int
    drawn: int | None
    drawn_size: tuple[int, int] | None
    class_names: Sequence[str] | None
    palette: np.ndarray | None
    tensorboard: bool
    monitor: str = "val_mean_iou"
    patience: int | None = None

    def __post_init__(self):
        integer("patience", self.patience, optional=True)
        if self.patience and self.validation is None:
            raise ValueError(
                "`patience` needs a validation. Received: patience="
                f"{self.patience}, validation=None. Give examples to validate on."
            )
        integer("steps", self.steps)
        integer("checkpoint_every", self.checkpoint_every)
        integer("validate_every", self.validate_every)
        integer("drawn", self.drawn, optional=True)
        if self.validation is not None:
            check_examples("validation", self.validation)


def _fit(model, batches, plan, devices):
    writes = devices.process == 0
    history = duties.History(plan.output / "history.csv" if writes else None)
    checkpoint = duties.Checkpoint(plan.output / "checkpoint.npz", plan.settings, history)
    model.optimizer.build(model.trainable_variables)
    if writes:
        _check_output(plan.output, model, checkpoint.path, plan.validation is not None)
    step = checkpoint.restore(model)
    if step and writes:
        print(f"Resuming from step {step} of {plan.output}.", flush=True)
    elif writes:
        _put_aside(plan.output / "best.keras")
    join_gradients(model, devices)
    callbacks = [
        duties.StopAtStep(plan.steps, step),
        duties.StopAtNonFinite(step, devices),
        duties.JoinProcesses(devices),
    ]
    over = False
    if plan.validation is not None:
        swap = [duties.SwapAverages()] if _averages(model) else []
        callbacks += [*swap, *_validation_callbacks(plan, step, devices)]
        if writes:
            best = _best_before(history.rows, plan.monitor)
            callbacks.append(duties.BestModel(plan.output / "best.keras", plan.monitor, best=best))
        callbacks += swap
        if plan.patience:
            early = duties.StopEarly(plan.monitor, plan.patience, history.rows)
            callbacks.append(early)
            over = early.is_over()
    if writes:
        callbacks += _writing_callbacks(plan, step, history)
        callbacks.append(checkpoint)
    if over or step >= plan.steps:
        # As at the end of `model.fit`: a checkpoint holds weights and averages apart.
        model.optimizer.finalize_variable_values(model.trainable_variables)
    else:
        data = batches(step, devices.part)
        check_examples("batches", data)
        if keras.backend.backend() == "tensorflow" and isinstance(data, Iterator):
            # Not above: under TensorFlow the package of the datasets imports TFDS.
            from keras_fsa.datasets.examples import generated

            # Keras iterates once to build the model and again to train. Of one generator the first
            # iteration would take the batches that TensorFlow reads ahead. A strategy also needs
            # the batches' size.
            data = generated(lambda: batches(step, devices.part), lambda shape: shape)
        done = step // plan.checkpoint_every
        model.fit(
            data,
            steps_per_epoch=plan.checkpoint_every,
            initial_epoch=done,
            epochs=done + math.ceil((plan.steps - step) / plan.checkpoint_every),
            # The bar's line ends before the line of figures begins.
            callbacks=[keras.callbacks.ProgbarLogger(), *callbacks],
            verbose=int(writes and sys.stdout.isatty()),
            shuffle=False,  # the data is in its order
        )
    if writes:
        duties.save_model(model, plan.output / "model.keras")
    return model


def _averages(model):
    """Whether the optimizer averages the weights."""
    optimizer = getattr(model.optimizer, "inner_optimizer", model.optimizer)
    return getattr(optimizer, "use_ema", False)


def _validation_callbacks(plan, step, devices):
    """Callbacks that run the model on the validation images."""
    every = {"every": plan.validate_every, "start_step": step, "devices": devices}
    size, more = plan.validation_size, {"batch": plan.validation_batch, "monitor": plan.monitor}
    callbacks = [duties.Validation(plan.validation, size, **more, **every)]
    # Under JAX with several hosts, no single one holds a whole prediction.
    whole = keras.backend.backend() != "jax" or devices.processes == 1
    if plan.drawn and devices.process == 0 and whole:
        first = _first(plan.validation, plan.drawn)
        folder = plan.output / "predictions"
        size = plan.drawn_size or np.shape(first[0][1])[:2]
        names = {"class_names": plan.class_names, "palette": plan.palette}
        callbacks += duties.optional_callback(
            lambda: duties.DrawPredictions(first, folder, size, **every, **names), "Drawing"
        )
    return callbacks


def _writing_callbacks(plan, step, history):
    """Callbacks that record figures, in the one process that writes files."""
    callbacks = [history]
    if plan.tensorboard:
        callbacks += duties.optional_callback(
            lambda: duties.TensorBoardByStep(plan.output / "tensorboard", step), "TensorBoard"
        )
    return [*callbacks, duties.Report(history, plan.steps)]


@contextlib.contextmanager
def _held(output: types.Path, devices: Devices) -> Iterator[None]:
    check_writable(output)
    # The processes of one training share the folder.
    with locked_folder(output) if devices.process == 0 else contextlib.nullcontext():
        yield


def _check_output(output, model, checkpoint, validates):
    if (output / "model.keras").exists() and not (
        checkpoint.exists() or previous(checkpoint).exists()
    ):
        raise ValueError(
            "`output` must be new, or hold a training to resume. Received: "
            f"output={str(output)!r} with model.keras and without {checkpoint.name}. Choose "
            "another folder, or move the model away."
        )
    names = [checkpoint.name, previous(checkpoint).name, "model.keras"]
    check_room(output, model, names + ["best.keras"] * validates)


def _put_aside(model):
    """Keep the best model of a training that does not go on: its figure tells nothing of this."""
    for path in (model, model.with_suffix(".json")):
        if path.exists():
            os.replace(path, previous(path))
            print(f"{path.name} of an earlier training is now {previous(path).name}.", flush=True)


def _first(examples: Iterable, count: int) -> list[tuple[Any, Any]]:
    return list(itertools.islice(examples, count))


def _best_before(rows, monitor):
    """The best figure in the history: version 0.1.0 kept it nowhere else."""
    names = (monitor, monitor.replace("val_", "validation_"))
    values = [row[name] for row in rows for name in names if row.get(name) is not None]
    return max(values, default=None)
