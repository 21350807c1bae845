"""Trained models as files that need no Keras: SavedModel, ONNX, LiteRT, OpenVINO.

Keras writes them. This file knows which backend writes a correct file, refuses the others, and
reads a file in its own runtime to compare it with the model.
"""

import contextlib
import json
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_fsa import types
from keras_fsa.arguments import boolean, one_of, optional_import
from keras_fsa.classes import activation_of
from keras_fsa.files import flush, read_steadily, replace, temporary_folder
from keras_fsa.metrics import IGNORE_LABEL

# The ending of the file, and for each backend that writes it the packages it needs. PyTorch is
# missing: Keras traces one run of the model, which bakes in sizes, so that files load but are wrong
# at other sizes; SavedModel and LiteRT it cannot write at all.
FORMATS: dict[str, tuple[str, dict[str, tuple[str, ...]]]] = {
    "tf_saved_model": ("", {"tensorflow": (), "jax": ("tensorflow",)}),
    "onnx": (".onnx", {"tensorflow": ("tf2onnx",), "jax": ("jax2onnx",)}),
    "litert": (".tflite", {"tensorflow": ()}),
    "openvino": (".xml", {"tensorflow": ("openvino",)}),
}

# Sizes that no exporter traces a model with: odd, even, portrait.
SIZES = ((97, 131), (128, 72), (75, 110))

_ELSEWHERE = (
    "Save the model as a .keras file, load it with KERAS_BACKEND=tensorflow, and export it there."
)

# How often a SavedModel is read that is replaced meanwhile.
_ATTEMPTS = 10


def image_spec(
    model: keras.Model,
    filepath: types.Path,
    format: str,
    input_signature: list | None,
    output: str,
    input_dtype: str,
) -> keras.InputSpec:
    """Check the arguments of `FsaNet.export`, before any work.

    Returns:
        The `keras.InputSpec` of the images.

    Raises:
        ValueError, ImportError: see `FsaNet.export`.
    """
    one_of("format", format, tuple(FORMATS))
    one_of("output", output, ("logits", "classes"))
    one_of("input_dtype", input_dtype, ("float32", "uint8"))
    ending, backends = FORMATS[format]
    if not str(filepath).endswith(ending):
        raise ValueError(
            f"A file of the format {format!r} must have a name that ends in {ending!r}. Received: "
            f"filepath={str(filepath)!r}. Add the ending."
        )
    is_other, own, other = (
        (os.path.isdir, "a file", "a folder") if ending else (os.path.isfile, "a folder", "a file")
    )
    if is_other(str(filepath)):
        raise ValueError(
            f"The format {format!r} writes {own}, and replaces nothing else. Received: filepath="
            f"{str(filepath)!r}, which is {other}. Choose another name."
        )
    here = keras.backend.backend()
    if here not in backends:
        raise ValueError(
            f"The format {format!r} is written under {' or '.join(backends)} only; elsewhere the "
            f'file would be missing or wrong. Received: format="{format}" under the {here} '
            f"backend. {_ELSEWHERE}"
        )
    if input_signature is None:
        input_signature = [keras.InputSpec(shape=(None, *model.image_shape), dtype=input_dtype)]
    listed = isinstance(input_signature, (list, tuple)) and len(input_signature) == 1
    if not listed or len(getattr(input_signature[0], "shape", None) or ()) != 4:
        raise ValueError(
            "`input_signature` must be a list of one specification of images (batch, height, "
            f"width, channels). Received: input_signature={input_signature!r}. Write "
            "[keras.InputSpec(shape=(None, None, None, 3))]."
        )
    images = input_signature[0]
    if images.dtype is None:
        images = keras.InputSpec(shape=images.shape, dtype=input_dtype)
    if format == "onnx" and here == "jax" and None in tuple(images.shape)[1:]:
        raise ValueError(
            "An ONNX file written under JAX takes images of one size, which must be given. "
            f'Received: format="onnx" under the jax backend for images of shape '
            f"{tuple(images.shape)}. Pass input_signature=[keras.InputSpec(shape=(None, 512, "
            f'1024, 3), dtype="float32")], or for any size: {_ELSEWHERE}'
        )
    for package in backends[here]:
        optional_import(package, "export")
    return images


