"""A CSV file that names each image and its mask."""

import csv
import io
from pathlib import Path

from keras_fsa import types


def read_pairs(path: types.Path) -> tuple[list[Path], list[Path]]:
    """The images and masks that a CSV file names, for `folder_dataset`.

    ```python
    images, masks = read_pairs("train.csv")
    train = folder_dataset(images, masks, num_classes=11)
    ```

    Args:
        path: path of the file: in each line an image and its mask, relative to the file's folder
            or absolute. A first line `image,mask` is a heading; further columns are not read.

    Returns:
        The images and the masks, in the order of the file.

    Raises:
        ValueError: for a line without two names, a file that does not exist, no line, or text that
            is not in UTF-8.
    """
    path = Path(path)
    images, masks = [], []
    for number, row in enumerate(csv.reader(read_table(path)), start=1):
        if not row or (number == 1 and [cell.strip() for cell in row[:2]] == ["image", "mask"]):
            continue
        files = [path.parent / cell.strip() for cell in row[:2] if cell.strip()]
        missing = [str(file) for file in files if not file.is_file()]
        if len(files) != 2 or missing:
            raise ValueError(
                "Each line must name an image and its mask, files that exist. Received: "
                f"{path}, line {number}: {','.join(row)!r}"
                f"{f', without {missing[0]}' if missing else ''}. Correct the line."
            )
        images.append(files[0])
        masks.append(files[1])
    if not images:
        raise ValueError(f"A file of pairs must hold some. Received: {path} without one. Add them.")
    return images, masks


def read_table(path: types.Path) -> io.StringIO:
    """The lines of a text file in UTF-8, with or without a byte order mark.

    Raises:
        ValueError: for text that is not in UTF-8.
    """
    try:
        return io.StringIO(Path(path).read_bytes().decode("utf-8-sig"), newline="")
    except UnicodeDecodeError as error:
        raise ValueError(
            f"A table must be text in UTF-8. Received: {path} ({error}). Save it in that encoding."
        ) from error
