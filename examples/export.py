"""Writes a trained model as a file for serving, and proves that it is the same model.

    python examples/export.py --model fsanet.keras --format saved_model --output served
    python examples/export.py --model fsanet.keras --format litert --output fsanet.tflite --classes
    python examples/export.py --model fsanet.keras --output served --classes --window 769 --flip

| format | --output | written under KERAS_BACKEND | needs, beside the backend |
| --- | --- | --- | --- |
| saved_model | a folder | tensorflow, jax | tensorflow |
| onnx | .onnx | tensorflow; jax for pictures of one size | tf2onnx or jax2onnx, onnxruntime |
| litert | .tflite | tensorflow | |
| openvino | .xml (and .bin) | tensorflow | openvino |

A model that was trained under torch, or JAX, loads under TensorFlow: set KERAS_BACKEND=tensorflow.

The file takes pictures (batch, height, width, channels) of 0 to 255, float32 or with --uint8 uint8,
of any size where the model does. It gives logits, or with --classes the class of each pixel. A
SavedModel takes PNG and JPEG files as well (signature serving_bytes), and can have sliding windows,
scales and mirror images inside: --window, --scales, --flip, --fit; its logits are then logarithms
of probabilities, see `keras_fsa/segmenter.py`.

Afterwards it is loaded in its own runtime and compared with the model at sizes that it was not made
with; the command fails where they differ by more than 1e-4 of the largest logit, or of 1.
"""

import argparse

import keras
import numpy as np

import keras_fsa  # noqa: F401 (files of models name its classes)
from keras_fsa.models.exporting import SIZES, deviation, largest_deviation, load_exported
from keras_fsa.segmenter import Segmenter


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    add = parser.add_argument
    add("--model", required=True, help="a .keras file")
    add(
        "--format",
        choices=("saved_model", "onnx", "litert", "openvino"),
        default="saved_model",
        help="see above; default: saved_model",
    )
    add("--output", required=True, help="the folder or file to write")
    add("--classes", action="store_true", help="give the class of each pixel instead of logits")
    add("--uint8", action="store_true", help="take uint8 pictures instead of float32")
    add(
        "--size",
        type=int,
        nargs=2,
        metavar=("HEIGHT", "WIDTH"),
        help="take pictures of this size only; default: what the model takes",
    )
    add("--window", type=int, help="side of a sliding window in pixels; default: the whole picture")
    add("--stride", type=int, help="from window to window; default: two thirds of the window")
    add("--scales", type=float, nargs="+", default=[1.0], help="average over these sizes")
    add("--flip", action="store_true", help="average over each picture and its mirror image")
    add("--fit", type=int, nargs=2, metavar=("LONG", "SHORT"), help="resize to fit, before scales")
    args = parser.parse_args()
    view = {name: getattr(args, name) for name in ("window", "stride", "scales", "flip", "fit")}
    views = view != {name: parser.get_default(name) for name in view}
    if views and (args.format != "saved_model" or args.size):
        parser.error(
            "--window, --stride, --scales, --flip and --fit are for SavedModels of any size: leave "
            "--format and --size out, or look at pictures so from outside, with keras_fsa.inference"
        )

    model = keras.saving.load_model(args.model)
    if views:
        largest, bound = export_views(Segmenter(model, **view), args)
    else:
        largest, bound = export_model(model, args)
    print(f"Largest deviation: {largest:.1e} (allowed: {bound:.1e})")
    if not largest <= bound:
        raise SystemExit(f"{args.output} is not the same model. Do not use it.")


def export_model(model, args):
    """Write the file; by how much it differs from the model, and may."""
    dtype = "uint8" if args.uint8 else "float32"
    size = tuple(args.size) if args.size else model.image_shape[:2]
    model.export(
        args.output,
        format="tf_saved_model" if args.format == "saved_model" else args.format,
        input_signature=[keras.InputSpec(shape=(None, *size, model.image_shape[-1]), dtype=dtype)],
        output="classes" if args.classes else "logits",
    )
    serve = load_exported(args.output)
    sizes = SIZES if None in size else [size]
    logits = model.predict_on_batch(np.zeros((1, *sizes[0], model.image_shape[-1]), dtype))
    bound = 1e-4 * max(1.0, float(np.abs(logits).max()))
    return compare(lambda size: largest_deviation(model, serve, sizes=[size]), sizes), bound


def export_views(predict, args):
    """The same for a model with windows, scales and mirror images; in probabilities."""
    predict.export(
        args.output,
        output="classes" if args.classes else "log_probabilities",
        input_dtype="uint8" if args.uint8 else "float32",
    )
    serve = load_exported(args.output)
    rng = np.random.default_rng(0)

    def difference(size):
        shape = (1, *size, predict.model.image_shape[-1])
        pictures = rng.integers(0, 256, shape).astype("uint8")
        served = serve(pictures) if args.classes else np.exp(serve(pictures))
        return deviation(served, predict.probabilities(pictures))

    return compare(difference, SIZES), 1e-4


def compare(difference, sizes):
    """Print the difference at each size; the largest."""
    largest = 0.0
    for height, width in sizes:
        here = difference((height, width))
        largest = max(largest, here)
        print(f"{height:>5} x {width:<5} differs from the model by at most {here:.1e}")
    return largest


if __name__ == "__main__":
    main()
