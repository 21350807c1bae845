r"""What halos smaller than the receptive field cost, on an image of your own.

    python -m benchmarks.halos --model best.keras --image street.png --tile 256 --json halos.json

A trained network segments the image whole, and in tiles with halos of several widths. Errors are
those of the logits, over the largest logit of the whole image; seconds are CPU time. Memory is not
measured: a tile costs what an image of `tile + 2 halo` pixels does.
"""

import argparse
import datetime as dt
import json
import time
from importlib.metadata import version
from pathlib import Path

import keras
import numpy as np

from keras_fsa.files import whole_file
from keras_fsa.images import read_image
from keras_fsa.large import halo, segment
from keras_fsa.large.geometry import maker
from keras_fsa.layers.resize_like import ResizeLike


def behind_normalization(model):
    """The network of an `FsaNet` behind its normalisation, as a functional model.

    Tiles need to know at which scale two maps are joined. With `low_level` that follows from the
    size of the image; here it is the ratio of the two strides, which must divide that size.
    """
    image = keras.Input((None, None, 3))
    known = {id(model.backbone.input): image}

    def rebuilt(tensor):
        if id(tensor) not in known:
            operation, sources = maker(tensor)
            sources = [rebuilt(source) for source in sources]
            if isinstance(operation, ResizeLike):
                coarse, fine = (
                    _stride(model.backbone, stage) for stage in ("stage5", model.low_level)
                )
                resize = keras.layers.UpSampling2D(coarse // fine, interpolation="bilinear")
                known[id(tensor)] = resize(sources[0])
            else:
                known[id(tensor)] = operation(sources if len(sources) > 1 else sources[0])
        return known[id(tensor)]

    for tensor in keras.tree.flatten(model.head.input):
        known[id(tensor)] = rebuilt(model.backbone.output[tensor.name])
    return keras.Model(image, rebuilt(model.head.output))


def _stride(backbone, stage):
    return 256 // backbone.compute_output_shape((1, 256, 256, 3))[stage][1]


def main(arguments=None):
    """Measure, print a table, and write the JSON file."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--model", type=Path, required=True, help="an FsaNet's .keras file")
    parser.add_argument("--image", type=Path, required=True)
    parser.add_argument("--tile", type=int, default=256)
    parser.add_argument("--halos", type=int, nargs="+", default=[256, 128, 64, 32, 0])
    parser.add_argument("--json", type=Path)
    options = parser.parse_args(arguments)

    model = keras.saving.load_model(options.model, compile=False)
    image = read_image(options.image)
    start = time.process_time()
    whole = model.predict_on_batch(image[None])[0]
    print(f"{image.shape[0]} x {image.shape[1]}, whole: {time.process_time() - start:.1f} s")
    network = behind_normalization(model)
    normalized = keras.ops.convert_to_numpy(model.normalize(image))
    exact = halo(network, image.shape[:2])
    print("| halo | largest error / largest logit | classes that differ, % | seconds |")
    print("| ---: | ---: | ---: | ---: |")
    rows = []
    for width in (exact, *(width for width in options.halos if width < exact)):
        start = time.process_time()
        logits = segment(
            network, normalized, tile=options.tile, halo=width, output="logits", verbose=False
        )
        row = {
            "halo": width,
            "error": float(np.abs(logits - whole).max() / np.abs(whole).max()),
            "differs": float(np.mean(logits.argmax(-1) != whole.argmax(-1))),
            "seconds": time.process_time() - start,
        }
        rows.append(row)
        print(
            "| {halo} | {error:.2g} | {percent:.3f} | {seconds:.1f} |".format(
                percent=100 * row["differs"], **row
            ),
            flush=True,
        )
    if options.json:
        result = {
            "date": dt.datetime.now(dt.UTC).isoformat(timespec="seconds"),
            "backend": keras.backend.backend(),
            "versions": {
                name: version(name) for name in ("keras", "numpy", keras.backend.backend())
            },
            "size": image.shape[:2],
            "tile": options.tile,
            "exact_halo": exact,
            "parameters": model.count_params(),
            "rows": rows,
        }
        with whole_file(options.json) as unfinished:
            unfinished.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
