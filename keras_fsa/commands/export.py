"""Write a trained model as a file for serving, and verify that it is the same model.

    keras_fsa export --model fsanet.keras --format saved_model --output served
    keras_fsa export --model fsanet.keras --format litert --output fsanet.tflite --classes
    keras_fsa export --model fsanet.keras --output served --classes --window 769 --flip
    keras_fsa export --model fsanet.keras --format onnx --output f.onnx --int8 --calibration images

| format | --output | written under KERAS_BACKEND | needs, beside the backend |
| --- | --- | --- | --- |
| saved_model | a folder | tensorflow, jax | tensorflow |
| onnx | .onnx | tensorflow; jax for images of one size | tf2onnx or jax2onnx, onnxruntime |
| litert | .tflite | tensorflow | |
| openvino | .xml (and .bin) | tensorflow | openvino; nncf for --int8 |

A model that was trained under torch or JAX loads under TensorFlow: set KERAS_BACKEND=tensorflow.

The file takes images (batch, height, width, channels) from 0 to 255, float32, or uint8 with
--uint8, of any size if the model does. It returns logits, or with --classes the class of each
pixel, and computes in float32, even if the model was trained in mixed precision. A SavedModel also
takes PNG and JPEG files (signature serving_bytes), and can have sliding windows, scales and mirror
images built in: --window, --scales, --flip, --fit; its logits are then logarithms of probabilities,
see `keras_fsa/segmenter.py`.

Afterwards the file is loaded in its own runtime and compared with the model at sizes that it was
not traced with; the command fails if they differ by more than 1e-4 of the largest logit, or of 1.

With --int8 the convolutions of an onnx, litert or openvino file compute in int8, with ranges
determined from the images in --calibration. Such a file is compared with the model on these images:
the command fails if less than --agreement of their pixels get the class that the model assigns.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import keras
import numpy as np

import keras_fsa
from keras_fsa.classes import answers
from keras_fsa.commands.command import command
from keras_fsa.commands.data import read_images
from keras_fsa.commands.models import TrainedModel, load_keras_model
from keras_fsa.models.exporting import SIZES, deviation, largest_deviation, load_exported
from keras_fsa.models.quantizing import INT8_FORMATS
from keras_fsa.models.trained import in_float32
from keras_fsa.segmenter import Segmenter
from keras_fsa.settings import Count, ExistingFolder, OutputPath, Pixels, Scale, Share


@dataclass(frozen=True)
class Export:
    """Write a trained model as a file for serving, and verify that it is the same model."""

    model: TrainedModel
    """A .keras file, or the name of a trained preset."""
    output: OutputPath
    """The folder or file to write."""
    format: Literal["saved_model", "onnx", "litert", "openvino"] = "saved_model"
    """Format of the file, see above."""
    classes: bool = False
    """Return the class of each pixel instead of logits."""
    uint8: bool = False
    """Take uint8 images instead of float32."""
    size: tuple[Pixels, Pixels] | None = None
    """Take only images of this height and width; none: any that the model takes."""
    int8: bool = False
    """Compute convolutions in int8."""
    calibration: ExistingFolder | None = None
    """For --int8: folder of images like those to be served."""
    limit: Count = 100
    """Maximum number of calibration images."""
    agreement: Share = 0.9
    """Lowest share of their pixels that must keep their class under int8."""
    window: Pixels | None = None
    """Side of a sliding window in pixels; none: the whole image."""
    stride: Pixels | None = None
    """Pixels from one window to the next; none: two thirds of the window."""
    scales: tuple[Scale, ...] = (1.0,)
    """Average the predictions over these scales."""
    flip: bool = False
    """Average the predictions of each image and its mirror image."""
    fit: tuple[Pixels, Pixels] | None = None
    """Long and short side that images are fitted into, before --scales."""

    @property
    def view(self) -> dict:
        """Windows, scales and mirror images: arguments of `Segmenter`."""
        names = ("window", "stride", "scales", "flip", "fit")
        return {name: getattr(self, name) for name in names}

    @property
    def has_views(self) -> bool:
        """Whether images are predicted in any way other than whole and once."""
        return any(value != getattr(Export, name) for name, value in self.view.items())

    def check(self) -> None:
        """Raise a `ValueError` for flags that do not go together."""
        if self.has_views and (self.format != "saved_model" or self.size):
            raise ValueError(
                "--window, --stride, --scales, --flip and --fit are for SavedModels of any size: "
                "leave --format and --size out, or look at images so from outside, with "
                "keras_fsa.inference."
            )
        if self.int8 != (self.calibration is not None):
            raise ValueError(
                "--int8 needs --calibration, a folder of images like those to come, and only that "
                f"does. Received: int8={self.int8}, calibration={self.calibration}. Give both."
            )
        if self.int8 and self.format not in INT8_FORMATS:
            raise ValueError(
                f"--int8 is for --format {', '.join(INT8_FORMATS)}. Received: {self.format}. "
                "Choose one of them."
            )
        if self.stride and (not self.window or self.stride > self.window):
            raise ValueError(
                f"`--stride` must be at most the window. Received: {self.stride} for "
                f"{self.window}. Give a larger --window."
            )


def main(
    arguments: Sequence[str] | None = None,
    program: str | None = None,
    description: str = __doc__,
) -> None:
    """Run the command, see `keras_fsa.commands.command.command`."""
    command(Export, export, arguments, program, description)


def export(settings: Export) -> None:
    """Write the file and compare it with the model.

    Raises:
        ValueError: if the file is not the same model.
    """
    model = load_keras_model(settings.model)
    if not isinstance(model, keras_fsa.FsaNet):
        raise ValueError(
            f"`--model` must be an FsaNet. Received: {settings.model}, a {type(model).__name__}. "
            "Export other models by their own method."
        )
    # In which alone the comparison tells a wrong file from rounding.
    model = in_float32(model)
    if settings.int8:
        _export_int8(model, settings)
        return
    write = _export_views if settings.has_views else _export_model
    largest, bound = write(model, settings)
    print(f"Largest deviation: {largest:.1e} (allowed: {bound:.1e})")
    if not largest <= bound:
        raise ValueError(f"{settings.output} is not the same model. Do not use it.")


def _write(model, settings, size, dtype, calibration=None):
    model.export(
        str(settings.output),
        format="tf_saved_model" if settings.format == "saved_model" else settings.format,
        input_signature=[keras.InputSpec(shape=(None, *size, model.image_shape[-1]), dtype=dtype)],
        output="classes" if settings.classes else "logits",
        calibration=calibration,
    )


def _export_int8(model, settings):
    """Write the file, and compare classes on the calibration images."""
    size = settings.size or model.image_shape[:2]
    fixed = None if None in size else tuple(size)
    images = read_images(settings.calibration, model, settings.limit, fixed)
    _write(model, settings, size, "uint8" if settings.uint8 else "float32", images)
    serve = load_exported(settings.output, runtime_defaults=True)
    same, largest = [], 0.0
    for image in images:
        served, logits = serve(image[None]), model.predict_on_batch(image[None])
        classes = served if settings.classes else answers(served, model.activation)
        own = answers(logits, model.activation)
        same.append(np.mean(classes.reshape(own.shape) == own))
        largest = max(largest, deviation(served, logits, model.activation))
    share = float(np.mean(same))
    print(f"Largest deviation on {len(images)} images: {largest:.1e}")
    print(f"{100 * share:.2f} % of the pixels have the model's class")
    if not share >= settings.agreement:
        raise ValueError(
            f"At least {100 * settings.agreement:g} % of the pixels must have the model's class. "
            f"Received: {100 * share:.2f} %. Calibrate with images like those to come, keep "
            "float32, or lower --agreement."
        )


def _sizes(model, settings):
    """The sizes to compare at: such as no exporter traces, if the file takes any size."""
    own = settings.size or model.image_shape[:2]
    if settings.window is None:
        sizes = [[side or n for side, n in zip(own, size, strict=True)] for size in SIZES]
    else:
        # At the smallest scale, too, an image holds a window, whose size is that of the model.
        least = min(settings.scales)
        sizes = [
            [n + math.ceil((side or 0) / least) for side, n in zip(own, size, strict=True)]
            for size in SIZES
        ]
    return list(dict.fromkeys(map(tuple, sizes)))


def _export_model(model, settings):
    """Write the file; return by how much it differs from the model, and by how much it may."""
    dtype = "uint8" if settings.uint8 else "float32"
    _write(model, settings, settings.size or model.image_shape[:2], dtype)
    serve, sizes = load_exported(settings.output), _sizes(model, settings)
    logits = model.predict_on_batch(np.zeros((1, *sizes[0], model.image_shape[-1]), dtype))
    bound = 1e-4 * max(1.0, float(np.abs(logits).max()))
    return _compare(lambda size: largest_deviation(model, serve, sizes=[size]), sizes), bound


def _export_views(model, settings):
    """The same for a model with windows, scales and mirror images; in probabilities."""
    predict = Segmenter(model, **settings.view)
    predict.export(
        str(settings.output),
        output="classes" if settings.classes else "log_probabilities",
        input_dtype="uint8" if settings.uint8 else "float32",
    )
    serve, softmax = load_exported(settings.output), predict.model.activation == "softmax"
    rng = np.random.default_rng(0)

    def difference(size):
        shape = (1, *size, predict.model.image_shape[-1])
        images = rng.integers(0, 256, shape).astype("uint8")
        served = serve(images)
        if not settings.classes:
            served = np.exp(served) if softmax else 1 / (1 + np.exp(-served))
        p = predict.probabilities(images)
        return deviation(served, p, predict.model.activation, threshold=0.5)

    return _compare(difference, _sizes(model, settings)), 1e-4


def _compare(difference: Callable, sizes: Sequence) -> float:
    """Print the difference at each size; return the largest."""
    largest = 0.0
    for height, width in sizes:
        here = difference((height, width))
        largest = max(largest, here)
        print(f"{height:>5} x {width:<5} differs from the model by at most {here:.1e}")
    return largest
