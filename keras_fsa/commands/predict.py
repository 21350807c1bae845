r"""Predict any image with a trained model: an overlay, and the share of each class.

    keras_fsa predict --model outputs/quickstart/fsanet.keras image.jpg folder/ ...
    keras_fsa predict --model outputs/quickstart/saved_model image.jpg
    keras_fsa predict --model model.keras --dataset cityscapes --window 769 folder/

Images are files, or folders that are searched to any depth, except for --output inside one. For
each image, the folder of --output receives

- `NAME_overlay.png`: the image overlaid with its classes, and their shares;
- with --masks, `masks/NAME.png`: the class id of each pixel, as `keras_fsa train` reads masks; for
  models with several classes per pixel, `masks/CLASS/NAME.png`, of 0 and 1. Existing masks that
  this command did not write are not replaced;
- with --spectrum, `NAME_spectrum.png`: the spectrum of the attention's input feature map;
- with --attention-at X,Y, `NAME_attention.png`: what the pixel in column X and row Y attends to,
  beside softmax attention with the same weights;

and, for all images together, `shares.csv`: the share of each class in per cent of the pixels.
"""

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import keras
import numpy as np
from tyro.conf import Positional
from tyro.constructors import PrimitiveConstructorSpec

from keras_fsa.arguments import optional_import
from keras_fsa.attention_map import softmax_twin
from keras_fsa.classes import activation_of, counted, decide
from keras_fsa.commands.command import command
from keras_fsa.commands.data import image_reader
from keras_fsa.commands.models import TrainedModel, load_model, num_classes_of
from keras_fsa.files import whole_file
from keras_fsa.images import MAX_PIXELS, write_mask
from keras_fsa.inference import probabilities
from keras_fsa.layers.self_attention import SelfAttention
from keras_fsa.models.fsanet import FsaNet
from keras_fsa.settings import Count, ExistingPath, OutputFolder, Pixels, Threshold
from keras_fsa.types import Tensor
from keras_fsa.visualize import as_rgb, plot_attention, plot_overlay, plot_spectrum

# What Pillow reads, too, and few train on. It would also open videos, HDF5 and PostScript.
_FURTHER = (".avif", ".j2k", ".jfif", ".jpe", ".pbm", ".pgm", ".pnm", ".ppm", ".tga")
SOFTWARE = "keras_fsa predict"
"""The software that a mask's metadata names as its writer."""


def _pixel(words):
    try:
        x, y = (int(number) for number in words[0].split(","))
    except ValueError:
        raise ValueError(
            f"must be two whole numbers, column and row of a pixel, not {words[0]!r}: write 40,25"
        ) from None
    return x, y


Names = Annotated[
    tuple[str, ...],
    PrimitiveConstructorSpec(
        nargs=1,
        metavar="A,B,C",
        instance_from_str=lambda words: tuple(map(str.strip, words[0].split(","))),
        is_instance=lambda value: isinstance(value, tuple),
        str_from_instance=lambda value: [",".join(value)],
    ),
]
Pixel = Annotated[
    tuple[int, int],
    PrimitiveConstructorSpec(
        nargs=1,
        metavar="X,Y",
        instance_from_str=_pixel,
        is_instance=lambda value: isinstance(value, tuple),
        str_from_instance=lambda value: ["{},{}".format(*value)],
    ),
]


@dataclass(frozen=True)
class Predict:
    """Predict any image with a trained model: an overlay, and the share of each class."""

    images: Positional[tuple[ExistingPath, ...]]
    """Files, or folders of images."""
    model: TrainedModel
    """A .keras file, an exported model, or the name of a trained preset."""
    output: OutputFolder = Path("outputs/predict")
    """Folder for the results."""
    dataset: str | None = None
    """Dataset whose class names and colours are used, such as cityscapes."""
    class_names: Names | None = None
    """Such as sky,road,car; none: those of the model."""
    threshold: Threshold = 0.5
    """Lowest probability of a class, for models with several classes per pixel, or with one."""
    window: Pixels | None = None
    """Side of a sliding window in pixels, for large images."""
    masks: bool = False
    """Also write masks: the class id of each pixel."""
    spectrum: bool = False
    """Draw the spectrum of the attention's input."""
    attention_at: Pixel | None = None
    """Draw what the pixel at this column and row attends to."""
    max_pixels: Count = MAX_PIXELS
    """Refuse images with more pixels than this."""

    def check(self) -> None:
        """Raise a `ValueError` for flags that do not go together."""
        if self.dataset and self.class_names:
            raise ValueError(
                "`--dataset` and `--class-names` exclude each other. Received: both. Leave one out."
            )
        if self.attention_at and min(self.attention_at) < 0:
            raise ValueError(
                "`--attention-at` must be a pixel of the image. Received: "
                f"{','.join(map(str, self.attention_at))}. Count from 0, the column first."
            )


