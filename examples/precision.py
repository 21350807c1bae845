"""What half precision costs and saves: the same weights under each dtype policy, as a table.

    python examples/precision.py --model fsanet.keras pictures/

A mixed policy computes in half precision from float32 weights; plain float16 and bfloat16 store
them in it, too. Normalisation of pictures, tokens, gains of the attention and logits are float32
under all of them. The last column is the share of pixels, over all pictures, that get the class
that float32 gives them. Times are medians, one picture at a time, after a first run of its size.
--save writes the `.keras` files.
"""

import argparse
import tempfile
import time
from pathlib import Path

import keras
import numpy as np
from PIL import Image

import keras_fsa  # noqa: F401 (the model's class)

POLICIES = ("float32", "mixed_bfloat16", "bfloat16", "mixed_float16", "float16")


def with_policy(model, policy):
    """The model, its weights included, under another dtype policy in every layer."""

    def convert(config):
        if isinstance(config, dict):
            if config.get("class_name") == "DTypePolicy":
                return keras.dtype_policies.serialize(keras.DTypePolicy(policy))
            return {key: convert(value) for key, value in config.items()}
        if isinstance(config, (list, tuple)):
            return type(config)(map(convert, config))
        return config

    copy = type(model).from_config(convert(model.get_config()))
    copy.set_weights(model.get_weights())
    return copy


def predict(model, pictures):
    """The class map of every picture, and the median time for one in milliseconds."""
    maps, times, sizes = [], [], set()
    for picture in pictures:
        if picture.shape not in sizes:
            sizes.add(picture.shape)
            model.predict_on_batch(picture[None])
        start = time.perf_counter()
        logits = model.predict_on_batch(picture[None])[0]
        times.append(1000 * (time.perf_counter() - start))
        maps.append(logits.argmax(-1).reshape(-1))
    return np.concatenate(maps), np.median(times)


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    add = parser.add_argument
    add("pictures", type=Path, help="folder of pictures")
    add("--model", type=Path, required=True, help="a .keras file")
    add("--limit", type=int, default=20, help="how many pictures at most")
    add("--policies", nargs="+", default=POLICIES, help="the first is the measure of the rest")
    add("--size", type=int, nargs=2, metavar=("HEIGHT", "WIDTH"), help="resize the pictures")
    add("--save", type=Path, help="folder for the .keras files; default: they are deleted")
    args = parser.parse_args()

    files = sorted(path for path in args.pictures.iterdir() if path.is_file())[: args.limit]
    if not files:
        raise SystemExit(f"There is no picture in {args.pictures}. Name another folder.")
    pictures = []
    for path in files:
        with Image.open(path) as file:
            picture = file.convert("RGB")
            picture = picture.resize(args.size[::-1]) if args.size else picture
            pictures.append(np.asarray(picture))

    model = keras.saving.load_model(args.model, compile=False)
    print(f"{len(pictures)} pictures, Keras {keras.__version__} on {keras.backend.backend()}\n")
    print(f"| dtype policy | file, MiB | ms for a picture | pixels as in {args.policies[0]} |")
    print("| --- | ---: | ---: | ---: |")
    with tempfile.TemporaryDirectory() as temporary:
        folder = args.save or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        for policy in args.policies:
            file = folder / f"{policy}.keras"
            with_policy(model, policy).save(file)
            # From the file: what is measured is what can be kept.
            classes, milliseconds = predict(keras.saving.load_model(file, compile=False), pictures)
            if policy == args.policies[0]:
                expected = classes
            same, size = np.mean(classes == expected), file.stat().st_size / 2**20
            print(
                f"| {policy} | {size:.2f} | {milliseconds:.0f} | {100 * same:.2f} % |", flush=True
            )


if __name__ == "__main__":
    main()
