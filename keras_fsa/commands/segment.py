r"""Segment a large image, with attention over all of it: scenes, slides, scans.

    keras_fsa segment --model model.keras --input scene.tif --output classes.tif
    keras_fsa segment --model model.keras --input slide.svs --output classes.tif \
        --tile 2048 --workers 4

The image is read tile by tile and never held in memory; `keras_fsa/large` explains the mathematics
and lists the file types that are read and written. The classes keep the image's georeference, and
its nodata pixels become 255; for models with several classes per pixel, the output has a band of 0
and 1 for each class. `NAME_overview.png` beside the output shows the image and its classes, small.

The model receives the same values as from `keras_fsa predict`: the stored ones if its normalization
is a pair of numbers or its channels are other than 1 or 3; otherwise 8 bits, which for 16-bit
images are the upper ones.

A run that was killed continues where it stopped when it is started again: until it ends, its state
is in the folder `OUTPUT.work`. To install: pip install "keras_fsa[large]"
"""

import contextlib
import os
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, cast

import numpy as np

from keras_fsa import large
from keras_fsa.arguments import optional_import
from keras_fsa.classes import activation_of, by_class, dtype_of_ids, names_of
from keras_fsa.commands.command import command
from keras_fsa.commands.data import takes_stored_values
from keras_fsa.commands.models import TrainedModel, load_keras_model, num_classes_of
from keras_fsa.commands.predict import Names, class_table
from keras_fsa.files import locked_folder
from keras_fsa.images import is_upright
from keras_fsa.large.images import Raster, check_output
from keras_fsa.large.unseen import seen_pixels, unseen_values
from keras_fsa.metrics import IGNORE_LABEL
from keras_fsa.settings import Count, ExistingPath, OutputPath, Pixels, Real, Whole
from keras_fsa.visualize import as_rgb, default_palette, plot_overlay
from keras_fsa.visualize.figure import can_draw


@dataclass(frozen=True)
class Segment:
    """Segment a large image, with attention over all of it."""

    model: TrainedModel
    """A .keras file of an FsaNet for images of any size, or the name of a trained preset."""
    input: ExistingPath
    """The image: .tif, .svs, .zarr, .npy, ..."""
    output: OutputPath
    """File for the classes: .tif, .zarr or .npy."""
    bands: tuple[Count, ...] | None = None
    """Bands of a raster file that the model takes, counted from 1; none: all."""
    tile: Pixels = 1024
    """Side of the tiles in pixels; memory grows with it."""
    halo: Annotated[int, Whole(0)] | None = None
    """Pixels read around each tile; none: as many as are exact. Fewer approximate."""
    nodata: Literal["nan"] | Annotated[float, Real()] | None = None
    """Value of pixels without data; none: the file's."""
    keep_features: bool = False
    """Keep features in OUTPUT.work, so that the backbone runs only once."""
    workers: Annotated[int, Whole(1, 1024)] = 1
    """Processes that compute tiles."""
    dataset: str | None = None
    """Dataset whose class names and colours are used, such as cityscapes."""
    class_names: Names | None = None
    """Such as sky,road,car; none: those of the model."""

    def check(self) -> None:
        """Raise a `ValueError` for an output that cannot be written."""
        check_output(self.output)
        if self.output.resolve() == self.input.resolve():
            raise ValueError(
                "`output` must be another file than `input`, which it would replace. Received: "
                f"{self.output} for both. Name another one."
            )


def main(
    arguments: Sequence[str] | None = None,
    program: str | None = None,
    description: str = __doc__,
) -> None:
    """Run the command, see `keras_fsa.commands.command.command`."""
    command(Segment, segment, arguments, program, description)


