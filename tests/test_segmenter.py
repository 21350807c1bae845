"""Windows, scales and mirror images inside a SavedModel, and pictures as files."""

import runpy
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from keras_fsa.inference import probabilities
from keras_fsa.models import exporting
from keras_fsa.models.exporting import load_exported
from keras_fsa.segmenter import Segmenter
from keras_fsa.sliding_window import SlidingWindow
from tests.helpers import BACKEND, randomize, run_python
from tests.test_inference import small_model

EXAMPLE = Path(__file__).parent.parent / "examples/export.py"
# The graph does the same float32 arithmetic as NumPy, sums in another order.
CLOSE = 2e-6
SETTINGS = {
    # 0.7 * 45 is just below 31.5 in float64, and rounds to 31; in float32 it would to 32.
    "slide": dict(window=(19, 23), scales=(0.7, 1.5), flip=True, align_corners=True),
    "fit": dict(fit=(61, 23), flip=True),
    "hann": dict(window=17, stride=9, blend="hann"),
    "gaussian": dict(window=(19, 23), stride=(11, 13), scales=(1.0, 1.25), blend="gaussian"),
}
# Ragged borders; a side smaller than the window.
SIZES = ((29, 45), (13, 50))


@pytest.mark.parametrize("name", SETTINGS)
def test_one_graph_for_any_size(rng, tmp_path, name):
    model = randomize(small_model(), rng)
    predict = Segmenter(model, **SETTINGS[name])
    pictures = [rng.integers(0, 256, (2, *size, 3)).astype("uint8") for size in SIZES]
    want = [probabilities(model, x, **SETTINGS[name]) for x in pictures]
    for x, scores in zip(pictures, want, strict=True):
        np.testing.assert_array_equal(predict.probabilities(x), scores)
        np.testing.assert_array_equal(predict(x), scores.argmax(-1))
        assert scores.std() > 0.03
    if BACKEND == "torch":
        with pytest.raises(ValueError, match="under the torch backend.*KERAS_BACKEND=tensorflow"):
            predict.export(tmp_path / "served")
        assert not list(tmp_path.iterdir())
        return
    predict.export(tmp_path / "served", verbose=False)
    serve = load_exported(tmp_path / "served")
    for x, scores in zip(pictures, want, strict=True):
        served = serve(x)
        np.testing.assert_allclose(np.exp(served), scores, atol=CLOSE)
        np.testing.assert_array_equal(served.argmax(-1), scores.argmax(-1))
    # They serve as logits to everything that takes an exported model.
    np.testing.assert_allclose(probabilities(serve, x), scores, atol=CLOSE)


@pytest.mark.skipif(BACKEND != "tensorflow", reason="JAX has no float64 by default")
def test_a_model_in_float64(rng, tmp_path):
    model = randomize(small_model(dtype="float64"), rng)
    predict = Segmenter(model, window=17, stride=9, blend="hann")
    predict.export(tmp_path / "served", verbose=False)
    x = rng.integers(0, 256, (1, 29, 45, 3)).astype("uint8")
    served = load_exported(tmp_path / "served")(x)
    assert served.dtype == np.float32
    np.testing.assert_allclose(np.exp(served), predict.probabilities(x), atol=CLOSE)


def test_a_model_of_one_size_is_the_window(rng, tmp_path):
    model = randomize(small_model(image_shape=(24, 20, 3)), rng)
    predict = Segmenter(model, window=(24, 20), stride=13)
    x = rng.integers(0, 256, (1, 40, 33, 3)).astype("uint8")
    want = predict(x)
    assert want.shape == (1, 40, 33)
    if BACKEND != "torch":
        settings = dict(output="classes", input_dtype="uint8", verbose=False)
        predict.export(tmp_path / "served", **settings)
        served = load_exported(tmp_path / "served")(x)
        assert served.dtype == np.uint8
        np.testing.assert_array_equal(served, want)