def with_classes(model: keras.Model, images: keras.InputSpec) -> keras.Model:
    """The model, returning answers (`keras_fsa.classes`), uint8, instead of logits.

    A pixel with a NaN logit has no class, nor has any pixel of an image that contains NaN: they get
    the ignore label 255.
    """
    inputs = keras.Input(tuple(images.shape)[1:], dtype=images.dtype, name="pictures")
    logits = model(inputs)
    each = activation_of(model) == "sigmoid"
    # Of integers: with floats, under TensorFlow, it looks at bits, which LiteRT cannot.
    bound = 0.0 if each else ops.max(logits, -1, keepdims=True)
    is_best = ops.cast(logits >= bound, "int32")
    is_number = ops.cast(ops.equal(logits, logits), "int32")
    if each:
        best = is_best
    else:
        # No logit is the largest where one is NaN. At most 255 classes, as in a mask.
        is_number = ops.max(is_best, -1) * ops.min(is_number, -1)
        best = ops.argmax(is_best, -1)
    if "float" in keras.backend.standardize_dtype(inputs.dtype):
        # Activations may turn NaN into 0 on the way, and attention sees the whole image.
        finite = ops.cast(ops.equal(inputs, inputs), "int32")
        finite = ops.min(finite, axis=(1, 2, 3), keepdims=True)
        is_number = is_number * (finite if each else finite[..., 0])
    best = ops.where(is_number > 0, best, IGNORE_LABEL)
    if each and best.shape[-1] == 1:
        best = best[..., 0]
    return keras.Model(inputs, ops.cast(best, "uint8"), name=f"{model.name}_classes")


def _check_tensorflow_reads_jax(tf, any_size):
    """Raise an `ImportError` if the files that would be written could not run."""
    import jax
    from jax.experimental import jax2tf

    shapes = ["(n,)"] if any_size else None
    twice = jax2tf.convert(lambda x: x + x, polymorphic_shapes=shapes, with_gradient=False)
    try:
        twice(tf.zeros(3))
    except (tf.errors.InvalidArgumentError, NotImplementedError):
        raise ImportError(
            "TensorFlow must be able to read what JAX writes into a SavedModel. Received: JAX "
            f"{jax.__version__} with TensorFlow {tf.__version__}, which is too old for it. Run: "
            f'pip install -U tensorflow "jax<0.11". Or: {_ELSEWHERE}'
        ) from None


