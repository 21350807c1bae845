r"""Train FsaNet on your own images and masks, from two folders.

    keras_fsa train --images images/train --masks masks/train \
        --val-images images/val --val-masks masks/val --num-classes 11 --ignore-label 11 \
        --size 240 320 --output outputs/street

A mask has the name of its image (`0001.jpg`, `0001.png`) and holds one class id per pixel, 0 to
num-classes - 1, or the ignore label. Without --val-images, a tenth of the images is kept for
validation; frames of one video look alike: for those, pass a separate folder as --val-images.

With --num-classes 1 the masks hold 1 where the class is present, 0 elsewhere. If a pixel may have
several classes, pass --activation sigmoid: --masks then holds a folder of such masks for each
class, named after the class (`masks/road/0001.png`, `masks/wet/0001.png`).

--images may also be a CSV file of images and masks; --masks a COCO file, or a folder of Labelme's
JSON files (whose class 0 is the background). --colour-table is for masks in colours, --id-table for
masks with other ids. --channels reads TIFF, PNG or .npy files with any number of channels, 16 bits
or floats, keeps the stored values, and normalises them by their mean and standard deviation, which
are saved with the model.

A training that was killed, at any moment, resumes at its last epoch when the same command is run
again. The folder of --output receives

- `best.keras`: the network of the epoch with the best validation mIoU; `model.keras`: the last;
- `history.csv`: loss and mIoU of each epoch;
- `metrics.json`: the IoU of each class and their mean for `best.keras` (also printed);
- `predictions.png`: the first validation images with their true and predicted masks;
- `recipe.json`: all settings, for --recipe; `checkpoint.npz`: the state to resume from.

To fine-tune: --init model.keras starts from a trained network; if its classes differ, its last
layers are new. --freeze-backbone trains only the head, --backbone-rate 0.1 trains the backbone
slowly. --early-stopping ends the training when nothing improves, --ema averages the weights,
--accumulate combines small batches into a large one, --class-weights balanced compensates for rare
classes. A training resumes exactly with any of these. Run keras_fsa check on the data first.

It runs on TensorFlow, JAX and torch: set KERAS_BACKEND.
"""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Annotated, Any, Literal

import keras
import numpy as np

import keras_fsa
from keras_fsa import losses
from keras_fsa.classes import answers, by_class, choose_activation, names_of
from keras_fsa.commands.command import command, in_bytes
from keras_fsa.commands.data import (
    Source,
    channels_of,
    class_names,
    image_reader,
    raster_reader,
    takes_stored_values,
)
from keras_fsa.commands.evaluate import class_iou
from keras_fsa.commands.models import TrainedModel, load_keras_model
from keras_fsa.commands.predict import Names
from keras_fsa.files import whole_file
from keras_fsa.models.preprocessing import as_numbers
from keras_fsa.models.trained import adapted, load_keras_file
from keras_fsa.settings import (
    Classes,
    Count,
    ExistingFile,
    ExistingPath,
    Label,
    NotNegative,
    OutputFolder,
    Pixels,
    Real,
    Seed,
    write_recipe,
)
from keras_fsa.visualize.figure import can_draw

# What may differ when a training resumes.
MAY_CHANGE = (
    "images", "masks", "val_images", "val_masks", "colour_table", "id_table", "class_names",
    "output", "devices", "tensorboard", "init", "weights", "early_stopping", "cache_gigabytes",
)  # fmt: skip
# What a model of --init brings along.
ARCHITECTURE = (
    "channels", "backbone", "weights", "normalization", "output_stride", "attention", "affinity",
    "frequencies", "recurrence", "head_channels", "auxiliary_loss_weight", "low_level",
)  # fmt: skip


