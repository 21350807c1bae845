"""The one way images and masks are read from files, for training, prediction and scoring alike.

`write_mask` writes what `read_mask` reads.

A model that sees other pixels than it was trained on is silently worse, so every part of the
library reads through `read_image` and `read_mask`. They treat each kind of file as follows:

| the file | `read_image` | `read_mask` |
| --- | --- | --- |
| EXIF orientation | turned upright | ignored: masks are taken as they are stored |
| 8 bits per channel | as it is | ids |
| 16 bits per channel | the upper 8 bits, `value >> 8` | ids, which do not wrap around |
| 12 bits, in TIFF | the upper 8 bits, `value >> 4` | ids, which do not wrap around |
| 32 bits per channel | an error | ids, if they are integers |
| 1, 2, 4 bits, grey | 0 to 255 | 0 to 1, 3, 15 |
| zero is white, in TIFF | as it looks | ids, which are not turned round |
| palette | the colours it stands for | its indices |
| grey | equal red, green and blue | ids |
| CMYK, YCbCr | converted to RGB | an error |
| alpha channel | dropped | an error |
| several frames | the first | the first |
| JPEG | as it is | an error: its compression changes ids |

An image of more than `MAX_PIXELS` pixels is refused before it is decoded: a file of a few kilobytes
can decode to gigabytes. The argument `max_pixels` raises the limit.
"""

import contextlib
import os
import re
import threading
import zlib
from collections.abc import Iterator
from typing import Any, BinaryIO, NamedTuple

import numpy as np

from keras_fsa import types
from keras_fsa.arguments import integer, one_of, optional_import
from keras_fsa.files import whole_file

__all__ = ["MAX_PIXELS", "ImageError", "read_image", "read_mask", "write_mask"]

MAX_PIXELS = 2**30 // 12
"""Default limit of an image's pixels, 89 million: a quarter of a gigabyte in RGB, as in Pillow."""

MEAN_COLOUR = (124, 116, 104)
"""ImageNet's mean colour, (123.675, 116.28, 103.53), in 8 bits: it pads images."""

_ORIENTATION, _BITS, _PHOTOMETRIC, _PLANES = 0x0112, 258, 262, 284
_limit = threading.Lock()


class ImageError(ValueError):
    """A file that is not an image, or not one that can be used.

    Attributes:
        reason: what is wrong with it, without its name.
    """

    def __init__(self, kind: str, path: Any, reason: str) -> None:
        name = path if isinstance(path, (str, os.PathLike)) else "an open file"
        super().__init__(
            f"{kind} must be a file that can be read. Received: {name}: {reason}. Correct the "
            "file, or leave it out."
        )
        self.reason = reason


class Decoded(NamedTuple):
    """An image, with what is known about its file."""

    pixels: np.ndarray
    mode: str
    """Pillow's name of the kind of pixels in the file, such as RGB or I;16."""
    upright: bool
    """Whether the file stores the image as it is viewed."""


def read_image(
    path: types.Path | BinaryIO, channels: int = 3, max_pixels: int | None = MAX_PIXELS
) -> np.ndarray:
    """Read an image as people see it; the module's docstring has the rules.

    Args:
        path: path of the file, or a file open for reading bytes.
        channels: 3 for RGB, or 1 for grey: `0.299 red + 0.587 green + 0.114 blue`.
        max_pixels: maximum number of pixels; None for any number.

    Returns:
        uint8 array `(height, width, channels)`.

    Raises:
        FileNotFoundError: if there is no such file.
        ImageError: a ValueError, for a file that is not an image, is damaged, too large, or has 32
            bits per channel.
        ImportError: if Pillow is missing, with the pip command.
    """
    return decode_image(path, channels, max_pixels).pixels


