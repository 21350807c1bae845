r"""Train FsaNet on your own images and masks, which lie in two folders.

    keras_fsa train --images images/train --masks masks/train \
        --val-images images/val --val-masks masks/val --num-classes 11 --ignore-label 11 \
        --size 240 320 --output outputs/street

A mask has the name of its image (`0001.jpg`, `0001.png`) and holds one class id per pixel, 0 to
num-classes - 1, or the ignore label. Without --val-images, a tenth of the images is kept for
validation; frames of one video belong in folders of their own, since they look alike.

A training that was killed, at any moment, resumes at its last epoch when the same command is given
again. In the folder of --output there are

- `best.keras`: the network of the epoch with the best validation mIoU; `model.keras`: the last;
- `history.csv`: loss and mIoU of each epoch;
- `metrics.json`: the IoU of each class and their mean (printed, too) of `best.keras`;
- `predictions.png`: the first validation images with their truth and prediction;
- `recipe.json`: all settings, for --recipe; `checkpoint.npz`: the state to resume from.

To fine-tune: --init model.keras starts from a trained network, whose last layers are new where it
has other classes; --freeze-backbone trains the head only.

It runs on TensorFlow, JAX and torch: set KERAS_BACKEND.
"""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Annotated, Literal

import keras
import numpy as np

import keras_fsa
from keras_fsa.arguments import optional_import
from keras_fsa.commands.command import command
from keras_fsa.commands.evaluate import class_iou
from keras_fsa.commands.models import load_keras_model, with_policy
from keras_fsa.commands.predict import Names
from keras_fsa.files import whole_file
from keras_fsa.settings import (
    Classes,
    Count,
    ExistingFile,
    ExistingFolder,
    Label,
    NotNegative,
    OutputFolder,
    Pixels,
    Real,
    Seed,
    write_recipe,
)

# What may differ when a training resumes.
MAY_CHANGE = (
    "images", "masks", "val_images", "val_masks", "class_names", "output", "devices", "tensorboard",
    "init", "weights",
)  # fmt: skip
# What a model of --init brings along.
ARCHITECTURE = (
    "backbone", "weights", "normalization", "output_stride", "attention", "affinity",
    "frequencies", "recurrence", "head_channels", "auxiliary_loss_weight", "low_level",
)  # fmt: skip


