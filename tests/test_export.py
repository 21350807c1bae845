"""Exported files in their own runtimes, at sizes that were not traced."""

import concurrent.futures
import contextlib
import importlib.util
import os
import subprocess
import sys
import time

import keras
import numpy as np
import pytest
from keras import layers

import keras_fsa
from keras_fsa import files
from keras_fsa.commands.export import main
from keras_fsa.inference import probabilities
from keras_fsa.models import exporting
from keras_fsa.models.exporting import largest_deviation, load_exported
from keras_fsa.models.trained import adapted, in_float32
from tests.helpers import BACKEND, randomize, run_python
from tests.test_folding import Halved

# Logits are of the order of one; each backend rounds in its own order.
CLOSE = 1e-5
NO_AUXILIARY = {"auxiliary_loss_weight": 0, "normalization": "imagenet"}


def tiny(num_classes=5, channels=3, **kwargs):
    """Strides with 'same' padding: what exporters get wrong first."""

    def block(x, filters, stride):
        x = layers.Conv2D(filters, 3, stride, padding="same", use_bias=False)(x)
        return layers.ReLU()(layers.BatchNormalization()(x))

    pictures = keras.Input((None, None, channels))
    stage4 = block(block(pictures, 4, 2), 8, 2)
    backbone = keras.Model(pictures, {"stage4": stage4, "stage5": block(stage4, 8, 1)})
    settings = {"normalization": "imagenet", "image_shape": (None, None, channels), **kwargs}
    return keras_fsa.FsaNet(num_classes, backbone, head_channels=8, frequencies=4, **settings)


PATHS = {
    "tf_saved_model": "folder",
    "onnx": "model.onnx",
    "litert": "model.tflite",
    "openvino": "model.xml",
}


@pytest.mark.skipif(BACKEND != "jax", reason="what JAX writes")
@pytest.mark.filterwarnings("ignore:The `native_serialization` parameter")  # of Keras' call
def test_a_tensorflow_too_old_for_jax(tmp_path, monkeypatch):
    """As TensorFlow 2.21 is for JAX 0.11.2: files of one size and batch run all the same."""
    import tensorflow as tf
    from jax.experimental import jax2tf

    convert = jax2tf.convert

    def refuse(x):
        raise tf.errors.InvalidArgumentError(None, None, "Cannot deserialize computation")

    def convert_one_size(function, polymorphic_shapes=None, **kwargs):
        any_size = "n" in str(polymorphic_shapes or "")
        return refuse if any_size else convert(function, polymorphic_shapes=None, **kwargs)

    monkeypatch.setattr(jax2tf, "convert", convert_one_size)
    rule = r'JAX .* with TensorFlow .*-U tensorflow "jax<0\.11".*KERAS_BACKEND=tensorflow'
    with pytest.raises(ImportError, match=rule):
        tiny().export(tmp_path / "folder")
    assert not list(tmp_path.iterdir())
    one_size = [keras.InputSpec(shape=(1, 36, 52, 3), dtype="float32")]
    tiny().export(tmp_path / "folder", input_signature=one_size, verbose=False)
    assert load_exported(tmp_path / "folder")(np.zeros((1, 36, 52, 3), "float32")).shape[-1] == 5


