r"""Score a trained model on a dataset, as the benchmarks do, or write predictions for its server.

    keras_fsa evaluate --model fsanet.keras --dataset cityscapes --data-dir data \
        --mode slide --window 769 --stride 513 --output outputs/cityscapes

    keras_fsa evaluate --model fsanet.keras --dataset ade20k --data-dir data --fit 2048 512

    keras_fsa evaluate --model fsanet.keras --images images/val --masks masks/val

Images are read one after the other and predicted at their own size, whole or in windows, at one or
several scales (--scales 0.5 0.75 1 1.25 1.5 1.75 2) and with --flip also mirrored; see
`keras_fsa/inference.py`. The model is a `.keras` file, or an exported one (SavedModel, ONNX and so
on, see `keras_fsa export`) that takes images of any size and returns logits.

The folder of --output receives

- `scores.json`: IoU, Dice score, accuracy and boundary F-score of each class, their means, pixel
  accuracy and expected calibration error;
- `confusion.png`: what the pixels of each class were taken for.

Models with several classes per pixel, or with only one class (`keras_fsa/classes.py`), are scored
by the pixels of each class that are above --threshold; `overlaps.png` then replaces
`confusion.png`, with the found, missed and wrongly found pixels of each class.

For the Cityscapes server, pass only the folder of the test images; subfolders are searched:

    keras_fsa evaluate --model fsanet.keras --images leftImg8bit/test \
        --dataset cityscapes --mode slide --submission outputs/submission

Each file in --submission has the name of its image, and holds the dataset's raw label ids.
"""

import dataclasses
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import keras
import numpy as np

from keras_fsa.classes import activation_of, answers, by_class, decide, names_of
from keras_fsa.commands.command import command
from keras_fsa.commands.data import Source, image_reader
from keras_fsa.commands.models import TrainedModel, load_model, num_classes_of
from keras_fsa.commands.predict import Names
from keras_fsa.files import whole_file
from keras_fsa.images import MAX_PIXELS, write_mask
from keras_fsa.inference import batches_by_size, probabilities
from keras_fsa.metrics import (
    binary_confusions,
    binary_scores,
    boundary_scores,
    calibration_counts,
    calibration_error,
    confusion_matrix,
    confusion_scores,
    nan_mean,
)
from keras_fsa.settings import (
    Count,
    ExistingFile,
    ExistingPath,
    Label,
    OutputFolder,
    Pixels,
    Real,
    Scale,
    Threshold,
)
from keras_fsa.training.devices import keep_tensorflow_off_gpus


@dataclass(frozen=True)
class Evaluate:
    """Score a trained model on a dataset, or write predictions for its server."""

    model: TrainedModel
    """A .keras file, an exported model, or the name of a trained preset."""
    dataset: Literal["cityscapes", "ade20k", "voc_aug", "camvid", "signal_harbor"] | None = None
    """Name of the dataset."""
    data_dir: Path | None = None
    """Where TFDS keeps datasets."""
    manual_dir: ExistingPath | None = None
    """Folder of its archives, if it is not prepared yet."""
    skip_unreadable: bool = False
    """Leave out the dataset's broken files."""
    split: str | None = None
    """Split of the dataset; none: the one that it is evaluated on."""
    images: ExistingPath | None = None
    """Instead of a dataset: a folder, or a CSV file of images and masks."""
    masks: ExistingPath | None = None
    """Masks of the images, as for keras_fsa train; none: only predict."""
    colour_table: ExistingFile | None = None
    """For masks in colours: a file with red, green, blue and name in each line."""
    id_table: ExistingFile | None = None
    """For masks with other ids: a CSV file of old and new ids."""
    class_names: Names | None = None
    """For --images: such as sky,road,car; none: those of the model."""
    ignore_label: Label = 255
    """For --masks: id of pixels that belong to no class."""
    mode: Literal["whole", "slide"] = "whole"
    """Whole images, or sliding windows."""
    window: Pixels = 769
    """For --mode slide: side of the window in pixels."""
    stride: Pixels = 513
    """For --mode slide: pixels from one window to the next."""
    scales: tuple[Scale, ...] = (1.0,)
    """Average the predictions over these scales."""
    flip: bool = False
    """Average the predictions of each image and its mirror image."""
    fit: tuple[Pixels, Pixels] | None = None
    """Long and short side that images are fitted into, before --scales."""
    align_corners: bool | None = None
    """How logits are resized; none: as the model does."""
    threshold: Threshold = 0.5
    """Lowest probability of a class, for models with several classes per pixel, or with one."""
    boundary_tolerance: Annotated[float, Real(above=0, maximum=1e5)] = 3.0
    """Tolerance of the boundary F-score: pixels, or below 1 a share of the diagonal."""
    batch: Count = 1
    """Images predicted at a time, of one size."""
    submission: OutputFolder | None = None
    """Folder for predictions with the dataset's raw ids."""
    max_pixels: Count = MAX_PIXELS
    """Refuse images with more pixels than this."""
    quiet: bool = False
    """No progress bar."""
    output: OutputFolder = Path("outputs/evaluate")
    """Folder for the scores."""

    def check(self) -> None:
        """Raise a `ValueError` for flags that do not go together."""
        read = [path.resolve() for path in (self.images, self.masks) if path]
        wrong = (
            (not self.images and not self.dataset, "give --dataset or --images"),
            (
                self.images and self.images.is_dir() and not self.masks and not self.submission,
                "--images without --masks needs --submission: there is nothing to score",
            ),
            (self.masks and not self.images, "--masks needs the --images they belong to"),
            (
                self.submission and self.submission.resolve() in read,
                "--submission must be another folder than --images and --masks, whose files it "
                f"would replace. Received: {self.submission}",
            ),
            (
                self.mode == "slide" and self.stride > self.window,
                f"--stride must be at most the window. Received: {self.stride} for {self.window}",
            ),
        )
        for is_wrong, message in wrong:
            if is_wrong:
                raise ValueError(f"{message}.")


