"""Pictures and masks from two folders, as a `tf.data` pipeline.

`folder_dataset` is all that most people need; it calls the other two:

- `match_pairs` finds the mask of each picture by its name;
- `check_pairs` opens every file before any training, and lists all that is wrong.
"""

import os
import warnings
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import keras
import numpy as np

from keras_fsa import types
from keras_fsa.arguments import optional_import, positive_int
from keras_fsa.datasets.indexed import indexed_dataset
from keras_fsa.metrics import IGNORE_LABEL

EXTENSIONS = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp", ".gif")
"""Endings of the files that are read, in lower case; the case of a file's own ending is free."""


def match_pairs(images: types.Path, masks: types.Path) -> list[tuple[Path, Path]]:
    """Matches the pictures of one folder with the masks of another.

    A picture and its mask have the same name up to the extension: `images/0001.jpg` and
    `masks/0001.png`. Files whose ending is not in `EXTENSIONS`, hidden files and subfolders are
    passed over.

    Args:
        images: Directory of the pictures.
        masks: Directory of the masks.

    Returns:
        A list of `(image_path, mask_path)` tuples of `pathlib.Path`, sorted by name.

    Raises:
        FileNotFoundError: If `images` or `masks` is not a directory.
        ValueError: If a folder has no such file, holds two files of one name, or holds a file
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
            "Every picture needs a mask of the same name (up to the extension), and every mask a "
            f"picture. Received: images={images}, masks={masks}, with names that are "
            f"{' and '.join(lonely)}. Rename, add or remove these files."
        )
    return [(image_files[name], mask_files[name]) for name in sorted(image_files)]


def check_pairs(pairs: Sequence, num_classes: int, ignore_label: int = IGNORE_LABEL) -> None:
    """Opens every picture and every mask once, and reports all that would break a training.

    Looked for are: a file that does not open or is cut short, a picture and a mask of different
    sizes, a mask that is not one channel of ids (an RGB mask, say) or that is a JPEG, and ids that
    are neither a class nor the ignore label. A progress bar shows for more than 200 pairs.

    Args:
        pairs: List of `(image_path, mask_path)`, as `match_pairs` returns it.
        num_classes: Number of classes, at most 255. The ids of the masks are 0 to
            `num_classes - 1`.
        ignore_label: Id of the pixels that belong to no class. It may lie among the classes, and
            is ignored then.

    Raises:
        ValueError: If any file is wrong: one error for all files, with the first ten problems and
            their number. Also if `num_classes` is not an int of 1 to 255.

    Warns:
        UserWarning: Once, if there are pictures that are not RGB with 8 bits per channel. They are
            converted: grey and palette pictures to the RGB they stand for, alpha channels are
            dropped, 16-bit greys keep their upper 8 bits.
    """
    optional_import("PIL", "examples")
    _check_num_classes(num_classes)

    def check(pair):
        image, _, _, problems = read_pair(*pair, num_classes, ignore_label)
        return image and image.info["mode"], problems

    pairs = list(pairs)
    bar = keras.utils.Progbar(len(pairs), verbose=len(pairs) > 200, interval=0.5, unit_name="pair")
    problems, converted = [], []
    # Pillow decodes outside Python's global lock, so threads keep all cores busy.
    with ThreadPoolExecutor() as pool:
        for (image_path, _), (mode, found) in zip(pairs, pool.map(check, pairs), strict=True):
            problems += found
            if mode not in ("RGB", None):
                converted.append(f"{image_path} (mode {mode})")
            bar.add(1)
    if problems:
        more = "" if len(problems) <= 10 else f"\n- and {len(problems) - 10} more"
        raise ValueError(
            "Pictures and masks must open, be of equal size, and the masks hold one channel with "
            f"the ids 0 to {num_classes - 1} or the ignore label. Received: "
            f"num_classes={num_classes}, ignore_label={ignore_label}, and {len(pairs)} pairs with "
            f"{len(problems)} problem(s):\n- " + "\n- ".join(problems[:10]) + more + "\n"
            "Mend or remove these files, or correct `num_classes` and `ignore_label`."
        )
    if converted:
        warnings.warn(
            f"{len(converted)} of {len(pairs)} pictures are not RGB with 8 bits per channel and "
            f"are converted to it. The first one is {converted[0]}.",
            stacklevel=2,
        )


def folder_dataset(
    images: types.Path | Sequence,
    masks: types.Path | Sequence,
    num_classes: int,
    size: tuple[int, int] | None = None,
    ignore_label: int = IGNORE_LABEL,
    check: bool = True,
) -> types.Dataset:
    """Pictures and masks of two folders, ready for `model.fit` once they are batched.

    A picture that carries an EXIF orientation, as photographs of telephones do, is turned upright
    first; masks are taken as they are stored. Palette masks ("P" mode) give their palette
    indices, not colours.

    ```python
    from keras_fsa.datasets.folder import folder_dataset

    train = folder_dataset("images/train", "masks/train", num_classes=11, size=(240, 320))
    model.fit(train.shuffle(400).batch(8), epochs=60)
    ```

    Args:
        images: Directory of the pictures; or a list of picture files.
        masks: Directory of the masks, matched with the pictures by `match_pairs`; or a list of
            mask files, the mask of each picture in turn.
        num_classes: Number of classes, at most 255.
        size: `(height, width)` in pixels that all examples are resized to: pictures bilinear
            with antialiasing, masks to the nearest neighbour. `None` keeps the size of each.
        ignore_label: Id in the files of the pixels that belong to no class. It becomes 255.
        check: Whether to call `check_pairs` at once.

    Returns:
        A `tf.data.Dataset`, neither shuffled nor batched, of known cardinality and sorted by name
        (lists keep their order). Its elements are tuples of the picture, uint8 RGB
        `(height, width, 3)`, and the mask, uint8 `(height, width)`, with the class ids and 255.

    Raises:
        FileNotFoundError, ValueError: See `match_pairs` and `check_pairs`. With `check=False` a
            bad file raises an error of TensorFlow when its turn comes.
        ImportError: If TensorFlow or Pillow is missing, with the pip command.
    """
    tf = optional_import("tensorflow", "examples")
    pillow = optional_import("PIL.Image", "examples")
    _check_num_classes(num_classes)
    if size is not None and (len(size) != 2 or min(size) < 1):
        raise ValueError(
            f"`size` must be two positive numbers, (height, width), or None. Received: "
            f"size={size}. Pass for example size=(240, 320)."
        )
    directories = [isinstance(argument, (str, os.PathLike)) for argument in (images, masks)]
    if all(directories):
        pairs = match_pairs(images, masks)
    elif any(directories) or len(images) != len(masks) or not len(images):
        received = [
            repr(argument) if is_directory else f"list of {len(argument)}"
            for argument, is_directory in zip((images, masks), directories, strict=True)
        ]
        raise ValueError(
            "`images` and `masks` must be two directories, or two lists of files of equal length. "
            f"Received: images={received[0]}, masks={received[1]}. Pass two of one kind."
        )
    else:
        pairs = list(zip(images, masks, strict=True))
    if check:
        check_pairs(pairs, num_classes, ignore_label)

    def read(image_path, mask_path):
        # Outside a graph TensorFlow passes arrays.
        paths = (os.fsdecode(np.asarray(path).item()) for path in (image_path, mask_path))
        image, mask, _, problems = read_pair(*paths, num_classes, ignore_label)
        if problems:
            raise ValueError("; ".join(problems))
        if size is not None:
            height, width = size
            image = image.resize((width, height), pillow.Resampling.BILINEAR)
            mask = mask.resize((width, height), pillow.Resampling.NEAREST)
        return np.asarray(image), np.asarray(mask)

    def load(image_path, mask_path):
        # Not tf.io.decode_png: it turns the ids of palette masks into colours.
        image, mask = tf.numpy_function(
            read, [image_path, mask_path], [tf.uint8, tf.uint8], stateful=False
        )
        height, width = size or (None, None)
        return tf.ensure_shape(image, (height, width, 3)), tf.ensure_shape(mask, (height, width))

    paths = tuple([os.fsencode(path) for path in side] for side in zip(*pairs, strict=True))
    return indexed_dataset(paths, load, lambda index: os.fspath(pairs[index][0]))


def _files(argument, directory):
    """The picture files of a directory as a dict of name (up to the extension) to path."""
    directory = Path(directory)
    if not directory.is_dir():
        raise FileNotFoundError(
            f"`{argument}` must be a directory that exists. Received: {argument}={directory}. "
            "Correct the path."
        )
    files, doubles = {}, []
    for path in sorted(directory.iterdir()):
        if path.suffix.lower() in EXTENSIONS and path.name[0] != "." and path.is_file():
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


def read_pair(
    image_path: types.Path,
    mask_path: types.Path,
    num_classes: int,
    ignore_label: int,
    ids_of: Callable | None = None,
) -> tuple:
    """Decodes a picture and its mask.

    Args:
        image_path: Path of the picture.
        mask_path: Path of the mask.
        num_classes: The ids of the mask are 0 to this number - 1, and `ignore_label`.
        ignore_label: Id of the pixels of no class.
        ids_of: Function from the path of a mask to its ids; `None` stands for `read_ids`.

    Returns:
        The picture in RGB and the mask in 8 bits with 255 for `ignore_label`, both PIL images
        (`None` where one is bad); whether the picture's file holds just these pixels, in RGB or
        grey; and a list of what is wrong, which names the files.
    """
    image = mask = unchanged = None
    problems = []
    # Decoders meet bad files with errors of many kinds (OSError, SyntaxError, struct.error,
    # DecompressionBombError and others).
    try:
        image, unchanged = _read_image(image_path)
    except Exception as error:
        problems.append(f"{image_path}: {error}")
    try:
        mask = _mask_image((ids_of or read_ids)(mask_path), num_classes, ignore_label)
    except Exception as error:
        problems.append(f"{mask_path}: {error}")
    if image and mask and image.size != mask.size:
        (width, height), (mask_width, mask_height) = image.size, mask.size
        problems.append(
            f"{image_path} is {height} high and {width} wide (EXIF orientation applied), "
            f"its mask {mask_path} is {mask_height} high and {mask_width} wide"
        )
    return image, mask, unchanged, problems


def _read_image(path):
    pillow = optional_import("PIL.Image", "examples")
    with pillow.open(path) as file:
        mode = file.mode
        orientation = file.getexif().get(0x0112, 1)
        image = optional_import("PIL.ImageOps", "examples").exif_transpose(file)
    # Older versions of Pillow open 16-bit PNG files in mode "I".
    if mode.startswith("I;16") or (mode == "I" and file.format == "PNG"):
        # Pillow's own conversion clips at 255 instead of scaling.
        image = pillow.fromarray((np.asarray(image) >> 8).astype("uint8"))
    elif mode in ("I", "F"):
        raise ValueError(f"has 32 bits per channel (mode {mode}), save it with 8 or 16")
    # Pillow warns about each palette file that has one.
    image.info.pop("transparency", None)
    image = image.convert("RGB")
    image.info["mode"] = mode
    return image, mode in ("RGB", "L") and orientation == 1


def read_ids(path: types.Path) -> np.ndarray:
    """The ids in the file of a mask, as they are: one channel, palette indices for a palette."""
    pillow = optional_import("PIL.Image", "examples")
    with pillow.open(path) as file:
        file.load()
    if file.format in ("JPEG", "MPO"):
        raise ValueError("is a JPEG, whose compression changes ids, save masks as PNG")
    if file.mode not in ("1", "L", "P", "I") and not file.mode.startswith("I;16"):
        raise ValueError(
            f"is not one channel of class ids but a {file.mode} file, save the ids as 8-bit grey "
            "or palette"
        )
    return np.asarray(file)


def _mask_image(ids, num_classes, ignore_label):
    unknown = ((ids < 0) | (ids >= num_classes)) & (ids != ignore_label)
    if unknown.any():
        raise ValueError(
            f"has ids beyond 0 to {num_classes - 1} that are not the ignore label {ignore_label}: "
            f"{_first(np.unique(ids[unknown]))}"
        )
    pillow = optional_import("PIL.Image", "examples")
    return pillow.fromarray(np.where(ids == ignore_label, IGNORE_LABEL, ids).astype("uint8"))


def _check_num_classes(num_classes):
    positive_int("num_classes", num_classes)
    if num_classes > IGNORE_LABEL:
        raise ValueError(
            f"`num_classes` must be at most {IGNORE_LABEL}, the label of ignored pixels in 8-bit "
            f"masks. Received: num_classes={num_classes}. Merge classes."
        )


def _first(values, count=5):
    shown = [str(value) for value in values[:count]]
    return ", ".join(shown + ["..."] * (len(values) > count))