def main(
    arguments: Sequence[str] | None = None,
    program: str | None = None,
    description: str = __doc__,
) -> None:
    """Run the command, see `keras_fsa.commands.command.command`."""
    command(Predict, predict, arguments, program, description)


def predict(settings: Predict) -> None:
    """Read, predict and draw each image, then write the shares of the classes."""
    images = find_images(settings.images, settings.output)
    model = load_model(settings.model)
    known, palette = class_table(settings.dataset, settings.class_names, model)
    if settings.masks:
        names_of_images = [name for _, name in images]
        _check_masks(settings.output / "masks", names_of_images, class_folders(known or ()))
    names: Sequence[str] = known or ()
    activation, read = activation_of(model), image_reader(model, settings.max_pixels)
    inspects = settings.spectrum or settings.attention_at
    if inspects and not isinstance(model, keras.Model):
        raise ValueError(
            "`--spectrum` and `--attention-at` look into the model, and an exported one cannot be "
            f"looked into. Received: --model {settings.model}. Pass the .keras file of the same "
            "model."
        )
    if inspects:
        attention_layer(model)

    bar = keras.utils.Progbar(len(images), unit_name="image", verbose=len(images) > 1)
    rows = []
    for number, (file, name) in enumerate(images, start=1):
        image = read(file)
        result = probabilities(model, image, window=settings.window)
        num_classes = result.shape[-1]
        names = names or [f"class {i}" for i in range(num_classes)]
        _check_names(names, num_classes)
        mask = decide(result, activation, settings.threshold)
        mask, counts = counted(mask, num_classes, activation)
        target = settings.output / name
        plot_overlay(image, mask, names, palette, f"{target}_overlay.png")
        if settings.masks:
            write_masks(settings.output / "masks", name, mask, names)
        if inspects:
            draw_attention(model, image, file, target, settings.spectrum, settings.attention_at)
        rows.append((file, 100 * counts / (image.shape[0] * image.shape[1])))
        bar.update(number)
    write_shares(settings.output / "shares.csv", names, rows)

    mean = np.mean([row for _, row in rows], axis=0)
    print("Share of the pixels" + (f", mean of {len(rows)} images" if len(rows) > 1 else ""))
    for i in np.argsort(-mean, kind="stable"):
        print(f"{names[i]:>20}  {mean[i]:6.2f} %")
    written = "Overlays, masks" if settings.masks else "Overlays"
    print(f"{written} and shares.csv are in {settings.output}")


def _check_masks(folder, names, classes):
    """Raise a `ValueError` for masks in the way that this command did not write."""
    pillow = optional_import("PIL.Image", "tools")
    for name in names:
        for place in ("", *classes):
            path = folder / place / f"{name}.png"
            if not path.exists():
                continue
            with pillow.open(path) as file:
                if file.info.get("Software") != SOFTWARE:
                    raise ValueError(
                        f"Only masks that {SOFTWARE} wrote are replaced. Received: {path}, which "
                        "is not one. Name another --output."
                    )


def find_images(paths: Sequence[Path], output: Path) -> list[tuple[Path, Path]]:
    """`(file, name of its results)` for files and folders; the name keeps the subfolders.

    Hidden files in a folder are ignored, and so are results of earlier runs in an `output` inside
    it.
    """
    from keras_fsa.datasets.folder import EXTENSIONS, is_image

    readable, results = (*EXTENSIONS, *_FURTHER), output.resolve()
    found: dict[Path, Path] = {}
    for path in paths:
        if path.is_dir():
            files = [file for file in sorted(path.rglob("*")) if is_image(file, readable)]
            if path.resolve() in results.parents:
                files = [file for file in files if results not in file.resolve().parents]
            named = [(file, file.relative_to(path).with_suffix("")) for file in files]
        else:
            named = [(path, Path(path.stem))]
        if not named:
            raise ValueError(
                f"A folder must hold images. Received: {path}, without one. Name another folder."
            )
        for file, name in named:
            if name in found:
                raise ValueError(
                    f"Two images would have the same results, {name}. Received: {found[name]} and "
                    f"{file}. Rename one, or run twice with two --output folders."
                )
            found[name] = file
    return [(file, name) for name, file in found.items()]


def class_table(
    dataset: str | None, class_names: Sequence[str] | None, model: object
) -> tuple[Sequence[str] | None, Any]:
    """Names and colours of the classes; None for what is not known.

    Args:
        dataset: name of a dataset that has them, or None.
        class_names: the names, or None. These and the dataset's take precedence over the model's.
        model: the model whose classes they are.

    Raises:
        ValueError: for an unknown dataset, or if the number of names is not that of the classes.
    """
    names: Sequence[str] | None = class_names or getattr(model, "class_names", None)
    palette = getattr(model, "palette", None)
    if dataset:
        from keras_fsa.datasets import describe

        try:
            known = describe(dataset)
        except ValueError as error:
            raise ValueError(f"--dataset: {error}") from None
        names, palette = list(known.class_names), known.palette
    if names and (count := num_classes_of(model)):
        _check_names(names, count)
    return names, palette


