"""Files in int8: close to the model, also at sizes they were not calibrated with."""

import os

import numpy as np
import pytest
from PIL import Image

from keras_fsa.commands.export import main
from keras_fsa.models.exporting import load_exported
from tests.helpers import BACKEND, randomize
from tests.test_export import PATHS, tiny

INT8 = ("onnx", "litert", "openvino")


def images(rng, count=6, size=(40, 52)):
    return [rng.integers(0, 256, (*size, 3)).astype("uint8") for _ in range(count)]


@pytest.mark.parametrize("format", INT8)
def test_a_file_is_close_to_its_model(rng, tmp_path, format):
    model = randomize(tiny(), rng)
    path = tmp_path / PATHS[format]
    if BACKEND != "tensorflow":
        with pytest.raises(ValueError, match="under the|takes images of one size"):
            model.export(path, format=format, calibration=images(rng))
        return
    model.export(path, format=format, calibration=images(rng), verbose=False)
    serve = load_exported(path)
    for size in ((40, 52), (97, 131)):
        x = images(rng, 1, size)[0][None]
        logits, served = model.predict_on_batch(x), serve(x)
        # Of the root mean squares: a single logit is far off where its map left the range.
        error = np.std(served - logits) / np.std(logits)
        same = np.mean(served.argmax(-1) == logits.argmax(-1))
        print(f"{format} {size}: {error:.1e}, {same:.3f}")
        # Eight bits through seven convolutions; float32 would agree to 1e-5.
        assert 1e-4 < error < 0.1 and same > 0.9
    if format == "openvino":
        return  # takes long, and goes the way of onnx
    # Whole pixels, and classes.
    model.export(
        path, format=format, calibration=images(rng), output="classes", input_dtype="uint8"
    )
    assert np.mean(load_exported(path)(x) == logits.argmax(-1)) > 0.9


@pytest.mark.parametrize(
    ("format", "calibration", "message"),
    [
        ("tf_saved_model", "some", r"is for the formats onnx, litert, openvino.*'tf_saved_model'"),
        ("onnx", "none", r"`calibration` must hold images like those to come. Received: none"),
        (
            "onnx",
            "gray",
            r"of the shape \(40, 52, 3\). Received: one of shape \(40, 52, 1\)",
        ),
        ("onnx", "flat", r"Received: one of shape \(40, 52\)"),
    ],
)
def test_errors(rng, tmp_path, format, calibration, message):
    given = {
        "some": images(rng),
        "none": [],
        "gray": [np.zeros((40, 52, 1))],
        "flat": [np.zeros((40, 52))],
    }
    if BACKEND == "torch":
        message = f'Received: format="{format}" under the torch backend'
    with pytest.raises(ValueError, match=message):
        tiny(image_shape=(40, 52, 3)).export(
            tmp_path / PATHS[format], format=format, calibration=given[calibration]
        )
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"num_classes": 1, "channels": 1, "normalization": "tf"},
        {"activation": "sigmoid"},
    ],
)
def test_the_command(rng, tmp_path, capsys, settings):
    """Of one class at a pixel or several, and of grey images; files that differ are refused."""
    randomize(tiny(**settings), rng).save(tmp_path / "model.keras")
    os.mkdir(tmp_path / "images")
    for i, image in enumerate(images(rng)):
        Image.fromarray(image).save(tmp_path / f"images/{i}.png")
    flags = ["--model", tmp_path / "model.keras", "--output", tmp_path / "m.onnx", "--int8"]
    flags = [*map(str, flags), "--format"]

    def fails(*more):
        with pytest.raises(SystemExit):
            main([*flags, *more])
        return capsys.readouterr().err

    folder = ("--calibration", str(tmp_path / "images"))
    assert "--int8 needs --calibration" in fails("onnx")
    assert "--int8 is for --format onnx, litert, openvino" in fails("saved_model", *folder)
    if BACKEND != "tensorflow":
        return
    size = ["--size", "36", "44"] if "channels" in settings else []
    main([*flags, "onnx", *folder, "--limit", "3", "--agreement", "0.8", "--classes", *size])
    assert "pixels have the model's class" in capsys.readouterr().out
    if "channels" not in settings:  # whose one logit is far from zero everywhere
        assert "At least 100 % of the pixels" in fails("onnx", *folder, "--agreement", "1")
