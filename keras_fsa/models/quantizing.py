"""Exported files whose convolutions compute in int8, written with each runtime's own tools.

Weights become int8, with one scale per channel; the ranges of the maps that enter and leave a
convolution are determined from calibration images. Everything else stays float32: the normalisation
of images; the attention, whose tokens span several orders of magnitude; the weights of resizing,
whose range depends on the size of the image; and the classes.

Source: Jacob et al., arXiv:1712.05877.
"""

import logging
import os
import tempfile
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np

from keras_fsa.arguments import optional_import
from keras_fsa.models.exporting import in_dtype

INT8_FORMATS = ("onnx", "litert", "openvino")

_ONNX = ("Conv",)
_LITERT = ("CONV_2D", "DEPTHWISE_CONV_2D")


def calibration_batches(
    model: keras.Model, spec: keras.InputSpec, format: str, calibration: Sequence
) -> list[np.ndarray]:
    """Calibration images as batches of one, in the file's input type.

    Args:
        model: the `FsaNet`.
        spec: the file's input.
        format: format of the file.
        calibration: images `(H, W, channels)` from 0 to 255.

    Raises:
        ValueError: for a format without int8, no images, or images that the file does not take.
        ImportError: if the tools are missing, with the pip command.
    """
    if format not in INT8_FORMATS:
        raise ValueError(
            f"`calibration` is for the formats {', '.join(INT8_FORMATS)}, which have int8. "
            f"Received: format={format!r}. Choose one of them, or leave `calibration` out."
        )
    shape = tuple(spec.shape)[1:]
    batches = []
    for image in calibration:
        image = np.asarray(image)
        if image.ndim != 3 or any(
            want not in (None, size) for want, size in zip(shape, image.shape, strict=True)
        ):
            raise ValueError(
                f"`calibration` must hold images of the shape {shape}. Received: one of shape "
                f"{image.shape}. Convert it."
            )
        batches.append(in_dtype(image[None], keras.backend.standardize_dtype(spec.dtype)))
    if not batches:
        raise ValueError(
            "`calibration` must hold images like those to come. Received: none. A hundred are "
            "plenty."
        )
    if format == "openvino":
        optional_import("nncf", "int8")
    if format == "onnx":
        optional_import("onnxruntime.quantization", "export")
    return batches


def quantize_onnx(path: str, batches: list[np.ndarray]) -> None:
    """Make the convolutions of an ONNX file compute in int8, with ONNX Runtime's tool."""
    tools = optional_import("onnxruntime.quantization", "export")
    onnx = optional_import("onnx", "export")
    model = onnx.load(path)
    name = model.graph.input[0].name

    reader: Any = tools.CalibrationDataReader

    class Images(reader):
        def __init__(self):
            self.left = iter(batches)

        def get_next(self):
            return next(({name: batch} for batch in self.left), None)

    level = logging.root.level
    logging.root.setLevel(logging.ERROR)  # it advises on preprocessing that needs a fixed size
    try:
        tools.quantize_static(
            model, path, Images(), op_types_to_quantize=list(_ONNX), per_channel=True
        )
    finally:
        logging.root.setLevel(level)


def quantize_openvino(path: str, batches: list[np.ndarray], attention: str | None) -> None:
    """Make the convolutions of an OpenVINO file compute in int8, with NNCF.

    Args:
        path: the .xml file; it and the .bin file beside it are replaced.
        batches: result of `calibration_batches`.
        attention: name of the attention layer.
    """
    nncf, openvino = optional_import("nncf", "int8"), optional_import("openvino", "export")
    model = openvino.Core().read_model(path)
    nncf.set_log_level(logging.ERROR)
    quantized = nncf.quantize(
        model,
        nncf.Dataset(batches),
        subset_size=len(batches),
        ignored_scope=nncf.IgnoredScope(
            types=["MatMul"],
            patterns=[] if attention is None else [f".*/{attention}(_\\d+)?/.*"],
            validate=False,
        ),
    )
    # Both models read their weights from the .bin file, which must stay until all is written.
    with tempfile.TemporaryDirectory(dir=os.path.dirname(path)) as folder:
        new = os.path.join(folder, os.path.basename(path))
        openvino.save_model(quantized, new, compress_to_fp16=False)
        for ending in (".bin", ".xml"):
            os.replace(new[:-4] + ending, path[:-4] + ending)


def write_litert(
    path: str, model: keras.Model, spec: keras.InputSpec, batches: list[np.ndarray]
) -> None:
    """Write a LiteRT file whose convolutions compute in int8, with TensorFlow's converter."""
    tf = optional_import("tensorflow", "tensorflow")
    from tensorflow.lite.python.schema_py_generated import BuiltinOperator

    def images():
        for batch in batches:
            yield [batch]

    with tempfile.TemporaryDirectory() as folder:
        archive = keras.export.ExportArchive()
        archive.track(model)
        archive.add_endpoint("serve", lambda x: model(x, training=False), input_signature=[spec])
        archive.write_out(folder, verbose=False)
        converter = tf.lite.TFLiteConverter.from_saved_model(folder)
        converter.optimizations = [tf.lite.Optimize.DEFAULT]
        converter.representative_dataset = images
        sets = tf.lite.OpsSet
        converter.target_spec.supported_ops = [sets.TFLITE_BUILTINS_INT8, sets.TFLITE_BUILTINS]
        # Public, and the only way to quantise some operations and not others.
        debugger = tf.lite.experimental.QuantizationDebugger(
            converter=converter,
            debug_dataset=images,
            debug_options=tf.lite.experimental.QuantizationDebugOptions(
                denylisted_ops=[
                    name for name in vars(BuiltinOperator) if name[0] != "_" and name not in _LITERT
                ]
            ),
        )
        content = debugger.get_nondebug_quantized_model()
    with open(path, "wb") as file:
        file.write(content)