@dataclass(frozen=True)
class Train:
    """Train FsaNet on your own images and masks, which lie in two folders."""

    images: ExistingFolder
    """Folder of the training images."""
    masks: ExistingFolder
    """Folder of their masks."""
    num_classes: Classes
    """The ids are 0 to this number - 1."""
    val_images: ExistingFolder | None = None
    """Folder of the validation images."""
    val_masks: ExistingFolder | None = None
    """Folder of their masks."""
    val_fraction: Annotated[float, Real(above=0, below=1)] = 0.1
    """Part kept for validation where there is no --val-images."""
    size: tuple[Pixels, Pixels] = (240, 320)
    """Height and width that images are resized to, in pixels."""
    ignore_label: Label = 255
    """Id in the masks of pixels of no class."""
    class_names: Names | None = None
    """Such as sky,road,car."""

    init: ExistingFile | None = None
    """A trained .keras file to start from; it may have other classes."""
    freeze_backbone: bool = False
    """Train the head only."""
    backbone: str = "resnet18"
    """Name of the backbone, or a .keras file of one."""
    weights: str | None = None
    """The backbone's: imagenet, or a file; none: random."""
    normalization: Literal["auto", "imagenet", "caffe", "ccnet"] | None = "auto"
    """Of the images; auto: what the weights want."""
    output_stride: Literal[8, 16, 32] | None = None
    """Ratio of the image's size to the feature map's."""
    attention: Literal["frequency", "spatial"] | None = "frequency"
    """Its kind."""
    affinity: str | None = None
    """dot_product, linear_softmax or linear; none: FsaNet's own."""
    frequencies: Count = 8
    """Low frequencies kept on each axis."""
    recurrence: Count = 2
    """How often the attention is applied."""
    head_channels: Pixels = 128
    """Channels of the head."""
    low_level: Literal["stage2", "stage3"] | None = None
    """Finer stage that the head joins, for thin things; none: no such connection."""
    auxiliary_loss_weight: NotNegative = 0.4
    """Weight of the head on stage 4; 0: no such head."""

    optimizer: Literal["sgd", "adamw"] = "sgd"
    """SGD with momentum 0.9, or AdamW."""
    learning_rate: Annotated[float, Real(above=0, maximum=100)] | None = None
    """At the start; none: 0.01 for sgd, 0.0003 for adamw."""
    final_learning_rate: Annotated[float, Real(0, 100)] | None = None
    """At the end of the poly decay; none: a hundredth of that at the start."""
    weight_decay: NotNegative = 0.0
    """Of the optimizer: for sgd an L2 term in the gradient, for adamw decoupled."""
    batch: Count = 8
    """Images per step."""
    epochs: Count = 60
    """Passes over the training images."""
    mixed_precision: Literal["float32", "mixed_bfloat16", "mixed_float16"] = "float32"
    """Dtype policy."""
    devices: Literal["one", "all"] = "one"
    """Devices to train on."""
    tensorboard: bool = False
    """Log for TensorBoard, too."""
    seed: Seed = 0
    """Of the weights, the split and the augmentation."""
    output: OutputFolder = Path("outputs/folder")
    """Folder for all results."""

    def check(self) -> None:
        """Raise a `ValueError` for flags that do not go together."""
        if bool(self.val_images) != bool(self.val_masks):
            raise ValueError("--val-images and --val-masks go together. Give both, or none.")
        if self.class_names and len(self.class_names) != self.num_classes:
            raise ValueError(
                f"`class_names` must be one for each class. Received: {len(self.class_names)} "
                f"names for --num-classes {self.num_classes}. Name every class once."
            )
        changed = [name for name in ARCHITECTURE if getattr(self, name) != getattr(Train, name)]
        if self.init and changed:
            raise ValueError(
                f"With `init` the network is that of the file. Received: `{changed[0]}` as well. "
                "Leave it out."
            )

    def what_must_stay(self) -> dict:
        """The settings that must be equal when the training resumes."""
        # The package of datasets may bring TensorFlow's.
        from keras_fsa.datasets.augment import PIPELINE

        names = [item.name for item in fields(self) if item.name not in MAY_CHANGE]
        return {"pipeline": PIPELINE} | {name: getattr(self, name) for name in names}


def main(
    arguments: Sequence[str] | None = None,
    program: str | None = None,
    description: str = __doc__,
) -> None:
    """Run the command, see `keras_fsa.commands.command.command`."""
    command(Train, train, arguments, program, description)


def train(settings: Train) -> None:
    """Train, or resume, and write what became of it."""
    from keras_fsa.datasets import folder_dataset
    from keras_fsa.datasets.augment import training_batches
    from keras_fsa.training import fit, split_examples
    from keras_fsa.training.devices import find_devices

    def examples(images, masks):
        classes, label = settings.num_classes, settings.ignore_label
        return folder_dataset(images, masks, classes, settings.size, label)

    devices = find_devices(settings.devices)
    # Whatever is wrong with the model shows before thousands of images are read.
    with devices.scope():
        keras.utils.set_random_seed(settings.seed)
        model = build_model(settings)
    training = examples(settings.images, settings.masks)
    if settings.val_images:
        validation = examples(settings.val_images, settings.val_masks)
    else:
        training, validation = split_examples(training, settings.val_fraction, settings.seed)
    steps = len(training) // settings.batch
    if not steps:
        raise ValueError(
            f"`batch` must be at most the number of training images. Received: {settings.batch} "
            f"for {len(training)} images. Lower it."
        )
    names = settings.class_names or [f"class {i}" for i in range(settings.num_classes)]

    def batches(step, part):
        return training_batches(
            training,
            settings.size,
            settings.batch,
            settings.seed,
            start_step=step,
            part=part,
            scales=(0.75, 2.0),
            max_class_share=1,
            photometric=False,
        )

    with devices.scope():
        model.compile(optimizer=_optimizer(settings, settings.epochs * steps))
        fit(
            model,
            batches,
            settings.output,
            settings.epochs * steps,
            checkpoint_every=steps,
            settings={**settings.what_must_stay(), "train_images": len(training)},
            validation=validation,
            class_names=names,
            tensorboard=settings.tensorboard,
            devices=devices,
        )
    if devices.process == 0:
        write_recipe(settings, settings.output / "recipe.json")
        _report(settings, names, len(training), validation)