def write_saved_model(
    path: types.Path,
    model: keras.Model,
    images: keras.InputSpec,
    output: str,
    view: Callable | None = None,
    **kwargs: Any,
) -> None:
    """Write a SavedModel, batch norms folded, with a signature for image files.

    Its signatures are `serve`, which is also `serving_default`; `logits`, the model itself; and,
    for images of 1 or 3 channels, `serving_bytes`, see `FsaNet.export`. The inputs are called
    `pictures` and `encoded`, as in files of 0.1.0, so that clients keep working.

    Args:
        path: the folder to write.
        model: a Keras model from images to logits.
        images: `keras.InputSpec` of what `serve` takes.
        output: what `serve` returns: `"logits"` or `"classes"`.
        view: if images do not pass through the model whole, a function `(forward, images) ->
            logits` of TensorFlow tensors; `forward` is the model, for float32.
        **kwargs: of `keras.export.ExportArchive.add_endpoint`.
    """
    from keras_fsa.models.folding import fold_batch_norm

    tf = optional_import("tensorflow", "tensorflow")
    seen = images
    if view is not None:
        seen = keras.InputSpec(shape=(None, *model.image_shape), dtype="float32")
    if keras.backend.backend() == "jax":
        _check_tensorflow_reads_jax(tf, any_size=None in tuple(seen.shape))
    # Unless a layer has no configuration to make a copy from, or its class is not registered.
    with contextlib.suppress(NotImplementedError, TypeError, ValueError):
        model = fold_batch_norm(model)
    *size, channels = tuple(images.shape)[1:]
    archive = keras.export.ExportArchive()
    if keras.backend.backend() == "jax":
        # Gradients would tie the graph to the traced size.
        kwargs.setdefault("jax2tf_kwargs", {"with_gradient": False})
        # Under TensorFlow that would only write all weights a second time.
        archive.track(model)
    forward = archive.add_endpoint("logits", model.__call__, [seen], **kwargs)

    def whole(images):
        return forward(tf.ensure_shape(images, seen.shape))

    def logits(images):
        return whole(images) if view is None else view(whole, images)

    def classes(images):
        scores = logits(images)
        wrong = tf.math.is_nan(scores)
        if activation_of(model) == "softmax":
            best, wrong = tf.argmax(scores, axis=-1), tf.reduce_any(wrong, axis=-1)
        else:
            best = scores >= 0
            if model.num_classes == 1:
                best, wrong = best[..., 0], wrong[..., 0]
        # An activation may turn NaN into 0 on the way, and attention sees the whole image.
        nan = tf.math.is_nan(tf.cast(images, tf.float32))
        nan = tf.reduce_any(nan, axis=(1, 2, 3))
        wrong |= tf.reshape(nan, (-1, *[1] * (len(wrong.shape) - 1)))
        return tf.where(wrong, tf.cast(IGNORE_LABEL, tf.uint8), tf.cast(best, tf.uint8))

    def decode(file):
        # As Pillow does it; TensorFlow's default is faster, and off by up to 14 levels of 255.
        return tf.cond(
            tf.io.is_jpeg(file),
            lambda: tf.io.decode_jpeg(file, channels, dct_method="INTEGER_ACCURATE"),
            lambda: tf.io.decode_png(file, channels),
        )

    def classes_of_files(encoded):
        shape = tf.TensorSpec((*size, channels), tf.uint8)
        decoded = tf.map_fn(decode, encoded, fn_output_signature=shape)
        return classes(tf.cast(decoded, images.dtype))

    pixels = tf.TensorSpec(tuple(images.shape), images.dtype, "pictures")
    endpoints = {"serve": (classes if output == "classes" else logits, pixels)}
    if channels in (1, 3):
        files = tf.TensorSpec((None,), tf.string, "encoded")
        endpoints["serving_bytes"] = classes_of_files, files
    for name, (function, specification) in endpoints.items():
        function = tf.function(function, input_signature=[specification], autograph=False)
        function.get_concrete_function()
        archive.add_endpoint(name, function)
        if name == "serve":
            archive.add_endpoint("serving_default", function)
    archive.write_out(path, verbose=False)


def write_description(path: types.Path, model: Any) -> None:
    """Write what an exported file cannot hold about the classes and the images.

    Args:
        path: the exported file, or the folder of a SavedModel.
        model: an `FsaNet`.
    """
    file = _description(path)
    file.parent.mkdir(exist_ok=True)
    described = {name: getattr(model, name) for name in (*_DESCRIBED, *_DESCRIBED_LATER)}
    file.write_text(json.dumps(described, indent=2) + "\n")


_DESCRIBED = (
    "num_classes", "activation", "class_names", "palette", "image_shape", "normalization",
)  # fmt: skip
# What the first files lack, with what it counts as there.
_DESCRIBED_LATER = {"align_corners": None}


def _description(path):
    path = Path(path)
    # TensorFlow's name for files of others in a SavedModel.
    return path / "assets.extra" / "fsanet.json" if path.is_dir() else Path(f"{path}.json")


def _read_description(path):
    file = _description(path)
    if not file.exists():  # of an earlier version, or moved without it
        return {}
    try:
        found = json.loads(file.read_text())
        later = {name: found.get(name, value) for name, value in _DESCRIBED_LATER.items()}
        return {**{name: found[name] for name in _DESCRIBED}, **later}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(
            "The description of an exported model must be what `export` wrote. Received: "
            f"{file} ({type(error).__name__}: {error}). Export the model again."
        ) from error


@contextlib.contextmanager
def written_at_once(filepath: types.Path) -> Iterator[str]:
    """A temporary path whose files move to their destination when the block succeeds.

    An exporter chooses whether to write one file, several, or a folder, which is why neither
    `whole_file` nor `whole_folder` fits. Files are replaced atomically; so are folders on Linux if
    the file system can exchange two of them (ext4, XFS, Btrfs, tmpfs ...). Otherwise the earlier
    SavedModel is moved away first: for an instant there is none, and a process killed at that point
    leaves none. If that matters, write every export to a new folder, as model servers expect:
    `served/1`, `served/2`.

    Raises:
        ValueError: if `filepath` is a folder with contents other than a SavedModel.
    """
    target = Path(filepath).resolve()
    if target.is_dir() and any(target.iterdir()) and not (target / "saved_model.pb").exists():
        raise ValueError(
            "`filepath` must be new, or hold an earlier SavedModel, which is replaced. Received: "
            f"filepath={str(filepath)!r}, a folder of other things. Choose another name."
        )
    with temporary_folder(target) as folder:
        yield str(folder / target.name)
        flush(folder)
        # OpenVINO writes two files.
        for written in sorted(folder.iterdir()):
            replace(written, target.parent / written.name)


