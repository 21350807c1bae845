"""Large image files, opened so that a slice reads only the part of the file that it needs.

| file                                                                             | read by   |
| -------------------------------------------------------------------------------- | --------- |
| GeoTIFF, and what else GDAL reads: `.tif`, `.tiff`, `.jp2`, `.vrt`, `.png`, `.jpg` | rasterio  |
| whole slides: `.svs`, `.ndpi`, `.mrxs`, `.scn`, `.bif`, `.vms`, `.svslide`       | OpenSlide |
| `.zarr`: OME-Zarr 0.4 and 0.5, or an array                                       | zarr      |
| `.npy`                                                                           | NumPy     |
"""

import pathlib
from collections.abc import Sequence
from typing import Any

import numpy as np

from keras_fsa.arguments import optional_import
from keras_fsa.files import whole_file, whole_folder
from keras_fsa.metrics import IGNORE_LABEL
from keras_fsa.types import Path

RASTERS = (".tif", ".tiff", ".jp2", ".vrt", ".png", ".jpg", ".jpeg")
SLIDES = (".svs", ".ndpi", ".mrxs", ".scn", ".bif", ".vms", ".svslide")


class Raster:
    """A raster file, `(H, W, bands)`, with its nodata value. A slice reads only what it covers.

    If the file has a mask, of its own or as an alpha band that is not among `bands`, values are
    floating, and NaN is the nodata value: all bands of a pixel outside the mask have it.

    Args:
        path: path of a file that rasterio opens.
        bands: numbers of the bands to read, from 1, in the order of the channels. Default: all.

    Attributes:
        shape, dtype: as for an array.
        stored_dtype: dtype of the values in the file.
        nodata: the value of pixels without data, or None.

    Raises:
        ValueError: for a band that the file does not have.
    """

    def __init__(self, path: Path, bands: Sequence[int] | None = None) -> None:
        rasterio = optional_import("rasterio", "large")
        self.file = rasterio.open(path)
        self.bands = tuple(self.file.indexes if bands is None else bands)
        if not self.bands or not set(self.bands) <= set(self.file.indexes):
            raise ValueError(
                f"`bands` must be numbers of 1 to {self.file.count}, the bands of the file. "
                f"Received: bands={bands!r} for {path}. Correct them."
            )
        self.shape = (self.file.height, self.file.width, len(self.bands))
        self.stored_dtype = np.result_type(*(self.file.dtypes[band - 1] for band in self.bands))
        self.dtype = self.stored_dtype
        self.nodata = self.file.nodata
        alpha = rasterio.enums.ColorInterp.alpha
        kinds = [self.file.colorinterp[band - 1] for band in self.bands]
        flags = self.file.mask_flag_enums[self.bands[0] - 1]
        self.masked = rasterio.enums.MaskFlags.per_dataset in flags and alpha not in kinds
        if self.masked:
            self.nodata, self.dtype = np.nan, np.result_type(self.dtype, "float32")

    def __getitem__(self, item: tuple[slice, slice]) -> np.ndarray:
        window = tuple(_bounds(part, n) for part, n in zip(item, self.shape, strict=False))
        pixels = np.moveaxis(self.file.read(self.bands, window=window), 0, -1)
        if not self.masked:
            return pixels
        seen = self.file.dataset_mask(window=window)[..., None] > 0
        return np.where(seen, pixels.astype(self.dtype), np.nan)


