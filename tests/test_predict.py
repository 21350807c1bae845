"""The command `predict`: from any image, and either kind of model, to overlays and shares."""

import csv
import re
from pathlib import Path

import keras
import numpy as np
import pytest
from keras import layers
from PIL import Image

import keras_fsa
from keras_fsa.commands import predict
from keras_fsa.images import read_image, read_mask, write_mask
from tests.helpers import BACKEND, array, run_python


def tiny(attention="frequency"):
    keras.utils.set_random_seed(3)
    images = keras.Input((None, None, 3))
    x = layers.Conv2D(4, 3, 4, padding="same", activation="relu")(images)
    model = keras_fsa.FsaNet(
        3,
        backbone=keras.Model(images, {"stage5": x}),
        attention=attention,
        frequencies=3,
        head_channels=8,
        auxiliary_loss_weight=0,
    )
    if attention:
        model.head.get_layer("attention").gain.assign(0.5)
    return model


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A .keras file, a SavedModel of the same model, a model without attention, two images."""
    folder = tmp_path_factory.mktemp("predict")
    rng = np.random.default_rng(5)
    (folder / "in" / "more").mkdir(parents=True)
    for name, (height, width) in (("a.png", (29, 41)), ("more/b.png", (37, 31))):
        small = rng.integers(0, 256, (4, 5, 3)).astype("uint8")
        Image.fromarray(small).resize((width, height), 0).save(folder / "in" / name)
    (folder / "in" / "notes.txt").write_text("no image")
    model = tiny()
    # As large on average, so that several classes win.
    logits = model.predict(np.asarray(Image.open(folder / "in/a.png"))[None], verbose=0)
    bias = model.head.get_layer("logits").bias
    bias.assign(bias - logits.mean((0, 1, 2)))
    model.save(folder / "model.keras")
    tiny(None).save(folder / "plain.keras")
    if BACKEND == "torch":
        code = """
