"""Images and masks from two folders.

`folder_dataset` is all that most people need; it calls the other two:

- `match_pairs` finds the mask of each image by its name;
- `check_pairs` opens every file before any training, and lists all that is wrong.
"""

import os
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import keras
import numpy as np

from keras_fsa import types
from keras_fsa.arguments import boolean, integer, optional_import, positive_int, positive_ints
from keras_fsa.datasets.examples import Examples, Pair, in_order
from keras_fsa.images import MAX_PIXELS, ImageError, decode_image, read_mask
from keras_fsa.metrics import IGNORE_LABEL

EXTENSIONS = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp", ".gif", ".jp2", ".npy")
"""Endings of the files that are read, in lower case; the case of a file's own ending is free."""


def is_image(path: Path, endings: Sequence[str] = EXTENSIONS) -> bool:
    """Whether it is a file with one of the endings, and not a hidden one."""
    return path.suffix.lower() in endings and path.name[0] != "." and path.is_file()


def match_pairs(images: types.Path, masks: types.Path) -> list[tuple[Path, Path]]:
    """Match the images of one folder with the masks of another.

    An image and its mask have the same name up to the extension: `images/0001.jpg` and
    `masks/0001.png`. Files whose ending is not in `EXTENSIONS`, hidden files and subfolders are
    ignored.

    Args:
        images: directory of the images.
        masks: directory of the masks.

    Returns:
        A list of `(image_path, mask_path)` tuples of `pathlib.Path`, sorted by name.

    Raises:
        FileNotFoundError: if `images` or `masks` is not a directory.
        ValueError: if a folder has no such file, holds two files of one name, or holds a file
            without a partner in the other folder.
    """
    image_files, mask_files = _files("images", images), _files("masks", masks)
    lonely = [
        f"{len(names)} in {argument} only ({_first(names)})"
        for argument, names in (
            ("images", sorted(image_files.keys() - mask_files.keys())),
            ("masks", sorted(mask_files.keys() - image_files.keys())),
        )
        if names
    ]
    if lonely:
        raise ValueError(
            "Every image needs a mask of the same name (up to the extension), and every mask an "
            f"image. Received: images={images}, masks={masks}, with names that are "
            f"{' and '.join(lonely)}. Rename, add or remove these files."
        )
    return [(image_files[name], mask_files[name]) for name in sorted(image_files)]


def check_pairs(
    pairs: Sequence,
    num_classes: int,
    ignore_label: int = IGNORE_LABEL,
    max_pixels: int | None = MAX_PIXELS,
    image_reader: Callable | None = None,
    mask_reader: Callable | None = None,
) -> None:
    """Open every image and every mask once, and report all that would break a training.

    Problems are: a file that does not open or is cut short, an image and a mask of different sizes,
    a mask that is not one channel of ids (an RGB mask, say) or that is a JPEG, and ids that are
    neither a class nor the ignore label. A progress bar shows for more than 200 pairs.

    Args:
        pairs: list of `(image_path, mask_path)`, as `match_pairs` returns it.
        num_classes: number of classes, at most 255. The ids of the masks are 0 to
            `num_classes - 1`.
        ignore_label: id of the pixels that belong to no class. It may lie among the classes, and
            is ignored then.
        max_pixels: most pixels that an image may have; None for any number.
        image_reader, mask_reader: as in `folder_dataset`.

    Raises:
        ValueError: if any file is wrong: one error for all files, with the first ten problems and
            their number. Also if an argument is out of its range.

    Warns:
        UserWarning: once, if there are images that are not RGB with 8 bits per channel. They are
            converted, as `keras_fsa.images` says. And if the masks hold nothing but 0 and what is
            ignored: of masks of 0 and 255, for no and yes, a network learns that all is 0.
    """
    optional_import("PIL", "tools")
    _check_labels(num_classes, ignore_label)

    def check(pair):
        image_path, mask_path = pair
        found = read_pair(
            image_path, mask_path, num_classes, ignore_label, mask_reader, max_pixels, image_reader
        )
        ids = np.zeros(1) if found.mask is None else found.mask
        ignored = ids == IGNORE_LABEL
        return found.mode, found.problems, bool(ignored.any()), bool((ids[~ignored] > 0).any())

    pairs = list(pairs)
    bar = keras.utils.Progbar(len(pairs), verbose=len(pairs) > 200, interval=0.5, unit_name="pair")
    problems, converted, ignores, has_classes = [], [], False, False
    for (image_path, _), (mode, found, *ids) in zip(pairs, in_order(check, pairs), strict=True):
        problems += found
        ignores, has_classes = ignores or ids[0], has_classes or ids[1]
        if mode not in ("RGB", None):
            converted.append(f"{image_path} (mode {mode})")
        bar.add(1)
    if problems:
        more = "" if len(problems) <= 10 else f"\n- and {len(problems) - 10} more"
        raise ValueError(
            "Images and masks must open, be of equal size, and the masks hold one channel with "
            f"the ids 0 to {num_classes - 1} or the ignore label. Received: "
            f"num_classes={num_classes}, ignore_label={ignore_label}, and {len(pairs)} pairs with "
            f"{len(problems)} problem(s):\n- " + "\n- ".join(problems[:10]) + more + "\n"
            "Correct or remove these files, or correct `num_classes` and `ignore_label`."
        )
    if converted:
        warnings.warn(
            f"{len(converted)} of {len(pairs)} images are not RGB with 8 bits per channel and "
            f"are converted to it. The first one is {converted[0]}.",
            stacklevel=2,
        )
    if ignores and not has_classes:
        warnings.warn(
            "Masks should hold classes beside 0. Received: masks of nothing but 0 and the ignore "
            f"label {ignore_label}. Where that stands for a class, say so: keras_fsa train "
            f"--id-table with the line {ignore_label},1, or remap_reader of "
            "keras_fsa.datasets.masks.",
            stacklevel=2,
        )