def decode_image(
    path: types.Path | BinaryIO,
    channels: int = 3,
    max_pixels: int | None = MAX_PIXELS,
    as_stored: bool = False,
) -> Decoded:
    """Like `read_image`, but also reports what kind of file it was.

    Args:
        path, channels, max_pixels: as for `read_image`.
        as_stored: whether to ignore the EXIF orientation, as for masks.
    """
    one_of("channels", channels, (1, 3))
    pillow = optional_import("PIL.Image", "tools")
    ops = optional_import("PIL.ImageOps", "tools")
    with _opened("An image", path, max_pixels) as file:
        mode, upright = file.mode, file.getexif().get(_ORIENTATION, 1) == 1
        wanted = {1: "L", 3: "RGB"}[channels]
        if mode == "RGB" and has_16_bits(file) and getattr(file, "tag_v2", {}).get(_PLANES) == 2:
            # Pillow takes their bytes for pixels.
            raise ValueError("has 16 bits in a plane for each channel, save it interleaved")
        image = file if upright or as_stored else ops.exif_transpose(file)
        # Older versions of Pillow open 16-bit PNG files in mode "I".
        if mode.startswith("I;16") or (mode == "I" and file.format == "PNG"):
            # As Pillow does with 16-bit RGB; its conversion of greys clips at 255 instead.
            tags = getattr(file, "tag_v2", {})
            bits = int(np.max(tags.get(_BITS, 16)))
            upper = (np.asarray(image) >> (bits - 8)).astype("uint8")
            # Of 16 bits Pillow does not turn those whose zero is white.
            image = pillow.fromarray(255 - upper if tags.get(_PHOTOMETRIC) == 0 else upper)
        elif mode in ("I", "F"):
            raise ValueError(f"has 32 bits per channel (mode {mode}), save it with 8 or 16")
        # Pillow warns about each palette file that has one.
        image.info.pop("transparency", None)
        pixels = np.asarray(image if image.mode == wanted else image.convert(wanted))
    return Decoded(pixels.reshape(*pixels.shape[:2], channels), mode, upright)


def has_16_bits(file: Any) -> bool:
    """Whether a PNG or TIFF file, which Pillow has opened, has 16 bits per channel."""
    if file.format == "TIFF":
        return np.max(file.tag_v2.get(_BITS, 1)) == 16
    return any(";16" in str(part[3]) for part in file.tile)


def shown_otherwise(file: Any) -> tuple[int, bool] | None:
    """Bits of a grey pixel, and whether zero is white, if Pillow stretches or inverts values.

    Args:
        file: a file opened by Pillow, before its pixels are read.
    """
    found = re.search(r"\b[1L];([24]?)(I?)", str([part[3] for part in file.tile[:1]]))
    if found is None or not any(found.groups()):
        return None
    return int(found[1] or (1 if file.mode == "1" else 8)), bool(found[2])


def is_upright(path: types.Path) -> bool:
    """Whether a file of any size stores its image as it is viewed, as far as Pillow can tell."""
    pillow = optional_import("PIL.Image", "tools")
    try:
        with _open(pillow, path, None) as file:
            if file.format == "PNG" and "exif" not in file.info:
                return True  # Pillow would decode all pixels to look behind them
            return file.getexif().get(_ORIENTATION, 1) == 1
    # Decoders meet files that are not theirs with errors of many kinds.
    except Exception:
        return True


def read_mask(path: types.Path | BinaryIO, max_pixels: int | None = MAX_PIXELS) -> np.ndarray:
    """Read the class ids of a mask as they are stored; the module's docstring has the rules.

    Args:
        path: path of the file, or a file open for reading bytes.
        max_pixels: maximum number of pixels; None for any number.

    Returns:
        Integer array `(height, width)`, of the file's own depth: uint8, uint16 or int32.

    Raises:
        FileNotFoundError: if there is no such file.
        ImageError: a ValueError, for a file that is not an image, is damaged, too large, a JPEG, or
            not one channel of ids.
        ImportError: if Pillow is missing, with the pip command.
    """
    with _opened("A mask", path, max_pixels) as file:
        if file.format in ("JPEG", "MPO"):
            raise ValueError("is a JPEG, whose compression changes ids, save masks as PNG")
        if file.mode not in ("1", "L", "P", "I") and not file.mode.startswith("I;16"):
            raise ValueError(
                f"is not one channel of class ids but a {file.mode} file, save the ids as 8-bit "
                "grey or palette"
            )
        shown = shown_otherwise(file)
        ids = np.asarray(file)
    ids = ids.astype("uint8") if ids.dtype == bool else ids
    if shown is None:
        return ids
    bits, turned = shown
    largest = 2**bits - 1
    ids = ids if bits == 1 else ids // (255 // largest)
    return largest - ids if turned else ids