@pytest.mark.parametrize("format", PATHS)
def test_files_are_right_or_refused(rng, tmp_path, format):
    """Each format under this backend: right at any size, or an error that names the way round."""
    model = randomize(tiny(align_corners=True), rng)
    path = tmp_path / PATHS[format]
    writers = exporting.FORMATS[format][1]
    one_size_only = (BACKEND, format) == ("jax", "onnx")
    if BACKEND not in writers or one_size_only:
        rule = rf'Received: format="{format}" under the {BACKEND} backend.*Save .*=tensorflow'
        with pytest.raises(ValueError, match=rule):
            model.export(path, format=format)
        assert not list(tmp_path.iterdir())
        if not one_size_only:
            return
        model = randomize(tiny(image_shape=(40, 52, 3), align_corners=True), rng)
    missing = [name for name in writers[BACKEND] if importlib.util.find_spec(name) is None]
    if missing:
        command = rf'no working \'{missing[0]}\'. Run: pip install "keras_fsa\[export\]"'
        with pytest.raises(ImportError, match=command):
            model.export(path, format=format)
        assert not list(tmp_path.iterdir())
        return
    any_dtype = [keras.InputSpec(shape=(None, *model.image_shape))]
    spec = exporting.image_spec(model, path, format, any_dtype, "logits", "uint8")
    assert spec.dtype == "uint8"
    for output, dtype in (("logits", "float32"), ("classes", "uint8")):
        # The second file takes the place of the first.
        model.export(path, format=format, output=output, input_dtype=dtype, verbose=False)
        assert path.exists() and not list(tmp_path.glob(".export*"))
        serve = load_exported(path)
        pictures = np.full((1, 40, 52, 3), 200.4, "float32")
        served = serve(pictures)
        if output == "classes":
            assert served.dtype == np.uint8 and served.shape == (1, 40, 52)
            logits = model.predict_on_batch(pictures.round())
            assert set(np.unique(served)) <= set(range(5))
        else:
            assert served.dtype == np.float32
            logits = model.predict_on_batch(pictures)
            np.testing.assert_allclose(served, logits, atol=CLOSE)
            check_threads_and_sizes(serve, model, rng, pictures[0])
        deviation = largest_deviation(model, serve)
        print(f"{BACKEND} {format} {output} from {dtype}: {deviation:.1e}")
        assert deviation < CLOSE
        # Another model's file is told apart.
        assert (
            largest_deviation(randomize(tiny(image_shape=model.image_shape), rng), serve)
            > 100 * CLOSE
        )


def check_threads_and_sizes(serve, model, rng, picture):
    """Threads get the answers to their own images; logits are resized as the model does."""
    # Large enough that one thread begins before another ends.
    size = (160, 208) if model.image_shape[0] is None else model.image_shape[:2]
    images = rng.integers(0, 256, (24, 1, *size, 3)).astype("uint8")
    want = list(map(serve, images))
    with concurrent.futures.ThreadPoolExecutor(6) as executor:
        np.testing.assert_allclose(list(executor.map(serve, images)), want, atol=CLOSE)
    smaller = [probabilities(it, picture, size=(29, 31)) for it in (serve, model)]
    np.testing.assert_allclose(*smaller, atol=CLOSE)


def test_saved_model_of_one_size(rng, tmp_path):
    model = randomize(tiny(image_shape=(24, 40, 3)), rng)
    if BACKEND == "torch":
        with pytest.raises(ValueError, match="under the torch backend.*KERAS_BACKEND=tensorflow"):
            model.export(tmp_path / "folder")
        # The way round, as the message has it.
        model.save(tmp_path / "model.keras")
        code = "import sys, keras, keras_fsa\n"
        code += "keras.saving.load_model(sys.argv[1]).export(sys.argv[2])"
        run_python(
            code, *(tmp_path / n for n in ("model.keras", "folder")), KERAS_BACKEND="tensorflow"
        )
    else:
        model.export(tmp_path / "folder", verbose=False)
    assert largest_deviation(model, load_exported(tmp_path / "folder")) < CLOSE


@pytest.mark.skipif(BACKEND != "tensorflow", reason="which writes it")
@pytest.mark.once(engine="tensorflow")
def test_a_litert_file_of_one_size_says_so(tmp_path):
    import tensorflow as tf

    spec = tf.TensorSpec((1, 4, None, 3), "float32")
    double = tf.function(lambda x: 2 * x, input_signature=[spec])
    converter = tf.lite.TFLiteConverter.from_concrete_functions([double.get_concrete_function()])
    (tmp_path / "model.tflite").write_bytes(converter.convert())
    serve = load_exported(tmp_path / "model.tflite")
    for shape in ((1, 4, 7, 3), (2, 4, 5, 3)):
        np.testing.assert_array_equal(serve(np.ones(shape)), np.full(shape, 2))
    for shape in ((1, 5, 7, 3), (1, 4, 7, 4), (4, 7, 3)):
        with pytest.raises(
            ValueError, match=r"must have the shape \(None, 4, None, 3\).* Received"
        ):
            serve(np.ones(shape))


@pytest.mark.once
def test_double_precision(rng):
    """ONNX Runtime and LiteRT have no convolution in float64: such files could not be read."""
    model = randomize(tiny(dtype="float64"), rng)
    copy = in_float32(model)
    assert {layer.compute_dtype for layer in copy._flatten_layers()} == {"float32"}
    assert largest_deviation(model, copy.predict_on_batch) < CLOSE