@dataclass(frozen=True)
class Train:
    """Train FsaNet on your own images and masks, from two folders."""

    images: ExistingPath
    """Folder of the training images, or a CSV file of images and masks."""
    num_classes: Classes
    """Number of classes: ids are 0 to this number - 1."""
    masks: ExistingPath | None = None
    """Folder of their masks, or a COCO file."""
    val_images: ExistingPath | None = None
    """Folder of the validation images, or a CSV file."""
    val_masks: ExistingPath | None = None
    """Folder of their masks, or a COCO file."""
    val_fraction: Annotated[float, Real(above=0, below=1)] = 0.1
    """Share of the images kept for validation without --val-images."""
    size: tuple[Pixels, Pixels] = (240, 320)
    """Height and width that images are resized to, in pixels."""
    ignore_label: Label = 255
    """Id in the masks of pixels that belong to no class."""
    colour_table: ExistingFile | None = None
    """For masks in colours: a file with red, green, blue and name in each line."""
    id_table: ExistingFile | None = None
    """For masks with other ids: a CSV file of old and new ids."""
    channels: Count | None = None
    """Number of channels of images read with their stored values; none: RGB in 8 bits."""
    class_names: Names | None = None
    """Such as sky,road,car; saved with the model. With a folder per class, sets their order."""
    activation: Literal["softmax", "sigmoid"] | None = None
    """One class per pixel, or any number; none: softmax, or sigmoid if there is one class."""

    init: TrainedModel | None = None
    """A .keras file or a trained preset's name to start from; its classes may differ."""
    freeze_backbone: bool = False
    """Train only the head."""
    backbone: str = "resnet18"
    """Name of the backbone, or a .keras file of one."""
    weights: str | None = None
    """Weights of the backbone: imagenet, or a file; none: random."""
    normalization: (
        Literal["auto", "imagenet", "caffe", "ccnet", "tf", "efficientnet_lite"] | None
    ) = "auto"
    """Normalisation of the images; auto: the one that the weights expect."""
    output_stride: Literal[8, 16, 32] | None = None
    """Ratio of the image's size to the feature map's."""
    attention: Literal["frequency", "spatial"] | None = "frequency"
    """Kind of attention."""
    affinity: str | None = None
    """dot_product, linear_softmax or linear; none: FsaNet's default."""
    frequencies: Count = 8
    """Low frequencies kept on each axis."""
    recurrence: Count = 2
    """How many times the attention is applied."""
    head_channels: Pixels = 128
    """Channels of the head."""
    low_level: tuple[Literal["stage3", "stage2", "stage1"], ...] | None = None
    """Finer stages that the head joins, for thin objects, coarse to fine; none: no finer stage."""
    auxiliary_loss_weight: NotNegative = 0.4
    """Weight of the auxiliary head's loss; 0: no auxiliary head."""

    optimizer: Literal["sgd", "adamw"] = "sgd"
    """SGD with momentum 0.9, or AdamW."""
    learning_rate: Annotated[float, Real(above=0, maximum=100)] | None = None
    """Learning rate at the start; none: 0.01 for sgd, 0.0003 for adamw."""
    final_learning_rate: Annotated[float, Real(0, 100)] | None = None
    """Learning rate at the end of the poly decay; none: a hundredth of that at the start."""
    weight_decay: NotNegative = 0.0
    """Weight decay: for sgd an L2 term in the gradient, for adamw decoupled."""
    backbone_rate: Annotated[float, Real(minimum=0, maximum=100)] = 1.0
    """Factor by which the backbone's learning rate is multiplied."""
    loss: tuple[Literal["cross_entropy", "focal", "dice", "lovasz", "boundary"], ...] = (
        "cross_entropy",
    )
    """One loss, or several to be summed."""
    class_weights: (
        Literal["balanced"] | tuple[Annotated[float, Real(above=0, maximum=1e6)], ...] | None
    ) = None
    """Weights of the classes in the loss; balanced: by how rare each class is; none: equal."""
    ema: Annotated[float, Real(above=0, below=1)] | None = None
    """Validate and save moving averages of the weights, with this momentum per step."""
    batch: Count = 8
    """Images per step."""
    accumulate: Count = 1
    """Steps whose gradients are averaged before the weights change."""
    epochs: Count = 60
    """Passes over the training images."""
    early_stopping: Count | None = None
    """End after this many epochs without a better validation score."""
    mixed_precision: Literal["float32", "mixed_bfloat16", "mixed_float16"] = "float32"
    """Dtype policy."""
    devices: Literal["one", "all"] = "one"
    """Devices to train on."""
    tensorboard: bool = False
    """Also log for TensorBoard."""
    cache_gigabytes: NotNegative = 2.0
    """Memory for keeping images once they are read and resized; 0: read them in each epoch."""
    seed: Seed = 0
    """Seed of the weights, the split and the augmentation."""
    output: OutputFolder = Path("outputs/folder")
    """Folder for all results."""

    def check(self) -> None:
        """Raise a `ValueError` for flags that do not go together."""
        in_file = self.val_images and self.val_images.is_file()
        if not in_file and bool(self.val_images) != bool(self.val_masks):
            raise ValueError("--val-images and --val-masks go together. Give both, or none.")
        if self.class_names and len(self.class_names) != self.num_classes:
            raise ValueError(
                f"`class_names` must be one for each class. Received: {len(self.class_names)} "
                f"names for --num-classes {self.num_classes}. Name every class once."
            )
        activation = choose_activation(self.activation, self.num_classes)
        if self.class_weights == "balanced" and activation == "sigmoid":
            raise ValueError(
                "`class_weights` can be balanced where a pixel has one class: with the sigmoid "
                "each class is asked about at every pixel, however rare it is. Received: balanced. "
                "Give numbers, or another `loss` such as dice."
            )
        numbers = self.class_weights
        if isinstance(numbers, tuple) and len(numbers) != self.num_classes:
            raise ValueError(
                f"`class_weights` must be one for each class. Received: {len(numbers)} numbers for "
                f"--num-classes {self.num_classes}. Give as many."
            )
        changed = [name for name in ARCHITECTURE if getattr(self, name) != getattr(Train, name)]
        if self.init and changed:
            raise ValueError(
                f"With `init` the network is that of the file. Received: `{changed[0]}` as well. "
                "Leave it out."
            )

    def what_must_stay(self) -> dict:
        """The settings that must be the same when the training resumes."""
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
    """Train, or resume, and write the results."""
    from keras_fsa.datasets.augment import training_batches
    from keras_fsa.datasets.rasters import statistics
    from keras_fsa.training import fit, split_examples
    from keras_fsa.training.devices import find_devices
    from keras_fsa.training.memory import step_memory

    activation = choose_activation(settings.activation, settings.num_classes)

    def source(images, masks):
        tables = settings.colour_table, settings.id_table
        return Source(images, masks, activation, settings.ignore_label, *tables, reader)

    def examples(images, masks):
        return source(images, masks).open(names, settings.size)

    folders = settings.images, settings.masks
    reader = raster_reader(settings.channels) if settings.channels else None
    names = class_names(source(*folders), settings.class_names, settings.num_classes)
    devices = find_devices(settings.devices)
    share = devices.share(settings.batch)
    training = numbers = None
    if reader and settings.normalization == "auto":
        training = examples(*folders)
        numbers = statistics(training)
    elif reader:
        numbers = as_numbers(settings.normalization)
    # Whatever is wrong with the model shows before thousands of images are read.
    with devices.scope():
        keras.utils.set_random_seed(settings.seed)
        palette = source(*folders).palette(settings.num_classes)
        model = build_model(settings, names, numbers, palette)
    if settings.init and (takes_stored_values(model) or channels_of(model) != 3):
        reader = image_reader(model)
    training = training or examples(*folders)
    if settings.val_images:
        validation = examples(settings.val_images, settings.val_masks)
    else:
        training, validation = split_examples(training, settings.val_fraction, settings.seed)
    if settings.cache_gigabytes:
        training = training.in_memory(settings.cache_gigabytes)
    steps = len(training) // settings.batch
    if not steps:
        raise ValueError(
            f"`batch` must be at most the number of training images. Received: {settings.batch} "
            f"for {len(training)} images. Lower it."
        )
    if settings.accumulate > settings.epochs * steps:
        raise ValueError(
            "`accumulate` must be at most the number of steps, or no weight changes. Received: "
            f"{settings.accumulate} for {settings.epochs * steps} steps. Lower it."
        )

    weights = settings.class_weights
    if weights == "balanced":
        weights = _balanced(training, names, say=devices.process == 0)

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
        optimizer = _optimizer(settings, settings.epochs * steps, model)
        model.compile(optimizer, _loss(settings.loss, activation, weights))
        if devices.process == 0:
            need = {k: in_bytes(v) for k, v in step_memory(model, settings.size, share).items()}
            print(
                f"A step takes about {need['peak']} on each device: {need['weights']} for weights "
                f"and the optimizer, and the greater of {need['maps']} for the maps of its "
                f"images and {need['gradients']} for gradients.",
                flush=True,
            )
        fit(
            model,
            batches,
            settings.output,
            settings.epochs * steps,
            checkpoint_every=steps,
            settings={**settings.what_must_stay(), "train_images": len(training)},
            validation=validation,
            validation_batch=share,
            class_names=names,
            tensorboard=settings.tensorboard,
            devices=devices,
            patience=settings.early_stopping,
        )
    if devices.process == 0:
        write_recipe(settings, settings.output / "recipe.json")
        _report(settings, names, len(training), validation)