def folder_dataset(
    images: types.Path | Sequence,
    masks: types.Path | Sequence,
    num_classes: int,
    size: tuple[int, int] | None = None,
    ignore_label: int = IGNORE_LABEL,
    check: bool = True,
    max_pixels: int | None = MAX_PIXELS,
    image_reader: Callable | None = None,
    mask_reader: Callable | None = None,
) -> Examples:
    """Images and masks of two folders, ready for `model.fit` once they are batched.

    Files are read as `keras_fsa.images` says: an image with an EXIF orientation is turned upright,
    a palette mask gives its indices.

    ```python
    from keras_fsa.datasets import folder_dataset

    train = folder_dataset("images/train", "masks/train", num_classes=11, size=(240, 320))
    model.fit(train.batch(8, shuffle=True), epochs=60)
    ```

    Args:
        images: directory of the images; or a list of image files.
        masks: directory of the masks, matched with the images by `match_pairs`; or a list of
            mask files, the mask of each image in turn.
        num_classes: number of classes, at most 255.
        size: `(height, width)` in pixels that all examples are resized to: images bilinear
            with antialiasing, masks to the nearest neighbour. None keeps the size of each.
        ignore_label: id in the files of the pixels that belong to no class. It becomes 255.
        check: whether to call `check_pairs` at once.
        max_pixels: most pixels that an image may have; None for any number.
        image_reader: function from the path of an image to `(height, width, channels)`, such as
            `lambda path: read_raster(path, channels=6)` of `keras_fsa.datasets.rasters`. Default:
            RGB in 8 bits.
        mask_reader: function from the path of a mask to its ids, such as those of
            `keras_fsa.datasets.masks`. Default: the ids that the file stores.

    Returns:
        `Examples`, sorted by name (lists keep their order): pairs of the image, uint8 RGB
        `(height, width, 3)`, and the mask, uint8 `(height, width)`, with the class ids and 255.

    Raises:
        FileNotFoundError, ValueError: see `match_pairs` and `check_pairs`. With `check=False` a
            bad file raises a ValueError, which names the file and what is wrong, when it is read.
        ImportError: if Pillow is missing, with the pip command.
    """
    check_settings(num_classes, size, ignore_label, check, max_pixels)
    return paired_examples(
        _pairs(images, masks),
        num_classes,
        size,
        ignore_label,
        check,
        max_pixels,
        image_reader,
        mask_reader,
    )


def check_settings(
    num_classes: int,
    size: tuple[int, int] | None,
    ignore_label: int,
    check: bool,
    max_pixels: int | None,
) -> None:
    """Raise an error for arguments of `folder_dataset` that are out of their range."""
    optional_import("PIL", "tools")
    _check_labels(num_classes, ignore_label)
    positive_ints("size", size, 2, optional=True)
    boolean("check", check)
    integer("max_pixels", max_pixels, optional=True)


