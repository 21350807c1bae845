"""Images of any number of channels, in the values that their files store.

`keras_fsa.images` reads what people look at: RGB or grey, in 8 bits. Satellites, microscopes and
depth cameras store more channels, 16 bits or floats, and this is how those are read.
"""

import os
import warnings
from typing import BinaryIO

import numpy as np

from keras_fsa import types
from keras_fsa.arguments import integer, optional_import, positive_int
from keras_fsa.images import MAX_PIXELS, ImageError, has_16_bits, read_image, shown_otherwise
from keras_fsa.large.images import open_image


def read_raster(path: types.Path, channels: int, max_pixels: int | None = MAX_PIXELS) -> np.ndarray:
    """Read an image with the values that its file stores.

    Args:
        path: path of a TIFF, PNG, JPEG or JPEG 2000 file, or of a `.npy` file of an array
            `(height, width, channels)` or `(height, width)`. RGB and grey in 8 bits are read as
            `keras_fsa.images` does, with the orientation.
        channels: number of channels that it must have.
        max_pixels: most pixels that it may have; None for any number.

    Returns:
        `(height, width, channels)`, uint8 or uint16 where the file stores these, else float32.

    Raises:
        FileNotFoundError: if there is no such file.
        ImageError: a ValueError, for a file that is no image or damaged, of another number of
            channels, too large, or with values that are not finite.
        ImportError: if rasterio is missing, with the pip command.
    """
    positive_int("channels", channels)
    integer("max_pixels", max_pixels, optional=True)
    if is_ordinary(path, channels):
        return read_image(path, channels, max_pixels)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of files without a place on earth
            image = open_image(path)
            height, width, *found = image.shape
            if (found or [1]) != [channels]:
                raise ValueError(f"has {(found or [1])[0]} channels, and {channels} are wanted")
            if max_pixels is not None and height * width > max_pixels:
                raise ValueError(
                    f"has too many pixels ({width} x {height}, and {max_pixels} are allowed), "
                    "raise `max_pixels`"
                )
            pixels = np.asarray(image[:, :]).reshape(height, width, channels)
        if pixels.dtype.kind not in "buif":
            raise ValueError(f"holds {pixels.dtype}, which are no real numbers")
        if pixels.dtype not in ("uint8", "uint16"):
            pixels = pixels.astype("float32")
        if not np.isfinite(pixels).all():
            raise ValueError("holds NaN or infinity")
    except (FileNotFoundError, ImportError):
        raise
    except Exception as error:
        raise ImageError("An image", os.fspath(path), str(error)) from error
    return pixels


def is_ordinary(path: types.Path | BinaryIO, channels: int) -> bool:
    """Whether `keras_fsa.images` reads just what the file stores: RGB or grey in 8 bits."""
    pillow = optional_import("PIL.Image", "tools")
    try:
        with pillow.open(path) as file:
            if file.format == "JPEG2000":
                return False  # Pillow does not say how many bits there are
            ordinary = {"L": 1, "RGB": 3}.get(file.mode) == channels
            return ordinary and not has_16_bits(file) and shown_otherwise(file) is None
    except Exception:
        # Not one of Pillow's; what is wrong with it, the other reader says.
        return False


def statistics(examples: types.Dataset, most: int = 200) -> tuple[list[float], list[float]]:
    """Mean and standard deviation of each channel, for `FsaNet(normalization=)`.

    Args:
        examples: `Examples`.
        most: how many of them are read, evenly spread.

    Returns:
        `(mean, std)`. Where a channel is constant, its std is 1.
    """
    positive_int("most", most)
    step = max(1, -(-len(examples) // most))
    count, total, squares = 0, np.zeros(()), np.zeros(())
    for image, _ in examples[::step]:
        values = np.asarray(image, "float64")
        count += values.shape[0] * values.shape[1]
        total = total + values.sum((0, 1))
        squares = squares + (values**2).sum((0, 1))
    mean = total / max(1, count)
    std = np.sqrt(np.maximum(squares / max(1, count) - mean**2, 0))
    return mean.tolist(), np.where(std > 1e-6 * np.abs(mean), std, 1.0).tolist()