def build_model(
    settings: Train,
    names: Sequence[str] | None = None,
    numbers: tuple | None = None,
    palette: Sequence | None = None,
) -> keras_fsa.FsaNet:
    """The network that the settings describe, or that of --init with their classes.

    Args:
        settings: the settings.
        names: names of the classes.
        numbers: mean and standard deviation, in place of the normalization that the settings name.
        palette: colours of the classes, if the data has any.
    """
    if settings.init:
        model = _with_classes(load_keras_model(settings.init), settings, names, palette)
    else:
        backbone = settings.backbone
        if backbone.endswith(".keras"):
            if not Path(backbone).is_file():
                raise ValueError(
                    f"`backbone` must be a name or a file that exists. Received: {backbone}. "
                    "Correct the path."
                )
            backbone = load_keras_file(Path(backbone), "backbone")
        model = keras_fsa.FsaNet(
            num_classes=settings.num_classes,
            backbone=backbone,
            backbone_weights=settings.weights,
            image_shape=(None, None, settings.channels or 3),
            normalization=settings.normalization if numbers is None else numbers,
            output_stride=settings.output_stride,
            attention=settings.attention,
            affinity=settings.affinity,
            frequencies=settings.frequencies,
            recurrence=settings.recurrence,
            head_channels=settings.head_channels,
            low_level=settings.low_level,
            auxiliary_loss_weight=settings.auxiliary_loss_weight,
            activation=settings.activation,
            class_names=names,
            palette=palette,
            dtype=settings.mixed_precision,
        )
    model.backbone.trainable = not settings.freeze_backbone
    return model


