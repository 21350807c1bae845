"""Writes a trained model as a file for serving, and proves that it is the same model.

    python examples/export.py --model fsanet.keras --format saved_model --output served
    python examples/export.py --model fsanet.keras --format litert --output fsanet.tflite --classes

| format | --output | written under KERAS_BACKEND | needs, beside the backend |
| --- | --- | --- | --- |
| saved_model | a folder | tensorflow, jax | tensorflow |
| onnx | .onnx | tensorflow; jax for pictures of one size | tf2onnx or jax2onnx, onnxruntime |
| litert | .tflite | tensorflow | |
| openvino | .xml (and .bin) | tensorflow | openvino |

A model that was trained under JAX or torch loads under TensorFlow: set KERAS_BACKEND=tensorflow.

The file takes pictures (batch, height, width, channels) of 0 to 255, float32 or with --uint8 uint8,
of any size where the model does. It gives logits, or with --classes the class of each pixel.
Afterwards it is loaded in its own runtime and compared with the model at sizes that it was not made
with; the command fails where they differ by more than 1e-4 of the largest logit, or of 1.
"""

import argparse

import keras
import numpy as np

import keras_fsa  # noqa: F401 (the model's class)
from keras_fsa.models.exporting import SIZES, largest_deviation, load_exported


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
    args = parser.parse_args()

    model = keras.saving.load_model(args.model)
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
    largest = 0.0
    for height, width in sizes:
        deviation = largest_deviation(model, serve, sizes=[(height, width)])
        largest = max(largest, deviation)
        print(f"{height:>5} x {width:<5} differs from the model by at most {deviation:.1e}")
    print(f"Largest deviation: {largest:.1e} (allowed: {bound:.1e})")
    if not largest <= bound:
        raise SystemExit(f"{args.output} is not the same model. Do not use it.")


if __name__ == "__main__":
    main()
