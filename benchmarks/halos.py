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
    exact = halo(model, image.shape[:2])
    print("| halo | largest error / largest logit | classes that differ, % | seconds |")
    print("| ---: | ---: | ---: | ---: |")
    rows = []
    for width in (exact, *(width for width in options.halos if width < exact)):
        start = time.process_time()
        logits = segment(
            model, image, tile=options.tile, halo=width, output="logits", verbose=False
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