SERVE_FILES = """
import os, sys
import numpy as np
import tensorflow as tf

libraries = {"keras", "keras_fsa", "jax", "torch"}
# What TensorFlow itself imports.
before = libraries & set(sys.modules)

def refused(files):
    try:
        serve(encoded=tf.constant(files))
    except tf.errors.InvalidArgumentError:
        return True

folder = sys.argv[1]
# The signature alone would not keep the weights alive.
loaded = tf.saved_model.load(f"{folder}/served")
serve = loaded.signatures["serving_bytes"]
files, outputs = {}, {}
for name in os.listdir(f"{folder}/pictures"):
    with open(f"{folder}/pictures/{name}", "rb") as file:
        files[name] = file.read()
    (outputs[name],) = serve(encoded=tf.constant([files[name]])).values()
# Pictures of one call have one size.
(both,) = serve(encoded=tf.constant([files["rgb.png"], files["alpha.png"]])).values()
assert np.array_equal(both[0], outputs["rgb.png"][0])
with open(f"{folder}/smaller.png", "rb") as file:
    assert refused([files["rgb.png"], file.read()])
assert refused([files["rgb.png"][:-40]]) and refused([b"no picture"])
np.savez(f"{folder}/outputs.npz", **outputs)
print(sorted(libraries & set(sys.modules) - before))
"""


def test_pictures_as_files(rng, tmp_path):
    """In a process that has TensorFlow only."""
    model = randomize(small_model(), rng)
    predict = Segmenter(model, window=17, stride=11)
    if BACKEND == "torch":
        with pytest.raises(ValueError, match="under the torch backend.*KERAS_BACKEND=tensorflow"):
            predict.export(tmp_path / "served")
        return
    predict.export(tmp_path / "served", verbose=False)
    (tmp_path / "pictures").mkdir()
    # Smooth, or JPEG would not keep it.
    small = Image.fromarray(rng.integers(0, 256, (7, 9, 4)).astype("uint8"))
    alpha = small.resize((37, 29), Image.Resampling.BICUBIC)
    rgb = alpha.convert("RGB")
    alpha.save(tmp_path / "pictures/alpha.png")
    rgb.save(tmp_path / "pictures/rgb.png")
    rgb.convert("L").save(tmp_path / "pictures/grey.png")
    small.save(tmp_path / "smaller.png")
    rgb.save(tmp_path / "pictures/rgb.jpg", quality=98, subsampling=0)
    rgb.convert("L").save(tmp_path / "pictures/grey.jpg", quality=98)
    assert run_python(SERVE_FILES, tmp_path) == "[]\n"
    outputs = np.load(tmp_path / "outputs.npz")
    assert len(outputs.files) == 5
    for path in (tmp_path / "pictures").iterdir():
        picture = np.asarray(Image.open(path).convert("RGB"))
        served = outputs[path.name]
        assert served.dtype == np.uint8 and len(np.unique(served)) > 1
        np.testing.assert_array_equal(served, predict(picture[None]))


def test_the_command(rng, tmp_path, monkeypatch, capsys):
    model = randomize(small_model(head_channels=64), rng, 0.1)
    model.save(tmp_path / "model.keras")

    def run(*arguments):
        common = ["export.py", "--model", tmp_path / "model.keras"]
        monkeypatch.setattr(sys, "argv", [str(a) for a in (*common, *arguments)])
        runpy.run_path(str(EXAMPLE), run_name="__main__")

    windows = ("--window", 61, "--stride", 50, "--flip")
    with pytest.raises(SystemExit):
        run("--output", tmp_path / "model.onnx", "--format", "onnx", *windows)
    assert "are for SavedModels of any size" in capsys.readouterr().err
    served = tmp_path / "served"
    if BACKEND == "torch":
        with pytest.raises(SystemExit) as stopped:
            run("--output", served, *windows)
        assert stopped.value.code == 2
        assert "KERAS_BACKEND=tensorflow" in capsys.readouterr().err
        return
    run("--output", served, *windows)
    out = capsys.readouterr().out
    assert out.count("differs from the model by at most") == 3
    assert float(out.split("Largest deviation: ")[1].split()[0]) < 2e-6
    picture = rng.integers(0, 256, (1, 97, 131, 3)).astype("uint8")
    want = probabilities(model, picture, window=61, stride=50, flip=True)
    np.testing.assert_allclose(np.exp(load_exported(served)(picture)), want, atol=CLOSE)
    # The weights are there once.
    written = sum(path.stat().st_size for path in (served / "variables").iterdir())
    assert written < 1.2 * 4 * model.count_params()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (dict(window=0), r"`window` must be a positive int. Received: window=0"),
        (dict(window=4, stride=5), r"at most `window`.*Received: window=\(4, 4\), stride=\(5, 5"),
        (dict(scales=()), r"`scales` must be a sequence of one or more.*Received: scales=\(\)"),
        (dict(fit=(512, 2048)), r"`fit` must be \(long, short\).*Write fit=\(2048, 512\)"),
    ],
)
def test_errors(settings, message):
    with pytest.raises(ValueError, match=message):
        Segmenter(None, **settings)