def load_exported(filepath: types.Path, runtime_defaults: bool = False) -> Callable:
    """An exported file in its own runtime, as a function of a NumPy array.

    Args:
        filepath: a SavedModel's folder, or a file that ends in `.onnx`, `.tflite` or `.xml`.
        runtime_defaults: whether to leave the runtime's settings alone. Default: everything is
            computed in float32. That matters for OpenVINO, which computes in bfloat16 on CPUs that
            support it; there the logits of a resnet18 network deviate by 1 to 7 % of their scale.
            Its files cannot store the setting: if you load one yourself, pass it,
            `core.compile_model(path, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})`.

    A SavedModel that another process replaces meanwhile, with `export`, is read again: what is
    loaded is the old one or the new one, never parts of both. (TensorFlow's own
    `tf.saved_model.load` cannot detect this.)

    Returns:
        A function from images `(B, H, W, channels)` to the file's output. It casts images to the
        file's input type (for uint8 they are rounded, and refused beyond 0 to 255). Threads may
        call it at once; with a LiteRT or OpenVINO file they take turns. Its attributes
        `num_classes`, `activation`, `class_names`, `palette`, `image_shape`, `normalization` and
        `align_corners` are the model's, if the JSON file that `export` wrote is still beside it.

    Raises:
        FileNotFoundError: if there is no such file.
        OSError: for a SavedModel that is replaced repeatedly.
        ImportError: if the runtime is missing, with the pip command.
    """
    path = str(filepath)
    if not os.path.exists(path):
        raise FileNotFoundError(
            f"An exported model must exist. Received: filepath={path!r}. Correct the path."
        )
    endings = {ending: name for name, (ending, _) in FORMATS.items()}
    loaders = {
        "tf_saved_model": _load_saved_model,
        "onnx": _load_onnx,
        "litert": _load_litert,
        "openvino": _load_openvino,
    }
    ending = "" if os.path.isdir(path) else os.path.splitext(path)[1]
    one_of("ending of filepath", ending, tuple(endings))
    boolean("runtime_defaults", runtime_defaults)
    format = endings[ending]
    settings = {}
    if format == "openvino" and not runtime_defaults:
        settings = {"INFERENCE_PRECISION_HINT": "f32"}

    def read(path):
        # Together: a folder that is replaced between them would give one model's weights and the
        # other's classes.
        return *loaders[format](path, **settings), _read_description(path)

    run, dtype, described = read_steadily(path, read, _ATTEMPTS)

    def serve(images):
        return run(in_dtype(images, dtype))

    vars(serve).update(described)
    return serve


def in_dtype(images: Any, dtype: Any) -> np.ndarray:
    """Images in a file's input type: rounded, if that is an integer type.

    Raises:
        ValueError: for values that the type cannot hold.
    """
    images = np.asarray(images)
    if np.issubdtype(dtype, np.integer) and images.dtype != dtype:
        images, bounds = np.round(images), np.iinfo(dtype)
        # NaN is in every minimum.
        if images.size and not (images.min() >= bounds.min and images.max() <= bounds.max):
            raise ValueError(
                f"Images for a file that takes {bounds.dtype} must be numbers from {bounds.min} to "
                f"{bounds.max}. Received: images from {images.min()} to {images.max()}. Export the "
                'model with input_dtype="float32" for other values.'
            )
    return np.ascontiguousarray(images, dtype)


def _load_saved_model(path):
    tf = optional_import("tensorflow", "tensorflow")
    loaded = tf.saved_model.load(path)
    # The function alone would not keep the weights alive.
    (_, signature), *_ = loaded.signatures["serving_default"].structured_input_signature[1].items()
    return lambda x: loaded.serve(tf.constant(x)).numpy(), np.dtype(signature.dtype.as_numpy_dtype)