def _check_names(names, num_classes):
    if len(names) != num_classes:
        raise ValueError(
            f"`--class-names` or `--dataset` must fit the model. Received: {len(names)} names for "
            f"a model of {num_classes} classes. Name every class once."
        )


def attention_layer(model: keras.Model) -> keras.Layer:
    """The attention layer of an `FsaNet`.

    Raises:
        ValueError: for a model without one.
    """
    layer = model.attention_layer() if isinstance(model, FsaNet) else None
    if not isinstance(layer, SelfAttention):
        raise ValueError(
            "This needs an FsaNet with FrequencySelfAttention or SpatialSelfAttention in its head. "
            f"Received: a model named {model.name!r} without. Take another --model, or leave "
            "--spectrum and --attention-at out."
        )
    return layer


def attention_and_input(model: FsaNet, image: np.ndarray) -> tuple[keras.Layer, Tensor]:
    """The attention layer of an `FsaNet`, and its input map `(h, w, C)` for an image."""
    return attention_layer(model), model.attention_features(image[None])[0]


def position_of_pixel(
    pixel: tuple[int, int], image: np.ndarray, feature_map: Tensor, name: object
) -> tuple[int, int]:
    """Row and column of the feature map under the pixel (column, row) of the image."""
    x, y = pixel
    height, width = image.shape[:2]
    if not (x < width and y < height):
        raise ValueError(
            f"`--attention-at` must be a pixel of the image. Received: {x},{y} for {name}, which "
            f"is {width} pixels wide and {height} high. Count from 0, the column first."
        )
    return y * feature_map.shape[0] // height, x * feature_map.shape[1] // width


def draw_attention(
    model: keras.Model,
    image: np.ndarray,
    name: Path,
    target: Path,
    spectrum: bool,
    pixel: tuple[int, int] | None,
) -> None:
    """Draw the spectrum of the feature map, and what a pixel attends to."""
    layer, feature_map = attention_and_input(model, image)
    if spectrum:
        own = getattr(layer, "frequencies", 8)
        k = min(own if isinstance(own, int) else 8, *feature_map.shape[:2])
        plot_spectrum(feature_map, k, f"{target}_spectrum.png")
    if pixel:
        row, column = position_of_pixel(pixel, image, feature_map, name)
        layers = {layer.affinity.name.replace("_", " "): layer}
        if layer.affinity.name != "softmax" or layer.low_pass is not None:
            layers = {f"this model: {title}": layer for title in layers}
            layers["softmax, all frequencies"] = softmax_twin(layer)
        shown = as_rgb(image)
        plot_attention(feature_map, layers, row, column, shown, f"{target}_attention.png")


def write_masks(folder: Path, name: Path, mask: np.ndarray, names: Sequence[str]) -> None:
    """Write an answer of `keras_fsa.classes.counted`: one file, or one in the folder of each class.

    Args:
        folder: folder of the masks.
        name: name of the image, without its extension.
        mask: uint8 `(H, W)`, or `(H, W, num_classes)` of 0 and 1.
        names: names of the classes.
    """
    if mask.ndim == 2 or mask.shape[-1] == 1:
        write_mask(folder / f"{name}.png", mask.reshape(mask.shape[:2]), SOFTWARE)
        return
    for i, place in enumerate(class_folders(names)):
        write_mask(folder / place / f"{name}.png", mask[..., i], SOFTWARE)


def class_folders(names: Sequence[str]) -> list[str]:
    """A folder name for each class.

    Raises:
        ValueError: if two classes would have the same folder.
    """
    folders = [name.replace("/", "_") for name in names]
    for i, folder in enumerate(folders):
        if folder in folders[:i]:
            raise ValueError(
                "Classes must have different names where '/' is '_', as in the folders of their "
                f"masks. Received: {names[folders.index(folder)]!r} and {names[i]!r}. Rename one "
                "by --class-names."
            )
    return folders


def write_shares(path: Path, names: Sequence[str], rows: Sequence[tuple]) -> None:
    """Write the share of each class in each image, in per cent, as CSV."""
    with (
        whole_file(path) as unfinished,
        open(unfinished, "w", newline="", encoding="utf-8") as file,
    ):
        writer = csv.writer(file)
        writer.writerow(["image", *names])
        writer.writerows([image, *(f"{share:.4f}" for share in row)] for image, row in rows)