class Unsaved(layers.Layer):
    """A layer that Keras can neither save nor copy."""

    def __init__(self, function):
        super().__init__()
        self.function = function

    def call(self, x):
        return self.function(x)


@pytest.mark.skipif(BACKEND != "tensorflow", reason="TensorFlow writes all formats")
@pytest.mark.parametrize("format", PATHS)
def test_half_precision(rng, tmp_path, format):
    """A SavedModel computes as the model; other files, which could not be read, in float32."""
    wide = randomize(tiny(), rng)
    model = adapted(wide, "mixed_bfloat16")
    assert in_float32(wide) is wide
    path = tmp_path / PATHS[format]
    model.export(path, format=format, verbose=False)
    deviation = largest_deviation(wide, load_exported(path))
    if format != "tf_saved_model":
        assert deviation < CLOSE
        return
    # A logit of one has eight bits in bfloat16.
    assert 1e-4 < deviation < 0.1
    # The command compares to 1e-4, and computes in float32 for it.
    model.save(tmp_path / "model.keras")
    main(["--model", str(tmp_path / "model.keras"), "--output", str(path)])
    assert largest_deviation(wide, load_exported(path)) < CLOSE


@pytest.mark.skipif(BACKEND == "torch", reason="TensorFlow and JAX write SavedModels")
@pytest.mark.parametrize("copied", [True, False])
def test_a_saved_model_is_folded_where_it_can_be(rng, tmp_path, copied):
    images = keras.Input((None, None, 3))
    x = layers.Conv2D(4, 3, 4, padding="same", use_bias=False)(images)
    x = layers.ReLU()(layers.BatchNormalization()(x))
    x = Halved()(x) if copied else Unsaved(keras.ops.tanh)(x)
    model = keras_fsa.FsaNet(
        3, keras.Model(images, {"stage5": x}), head_channels=8, frequencies=2, **NO_AUXILIARY
    )
    randomize(model, rng)
    model.export(tmp_path / "folder", verbose=False)
    assert largest_deviation(model, load_exported(tmp_path / "folder")) < CLOSE
    import tensorflow as tf

    variables = tf.train.list_variables(str(tmp_path / "folder/variables/variables"))
    variables = [name for name, _ in variables if name.endswith("VARIABLE_VALUE")]
    assert (len(variables) < len(model.weights)) == copied


def test_other_folders_stay(tmp_path):
    """A folder of other things is not replaced, nor is anything where the writing fails."""
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder/thesis.txt").write_text("mine")
    with pytest.raises(ValueError, match="`filepath` must be new.*a folder of other things"):
        with exporting.written_at_once(tmp_path / "folder"):
            pass
    (tmp_path / "model.onnx").write_text("earlier")
    with pytest.raises(RuntimeError):
        with exporting.written_at_once(tmp_path / "model.onnx") as path:
            with open(path, "w") as file:
                file.write("half")
            raise RuntimeError
    assert (tmp_path / "model.onnx").read_text() == "earlier"
    with exporting.written_at_once(tmp_path / "model.xml") as path:
        for name in (path, path.replace(".xml", ".bin")):
            with open(name, "w") as file:
                file.write("both")
    assert sorted(p.name for p in tmp_path.iterdir()) == [
        "folder",
        "model.bin",
        "model.onnx",
        "model.xml",
    ]