def _with_classes(model, settings, names, palette):
    """A trained network, with other classes if wanted: its last layers are then new."""
    if not isinstance(model, keras_fsa.FsaNet):
        raise ValueError(f"`init` must be an FsaNet. Received: {settings.init}. Take another file.")
    changes = {"num_classes": settings.num_classes, "activation": settings.activation}
    same = model.num_classes == settings.num_classes
    # Numbers stand for classes that neither flags nor files name.
    numbered = names is None or list(names) == names_of(None, settings.num_classes)
    if settings.class_names or not (same and model.class_names and numbered):
        changes["class_names"] = names
    if palette:
        changes["palette"] = palette
    return adapted(model, settings.mixed_precision, **changes)


def _optimizer(settings, steps, model):
    from keras_fsa.training.optimizer import SGD, AdamW, backbone_rates, poly_decay

    start = settings.learning_rate or {"sgd": 0.01, "adamw": 3e-4}[settings.optimizer]
    end = settings.final_learning_rate
    end = start / 100 if end is None else end
    rate = poly_decay(start, end, steps)
    further: dict[str, Any] = {}
    if settings.backbone_rate != 1:
        further["rates"] = backbone_rates(model, settings.backbone_rate)
    if settings.ema is not None:
        further |= {"use_ema": True, "ema_momentum": settings.ema}
    if settings.accumulate > 1:
        further["gradient_accumulation_steps"] = settings.accumulate
    if settings.optimizer == "sgd":
        return SGD(rate, 0.9, l2=settings.weight_decay, **further)
    return AdamW(rate, settings.weight_decay, **further)


def _balanced(examples, names, say):
    """Class weights by how rare the classes are in the masks, printed in a line if wanted."""
    from keras_fsa.datasets.check import NOTHING_COUNTS, balanced_weights, check

    found = check(examples, len(names))
    wrong = [problem for problem in found.problems if not problem.endswith(NOTHING_COUNTS)]
    if wrong:
        raise ValueError(f"Masks must be right to be counted. Received: {wrong[0]}.")
    weights = balanced_weights(found)
    if say:
        pairs = zip(names, weights, strict=True)
        text = ", ".join(f"{name} {weight:g}" for name, weight in pairs)
        print(f"Class weights: {text}", flush=True)
    return weights


def _loss(names, activation, class_weights):
    kinds = {
        "cross_entropy": losses.CrossEntropy,
        "focal": losses.FocalLoss,
        "dice": losses.TverskyLoss,
        "lovasz": losses.LovaszSoftmax,
        "boundary": losses.BoundaryLoss,
    }
    parts = [kinds[name](activation=activation, class_weights=class_weights) for name in names]
    return parts[0] if len(parts) == 1 else losses.SumOfLosses(parts)


def _report(settings, names, count, validation):
    """Score `best.keras`; print, write and draw the result."""
    model = keras.saving.load_model(settings.output / "best.keras", compile=False)
    batches = validation.batch(settings.batch)
    iou = class_iou(model.predict_on_batch, batches, len(names), model.activation)
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
    print(f"Written to {settings.output}")
    if not can_draw():
        return
    images, masks = map(np.stack, zip(*validation.take(4), strict=True))
    if model.activation == "sigmoid":
        masks = by_class(masks, len(names))
    keras_fsa.visualize.comparison(
        images,
        masks,
        answers(np.asarray(model.predict_on_batch(images)), model.activation),
        class_names=names,
        palette=model.palette,
        path=settings.output / "predictions.png",
    )
