r"""Memory and time of segmenting large images, against the size of the image.

    python -m benchmarks.large --sizes 4096 8192 16384 --folder /data/scratch
    python -m benchmarks.large --sizes 8192 --workers 1 2 4

Each size runs in a process of its own, from a Zarr array on the disk to another one, with a small
network of stride 8 (three convolutions, a head of 16 channels) or with `--backbone resnet18`, both
with random weights. Memory is the peak of the process less what it had when the model was loaded.
Beside the time of the clock stands that of the processors, which is nearly the same however busy
the machine is. With `--workers`, tiles are computed by that many processes of Dask on this machine,
and neither memory nor the time of processors counts theirs.
"""

import argparse
import contextlib
import itertools
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import keras
import numpy as np
import zarr

import keras_fsa
from keras_fsa.commands.benchmark import peak_of_process
from keras_fsa.large import segment

CHUNK = 1024


def build(backbone):
    """A network with random weights."""
    if backbone != "small":
        return keras_fsa.FsaNet(5, backbone, auxiliary_loss_weight=0)
    image = x = keras.Input((None, None, 3))
    for width in (8, 12, 16):
        x = keras.layers.Conv2D(width, 3, 2, padding="same", activation="relu")(x)
    return keras_fsa.FsaNet(
        5,
        keras.Model(image, {"stage5": x}),
        head_channels=16,
        normalization="imagenet",
        auxiliary_loss_weight=0,
    )


def peak():
    """Peak memory of this process, GiB."""
    return peak_of_process() / 2**30


def cluster(count):
    """A client of that many workers, which have started; None of 0."""
    if not count:
        return contextlib.nullcontext()
    import distributed

    return distributed.Client(n_workers=count, threads_per_worker=1, dashboard_address=None)


def measure(size, folder, backbone, tile, workers):
    """One size, in this process: prints a row of the table as JSON."""
    shape, chunks = (size, size, 3), (CHUNK, CHUNK, 3)
    image = zarr.create_array(folder / "in", shape=shape, chunks=chunks, dtype="uint8")
    block = np.random.default_rng(0).integers(0, 256, chunks).astype("uint8")
    for row in range(0, size, CHUNK):
        for column in range(0, size, CHUNK):
            image[row : row + CHUNK, column : column + CHUNK] = block
    sink = zarr.create_array(folder / "out", shape=shape[:2], chunks=chunks[:2], dtype="uint8")
    model = build(backbone)
    model.predict_on_batch(np.zeros((1, 64, 64, 3), "uint8"))
    with cluster(workers) as executor:
        if executor is not None:
            # Importing an engine and loading the model are not what is measured.
            small = image[:CHUNK, : CHUNK * workers]
            segment(model, small, tile=CHUNK // 2, executor=executor, verbose=False)
        before, start, busy = peak(), time.perf_counter(), time.process_time()
        segment(model, image, sink, tile=tile, executor=executor, verbose=False)
        row = {
            "seconds": time.perf_counter() - start,
            "busy": time.process_time() - busy,
            "memory": peak() - before,
        }
    print(json.dumps(row))


def main():
    """Measure each size in a process of its own, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--sizes", type=int, nargs="+", default=[4096, 8192, 16384])
    parser.add_argument("--backbone", default="small", help="small, or a ResNet's name")
    parser.add_argument("--tile", type=int, default=1024)
    parser.add_argument("--folder", type=Path, help="a disk with room for the images")
    parser.add_argument("--workers", type=int, nargs="+", default=[0], help="0: this process")
    parser.add_argument("--one", type=int, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.one:
        measure(args.one, args.folder, args.backbone, args.tile, args.workers[0])
        return
    print(f"{keras.backend.backend()}, {args.backbone} network, tiles of {args.tile}\n")
    print(
        "| size | workers | seconds | processor seconds | ns of these per pixel | "
        "GiB beyond the model |"
    )
    print("| --- | --- | --- | --- | --- | --- |")
    for size, workers in itertools.product(args.sizes, args.workers):
        with tempfile.TemporaryDirectory(dir=args.folder) as folder:
            command = [sys.executable, "-m", "benchmarks.large", "--one", str(size)]
            command += ["--folder", folder, "--workers", str(workers)]
            command += ["--backbone", args.backbone, "--tile", str(args.tile)]
            run = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
        row = json.loads(run.stdout.splitlines()[-1])
        print(
            f"| {size} | {workers or '-'} | {row['seconds']:.0f} | {row['busy']:.1f} | "
            f"{1e9 * row['busy'] / size**2:.0f} | {row['memory']:.2f} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