def paired_examples(
    pairs: Sequence,
    num_classes: int,
    size: tuple[int, int] | None,
    ignore_label: int,
    check: bool,
    max_pixels: int | None,
    image_reader: Callable | None,
    mask_reader: Callable | None = None,
) -> Examples:
    """`folder_dataset` of pairs of paths, of which the second may be a tuple, see `read_pair`."""
    if check:
        check_pairs(pairs, num_classes, ignore_label, max_pixels, image_reader, mask_reader)

    def read(index):
        image_path, mask_path = pairs[index]
        pair = read_pair(
            image_path, mask_path, num_classes, ignore_label, mask_reader, max_pixels, image_reader
        )
        if pair.problems:
            raise PairError(pair.problems, num_classes, ignore_label)
        assert pair.image is not None and pair.mask is not None, "no problem, so both are there"
        return resized(pair.image, pair.mask, size) if size else (pair.image, pair.mask)

    return Examples(
        len(pairs), read, lambda index: os.fspath(pairs[index][0]), size and (size[0], size[1])
    )


def resized(image: np.ndarray, mask: np.ndarray, size: tuple[int, int]) -> Pair:
    """An image resized bilinearly with antialiasing, and its mask to the nearest neighbour."""
    pillow = optional_import("PIL.Image", "tools")

    def one(pixels, method):
        return np.asarray(pillow.fromarray(pixels).resize(size[::-1], method))

    bilinear, nearest = pillow.Resampling.BILINEAR, pillow.Resampling.NEAREST
    if mask.ndim == 3:
        mask = np.stack([one(part, nearest) for part in np.moveaxis(mask, -1, 0)], axis=-1)
    else:
        mask = one(mask, nearest)
    if image.dtype == np.uint8 and image.shape[-1] == 3:
        return one(image, bilinear), mask
    # Pillow resizes other types one channel at a time, as float32.
    parts = [one(part.astype("float32"), bilinear) for part in np.moveaxis(image, -1, 0)]
    values = np.stack(parts, axis=-1)
    return (values if image.dtype.kind == "f" else np.round(values).astype(image.dtype)), mask


def _pairs(images, masks):
    """The pairs of files of the two arguments of `folder_dataset`."""
    arguments = images, masks
    folders = [isinstance(argument, (str, os.PathLike)) for argument in arguments]
    if all(folders):
        return match_pairs(images, masks)
    lists = [
        not folder and isinstance(argument, Sequence)
        for folder, argument in zip(folders, arguments, strict=True)
    ]
    if all(lists) and len(images) == len(masks) > 0:
        for path in (*images, *masks):
            if not isinstance(path, (str, os.PathLike)):
                raise ValueError(
                    "`images` and `masks` must hold paths of files. Received: an item "
                    f"{path!r} of {type(path).__name__}. Pass str or os.PathLike."
                )
        return list(zip(images, masks, strict=True))
    received = [
        f"list of {len(argument)}" if is_list else repr(argument)
        for argument, is_list in zip(arguments, lists, strict=True)
    ]
    raise ValueError(
        "`images` and `masks` must be two directories, or two lists of files of equal length. "
        f"Received: images={received[0]}, masks={received[1]}. Pass two of one kind."
    )


def _files(argument, directory):
    """The image files of a directory as a dict of name (up to the extension) to path."""
    directory = Path(directory)
    if not directory.is_dir():
        raise FileNotFoundError(
            f"`{argument}` must be a directory that exists. Received: {argument}={directory}. "
            "Correct the path."
        )
    files: dict[str, Path] = {}
    doubles = []
    for path in sorted(directory.iterdir()):
        if is_image(path):
            if path.stem in files:
                doubles.append(f"{files[path.stem].name} and {path.name}")
            files[path.stem] = path
    if not files:
        raise ValueError(
            f"`{argument}` must hold files that end in one of {', '.join(EXTENSIONS)}. "
            f"Received: {argument}={directory}, which has none (subfolders are not searched). "
            "Pass the folder that holds the files themselves."
        )
    if doubles:
        raise ValueError(
            f"`{argument}` must hold one file of each name (up to the extension). Received: "
            f"{argument}={directory}, where {len(doubles)} name(s) come twice "
            f"({_first(doubles)}). Keep one file of each name."
        )
    return files


