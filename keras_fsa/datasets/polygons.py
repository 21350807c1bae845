"""Images whose classes are outlined: COCO's annotations, and Labelme's files.

A region is a class and the pixels that belong to it. With the softmax, class 0 is the background,
the classes follow, and where regions overlap the smaller one is on top (COCO) or the later one
(Labelme). With the sigmoid there is no background, and a pixel may be in several.
"""

import json
import os
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path, PureWindowsPath
from typing import Any

import numpy as np

from keras_fsa import types
from keras_fsa.arguments import one_of, optional_import, positive_ints
from keras_fsa.classes import ACTIVATIONS
from keras_fsa.datasets.examples import Examples
from keras_fsa.datasets.folder import resized
from keras_fsa.images import MAX_PIXELS, read_image
from keras_fsa.metrics import IGNORE_LABEL

BACKGROUND = "background"
# The label of what is ignored: class 255 is one of many with the sigmoid.
_IGNORED = -1


def coco_dataset(
    images: types.Path,
    annotations: types.Path,
    size: tuple[int, int] | None = None,
    activation: str = "softmax",
    max_pixels: int | None = MAX_PIXELS,
) -> tuple[Examples, list[str]]:
    """Images with the annotations of a COCO file, polygons or run lengths.

    What is marked as a crowd is ignored (255) where no other region is.

    Args:
        images: directory of the images.
        annotations: path of the JSON file. Images are those that it names, in the order of ids.
        size: `(height, width)` that all are resized to; None keeps the size of each.
        activation: `"softmax"` or `"sigmoid"`, see `keras_fsa.classes`.
        max_pixels: most pixels that an image may have; None for any number.

    Returns:
        `Examples`, and the names of the classes: `"background"` (softmax only), then the categories
        in the order of their ids.

    Raises:
        ValueError: for a file that is no such JSON, or names images that do not exist; when read,
            for an image of another size than the file says.
        ImportError: if pycocotools is missing, with the pip command.
    """
    coder = optional_import("pycocotools.mask", "coco")
    data = _read_json(annotations)
    try:
        categories = sorted(data["categories"], key=lambda item: item["id"])
        names = [str(item["name"]) for item in categories]
        places = {item["id"]: i for i, item in enumerate(categories)}
        entries = sorted(data["images"], key=lambda item: item["id"])
        files = [Path(images, item["file_name"]) for item in entries]
        sizes = [(int(item["height"]), int(item["width"])) for item in entries]
        of_image: dict[Any, list] = {item["id"]: [] for item in entries}
        for item in data["annotations"]:
            of_image[item["image_id"]].append(item)
            places[item["category_id"]], item["segmentation"]
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(
            "`annotations` must be a COCO file, whose annotations have a segmentation. Received: "
            f"{os.fspath(annotations)} ({type(error).__name__}: {error}). Export it again."
        ) from error

    def regions(index, size):
        found = []
        for item in of_image[entries[index]["id"]]:
            code = item["segmentation"]
            if isinstance(code, list):
                # Fewer than three corners enclose nothing; of detections there are none.
                outlines = [outline for outline in code if len(outline) >= 6]
                if not outlines:
                    continue
                code = coder.merge(coder.frPyObjects(outlines, *size))
            elif isinstance(code["counts"], list):
                code = coder.frPyObjects(code, *size)
            inside = coder.decode(code).astype(bool)
            label = _IGNORED if item.get("iscrowd") else places[item["category_id"]]
            found.append((label, inside))
        # The smaller are in front; crowds are behind all.
        return sorted(found, key=lambda region: (region[0] != _IGNORED, -region[1].sum()))

    return _examples(files, sizes, regions, names, size, activation, max_pixels)


def labelme_dataset(
    folder: types.Path,
    class_names: Sequence[str] | None = None,
    size: tuple[int, int] | None = None,
    activation: str = "softmax",
    images: types.Path | None = None,
    max_pixels: int | None = MAX_PIXELS,
) -> tuple[Examples, list[str]]:
    """Images with the shapes of Labelme's JSON files, drawn as Labelme draws them.

    Polygons, rectangles and circles are read; the labels `_background_` and `__ignore__` mean what
    they mean there.

    Args:
        folder: directory of the JSON files.
        class_names: the labels to be classes, in their order. Default: all, in that of the
            alphabet.
        size, activation, max_pixels: as in `coco_dataset`.
        images: directory of the images. Default: where the JSON files say.

    Returns:
        `Examples`, and the names of the classes, as `coco_dataset`.

    Raises:
        ValueError: for no or a wrong file, a label that is no class, or another kind of shape.
        ImportError: if Pillow is missing, with the pip command.
    """
    optional_import("PIL.Image", "tools")
    sheets = sorted(Path(folder).glob("*.json"))
    if not sheets:
        raise ValueError(
            f"`folder` must hold JSON files of Labelme. Received: {os.fspath(folder)} without one. "
            "Name the folder that they are in."
        )
    special = {"_background_": None, "__ignore__": _IGNORED}
    files, sizes, shapes = [], [], []
    for sheet in sheets:
        data = _read_json(sheet)
        try:
            # Of Windows, too.
            where = sheet.parent / PureWindowsPath(data["imagePath"]).as_posix()
            files.append(where if images is None else Path(images, where.name))
            sizes.append((int(data["imageHeight"]), int(data["imageWidth"])))
            shapes.append(
                [
                    (str(item["label"]), str(item.get("shape_type") or "polygon"), item["points"])
                    for item in data["shapes"]
                ]
            )
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(
                "A JSON file must be Labelme's, with shapes, imagePath, imageHeight and imageWidth."
                f" Received: {sheet} ({type(error).__name__}: {error}). Save it again."
            ) from error
    labels = sorted({label for each in shapes for label, *_ in each} - special.keys())
    names = list(labels if class_names is None else class_names)
    kinds = {kind for each in shapes for _, kind, _ in each}
    for sheet, each in zip(sheets, shapes, strict=True):
        for label, kind, _ in each:
            if label not in names and label not in special:
                raise ValueError(
                    f"`class_names` must have every label. Received: {label!r} in {sheet}, beyond "
                    f"{names}. Add it, or call it __ignore__."
                )
            if kind not in ("polygon", "rectangle", "circle"):
                raise ValueError(
                    "Shapes must be polygons, rectangles or circles. Received: "
                    f"a {kind} in {sheet}, of {sorted(kinds)}. Draw it as a polygon."
                )

    def regions(index, size):
        return [
            (special[label] if label in special else names.index(label), _drawn(kind, points, size))
            for label, kind, points in shapes[index]
        ]

    return _examples(files, sizes, regions, names, size, activation, max_pixels)


