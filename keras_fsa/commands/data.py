"""The user's own images and masks, in any of the forms that the commands accept.

| `--images` | `--masks` | read by |
| --- | --- | --- |
| a folder | a folder of masks | `keras_fsa.datasets.folder_dataset` |
| a CSV file of pairs | none | `keras_fsa.datasets.pairs` |
| a folder | a COCO file, `.json` | `keras_fsa.datasets.polygons` |
| a folder | a folder of Labelme's JSON files | `keras_fsa.datasets.polygons` |
| a folder | a folder of masks for each class (sigmoid) | `keras_fsa.datasets.folders_of_classes` |
"""

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from keras_fsa.arguments import optional_import
from keras_fsa.images import MAX_PIXELS, read_image, read_mask


@dataclass(frozen=True)
class Source:
    """Where images and masks are, and what their files mean."""

    images: Path
    masks: Path | None
    activation: str
    ignore_label: int = 255
    colour_table: Path | None = None
    id_table: Path | None = None
    image_reader: Callable | None = None
    max_pixels: int = MAX_PIXELS

    def class_names(self) -> list[str] | None:
        """The class names that the files specify, in the order of the ids; else None."""
        from keras_fsa.datasets.folder import is_image
        from keras_fsa.datasets.masks import read_colour_table

        if self.colour_table:
            return read_colour_table(self.colour_table)[0]
        if self.is_polygons():
            return self._polygons(None, None)[1]
        if self.activation == "sigmoid" and self.masks is not None and self.masks.is_dir():
            inside = list(self.masks.iterdir())
            # Beside masks, a folder is not that of a class.
            if not any(map(is_image, inside)):
                folders = [path.name for path in inside if path.is_dir()]
                return sorted(name for name in folders if not name.startswith(".")) or None
        return None

    def palette(self, count: int) -> list[tuple[int, int, int]] | None:
        """The colours of this many classes, if the files specify them; else None."""
        from keras_fsa.datasets.masks import read_colour_table

        if not self.colour_table:
            return None
        colours = read_colour_table(self.colour_table)[1]
        # Of one class, the first is that of what it is not.
        colours = colours[self.activation == "sigmoid" :]
        return colours if len(colours) == count else None

    def check(self, names: list[str]) -> None:
        """Raise a `ValueError` for forms that do not go together."""
        is_file = self.images.is_file()
        if is_file == bool(self.masks):
            raise ValueError(
                "`--masks` is for a folder of images; a CSV file of --images names the masks, too. "
                f"Received: {self.images} {'with' if self.masks else 'without'} --masks. Correct "
                "one of them."
            )
        other = self.is_polygons() or self._has_folders(names)
        if other and (self.colour_table or self.id_table or is_file):
            raise ValueError(
                "--colour-table, --id-table and CSV files are for one mask of ids for each image. "
                f"Received: one of them with --masks {self.masks}. Leave it out."
            )
        self._mask_reader(names)

    def _has_folders(self, names):
        """Whether each class has its own folder of masks."""
        return self.activation == "sigmoid" and len(names) > 1

    def open(
        self, names: list[str], size: tuple[int, int] | None = None, check: bool = True
    ) -> Any:
        """`Examples` of all the data, with these class names.

        Args:
            names: names of the classes.
            size: `(height, width)` that all are resized to; None keeps the size of each.
            check: whether to open all image and mask files now; otherwise a problem with one shows
                when it is read.

        Raises:
            ValueError: for forms that do not go together, and whatever is wrong with the files.
        """
        from keras_fsa.datasets import folder_dataset
        from keras_fsa.datasets.folders_of_classes import folders_of_classes
        from keras_fsa.datasets.pairs import read_pairs

        self.check(names)
        if self.is_polygons():
            examples, found = self._polygons(names, size)
            if found != names:
                raise ValueError(
                    f"The classes must be those of the files. Received: {names}, and the files "
                    f"have {found}. Correct --num-classes and --class-names."
                )
            return examples
        settings: dict[str, Any] = {
            "check": check,
            "max_pixels": self.max_pixels,
            "image_reader": self.image_reader,
        }
        images: Any = self.images
        masks: Any = self.masks
        if self._has_folders(names):
            folders = [masks / name for name in names]
            return folders_of_classes(images, folders, size, self.ignore_label, **settings)
        if images.is_file():
            images, masks = read_pairs(images)
        count = len(names) + (self.activation == "sigmoid")
        label, reader = self._mask_reader(names)
        return folder_dataset(images, masks, count, size, label, mask_reader=reader, **settings)

    def _mask_reader(self, names):
        """The ignore label of the reader's results, and the reader, None for ids as stored."""
        from keras_fsa.datasets.masks import (
            colour_reader,
            read_colour_table,
            read_id_table,
            remap_reader,
        )

        if self.colour_table:
            found, colours, ignored = read_colour_table(self.colour_table)
            # A model's classes are in the order of the table that it was trained with.
            places = {name: place for place, name in enumerate(found)}
            moved = [(name, i) for i, name in enumerate(names) if places.get(name, i) != i]
            if moved and self.activation == "softmax":
                name, place = moved[0]
                raise ValueError(
                    "A class must have the same place in --colour-table and among the classes. "
                    f"Received: {name!r} at {places[name]} in {self.colour_table} and at {place} "
                    f"of {', '.join(names)[:300]}. Put the lines in that order."
                )
            if self.activation == "sigmoid" and len(found) != 2:
                raise ValueError(
                    "For one class, --colour-table must hold two colours, first that of what it is "
                    f"not. Received: {self.colour_table} with {', '.join(found)[:300]}. Correct it."
                )
            return 255, colour_reader(colours, ignored, self.max_pixels)
        if self.id_table:
            table = read_id_table(self.id_table, self.ignore_label)
            read = functools.partial(read_mask, max_pixels=self.max_pixels)
            return self.ignore_label, remap_reader(table, read)
        return self.ignore_label, None

    def is_polygons(self) -> bool:
        """Whether the masks are polygons in JSON files."""
        masks = self.masks
        if masks is None:
            return False
        if masks.is_file():
            return masks.suffix == ".json"
        from keras_fsa.datasets.folder import is_image

        # Labelme's lie beside the images; beside masks, a file of JSON tells something about them.
        has_masks = masks.resolve() != self.images.resolve() and any(map(is_image, masks.iterdir()))
        return not has_masks and any(masks.glob("*.json"))

    def _polygons(self, names, size):
        from keras_fsa.datasets.polygons import BACKGROUND, coco_dataset, labelme_dataset

        settings: dict[str, Any] = {"activation": self.activation, "max_pixels": self.max_pixels}
        if self.image_reader:
            raise ValueError(
                "Polygons are for RGB images in 8 bits. Received: --channels, or another model. "
                "Leave it out."
            )
        masks: Any = self.masks
        if masks.is_file():
            return coco_dataset(self.images, masks, size, **settings)
        labels = names and [name for name in names if name != BACKGROUND]
        return labelme_dataset(masks, labels, size, images=self.images, **settings)