import sys, keras, keras_fsa
keras.saving.load_model(sys.argv[1]).export(sys.argv[2], verbose=False)
"""
        saved = folder / "model.keras", folder / "saved"
        run_python(code, *saved, KERAS_BACKEND="tensorflow")
    else:
        model.export(str(folder / "saved"), verbose=False)
    return folder


def run(*arguments):
    predict.main([str(argument) for argument in arguments])


def read_shares(path):
    with open(path, newline="") as file:
        header, *rows = csv.reader(file)
    return header, {Path(name).name: [float(x) for x in row] for name, *row in rows}


@pytest.mark.parametrize("model", ["model.keras", "saved"])
def test_folder(folder, tmp_path, capsys, model):
    run("--model", folder / model, folder / "in", "--output", tmp_path, "--masks")
    header, shares = read_shares(tmp_path / "shares.csv")
    assert header == ["image", "class 0", "class 1", "class 2"]
    network = keras.saving.load_model(folder / "model.keras")
    for name in ("a.png", "more/b.png"):
        image = np.asarray(Image.open(folder / "in" / name))
        ids = network.predict(image[None], verbose=0).argmax(-1)
        expected = 100 * np.bincount(ids.reshape(-1), minlength=3) / ids.size
        # More than one class, or this says little.
        assert (expected > 1).sum() > 1
        # A pixel near a tie may fall to the other side where rounding differs.
        np.testing.assert_allclose(shares[Path(name).name], expected, atol=0.2)
        mask = read_mask(tmp_path / "masks" / name)
        assert mask.dtype == "uint8" and (mask == ids[0]).mean() > 0.998
        stem = name.removesuffix(".png")
        assert Image.open(tmp_path / f"{stem}_overlay.png").size[0] > 1000
    written = sorted(str(f.relative_to(tmp_path)) for f in tmp_path.rglob("*") if f.is_file())
    drawn = ["more/b_overlay.png", "shares.csv"]
    assert written == ["a_overlay.png", "masks/a.png", "masks/more/b.png", *drawn]
    out = capsys.readouterr().out
    mean = np.mean(list(shares.values()), axis=0)
    assert "mean of 2 images" in out and f"class 0  {mean[0]:6.2f} %" in out


def test_one_image_in_windows_with_names_spectrum_and_attention(folder, tmp_path, capsys):
    run(
        *("--model", folder / "model.keras", folder / "in/a.png", "--output", tmp_path),
        *("--class-names", "sea, sky,boat", "--spectrum", "--attention-at", "40,28"),
        *("--window", 24),
    )
    names = sorted(file.name for file in tmp_path.iterdir())
    assert names == ["a_attention.png", "a_overlay.png", "a_spectrum.png", "shares.csv"]
    header, shares = read_shares(tmp_path / "shares.csv")
    assert header[1:] == ["sea", "sky", "boat"]
    np.testing.assert_allclose(sum(shares["a.png"]), 100, atol=0.001)
    out = capsys.readouterr().out
    assert "Share of the pixels\n" in out and "boat" in out


def test_the_map_that_the_attention_is_given(folder):
    model = keras.saving.load_model(folder / "model.keras")
    image = read_image(folder / "in/a.png")
    layer, given = predict.attention_and_input(model, image)
    assert layer is model.head.get_layer("attention") and given.shape == (8, 11, 8)
    # What the layer sees in the model itself.
    seen = []
    original = layer.call
    layer.call = lambda inputs, **kwargs: (seen.append(array(inputs)), original(inputs, **kwargs))[
        1
    ]
    model(image[None])
    np.testing.assert_allclose(array(given), seen[0][0], rtol=1e-6, atol=1e-6)
    position = predict.position_of_pixel
    assert position((0, 0), image, given, "a") == (0, 0)
    assert position((40, 28), image, given, "a") == (7, 10)
    assert position((20, 7), image, given, "a") == (7 * 8 // 29, 20 * 11 // 41)


def test_dataset_names_and_upright_images(folder, tmp_path):
    image = Image.new("RGB", (6, 4), (9, 9, 9))
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by a quarter
    image.save(tmp_path / "turned.png", exif=exif)
    assert read_image(tmp_path / "turned.png").shape == (6, 4, 3)

    def table(name):
        return predict.class_table(name, None, model=None)

    names, palette = table("signal_harbor")
    assert names[0] == "sky" and names[-1] == "outbound" and palette.shape == (len(names), 3)
    with pytest.raises(ValueError, match=r"--dataset: .*signal_harbor.*Received: .*'mars'"):
        table("mars")


@pytest.mark.once
def test_folders_of_classes_and_files_that_are_no_images(folder, tmp_path, capsys):
    image = keras.Input((None, None, 3))
    backbone = keras.Model(image, {"stage5": layers.Conv2D(4, 3, 4, padding="same")(image)})
    model = keras_fsa.FsaNet(
        2, backbone, frequencies=3, head_channels=8, auxiliary_loss_weight=0, activation="sigmoid"
    )
    model.save(tmp_path / "each.keras")
    for name in ("a.h5", "b.mpg", "c.eps", "d.fits", "e.pdf"):
        (tmp_path / name).write_text("no image that a network sees")
    (tmp_path / "._f.jpg").write_text("what a Mac keeps beside a file")
    (tmp_path / "g.tif").mkdir()
    Image.new("RGB", (6, 4)).save(tmp_path / "f.ppm")
    arguments = ("--model", tmp_path / "each.keras", tmp_path, "--output", tmp_path / "out")
    with pytest.raises(SystemExit):
        run(*arguments, "--masks", "--class-names", "a/b,a_b")
    assert "Received: 'a/b' and 'a_b'. Rename one" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
    for _ in range(2):  # what lies in its output is no image
        run(*arguments, "--masks", "--class-names", "a/b,b")
    written = sorted(str(f.relative_to(tmp_path)) for f in tmp_path.glob("out/masks/*/*"))
    assert written == ["out/masks/a_b/f.png", "out/masks/b/f.png"]


@pytest.mark.once
def test_masks_of_others_are_not_replaced(folder, tmp_path, capsys):
    true = tmp_path / "masks" / "more" / "b.png"
    write_mask(true, np.zeros((37, 31), "uint8"))
    arguments = ("--model", folder / "model.keras", folder / "in", "--output", tmp_path, "--masks")
    with pytest.raises(SystemExit):
        run(*arguments)
    assert "wrote are replaced. Received: " + str(true) in capsys.readouterr().err
    assert not (tmp_path / "a_overlay.png").exists() and not read_mask(true).any()
    true.unlink()
    for _ in range(2):
        run(*arguments)
    assert read_mask(true).any()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ("--model", "none.keras", "in"),
            "file or folder that exists. Received: none.keras",
        ),
        (
            ("--model", "in/notes.txt", "in"),
            "one that keras_fsa export wrote. Received: in/notes.txt",
        ),
        (("--model", "in", "in"), "a .keras file, or a folder with a saved_model.pb.*Write one"),
        (("--model", "broken.keras", "in"), "`--model` does not load. Received: broken.keras"),
        (
            ("--model", "model.keras", "gone.jpg"),
            "`--images` must be a file or folder .*gone.jpg",
        ),
        (("--model", "model.keras", "empty"), "folder must hold images. Received: empty"),
        (
            ("--model", "model.keras", "in/notes.txt"),
            "file that can be read. Received: in/notes.txt",
        ),
        (
            ("--model", "model.keras", "in/a.png", "--max-pixels", "1188"),
            r"has too many pixels \(41 x 29, and 1188 are allowed\)",
        ),
        (
            ("--model", "model.keras", "in/a.png", "in"),
            "results, a. Received: in/a.png and in/a.png",
        ),
        (
            ("--model", "saved", "in", "--spectrum"),
            "cannot be looked into. Received: --model saved",
        ),
        (("--model", "saved", "in", "--attention-at", "1,2"), "Pass the .keras file of the same"),
        (
            ("--model", "plain.keras", "in", "--spectrum"),
            "an FsaNet with Freq.*leave --spectrum",
        ),
        (("--model", "model.keras", "in", "--class-names", "a,b"), "2 names for a model of 3 clas"),
        (
            ("--model", "model.keras", "in/a.png", "--attention-at", "41,0"),
            "a pixel of the image. Received: 41,0 for .*a.png, which is 41 pixels wide and 29",
        ),
    ],
)
def test_errors(folder, tmp_path, monkeypatch, capsys, arguments, message):
    monkeypatch.chdir(folder)
    (folder / "empty").mkdir(exist_ok=True)
    (folder / "broken.keras").write_text("no archive")
    with pytest.raises(SystemExit) as stop:
        run(*arguments, "--output", tmp_path)
    assert stop.value.code == 2
    assert re.search(message, capsys.readouterr().err)
    assert not (tmp_path / "shares.csv").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--attention-at", "1"), "`--attention-at` must be none|X,Y. Received: '1'."),
        (("--attention-at", "-1,3"), "must be a pixel of the image. Received: -1,3. Count from 0"),
        (("--dataset", "ade20k", "--class-names", "a"), "exclude each other"),
        (("--window", "0"), "`--window` must be a positive int. Received: window=0"),
    ],
)
def test_wrong_flags(folder, capsys, arguments, message):
    with pytest.raises(SystemExit) as stop:
        run("--model", folder / "model.keras", folder / "in", *arguments)
    assert stop.value.code == 2 and message in capsys.readouterr().err
