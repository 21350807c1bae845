"""Images as files: opened so that a slice of them reads no more than that slice.

| file                                                                             | read by   |
| -------------------------------------------------------------------------------- | --------- |
| GeoTIFF, and what else GDAL reads: `.tif`, `.tiff`, `.jp2`, `.vrt`, `.png`, `.jpg` | rasterio  |
| whole slides: `.svs`, `.ndpi`, `.mrxs`, `.scn`, `.bif`, `.vms`, `.svslide`       | OpenSlide |
| `.zarr` (an array)                                                               | zarr      |
| `.npy`                                                                           | NumPy     |
"""

import pathlib
from collections.abc import Sequence
from typing import Any

import numpy as np

from keras_fsa.arguments import optional_import
from keras_fsa.files import whole_file
from keras_fsa.metrics import IGNORE_LABEL
from keras_fsa.types import Path

RASTERS = (".tif", ".tiff", ".jp2", ".vrt", ".png", ".jpg", ".jpeg")
SLIDES = (".svs", ".ndpi", ".mrxs", ".scn", ".bif", ".vms", ".svslide")


class Raster:
    """A raster file, `(H, W, bands)`, with its nodata value. Slices read what they name.

    Args:
        path: of a file that rasterio opens.

    Attributes:
        shape, dtype: as of an array.
        nodata: the value of pixels that were not seen, or None.
    """

    def __init__(self, path: Path) -> None:
        rasterio = optional_import("rasterio", "large")
        self.file = rasterio.open(path)
        self.shape = (self.file.height, self.file.width, self.file.count)
        self.dtype = np.result_type(*self.file.dtypes)
        self.nodata = self.file.nodata

    def __getitem__(self, item: tuple[slice, slice]) -> np.ndarray:
        window = tuple(_bounds(part, n) for part, n in zip(item, self.shape, strict=False))
        return np.moveaxis(self.file.read(window=window), 0, -1)


class Slide:
    """A whole-slide image at full size, `(H, W, 3)` uint8.

    Where a scanner left parts of a slide out, they are white, as the slide's glass is.

    Args:
        path: of a file that OpenSlide opens.
    """

    dtype = np.dtype("uint8")

    def __init__(self, path: Path) -> None:
        self.file = optional_import("openslide", "large").OpenSlide(path)
        width, height = self.file.dimensions
        self.shape = (height, width, 3)

    def __getitem__(self, item: tuple[slice, slice]) -> np.ndarray:
        (top, bottom), (left, right) = (
            _bounds(part, n) for part, n in zip(item, self.shape, strict=False)
        )
        region = self.file.read_region((left, top), 0, (right - left, bottom - top))
        pixels = np.asarray(region)
        return np.where(pixels[..., 3:] > 0, pixels[..., :3], 255).astype("uint8")


def _bounds(part, size):
    start, stop, _ = part.indices(size)
    return start, stop


def open_image(path: Path) -> Any:
    """Open a large image, of which `segment` reads tiles.

    Args:
        path: see the table of `keras_fsa.large.images`.

    Returns:
        Something with `shape` `(H, W, bands)` and `dtype` that is sliced as an array is.

    Raises:
        ValueError: for a file of another kind.
        FileNotFoundError: where there is none.
        ImportError: where the package that reads it is missing, with the pip command.
    """
    path = pathlib.Path(path)
    if not path.exists():
        raise FileNotFoundError(
            f"`path` must be an image. Received: path={str(path)!r}, which does not exist. Check "
            "the spelling."
        )
    ending = path.suffix.lower()
    if ending in RASTERS:
        return Raster(path)
    if ending in SLIDES:
        return Slide(path)
    if ending == ".zarr":
        return optional_import("zarr", "large").open_array(path, mode="r")
    if ending == ".npy":
        return np.load(path, mmap_mode="r")
    raise ValueError(
        "An image must be a file of a known kind: "
        f"{', '.join((*RASTERS, *SLIDES, '.zarr', '.npy'))}. Received: path={str(path)!r}. Convert "
        "it, or open it yourself and pass what slices like an array."
    )


def save_classes(
    path: Path, classes: Any, like: Any = None, palette: Sequence[Sequence[int]] | None = None
) -> None:
    """Write classes as a file that is there when it is complete.

    A GeoTIFF is tiled, compressed, a BigTIFF where it must be, and has the georeference of the
    image it belongs to, 255 for nodata, colours, and overviews.

    Args:
        path: `.tif`, `.tiff` or `.npy`.
        classes: uint8 `(H, W)`, anything that slices.
        like: the image, from `open_image`: if it is a `Raster`, its georeference is kept.
        palette: a colour (red, green, blue) for each class, for TIFF.

    Raises:
        ValueError: for another kind of file.
        ImportError: where rasterio is missing, with the pip command.
    """
    check_output(path)
    height, width = classes.shape
    with whole_file(path) as unfinished:
        if pathlib.Path(path).suffix.lower() == ".npy":
            target = np.lib.format.open_memmap(unfinished, "w+", "uint8", classes.shape)
            for rows in _strips(height):
                target[rows] = classes[rows]
            target.flush()
            return
        rasterio = optional_import("rasterio", "large")
        profile = {
            "driver": "GTiff",
            "height": height,
            "width": width,
            "count": 1,
            "dtype": "uint8",
            "nodata": IGNORE_LABEL,
            "tiled": True,
            "blockxsize": 256,
            "blockysize": 256,
            "compress": "deflate",
            "BIGTIFF": "IF_SAFER",
        }
        if isinstance(like, Raster):
            profile |= {"crs": like.file.crs, "transform": like.file.transform}
        with rasterio.open(unfinished, "w", **profile) as file:
            if palette is not None:
                colours = {i: tuple(map(int, colour)) for i, colour in enumerate(palette)}
                file.write_colormap(1, colours)
            for rows in _strips(height):
                file.write(classes[rows], 1, window=((rows.start, rows.stop), (0, width)))
            levels = [2**i for i in range(1, 12) if max(height, width) >> i >= 256]
            if levels:
                file.build_overviews(levels, rasterio.enums.Resampling.nearest)


def check_output(path: Path) -> None:
    """Raise a `ValueError` unless `save_classes` writes files of this kind."""
    if pathlib.Path(path).suffix.lower() not in (".npy", ".tif", ".tiff"):
        raise ValueError(
            "Classes are written as .tif, .tiff or .npy. "
            f"Received: path={str(path)!r}. Name one of these."
        )


def _strips(height):
    return [slice(start, min(start + 256, height)) for start in range(0, height, 256)]


def overview(image: Any, side: int = 1024) -> np.ndarray:
    """Every n-th row and column, so that the longer side is at most `side`, read row by row.

    Args:
        image: `(H, W)` or `(H, W, channels)`, anything that slices.
        side: of the result.
    """
    step = max(1, -(-max(image.shape[:2]) // side))
    width = image.shape[1]
    rows = [
        np.asarray(image[row : row + 1, 0:width])[0, ::step]
        for row in range(0, image.shape[0], step)
    ]
    return np.stack(rows)