def test_export_errors(tmp_path):
    predict = Segmenter(small_model())
    with pytest.raises(ValueError, match=r"`output` must be one of 'log_probabilities', 'classes'"):
        predict.export(tmp_path / "served", output="overlays")
    assert not list(tmp_path.iterdir())


@pytest.mark.skipif(BACKEND != "tensorflow", reason="TensorFlow and JAX write SavedModels")
@pytest.mark.once(engine="tensorflow")
def test_a_model_of_one_size_sees_no_other(tmp_path, monkeypatch):
    """Such files were written, and failed at every image."""
    written = []
    monkeypatch.setattr(exporting, "write_saved_model", lambda path, *_: written.append(path))
    fixed, half = (small_model(image_shape=(side, 20, 3)) for side in (24, None))
    for model, settings in (
        (fixed, dict(window=20)),
        (fixed, dict(scales=(1.0, 0.5))),
        (fixed, dict(fit=(48, 40))),
        (half, dict(window=24)),
        (half, dict(fit=(48, 20))),
    ):
        with pytest.raises(ValueError, match="one size must see images at.*Take a `window` of"):
            Segmenter(model, **settings).export(tmp_path / "served")
        assert not written
    for model, settings in (
        (fixed, dict(window=(24, 20), scales=(0.5,), fit=(48, 40))),
        (fixed, dict(flip=True, fit=(48, 20))),
        (half, dict(window=20)),
        (half, dict(flip=True)),
    ):
        Segmenter(model, **settings).export(tmp_path / "served", verbose=False)
        assert written.pop()


def test_earlier_names(tmp_path):
    model = small_model()
    with pytest.warns(DeprecationWarning, match="`SlidingWindow` is deprecated.*Use .*Segmenter`"):
        segment = SlidingWindow(model, window=9)
    assert isinstance(segment, Segmenter) and segment.settings["window"] == 9
    images = np.zeros((8, 9, 3), "uint8")
    with pytest.warns(DeprecationWarning, match="`pictures`"):
        ids = segment(pictures=images)
    np.testing.assert_array_equal(ids, segment(images))
    if BACKEND != "torch":
        with pytest.warns(DeprecationWarning, match='Use output="log_probabilities"'):
            segment.export(tmp_path / "served", output="logits", verbose=False)


def test_nan_is_no_class(rng, tmp_path):
    model = randomize(small_model(), rng)
    segment = Segmenter(model, window=9, blend="hann")
    if BACKEND == "torch":
        with pytest.raises(ValueError, match="under the torch backend.*KERAS_BACKEND=tensorflow"):
            segment.export(tmp_path / "served", output="classes")
        return
    segment.export(tmp_path / "served", output="classes", verbose=False)
    images = np.full((2, 16, 17, 3), 100, "float32")
    images[1, 3, 4, 0] = np.nan
    served = load_exported(tmp_path / "served")(images)
    assert (served[0] < 5).all() and (served[1] == 255).all()
    model.head.layers[-1].bias.assign([0, np.nan, 0, 0, 0])
    segment.export(tmp_path / "served", output="classes", verbose=False)
    assert (load_exported(tmp_path / "served")(images) == 255).all()