def _in_turns(run):
    """Serialise calls, for runtimes that keep each call's images and result in the same place."""
    turn = threading.Lock()

    def run_alone(x):
        with turn:
            return run(x)

    return run_alone


def _load_onnx(path):
    session = optional_import("onnxruntime", "export").InferenceSession(path)
    (images,) = session.get_inputs()
    name = images.type.removeprefix("tensor(").removesuffix(")")
    dtype = np.dtype({"float": "float32", "double": "float64"}.get(name, name))
    return lambda x: session.run(None, {images.name: x})[0], dtype


def _load_litert(path):
    try:
        from ai_edge_litert.interpreter import Interpreter
    except ImportError:
        Interpreter = optional_import("tensorflow", "export").lite.Interpreter
    interpreter = Interpreter(path)
    (images,), (result,) = interpreter.get_input_details(), interpreter.get_output_details()
    # -1 for any; a batch of another size than the file's is right, too.
    _, *expected = images["shape_signature"].tolist()

    def run(x):
        # Resized to another size, a file that is made for one fails without a word of sizes.
        if x.ndim != 4 or any(
            want not in (-1, n) for want, n in zip(expected, x.shape[1:], strict=True)
        ):
            shape = (None, *(None if want == -1 else want for want in expected))
            raise ValueError(
                f"Images for this file must have the shape {shape}: batch, height, width, channels."
                f" Received: images of shape {x.shape}. Convert them, or export the model for "
                "other sizes."
            )
        interpreter.resize_tensor_input(images["index"], x.shape)
        interpreter.allocate_tensors()
        interpreter.set_tensor(images["index"], x)
        interpreter.invoke()
        return interpreter.get_tensor(result["index"])

    return _in_turns(run), np.dtype(images["dtype"])


def _load_openvino(path, **settings):
    openvino = optional_import("openvino", "export")
    compiled = openvino.Core().compile_model(path, "CPU", settings)
    dtype = np.dtype(compiled.input(0).get_element_type().to_dtype())
    return _in_turns(lambda x: compiled([x])[0]), dtype


def largest_deviation(
    model: keras.Model, serve: Callable, sizes: Sequence | None = None, seed: int = 0
) -> float:
    """The largest difference between an exported file and its model on random images.

    Args:
        model: the `FsaNet`.
        serve: what `load_exported` returned; it may return logits or classes.
        sizes: heights and widths. Default: the model's own if `image_shape` fixes it, else `SIZES`,
            which differ from any size the exporters trace.
        seed: seed of the images.

    Returns:
        For logits, the largest absolute difference. For classes, the largest amount by which the
        model's logit of the served class lies below its highest logit, or for the sigmoid on the
        wrong side of 0: 0 if all classes agree.
    """
    height, width, channels = model.image_shape
    rng = np.random.default_rng(seed)
    largest = 0.0
    for h, w in sizes or ([(height, width)] if height and width else SIZES):
        images = rng.integers(0, 256, (1, height or h, width or w, channels)).astype("uint8")
        logits = np.asarray(model.predict_on_batch(images), "float32")
        largest = max(largest, deviation(serve(images), logits, activation_of(model)))
    return largest


def deviation(
    served: np.ndarray, scores: np.ndarray, activation: str = "softmax", threshold: float = 0.0
) -> float:
    """The same for one batch: served scores `(B, H, W, C)` or classes, uint8, and scores.

    It is infinite if they cannot be compared: another shape, NaN, or a pixel without a class.
    """
    if activation == "sigmoid" and served.dtype == np.uint8:
        no = served.reshape(scores.shape) == 0
        short = np.maximum(np.where(no, scores - threshold, threshold - scores), 0)
        largest = np.where(served.reshape(scores.shape) > 1, np.inf, short).max()
    elif served.ndim == 3:
        is_class = served < scores.shape[-1]
        known = np.where(is_class, served, 0)[..., None].astype("int64")
        chosen = np.take_along_axis(scores, known, axis=-1)[..., 0]
        largest = np.where(is_class, scores.max(axis=-1) - chosen, np.inf).max()
    else:
        # Other shapes would broadcast.
        largest = np.abs(served - scores).max() if served.shape == scores.shape else np.inf
    # NaN is beyond no bound.
    return np.inf if np.isnan(largest) else float(largest)