def main(
    arguments: Sequence[str] | None = None,
    program: str | None = None,
    description: str = __doc__,
) -> None:
    """Run the command, see `keras_fsa.commands.command.command`."""
    command(Evaluate, evaluate, arguments, program, description)


def evaluate(settings: Evaluate) -> None:
    """Predict all images; score them, write the predictions, or both."""
    keep_tensorflow_off_gpus()
    names: Sequence[str] | None = settings.class_names
    split = settings.split
    if settings.dataset:
        from keras_fsa.datasets import describe

        description = describe(settings.dataset)
        names = names or description.class_names
        split = split or list(description.splits)[-1]
    model = load_model(settings.model)
    if not names:
        count = num_classes_of(model)
        if not count:
            raise ValueError(
                "`class_names` or `dataset` must be given for an exported model. Received: "
                f"neither, for {settings.model}. Name every class once."
            )
        names = names_of(model, count)
    view: dict[str, Any] = {
        "window": settings.window if settings.mode == "slide" else None,
        "stride": settings.stride if settings.mode == "slide" else None,
        "scales": settings.scales,
        "flip": settings.flip,
        "fit": settings.fit,
        "align_corners": settings.align_corners,
    }
    n = len(names)
    if (found := num_classes_of(model)) not in (n, None):
        raise ValueError(f"The model has {found} classes, the data {n}. Correct --class-names.")
    activation = activation_of(model)
    if settings.submission and activation == "sigmoid" and n > 1:
        raise ValueError(
            "`submission` holds one class at a pixel. Received: a model of several. Leave it out; "
            "`keras_fsa predict --masks` writes a mask for each class."
        )
    examples, count, has_masks = _open_data(settings, split, names, model)
    scores = _Scores(n, activation, settings.boundary_tolerance)
    bar = keras.utils.Progbar(count, interval=1, verbose=not settings.quiet, unit_name="image")
    for batch in batches_by_size(examples, settings.batch, limit=4 * settings.batch):
        images = np.stack([image for image, _, _ in batch])
        for (_, mask, name), p in zip(batch, probabilities(model, images, **view), strict=True):
            ids = decide(p, activation, settings.threshold)
            if settings.submission:
                _write_submission(settings.submission, name, ids, settings.dataset)
            if has_masks:
                scores.add(mask, ids, p)
        bar.add(len(batch))
    if settings.submission:
        print(f"Predictions for {count} images are in {settings.submission}")
    if has_masks:
        _report(scores, count, names, settings)


class _Scores:
    """The scores of a dataset, image by image."""

    def __init__(self, num_classes, activation, tolerance):
        self.num_classes, self.activation, self.tolerance = num_classes, activation, tolerance
        self.confusion: Any = 0
        self.calibration: Any = 0
        self.boundaries: list[np.ndarray] = []

    def add(self, mask, ids, p):
        n = self.num_classes
        self.calibration += calibration_counts(mask, p, self.activation)
        if self.activation == "softmax":
            self.confusion += confusion_matrix(mask, ids, n)
            self.boundaries.append(boundary_scores(mask, ids, n, self.tolerance))
            return
        mask, ids = by_class(mask, n), by_class(ids, n)
        self.confusion += binary_confusions(mask, ids)
        each = [boundary_scores(mask[..., i], ids[..., i], 2, self.tolerance) for i in range(n)]
        self.boundaries.append(np.array([of_no_and_yes[1] for of_no_and_yes in each]))

    def result(self):
        """The scores, and the boundary F-score of each class."""
        of = confusion_scores if self.activation == "softmax" else binary_scores
        return of(self.confusion), nan_mean(self.boundaries, axis=0)