def write_mask(path: types.Path, ids: np.ndarray, software: str | None = None) -> None:
    """Write class ids as an 8-bit grey image, complete or not at all.

    Args:
        path: a PNG or TIFF file. Missing folders are created.
        ids: uint8 `(height, width)`.
        software: name of the program that wrote it, recorded in a PNG file; None for none.

    Raises:
        OSError: if it cannot be written.
        ImportError: if Pillow is missing, with the pip command.
    """
    pillow = optional_import("PIL.Image", "tools")
    said = {}
    if software is not None:
        said["pnginfo"] = optional_import("PIL.PngImagePlugin", "tools").PngInfo()
        said["pnginfo"].add_text("Software", software)
    with whole_file(path) as unfinished:
        pillow.fromarray(ids).save(unfinished, **said)


@contextlib.contextmanager
def _opened(kind: str, path: Any, max_pixels: int | None) -> Iterator[Any]:
    """A file opened by Pillow, within the size limit; all errors in the block name the file."""
    integer("max_pixels", max_pixels, optional=True)
    pillow = optional_import("PIL.Image", "tools")
    try:
        with _open(pillow, path, max_pixels) as file:
            width, height = file.size
            if max_pixels is not None and width * height > max_pixels:
                raise ValueError(_too_large(f"{width} x {height}", max_pixels))
            if not width * height:
                raise ValueError(f"is {height} high and {width} wide, and holds no pixel")
            if file.format == "PNG":
                _check_sums(file.fp)
            yield file
    except (FileNotFoundError, IsADirectoryError, PermissionError, ImportError):
        raise  # these name the file, or have nothing to do with it
    except pillow.DecompressionBombError as error:
        raise ImageError(kind, path, _too_large(str(error), max_pixels)) from None
    except pillow.UnidentifiedImageError:
        # Pillow repeats the path, or the address of an open file.
        raise ImageError(kind, path, "cannot identify image file") from None
    # Decoders meet bad files with errors of many kinds: OSError, SyntaxError, struct.error ...
    except Exception as error:
        raise ImageError(kind, path, str(error) or type(error).__name__) from error


def _open(pillow, path, max_pixels):
    with _limit:  # Pillow's own limit is one for all threads, and another's while it opens a file
        own = pillow.MAX_IMAGE_PIXELS
        if own is not None and (max_pixels is None or max_pixels > own):
            try:
                pillow.MAX_IMAGE_PIXELS = max_pixels
                return pillow.open(path)
            finally:
                pillow.MAX_IMAGE_PIXELS = own
    return pillow.open(path)


def _check_sums(file):
    """Verify the checksums in a PNG file: Pillow does not check those of the pixels."""
    place = file.tell()
    file.seek(0)
    content = memoryview(file.read())
    file.seek(place)
    start = 8
    # A chunk is the length of its content, its name, its content and a checksum of the last two.
    while start + 12 <= len(content):
        end = start + 8 + int.from_bytes(content[start : start + 4], "big")
        name = bytes(content[start + 4 : start + 8])
        if end + 4 > len(content):
            return  # a truncated file, as Pillow will say
        known = int.from_bytes(content[end : end + 4], "big")
        # Those that can be done without have small letters.
        if name[:1].isupper() and zlib.crc32(content[start + 4 : end]) != known:
            raise ValueError(f"is damaged, the checksum of a part ({name!r}) differs")
        start = len(content) if name == b"IEND" else end + 4


def _too_large(size, max_pixels):
    return f"has too many pixels ({size}, and {max_pixels} are allowed), raise `max_pixels`"
