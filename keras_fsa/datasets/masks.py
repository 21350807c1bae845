"""Masks that store something else than the class ids: colours, or other ids.

Each function here gives a `mask_reader` for `folder_dataset`: a function from the path of a mask to
its ids.
"""

import csv
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np

from keras_fsa import types
from keras_fsa.arguments import integer
from keras_fsa.classes import checked_palette
from keras_fsa.datasets.pairs import read_table
from keras_fsa.images import MAX_PIXELS, decode_image, read_mask
from keras_fsa.metrics import IGNORE_LABEL

IGNORED = "ignored"
"""The name, in tables, of what belongs to no class."""


def read_colour_table(path: types.Path) -> tuple[list[str], list[tuple[int, int, int]], list]:
    """Names and colours of classes, from a text file.

    Each line holds red, green, blue and a name, in that order or the name first, with commas or
    spaces between: `sky,70,130,180` or `70 130 180 sky`. The order of the lines is that of the ids.
    Colours of lines named `ignored` belong to no class. Lines without numbers are headings.

    Returns:
        The names, their colours, and the ignored colours.

    Raises:
        ValueError: for a line that is none of these, a colour or name that comes twice, or no
            class.
    """
    names: list[str] = []
    colours: list[tuple[int, int, int]] = []
    ignored: list[tuple[int, int, int]] = []
    for number, line in enumerate(read_table(path).read().splitlines(), start=1):
        if not re.search(r"\d", line):
            continue
        separated = r"\s*[,;\s]\s*"
        parts = [
            re.fullmatch(rf"\s*(\d+){separated}(\d+){separated}(\d+){separated}(.+?)\s*", line),
            re.fullmatch(rf"\s*(.+?){separated}(\d+){separated}(\d+){separated}(\d+)\s*", line),
        ]
        if parts[0]:
            *values, name = parts[0].groups()
        elif parts[1]:
            name, *values = parts[1].groups()
        else:
            values, name = [], ""
        red, green, blue = ([int(value) for value in values] + [256] * 3)[:3]
        colour = red, green, blue
        if max(colour) > 255 or colour in colours + ignored or name in names:
            raise ValueError(
                "A colour table must hold red, green, blue of 0 to 255 and a name in each line, "
                f"each once. Received: {path}, line {number}: {line!r}. Correct the line."
            )
        if name == IGNORED:
            ignored.append(colour)
        else:
            names.append(name)
            colours.append(colour)
    if not names:
        raise ValueError(
            "A colour table must hold red, green, blue and a name in each line. Received: "
            f"{path} without such a line. Write one for each class."
        )
    return names, colours, ignored


def colour_reader(
    colours: Sequence, ignored: Sequence = (), max_pixels: int | None = MAX_PIXELS
) -> Callable[[types.Path], np.ndarray]:
    """A reader of masks that store the colour of each class.

    Args:
        colours: red, green and blue of each class, in the order of the ids.
        ignored: colours of what belongs to no class.
        max_pixels: most pixels that a mask may have; None for any number.

    Returns:
        A function from a path to ids, uint8. It raises a ValueError for a colour of neither.
    """
    table = [*(checked_palette(colours, len(colours)) or ())]
    if not table:
        raise ValueError("`colours` must be one or more. Received: none. Name each class's.")
    others = [*(checked_palette(ignored, len(ignored)) or ())]
    keys = np.array([_key(np.array(colour)) for colour in table + others])
    ids = np.array([*range(len(table)), *[IGNORE_LABEL] * len(others)])
    order = np.argsort(keys)
    keys, ids = keys[order], ids[order].astype("uint8")

    def read(path):
        if Path(path).suffix.lower() in (".jpg", ".jpeg"):
            raise ValueError("is a JPEG, whose compression changes colours, save masks as PNG")
        pixels = decode_image(path, max_pixels=max_pixels, as_stored=True).pixels
        wanted = _key(pixels.astype("int64"))
        place = np.minimum(np.searchsorted(keys, wanted), len(keys) - 1)
        wrong = keys[place] != wanted
        if wrong.any():
            first = pixels[wrong][0].tolist()
            raise ValueError(
                f"has {int(wrong.sum())} pixels of colours that are not in the table, such as "
                f"{first}"
            )
        return ids[place]

    return read


def remap_reader(
    table: Mapping[int, int], reader: Callable[[types.Path], np.ndarray] = read_mask
) -> Callable[[types.Path], np.ndarray]:
    """A reader of masks whose ids are others than those wanted.

    Args:
        table: from the id in the file to the one wanted. An id that it does not have stays.
        reader: what reads the ids of the file.
    """
    for before, after in table.items():
        integer("table", before, -(2**31))
        integer("table", after, 0)

    def read(path):
        ids = reader(path)
        result = ids.astype("int64")
        for before, after in table.items():
            result[ids == before] = after
        return result

    return read


def read_id_table(path: types.Path, ignore_label: int = IGNORE_LABEL) -> dict[int, int]:
    """A table for `remap_reader`: a CSV file whose lines hold the old id and the new one.

    `ignored` in place of the new id stands for the ignore label. Lines without numbers are
    headings.

    Raises:
        ValueError: for a line of something else, or no line.
    """
    table: dict[int, int] = {}
    for number, row in enumerate(csv.reader(read_table(path)), start=1):
        if not any(re.search(r"\d", cell) for cell in row):
            continue
        try:
            before, after = (cell.strip() for cell in row)
            table[int(before)] = ignore_label if after == IGNORED else int(after)
        except ValueError:
            raise ValueError(
                "A table of ids must hold an old id and a new one, or 'ignored', in each line. "
                f"Received: {path}, line {number}: {','.join(row)!r}. Correct the line."
            ) from None
    if not table:
        raise ValueError(
            "A table of ids must hold an old id and a new one in each line. Received: "
            f"{path} without such a line. Write one for each id."
        )
    return table


def _key(colour):
    return (colour[..., 0] * 256 + colour[..., 1]) * 256 + colour[..., 2]