def segment(settings: Segment) -> None:
    """Open, segment, write and draw."""
    image = large.open_image(settings.input, settings.bands)
    model = load_keras_model(settings.model)
    nodata = None if settings.nodata is None else float(settings.nodata)
    given = _as_predicted(settings.input, image, model, nodata)
    margin = large.halo(model, image.shape[:2]) if settings.halo is None else settings.halo
    count = cast(int, num_classes_of(model))  # None is for exported files
    yes_or_no = activation_of(model) == "sigmoid"
    check_output(settings.output, yes_or_no and count > 1, dtype_of_ids(count))
    known, palette = class_table(settings.dataset, settings.class_names, model)
    names = known or names_of(model, count)
    palette = default_palette(count) if palette is None else palette
    print(
        f"{image.shape[0]} x {image.shape[1]} pixels in tiles of {settings.tile} and {margin} "
        "around each"
    )
    work = Path(f"{settings.output}.work")
    with locked_folder(work):
        with _cluster(settings.workers) as executor:
            classes = large.segment(
                model,
                given,
                tile=settings.tile,
                halo=settings.halo,
                nodata=nodata if given is image else None,
                keep_features=settings.keep_features,
                work_dir=work,
                executor=executor,
            )
        # Of one class, 0 says no.
        colours: Any = [(255, 255, 255), *palette] if yes_or_no else palette
        large.save_classes(settings.output, classes, image, colours, names)
        print(f"Classes are in {settings.output}")
        if can_draw():
            path = settings.output.with_name(f"{settings.output.stem}_overview.png")
            mask = large.overview(classes)
            mask = by_class(mask, count) if yes_or_no else mask
            plot_overlay(_shown(image, mask), mask, names, palette, path)
            print(f"An overview is in {path}")
        # Windows removes no file that is open, as the lock is.
        shutil.rmtree(work, ignore_errors=os.name == "nt")


class _UpperByte:
    """A 16-bit image in 8 bits, as `keras_fsa.images` reads it. Pixels without data are NaN."""

    def __init__(self, image, nodata, bits):
        self.image, self.shape, self.bits = image, image.shape, bits
        # All 16 bits tell what was not seen.
        self.values = unseen_values(nodata, getattr(image, "nodata", None))
        self.nodata = np.nan if self.values else None
        self.dtype = np.dtype("float32" if self.values else "uint8")

    def __getitem__(self, item):
        pixels = np.asarray(self.image[item])
        upper = (pixels // 2 ** (self.bits - 8)).astype(self.dtype)
        if self.values:
            upper[~seen_pixels(pixels, self.values)] = np.nan
        return upper


def _as_predicted(path, image, model, nodata):
    """The image with the values that `keras_fsa predict` would give the model.

    Raises:
        ValueError: if that cannot be done tile by tile.
    """
    raster = image.file if isinstance(image, Raster) else None
    # GDAL tells that of a JPEG only.
    if raster and not is_upright(path):
        raise ValueError(
            "An image must be stored as it is viewed. Received: "
            f"--input {path}, whose EXIF orientation turns it. Save it upright, with Pillow: "
            "PIL.ImageOps.exif_transpose(image)."
        )
    if takes_stored_values(model):
        return image
    if raster and "palette" in {raster.colorinterp[band - 1].name for band in image.bands}:
        raise ValueError(
            "A model of RGB or grey takes colours. Received: --input "
            f"{path}, whose values are indices of a palette. Resolve it: gdal_translate -expand "
            "rgb (or gray)."
        )
    if raster and raster.tags(ns="IMAGE_STRUCTURE").get("MINISWHITE") == "YES":
        raise ValueError(
            "A model of RGB or grey takes images whose zero is black. Received: "
            f"--input {path}, whose zero is white. Turn it round, with Pillow: "
            "PIL.Image.open(path).save(new_path)."
        )
    dtype = np.dtype(getattr(image, "stored_dtype", image.dtype))
    # GDAL has files of 12 bits, and others.
    structure = raster.tags(image.bands[0], ns="IMAGE_STRUCTURE") if raster else {}
    bits = int(structure.get("NBITS", 8 * dtype.itemsize))
    if dtype == "uint16":
        return _UpperByte(image, nodata, bits)
    if dtype != "uint8" or bits < 8:
        kind = f"{bits} bits" if bits < 8 else dtype
        raise ValueError(
            "A model whose normalization is a name or None takes images of 8 bits, or the upper 8 "
            f"of 16. Received: --input {path} of {kind}. Scale it to 8 bits as for the training, "
            "or train a model with normalization=(mean, std)."
        )
    return image


@contextlib.contextmanager
def _cluster(count: int) -> Iterator[Any]:
    """A client of a Dask cluster on this machine, or None to use this process."""
    if count == 1:
        yield None
        return
    distributed = optional_import("distributed", "large")
    with distributed.Client(n_workers=count, threads_per_worker=1) as client:
        yield client


def _shown(image, mask):
    """The image, small, for display: pixels without data do not affect its contrast."""
    small = large.overview(image)
    small = small.reshape(*small.shape[:2], -1)
    seen = (mask != IGNORE_LABEL).reshape(*mask.shape[:2], -1).any(-1)
    if seen.any():
        small[~seen] = np.median(small[seen], axis=0).astype(small.dtype)
    # A masked raster's values are floating, whatever they are in the file.
    return as_rgb(small.astype(getattr(image, "stored_dtype", small.dtype)))
