r"""Segment a large image with the attention of the whole: scenes, slides, scans.

    python examples/segment_large.py --model M.keras --input scene.tif --output classes.tif
    python examples/segment_large.py --model M.keras --input slide.svs --output classes.tif \
        --tile 2048 --workers 4

The image is read tile by tile and never held; the classes keep its georeference, and its nodata
pixels are 255. Beside the output lies `NAME_overview.png`: the image and its classes, small. A run
that is killed goes on where it was when it is started again: until it ends, what it knows lies in
the folder `OUTPUT.work`. Run: pip install "keras_fsa[large]"
"""

import argparse
import contextlib
import shutil
from pathlib import Path

import keras
import numpy as np

import keras_fsa  # noqa: F401  (a .keras file needs its layers)
from keras_fsa.arguments import optional_import
from keras_fsa.large import halo, open_image, overview, save_classes, segment
from keras_fsa.large.images import check_output
from keras_fsa.visualize import default_palette, plot_overlay


def class_table(args, num_classes):
    """Names and colours of the classes."""
    if args.dataset:
        from keras_fsa.datasets import describe

        known = describe(args.dataset)
        if len(known.class_names) != num_classes:
            raise SystemExit(
                f"--dataset must have the classes of the model. Received: {args.dataset} with "
                f"{len(known.class_names)} classes for a model of {num_classes}. Leave it out."
            )
        return list(known.class_names), known.palette
    return [f"class {i}" for i in range(num_classes)], default_palette(num_classes)


def eight_bits(image):
    """The first three bands, or the first one thrice, stretched between two percentiles."""
    pixels = image.reshape(*image.shape[:2], -1)
    pixels = pixels[..., [0, 1, 2] if pixels.shape[-1] >= 3 else [0, 0, 0]]
    if pixels.dtype == "uint8":
        return pixels
    pixels = np.nan_to_num(pixels.astype("float64"))
    low, high = np.percentile(pixels, (2, 98))
    return (255 * np.clip((pixels - low) / max(high - low, 1e-9), 0, 1)).astype("uint8")


def main():
    args = parse_arguments()
    try:
        check_output(args.output)
        image = open_image(args.input)
        model = keras.saving.load_model(args.model, compile=False)
        names, palette = class_table(args, model.num_classes)
        height, width = image.shape[:2]
        margin = halo(model, (height, width)) if args.halo is None else args.halo
        print(f"{height} x {width} pixels in tiles of {args.tile} and {margin} around each")
        work = Path(f"{args.output}.work")
        with workers(args.workers) as executor:
            classes = segment(
                model,
                image,
                tile=args.tile,
                halo=args.halo,
                nodata=args.nodata,
                keep_features=args.keep_features,
                work_dir=work,
                executor=executor,
            )
    except (ValueError, OSError, ImportError, FloatingPointError) as error:
        raise SystemExit(f"{type(error).__name__}: {error}") from error
    save_classes(args.output, classes, like=image, palette=palette)
    small, mask = eight_bits(overview(image)), overview(classes)
    path = args.output.with_name(f"{args.output.stem}_overview.png")
    plot_overlay(small, mask, names, palette, path)
    shutil.rmtree(work)
    print(f"Classes are in {args.output}, an overview in {path}")


@contextlib.contextmanager
def workers(count):
    """A cluster of Dask on this machine, or nothing for this process."""
    if count == 1:
        yield None
        return
    distributed = optional_import("distributed", "large")
    with distributed.Client(n_workers=count, threads_per_worker=1) as client:
        yield client


def parse_arguments():
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    add = parser.add_argument
    add("--model", type=Path, required=True, help=".keras file of a FsaNet for any image size")
    add("--input", type=Path, required=True, help=".tif, .svs, .zarr, .npy, ...")
    add("--output", type=Path, required=True, help=".tif, .zarr or .npy for the classes")
    add("--tile", type=int, default=1024, help="side of the tiles in pixels: memory grows with it")
    add("--halo", type=int, help="pixels around a tile; default: exact, fewer are an approximation")
    add("--nodata", type=float, help="value of pixels that were not seen; default: the file's")
    add("--keep-features", action="store_true", help="keep them in OUTPUT.work: backbone runs once")
    add("--workers", type=int, default=1, help="processes that compute tiles")
    add("--dataset", help="dataset whose class names and colours are used, such as cityscapes")
    return parser.parse_args()


if __name__ == "__main__":
    main()