def build_model(settings: Train) -> keras_fsa.FsaNet:
    """The network that the settings describe, or that of --init with their classes."""
    if settings.init:
        model = _with_classes(load_keras_model(settings.init), settings)
    else:
        backbone = settings.backbone
        if backbone.endswith(".keras"):
            if not Path(backbone).is_file():
                raise ValueError(
                    f"`backbone` must be a name or a file that exists. Received: {backbone}. "
                    "Correct the path."
                )
            backbone = keras.saving.load_model(backbone, compile=False)
        model = keras_fsa.FsaNet(
            num_classes=settings.num_classes,
            backbone=backbone,
            backbone_weights=settings.weights,
            normalization=settings.normalization,
            output_stride=settings.output_stride,
            attention=settings.attention,
            affinity=settings.affinity,
            frequencies=settings.frequencies,
            recurrence=settings.recurrence,
            head_channels=settings.head_channels,
            low_level=settings.low_level,
            auxiliary_loss_weight=settings.auxiliary_loss_weight,
            dtype=settings.mixed_precision,
        )
    model.backbone.trainable = not settings.freeze_backbone
    return model


def _with_classes(model, settings):
    """A trained network, with another number of classes where wanted: its last layers are new."""
    if not isinstance(model, keras_fsa.FsaNet):
        raise ValueError(f"`init` must be an FsaNet. Received: {settings.init}. Take another file.")
    changes = {"num_classes": settings.num_classes}
    copy = with_policy(model, settings.mixed_precision, **changes)
    for new, old in zip(copy.weights, model.weights, strict=True):
        if new.shape == old.shape:
            new.assign(old)
    return copy


def _optimizer(settings, steps):
    start = settings.learning_rate or {"sgd": 0.01, "adamw": 3e-4}[settings.optimizer]
    end = settings.final_learning_rate
    end = start / 100 if end is None else end
    from keras_fsa.training.optimizer import SGD, poly_decay

    rate = poly_decay(start, end, steps)
    if settings.optimizer == "sgd":
        return SGD(rate, 0.9, l2=settings.weight_decay)
    return keras.optimizers.AdamW(rate, weight_decay=settings.weight_decay)


def _report(settings, names, count, validation):
    """Score `best.keras`; print, write and draw that."""
    model = keras.saving.load_model(settings.output / "best.keras", compile=False)
    iou = class_iou(model.predict_on_batch, validation.batch(settings.batch), len(names))
    mean = float(np.nanmean(iou)) if np.isfinite(iou).any() else float("nan")
    for name, value in zip(names, iou, strict=True):
        print(f"{name:>20}  {'absent' if np.isnan(value) else f'{value:.4f}'}")
    print(f"{'mean IoU':>20}  {mean:.4f}")

    def number(value):
        # JSON has no NaN.
        return None if np.isnan(value) else float(value)

    metrics = {
        "mean_iou": number(mean),
        "iou": {name: number(value) for name, value in zip(names, iou, strict=True)},
        "train_images": count,
        "val_images": len(validation),
        "parameters": model.count_params(),
        "arguments": asdict(settings),
    }
    with whole_file(settings.output / "metrics.json") as unfinished:
        unfinished.write_text(json.dumps(metrics, indent=2, default=str) + "\n")
    optional_import("matplotlib", "tools")
    images, masks = map(np.stack, zip(*validation.take(4), strict=True))
    keras_fsa.visualize.comparison(
        images,
        masks,
        np.argmax(model.predict_on_batch(images), axis=-1),
        class_names=names,
        path=settings.output / "predictions.png",
    )
    print(f"Written to {settings.output}")