REPLACE = """
import os, pathlib, sys
from keras_fsa.models.exporting import written_at_once
target = pathlib.Path(sys.argv[1])
print("ready", flush=True)
for i in range(10**9):
    with written_at_once(target) as path:
        os.mkdir(path)
        for name in ("saved_model.pb", "weights"):
            pathlib.Path(path, name).write_text(str(i))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="folders are exchanged at once on Linux only")
def test_a_folder_is_replaced_at_once(tmp_path):
    """A reader beside a writer always finds a folder; a writer that is killed leaves one."""
    target = tmp_path / "served"
    target.mkdir()
    (target / "saved_model.pb").write_text("first")
    writer = subprocess.Popen([sys.executable, "-c", REPLACE, target], stdout=subprocess.PIPE)
    try:
        writer.stdout.readline()
        seen = set()
        until = time.monotonic() + 10
        while len(seen) < 60 and time.monotonic() < until:
            assert target.is_dir()
            with contextlib.suppress(FileNotFoundError):  # the folder it was opened in is gone
                seen.add((target / "saved_model.pb").read_text())
    finally:
        writer.kill()
        writer.wait()
    assert len(seen) > 20
    assert (target / "saved_model.pb").read_text() == (target / "weights").read_text()


def test_where_folders_cannot_be_exchanged(tmp_path, monkeypatch):
    monkeypatch.setattr(files, "_exchange", lambda one, two: False)
    for text in ("one", "two"):
        with exporting.written_at_once(tmp_path / "served") as path:
            os.mkdir(path)
            with open(f"{path}/saved_model.pb", "w") as file:
                file.write(text)
    assert [p.name for p in tmp_path.iterdir()] == ["served"]
    assert (tmp_path / "served/saved_model.pb").read_text() == "two"


def test_a_folder_replaced_while_it_is_read(tmp_path, monkeypatch):
    """The reader reads again; where it never comes to an end it says so."""
    import tensorflow as tf

    target = tmp_path / "served"

    def write():
        with exporting.written_at_once(target) as path:
            tf.saved_model.save(tf.Module(), path)

    write()
    loads = []

    def load(path):
        loads.append(path)
        if len(loads) < 3:
            write()
        raise (ValueError("half") if len(loads) == 1 else KeyError("the last"))

    monkeypatch.setattr(tf.saved_model, "load", load)
    # Two loads were disturbed; what the third says stands.
    with pytest.raises(KeyError, match="the last"):
        load_exported(target)
    assert len(loads) == 3
    monkeypatch.setattr(tf.saved_model, "load", lambda path: write())
    with pytest.raises(OSError, match="must stay in place while.*during each of 10 reads"):
        load_exported(target)
    # Network and description are of one version.
    described = []

    def describe(path):
        described.append(path)
        if len(described) == 1:
            write()
        return {}

    write()
    monkeypatch.setattr(tf.saved_model, "load", None)
    monkeypatch.setattr(exporting, "_load_saved_model", lambda path: (len, np.dtype("uint8")))
    monkeypatch.setattr(exporting, "_read_description", describe)
    load_exported(target)
    assert len(described) == 2


@pytest.mark.parametrize(
    ("path", "settings", "message"),
    [
        ("a", dict(format="torch"), r"`format` must be one of.*Received: format='torch'"),
        ("a", dict(output="probabilities"), r"`output` must be one of 'logits', 'classes'"),
        ("a", dict(input_dtype="int32"), r"`input_dtype` must be one of 'float32', 'uint8'"),
        ("a.pb", dict(format="onnx"), r"ends in '\.onnx'. Received: filepath='a\.pb'"),
        ("here", {}, r"'tf_saved_model' writes a folder, .*='here', which is a file. Choose"),
        ("a.onnx", dict(format="onnx"), r"'onnx' writes a file, .*='a\.onnx', which is a folder"),
    ],
)
def test_errors(path, settings, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "here").touch()
    (tmp_path / "a.onnx").mkdir()
    with pytest.raises(ValueError, match=message):
        tiny().export(path, **settings)


@pytest.mark.skipif(BACKEND != "tensorflow", reason="one engine is enough")
@pytest.mark.once(engine="tensorflow")
def test_errors_of_a_signature(tmp_path):
    model = tiny()
    spec, flat = (keras.InputSpec(shape=(None,) * rank) for rank in (4, 3))
    for wrong in (spec, [], [spec, spec], [flat], [None]):
        with pytest.raises(ValueError, match=r"must be a list of one .*Received: input_signature="):
            model.export(tmp_path / "a", input_signature=wrong)


@pytest.mark.skipif(BACKEND != "tensorflow", reason="one engine is enough")
@pytest.mark.parametrize(
    ("shape", "flags"),
    [
        ((None, 104, 3), []),
        ((104, 104, 3), ["--window", "104", "--scales", "1", "0.5"]),
    ],
)
def test_the_command_on_models_of_a_size(rng, tmp_path, capsys, shape, flags):
    randomize(tiny(image_shape=shape), rng).save(tmp_path / "model.keras")
    files = ["--model", str(tmp_path / "model.keras"), "--output", str(tmp_path / "served")]
    main([*files, *flags])
    assert "Largest deviation" in capsys.readouterr().out


def test_loading_errors(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"must exist. Received: filepath="):
        load_exported(tmp_path / "model.onnx")
    (tmp_path / "model.pb").write_text("")
    with pytest.raises(ValueError, match=r"`ending of filepath` must be one of.*'\.pb'"):
        load_exported(tmp_path / "model.pb")


@pytest.mark.once
def test_values_that_a_file_does_not_hold(tmp_path):
    """300 became 44, or 255; and files of other types than float32 and uint8 were not read."""
    onnx = pytest.importorskip("onnx")
    pytest.importorskip("onnxruntime")
    images = np.full((1, 2, 2, 3), 200.4)

    def open_file(kind):
        kind = getattr(onnx.TensorProto, kind)
        ends = [
            onnx.helper.make_tensor_value_info(end, kind, (None, None, None, 3)) for end in "xy"
        ]
        node = onnx.helper.make_node("Identity", ["x"], ["y"])
        graph = onnx.helper.make_graph([node], "graph", ends[:1], ends[1:])
        opset = [onnx.helper.make_opsetid("", 18)]
        onnx.save(
            onnx.helper.make_model(graph, opset_imports=opset, ir_version=9), tmp_path / "m.onnx"
        )
        return load_exported(tmp_path / "m.onnx")

    for kind, dtype in (("UINT8", "uint8"), ("UINT16", "uint16")):
        serve = open_file(kind)
        assert serve(images).dtype == dtype and (serve(images) == 200).all()
        assert serve(images[:0]).shape == (0, 2, 2, 3)
        beyond = images * 2.0**9
        for wrong in (beyond, beyond.astype("int64"), -images, images * np.nan):
            rule = f"takes {dtype} must be numbers from 0 to .* Received: images from .*float32"
            with pytest.raises(ValueError, match=rule):
                serve(wrong)
    np.testing.assert_array_equal(open_file("DOUBLE")(-images), -images)


def test_deviation():
    """Classes are judged by how far their logit is below the best; another shape is no match."""
    model = tiny(image_shape=(16, 24, 3))

    def classes(shift):
        def serve(pictures):
            logits = model.predict_on_batch(pictures)
            return (np.argsort(logits, axis=-1)[..., -1 - shift]).astype("uint8")

        return serve

    assert largest_deviation(model, classes(0)) == 0
    assert 0 < largest_deviation(model, classes(1)) < largest_deviation(model, classes(4))
    assert largest_deviation(model, lambda x: np.zeros((1, 1, 1, 5), "float32")) == np.inf


@pytest.mark.once
@pytest.mark.parametrize("activation", ["softmax", "sigmoid"])
def test_what_is_no_number_is_no_match(activation):
    model = tiny(image_shape=(16, 24, 3), activation=activation)
    for none, dtype in ((np.nan, "float32"), (255, "uint8")):
        shape = (1, 16, 24, 5)[: 3 if (activation, dtype) == ("softmax", "uint8") else 4]
        served = np.zeros(shape, dtype)
        assert np.isfinite(largest_deviation(model, lambda x, served=served: served))
        served.reshape(-1)[7] = none
        assert largest_deviation(model, lambda x, served=served: served) == np.inf


@pytest.mark.parametrize("format", ["tf_saved_model", "onnx", "litert", "openvino"])
def test_nan_is_no_class(rng, tmp_path, format):
    """In an image, or in the logits: the ignore label, in every runtime."""
    writers = exporting.FORMATS[format][1]
    if BACKEND not in writers or (BACKEND, format) == ("jax", "onnx"):
        with pytest.raises(ValueError, match=f'Received: format="{format}" under the {BACKEND}'):
            tiny().export(tmp_path / PATHS[format], format=format, output="classes")
        return
    model = randomize(tiny(), rng)
    image = np.full((1, 24, 40, 3), 100, "float32")
    broken = image.copy()
    broken[0, 3, 5, 1] = np.nan
    model.export(tmp_path / PATHS[format], format=format, output="classes", verbose=False)
    serve = load_exported(tmp_path / PATHS[format])
    assert (serve(image) < 5).all() and (serve(broken) == 255).all()
    model.head.layers[-1].bias.assign([0, np.nan, 0, 0, 0])
    model.export(tmp_path / PATHS[format], format=format, output="classes", verbose=False)
    assert (load_exported(tmp_path / PATHS[format])(image) == 255).all()