def class_names(source: Source, given: Sequence[str] | None, count: int | None) -> list[str]:
    """The names of the classes: those given, else those that the files specify, else numbers.

    Args:
        source: the data.
        given: `--class-names`.
        count: `--num-classes`; None: as many as there are names.

    Raises:
        ValueError: if the files have another number of classes, or nothing specifies it.
    """
    found = given or source.class_names()
    if found is None and count is None:
        raise ValueError(
            "`--num-classes` must be given for masks of ids. Received: neither it nor "
            "--class-names. Give one of them."
        )
    found = list(found or [f"class {i}" for i in range(count or 0)])
    if count not in (None, len(found)):
        raise ValueError(
            f"`--num-classes` must be that of the files. Received: {count}, and they have "
            f"{len(found)}: {', '.join(found)[:300]}. Correct it, or name the classes by "
            "--class-names."
        )
    return found


def raster_reader(channels: int, max_pixels: int = MAX_PIXELS) -> Callable:
    """A function from a path to the values that the file stores, `(H, W, channels)`."""
    from keras_fsa.datasets.rasters import read_raster

    return lambda path: read_raster(path, channels, max_pixels)


def channels_of(model: Any) -> int:
    """Number of channels of a model's images: 3 if the model does not specify it."""
    whole = getattr(model, "image_shape", None) or getattr(model, "input_shape", None)
    return (whole[-1] if isinstance(whole, tuple) else None) or 3


def takes_stored_values(model: Any) -> bool:
    """Whether a model takes the values that files store; otherwise it takes 8-bit RGB or grey.

    It does if its normalization is a pair of numbers, or its channels are other than 1 or 3.
    """
    numbers = isinstance(getattr(model, "normalization", None), (tuple, list))
    return numbers or channels_of(model) not in (1, 3)


def image_reader(model: Any, max_pixels: int = MAX_PIXELS) -> Callable:
    """A function from a path to what a model takes, `(H, W, channels)`."""
    channels = channels_of(model)
    if takes_stored_values(model):
        return raster_reader(channels, max_pixels)
    return lambda path: read_image(path, channels, max_pixels)


def read_images(
    folder: Path, model: Any, limit: int, size: tuple[int, int] | None = None
) -> list[np.ndarray]:
    """The first images in a folder, sorted by name, as a model takes them.

    Args:
        folder: its subfolders are not searched.
        model: see `image_reader`.
        limit: maximum number of images.
        size: height and width to resize them to, bilinearly; None leaves them as they are.

    Raises:
        ValueError: if there is no image.
    """
    from keras_fsa.datasets.folder import is_image

    files = sorted(filter(is_image, folder.iterdir()))
    if not files:
        raise ValueError(
            f"A folder must hold images. Received: {folder}, without one. Name another folder."
        )
    images = list(map(image_reader(model), files[:limit]))
    if size is None:
        return images
    resize = optional_import("cv2", "tools").resize
    # Of one channel it would drop the axis.
    return [resize(image, size[::-1]).reshape(*size, -1) for image in images]