class Slide:
    """A whole-slide image at full size, `(H, W, 3)` uint8.

    Parts of a slide that the scanner left out are white, like the slide's glass.

    Args:
        path: path of a file that OpenSlide opens.
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


class OmeZarr:
    """An OME-Zarr image at full size, `(H, W, channels)`, or `(H, W)` if it has no channels.

    Args:
        group: the Zarr group of the image, one point in time and one plane.

    Attributes:
        shape, dtype: as for an array.
        axes: the axes of rows and columns, as the metadata describes them.
        scale: height and width of a pixel in the axes' units.

    Raises:
        ValueError: for a group that is not such an image.
    """

    def __init__(self, group: Any) -> None:
        described = group.attrs.get("ome", group.attrs)  # Version 0.5, else 0.4.
        if not described.get("multiscales"):
            raise ValueError(
                "A .zarr file must be an array or an OME-Zarr image. Received: a group at "
                f"{group.store_path} without `multiscales`. Name the image in it."
            )
        image = described["multiscales"][0]
        level = image["datasets"][0]
        self.array = group[level["path"]]
        axes = {axis["name"]: axis for axis in image["axes"]}
        sizes = dict(zip(axes, self.array.shape, strict=True))
        if not {"y", "x"} <= set(sizes) or any(
            size > 1 for name, size in sizes.items() if name not in ("y", "x", "c")
        ):
            raise ValueError(
                "An OME-Zarr image must have the axes y and x, and one point in time and one plane "
                f"at most. Received: axes of sizes {sizes} at {group.store_path}. Open its array "
                "with zarr, and pass what slices as (H, W, channels)."
            )
        self.axes = [axes["y"], axes["x"]]
        scales = dict(zip(axes, level["coordinateTransformations"][0]["scale"], strict=True))
        self.scale = [scales["y"], scales["x"]]
        self.names = tuple(axes)
        self.kept = tuple(name for name in ("y", "x", "c") if name in axes)
        self.shape = tuple(sizes[name] for name in self.kept)
        self.dtype = self.array.dtype

    def __getitem__(self, item: tuple[slice, ...]) -> np.ndarray:
        wanted = dict(zip(self.kept, item, strict=False))
        index = tuple(
            wanted.get(name, slice(None) if name in self.kept else 0) for name in self.names
        )
        stored = [name for name in self.names if name in self.kept]
        return np.asarray(self.array[index]).transpose([stored.index(name) for name in self.kept])


def _bounds(part, size):
    start, stop, _ = part.indices(size)
    return start, stop


def open_image(path: Path, bands: Sequence[int] | None = None) -> Any:
    """Open a large image for `segment` to read tiles from.

    Args:
        path: see the table of `keras_fsa.large.images`.
        bands: the bands of a raster file to read, see `Raster`. Default: all.

    Returns:
        An object with `shape` `(H, W, bands)` and `dtype` that is sliced like an array.

    Raises:
        ValueError: for a file of another kind, or bands that it does not have.
        FileNotFoundError: if there is no such file.
        ImportError: if the package that reads it is missing, with the pip command.
    """
    path = pathlib.Path(path)
    if not path.exists():
        raise FileNotFoundError(
            f"`path` must be an image. Received: path={str(path)!r}, which does not exist. Check "
            "the spelling."
        )
    ending = path.suffix.lower()
    if ending in RASTERS:
        return Raster(path, bands)
    if bands is not None:
        raise ValueError(
            f"`bands` are chosen in raster files: {', '.join(RASTERS)}. Received: bands={bands!r} "
            f"for {str(path)!r}. Leave it out."
        )
    if ending in SLIDES:
        return Slide(path)
    if ending == ".zarr":
        zarr = optional_import("zarr", "large")
        found = zarr.open(path, mode="r")
        return found if isinstance(found, zarr.Array) else OmeZarr(found)
    if ending == ".npy":
        return np.load(path, mmap_mode="r")
    raise ValueError(
        "An image must be a file of a known kind: "
        f"{', '.join((*RASTERS, *SLIDES, '.zarr', '.npy'))}. Received: path={str(path)!r}. Convert "
        "it, or open it yourself and pass what slices like an array."
    )


def save_classes(
    path: Path,
    classes: Any,
    like: Any = None,
    palette: Sequence[Sequence[int]] | None = None,
    class_names: Sequence[str] | None = None,
) -> None:
    """Write classes to a file that appears only once it is complete.

    A GeoTIFF is tiled, compressed, a BigTIFF if necessary, and has the georeference of the image it
    belongs to (its transform or ground control points, its RPCs), 255 for nodata, colours, and
    overviews; answers to several classes are bands. OME-Zarr 0.5 is a label image with the size of
    the image's pixels, colours, and a pyramid, each level every second pixel of the finer one.

    Args:
        path: `.tif`, `.tiff`, `.zarr` or `.npy`.
        classes: uint8 `(H, W)`, or `(H, W, num_classes)` for several answers at a pixel, which only
            TIFF and `.npy` hold; anything that can be sliced.
        like: the image, from `open_image`: TIFF keeps the georeference of a `Raster`, OME-Zarr the
            axes and scale of an `OmeZarr`.
        palette: a colour (red, green, blue) for each class, for TIFF and OME-Zarr with one class
            per pixel.
        class_names: names of the bands of a TIFF with several answers.

    Raises:
        ValueError: for another kind of file, an existing `.zarr` that is not a label image, or
            classes that such a file cannot hold.
        ImportError: if rasterio or zarr is missing, with the pip command.
    """
    several = len(classes.shape) == 3
    check_output(path, several, classes.dtype)
    height, width = classes.shape[:2]
    ending = pathlib.Path(path).suffix.lower()
    with (whole_folder if ending == ".zarr" else whole_file)(path) as unfinished:
        if ending == ".npy":
            target = np.lib.format.open_memmap(unfinished, "w+", "uint8", classes.shape)
            for rows in _strips(height):
                target[rows] = classes[rows]
            target.flush()
            return
        if ending == ".zarr":
            _save_ome_zarr(unfinished, classes, like, palette)
            return
        rasterio = optional_import("rasterio", "large")
        profile = {
            "driver": "GTiff",
            "height": height,
            "width": width,
            "count": classes.shape[2] if several else 1,
            "dtype": "uint8",
            "nodata": IGNORE_LABEL,
            "tiled": True,
            "blockxsize": 256,
            "blockysize": 256,
            "compress": "deflate",
            "BIGTIFF": "IF_SAFER",
        }
        if isinstance(like, Raster):
            points, system = like.file.gcps
            placed = {"crs": like.file.crs, "transform": like.file.transform}
            profile |= {"crs": system, "gcps": points} if points else placed
            profile["rpcs"] = like.file.rpcs
        with rasterio.open(unfinished, "w", **profile) as file:
            if several and class_names is not None:
                file.descriptions = class_names
            if palette is not None and not several:
                colours = {i: tuple(map(int, colour)) for i, colour in enumerate(palette)}
                file.write_colormap(1, colours)
            for rows in _strips(height):
                block = np.asarray(classes[rows])
                block = np.moveaxis(block, -1, 0) if several else block[None]
                file.write(block, window=((rows.start, rows.stop), (0, width)))
            levels = [2**i for i in range(1, 12) if max(height, width) >> i >= 256]
            if levels:
                file.build_overviews(levels, rasterio.enums.Resampling.nearest)


def check_output(path: Path, several: bool = False, dtype: Any = "uint8") -> None:
    """Raise what `save_classes` would raise, before any work.

    Args:
        path: path of the file.
        several: whether there are several answers at a pixel.
        dtype: dtype of the classes.
    """
    path = pathlib.Path(path)
    ending = path.suffix.lower()
    if ending not in (".npy", ".tif", ".tiff", ".zarr"):
        raise ValueError(
            "Classes are written as .tif, .tiff, .zarr or .npy. "
            f"Received: path={str(path)!r}. Name one of these."
        )
    if ending != ".zarr" and path.is_dir():
        raise ValueError(
            f"A file cannot take the place of a folder. Received: path={str(path)!r}, which is a "
            "folder. Name another, or remove it."
        )
    if dtype != "uint8":
        raise ValueError(
            f"`classes` must be uint8. Received: classes of dtype {dtype}, whose numbers would "
            "wrap around. Write them as a file of your own."
        )
    if ending in (".tif", ".tiff"):
        optional_import("rasterio", "large")
    if ending != ".zarr":
        return
    zarr = optional_import("zarr", "large")
    if several:
        raise ValueError(
            "A label image of OME-Zarr has one class at a pixel. Received: "
            f"path={str(path)!r} for several. Name a .tif, whose bands they are, or a .npy."
        )
    if path.exists() and "image-label" not in zarr.open(path, mode="r").attrs.get("ome", {}):
        # It would be replaced, with all that is in it.
        raise ValueError(
            "A .zarr to write must be new, or a label image to replace. Received: path="
            f"{str(path)!r}, which holds something else. Name another, or remove it."
        )


def _save_ome_zarr(folder, classes, like, palette):
    """A label image of OME-Zarr 0.5: https://ngff.openmicroscopy.org/0.5."""
    group = optional_import("zarr", "large").create_group(folder)
    axes = [{"name": name, "type": "space"} for name in ("y", "x")]
    scale = [1.0, 1.0]
    if isinstance(like, OmeZarr):
        axes, scale = like.axes, like.scale
    levels: list[dict] = []
    shape, finer = classes.shape, None
    while finer is None or max(finer.shape) > 512:
        name, step = str(len(levels)), 1 if finer is None else 2
        source = classes if finer is None else finer
        shape = tuple(-(-n // step) for n in source.shape)
        level = group.create_array(
            name,
            shape=shape,
            chunks=tuple(min(n, 1024) for n in shape),
            dtype="uint8",
            dimension_names=("y", "x"),
        )
        for rows in _strips(shape[0], 1024):
            level[rows] = np.asarray(source[rows.start * step : rows.stop * step])[::step, ::step]
        sizes = [n * 2 ** len(levels) for n in scale]
        levels.append(
            {"path": name, "coordinateTransformations": [{"type": "scale", "scale": sizes}]}
        )
        finer = level
    colours = [
        {"label-value": i, "rgba": [*map(int, colour), 255]}
        for i, colour in enumerate(() if palette is None else palette)
    ]
    group.attrs["ome"] = {
        "version": "0.5",
        "multiscales": [{"axes": axes, "datasets": levels, "type": "nearest"}],
        "image-label": {"colors": colours},
    }


def _strips(height, rows=256):
    return [slice(start, min(start + rows, height)) for start in range(0, height, rows)]


def overview(image: Any, side: int = 1024) -> np.ndarray:
    """Every n-th row and column, so that the longer side is at most `side`, read row by row.

    Args:
        image: `(H, W)` or `(H, W, channels)`, anything that can be sliced.
        side: maximum side of the result.
    """
    step = max(1, -(-max(image.shape[:2]) // side))
    width = image.shape[1]
    rows = [
        np.asarray(image[row : row + 1, 0:width])[0, ::step]
        for row in range(0, image.shape[0], step)
    ]
    return np.stack(rows)