class PairError(ValueError):
    """An image and its mask that cannot be used. `reason` says why, without rule and fix."""

    def __init__(self, problems: list[str], num_classes: int, ignore_label: int) -> None:
        self.reason = "; ".join(problems)
        super().__init__(
            "Images and masks must open, be of equal size, and the masks hold one channel with "
            f"the ids 0 to {num_classes - 1} or {ignore_label}. Received: {self.reason}. Correct "
            "or remove these files."
        )


class FilePair(NamedTuple):
    """What `read_pair` finds in two files."""

    image: np.ndarray | None
    """uint8 RGB `(height, width, 3)`; None for a bad file."""
    mask: np.ndarray | None
    """uint8 `(height, width)`, of several masks `(height, width, masks)`, with 255 for the ignore
    label; None where anything is wrong."""
    mode: str | None
    """Pillow's name of the kind of pixels that the image's file holds."""
    unchanged: bool
    """Whether the image's file holds just these pixels, in RGB or grey."""
    problems: list[str]
    """What is wrong; each names the file."""


def read_pair(
    image_path: types.Path,
    mask_path: types.Path | tuple,
    num_classes: int,
    ignore_label: int,
    ids_of: Callable | None = None,
    max_pixels: int | None = MAX_PIXELS,
    image_of: Callable | None = None,
) -> FilePair:
    """Decode an image and its mask; what is wrong is returned, not raised.

    Args:
        image_path: path of the image.
        mask_path: path of the mask; or a tuple of several, which become its last axis.
        num_classes: the ids of the mask are 0 to this number - 1, and `ignore_label`.
        ignore_label: id of the pixels of no class.
        ids_of: function from the path of a mask to its ids; None stands for `read_mask`.
        max_pixels: most pixels that an image may have; None for any number.
        image_of: function from the path of an image to its pixels; None stands for
            `decode_image`.
    """
    image = mode = None
    unchanged, problems = False, []
    try:
        if image_of:
            image, unchanged = image_of(image_path), True
        else:
            image, mode, upright = decode_image(image_path, max_pixels=max_pixels)
            unchanged = upright and mode in ("RGB", "L")
    # As below, for those who pass `image_of`.
    except Exception as error:
        problems.append(f"{image_path}: {_reason(error)}")
    paths = mask_path if isinstance(mask_path, tuple) else (mask_path,)
    masks = []
    for path in paths:
        try:
            ids = ids_of(path) if ids_of else read_mask(path, max_pixels)
            mask = _labels(ids, num_classes, ignore_label)
        # Those who pass `ids_of` use decoders of their own, with errors of many kinds.
        except Exception as error:
            problems.append(f"{path}: {_reason(error)}")
            continue
        if image is not None and image.shape[:2] != mask.shape:
            (height, width), (mask_height, mask_width) = image.shape[:2], mask.shape
            problems.append(
                f"{image_path} is {height} high and {width} wide (EXIF orientation applied), "
                f"its mask {path} is {mask_height} high and {mask_width} wide"
            )
        masks.append(mask)
    mask = None
    if not problems:
        mask = np.stack(masks, axis=-1) if isinstance(mask_path, tuple) else masks[0]
    return FilePair(image, mask, mode, unchanged, problems)


def _reason(error):
    return error.reason if isinstance(error, ImageError) else str(error)


def _labels(ids, num_classes, ignore_label):
    if ids.dtype == "uint8":  # the ids that occur are found much faster by counting
        found = np.flatnonzero(np.bincount(ids.ravel(), minlength=256))
    else:
        found = np.unique(ids)
    wrong = found[((found < 0) | (found >= num_classes)) & (found != ignore_label)]
    if len(wrong):
        raise ValueError(
            f"has ids beyond 0 to {num_classes - 1} that are not the ignore label {ignore_label}: "
            f"{_first(wrong)}"
        )
    if ids.dtype == "uint8" and ignore_label == IGNORE_LABEL:
        return ids
    return np.where(ids == ignore_label, IGNORE_LABEL, ids).astype("uint8")


def _check_labels(num_classes, ignore_label):
    positive_int("num_classes", num_classes)
    if num_classes > IGNORE_LABEL:
        raise ValueError(
            f"`num_classes` must be at most {IGNORE_LABEL}, the label of ignored pixels in 8-bit "
            f"masks. Received: num_classes={num_classes}. Merge classes."
        )
    # Files of 16 and 32 bits can have labels beyond 255, and negative ones.
    integer("ignore_label", ignore_label, -(2**31))


def _first(values, count=5):
    shown = [str(value) for value in values[:count]]
    return ", ".join(shown + ["..."] * (len(values) > count))