def _drawn(kind, points, size):
    """Labelme's `shape_to_mask`: outline and inside."""
    pillow = optional_import("PIL.Image", "tools")
    draw = optional_import("PIL.ImageDraw", "tools")
    canvas = pillow.new("L", size[::-1])
    points = [tuple(map(float, point)) for point in points]
    if kind == "polygon":
        draw.Draw(canvas).polygon(points, fill=1, outline=1)
    elif kind == "rectangle":
        (left, right), (top, bottom) = (sorted(axis) for axis in zip(*points, strict=True))
        draw.Draw(canvas).rectangle([left, top, right, bottom], fill=1, outline=1)
    else:
        (x, y), edge = points
        radius = float(np.hypot(x - edge[0], y - edge[1]))
        box = [x - radius, y - radius, x + radius, y + radius]
        draw.Draw(canvas).ellipse(box, fill=1, outline=1)
    return np.asarray(canvas) > 0


def _examples(
    files: list[Path],
    sizes: list[tuple[int, int]],
    regions: Callable[[int, tuple[int, int]], Iterable],
    names: list[str],
    size: tuple[int, int] | None,
    activation: str,
    max_pixels: int | None,
) -> tuple[Examples, list[str]]:
    one_of("activation", activation, ACTIVATIONS)
    positive_ints("size", size, 2, optional=True)
    if activation == "softmax" and len(names) > IGNORE_LABEL - 1:
        raise ValueError(
            f"A mask has at most {IGNORE_LABEL} classes, the background included. Received: "
            f"{len(names)} classes. Take activation='sigmoid', or fewer."
        )
    missing = [file for file in files if not file.is_file()]
    if missing or not files or not names:
        found = f"{len(missing)} that do not, such as {missing[0]}" if missing else "nothing"
        raise ValueError(
            "Annotations must name images that exist, and classes. Received: "
            f"{len(files)} images and {len(names)} classes, with {found} missing. Correct the "
            "folder of the images."
        )

    def read(index):
        image, known = read_image(files[index], max_pixels=max_pixels), sizes[index]
        if image.shape[:2] != known:
            raise ValueError(
                f"An image must have the size that its annotations say. Received: {files[index]} "
                f"of {image.shape[0]} x {image.shape[1]} for {known[0]} x {known[1]}. Annotate the "
                "image as it is stored, without an orientation."
            )
        try:
            mask = _composed(regions(index, known), known, len(names), activation)
        except Exception as error:  # of several kinds, from two libraries
            raise ValueError(
                "The regions of an image must be such as can be drawn. Received: those of "
                f"{files[index]} ({type(error).__name__}: {error}). Correct them."
            ) from error
        return resized(image, mask, size) if size else (image, mask)

    examples = Examples(
        len(files), read, lambda index: os.fspath(files[index]), size and (size[0], size[1])
    )
    return examples, [BACKGROUND, *names] if activation == "softmax" else names


def _composed(regions, size, classes, activation):
    """The mask of regions, each in front of those before. The class None is the background."""
    if activation == "softmax":
        mask = np.zeros(size, "uint8")
        for label, inside in regions:
            mask[inside] = {None: 0, _IGNORED: IGNORE_LABEL}.get(label, (label or 0) + 1)
        return mask
    mask = np.zeros((*size, classes), "uint8")
    for label, inside in regions:
        if label == _IGNORED:
            mask[inside] = np.where(mask[inside] == 1, 1, IGNORE_LABEL)
        elif label is not None:
            mask[inside, label] = 1
    return mask


def _read_json(path):
    try:
        data = json.loads(Path(path).read_text(encoding="utf-8"))
        if not isinstance(data, dict):
            raise ValueError("no object at the top")
    except (OSError, ValueError) as error:
        raise ValueError(
            f"Annotations must be a JSON file. Received: {os.fspath(path)} ({error}). Correct the "
            "path."
        ) from error
    return data