def class_iou(
    predict: Callable, batches: Any, num_classes: int, activation: str = "softmax"
) -> np.ndarray:
    """The IoU of each class over batches of images and masks; NaN for a class that never occurs.

    Args:
        predict: a function from images `(B, H, W, channels)` to logits `(B, H, W, num_classes)`,
            such as `model.predict_on_batch`.
        batches: of images and masks (`keras_fsa.classes`), whose label 255 is ignored.
        num_classes: number of classes.
        activation: `"softmax"` or `"sigmoid"`.
    """
    confusion: Any = 0
    for images, masks in batches:
        ids, masks = answers(np.asarray(predict(np.asarray(images))), activation), np.asarray(masks)
        if activation == "softmax":
            confusion += confusion_matrix(masks, ids, num_classes)
        else:
            confusion += binary_confusions(by_class(masks, num_classes), ids)
    return (confusion_scores if activation == "softmax" else binary_scores)(confusion)["class_iou"]


def _open_data(settings, split, names, model) -> tuple[Iterator, int, bool]:
    """`(image, mask or None, name)` of each example; their number; whether there are masks."""
    from keras_fsa.datasets import load
    from keras_fsa.datasets.folder import is_image

    limit = settings.max_pixels
    if settings.images and settings.images.is_dir() and not settings.masks:
        folder, read = settings.images, image_reader(model, limit)
        files = sorted(filter(is_image, folder.rglob("*")))
        if not files:
            raise ValueError(f"`--images` must hold images. Received: {folder} without one.")
        _check_names(files, folder)
        return ((read(path), None, path.stem) for path in files), len(files), False
    if settings.images:
        source = Source(
            settings.images,
            settings.masks,
            activation_of(model),
            settings.ignore_label,
            settings.colour_table,
            settings.id_table,
            max_pixels=limit,
        )
        if not source.is_polygons():
            source = dataclasses.replace(source, image_reader=image_reader(model, limit))
        data = source.open(list(names))
    else:
        data = load(
            settings.dataset,
            split,
            data_dir=settings.data_dir,
            manual_dir=settings.manual_dir,
            skip_unreadable=settings.skip_unreadable,
        )
    if settings.submission:
        _check_names([Path(data.name(i)) for i in range(len(data))], settings.images or "the split")
    stream = (
        (image, mask, Path(data.name(i)).stem if settings.submission else None)
        for i, (image, mask) in enumerate(data)
    )
    return stream, len(data), True


def _check_names(files, where):
    """Check that no two images would be written to the same file."""
    if len({path.stem for path in files}) < len(files):
        raise ValueError(
            f"A submission must have one image of a name. Received: {where} with images of one "
            "name in several folders, or of several endings. Rename one."
        )


def _write_submission(folder, name, ids, dataset):
    """The class map of an image as a PNG of the dataset's raw label ids."""
    from keras_fsa.datasets import cityscapes

    raw_ids = {"cityscapes": cityscapes.RAW_IDS, "ade20k": range(1, 151)}.get(dataset)
    if raw_ids is not None:
        ids = np.array(raw_ids, "uint8")[ids]
    write_mask(folder / f"{Path(name).name}.png", ids)


def _report(found, count, names, settings):
    """Print the table, write the JSON and the figure."""
    from keras_fsa.visualize import plot_confusion, plot_overlaps
    from keras_fsa.visualize.figure import can_draw

    scores, boundary = found.result()
    columns = {
        "iou": scores["class_iou"],
        "dice": scores["class_dice"],
        "accuracy": scores["class_accuracy"],
        "boundary_f": boundary,
    }
    means = {
        "mean_iou": scores["mean_iou"],
        "mean_dice": scores["mean_dice"],
        "mean_accuracy": scores["mean_accuracy"],
        "mean_boundary_f": nan_mean(boundary),
        "pixel_accuracy": scores["pixel_accuracy"],
        "calibration_error": calibration_error(found.calibration),
    }
    print(f"\n{'class':>24}     IoU    Dice  accuracy  boundary F")
    rows = [*zip(names, *columns.values(), strict=True), ("mean", *means.values())]
    for name, iou, dice, accuracy, boundary_f, *_ in rows:
        print(f"{name[:24]:>24}  {iou:6.4f}  {dice:6.4f}    {accuracy:6.4f}      {boundary_f:6.4f}")
    print(f"{'pixel accuracy':>24}  {means['pixel_accuracy']:6.4f}")
    print(f"{'calibration error':>24}  {means['calibration_error']:6.4f}")

    def number(value):
        # JSON has no NaN.
        return None if np.isnan(value) else float(value)

    result = {
        **{name: number(value) for name, value in means.items()},
        "classes": {
            name: {key: number(values[i]) for key, values in columns.items()}
            for i, name in enumerate(names)
        },
        "images": count,
        "pixels": int(found.calibration[0].sum()),
        "arguments": dataclasses.asdict(settings),
    }
    with whole_file(settings.output / "scores.json") as unfinished:
        unfinished.write_text(json.dumps(result, indent=2, default=str) + "\n")
    print(f"Written to {settings.output}")
    if not can_draw():
        return
    if found.activation == "softmax":
        plot_confusion(found.confusion, names, settings.output / "confusion.png")
    else:
        plot_overlaps(found.confusion, names, settings.output / "overlaps.png")
