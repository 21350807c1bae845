"""The evaluation and export examples, from files to files."""

import json
import runpy
import sys
from pathlib import Path

import keras
import numpy as np
import pytest
from keras import layers
from PIL import Image

import keras_fsa
from keras_fsa.inference import class_map
from keras_fsa.metrics import boundary_scores
from tests.helpers import BACKEND, randomize

EXAMPLES = Path(__file__).parent.parent / "examples"
# Three classes whose colours a random network tells apart, and images of two sizes.
NAMES = ("sky", "sea", "boat")
SIZES = ((36, 52), (44, 40), (36, 52), (36, 52), (44, 40))


@pytest.fixture
def run(monkeypatch):
    def run(name, *arguments):
        monkeypatch.setattr(sys, "argv", [name, *map(str, arguments)])
        runpy.run_path(str(EXAMPLES / name), run_name="__main__")

    return run


def small_model(num_classes, rng):
    images = keras.Input((None, None, 3))
    x = layers.Conv2D(6, 3, 2, padding="same", activation="relu")(images)
    backbone = keras.Model(images, {"stage5": layers.Conv2D(8, 3, padding="same")(x)})
    model = keras_fsa.FsaNet(
        num_classes, backbone, frequencies=3, head_channels=8, auxiliary_loss_weight=0
    )
    return randomize(model, rng)


@pytest.fixture
def model(rng, tmp_path):
    model = small_model(3, rng)
    model.save(tmp_path / "model.keras")
    return model


@pytest.fixture
def pairs(rng, tmp_path):
    """Blocks of colour, in folders; the last rows of masks are ignored, and all the last mask."""
    result = []
    for folder in ("images", "masks"):
        (tmp_path / folder).mkdir()
    for i, (height, width) in enumerate(SIZES):
        blocks = rng.integers(0, 3, (4, 4)).astype("uint8")
        mask = np.kron(blocks, np.ones((11, 13), "uint8"))[:height, :width]
        colours = rng.integers(0, 256, (3, 3))
        image = np.clip(colours[mask] + rng.integers(-9, 9, (*mask.shape, 3)), 0, 255)
        mask[-1 if i < len(SIZES) - 1 else slice(None)] = 255
        result.append((image.astype("uint8"), mask))
        Image.fromarray(result[-1][0]).save(tmp_path / f"images/{i}.png")
        Image.fromarray(mask).save(tmp_path / f"masks/{i}.png")
    return result


def expected_scores(model, pairs, num_classes, tolerance, **settings):
    """Class by class, over all pixels of all images at once."""
    masks, ids, boundary = [], [], []
    for image, mask in pairs:
        ids.append(class_map(model, image, **settings))
        masks.append(mask)
        boundary.append(boundary_scores(mask, ids[-1], num_classes, tolerance))
    truth, found = (np.concatenate([x.ravel() for x in both]) for both in (masks, ids))
    truth, found = truth[truth != 255], found[truth != 255]
    iou, accuracy = [], []
    for label in range(num_classes):
        both = np.sum((truth == label) & (found == label))
        either = np.sum((truth == label) | (found == label))
        iou.append(both / either if either else np.nan)
        accuracy.append(both / np.sum(truth == label) if (truth == label).any() else np.nan)
    with np.errstate(all="ignore"):
        boundary = [np.mean(column[~np.isnan(column)]) for column in np.array(boundary).T]
    return iou, accuracy, boundary, np.mean(truth == found), len(truth)


def check_scores(file, iou, accuracy, boundary, pixel_accuracy, pixels):
    scores = json.loads(file.read_text())

    def close(got, want):
        assert (got is None) == bool(np.isnan(want))
        if got is not None:
            assert got == pytest.approx(want, rel=1e-9)

    for i, values in enumerate(scores["classes"].values()):
        close(values["iou"], iou[i])
        close(values["accuracy"], accuracy[i])
        close(values["boundary_f"], boundary[i])
    close(scores["mean_iou"], np.nanmean(iou))
    close(scores["mean_accuracy"], np.nanmean(accuracy))
    close(scores["mean_boundary_f"], np.nanmean(boundary))
    close(scores["pixel_accuracy"], pixel_accuracy)
    assert scores["pixels"] == pixels
    assert 0.02 < scores["pixel_accuracy"] < 0.98
    return scores


def folder_arguments(tmp_path):
    return (
        *("--model", tmp_path / "model.keras", "--images", tmp_path / "images"),
        *("--masks", tmp_path / "masks", "--class-names", ",".join(NAMES)),
        *("--output", tmp_path / "out", "--quiet"),
    )


def test_folders(run, tmp_path, model, pairs, capsys):
    run("evaluate.py", *folder_arguments(tmp_path), "--batch", 2)
    expected = expected_scores(model, pairs, 3, tolerance=3)
    scores = check_scores(tmp_path / "out/scores.json", *expected)
    assert list(scores["classes"]) == list(NAMES) and scores["images"] == len(SIZES)
    assert f"mean  {scores['mean_iou']:.4f}" in capsys.readouterr().out
    assert Image.open(tmp_path / "out/confusion.png").size[0] > 400


def test_without_matplotlib(run, tmp_path, model, pairs, monkeypatch, capsys):
    """The last thing that is done must not make hours look lost."""
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    run("evaluate.py", *folder_arguments(tmp_path))
    assert "Drawing is off: This needs the package 'matplotlib'" in capsys.readouterr().out
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"scores.json"}


def test_windows_scales_and_mirror_images(run, tmp_path, model, pairs):
    run(
        "evaluate.py",
        *folder_arguments(tmp_path),
        *("--mode", "slide", "--window", 21, "--stride", 14, "--scales", 0.75, 1, "--flip"),
        *("--fit", 60, 40, "--boundary-tolerance", 0.02),
    )
    settings = dict(window=21, stride=14, scales=(0.75, 1), flip=True, fit=(60, 40))
    expected = expected_scores(model, pairs, 3, 0.02, **settings)
    check_scores(tmp_path / "out/scores.json", *expected)
    # The settings matter, or the scores would prove nothing.
    assert expected != expected_scores(model, pairs, 3, 0.02)


def test_dataset_by_name(run, tmp_path, rng, monkeypatch):
    from keras_fsa import datasets
    from keras_fsa.datasets import load, signal_harbor

    given = []
    wrapped = lambda *args, **kwargs: given.append(kwargs) or load(*args)  # noqa: E731
    monkeypatch.setattr(datasets, "load", wrapped)
    monkeypatch.setattr(signal_harbor, "SPLITS", {"train": 1, "test": 3})
    model = small_model(10, rng)
    model.save(tmp_path / "model.keras")
    run(
        "evaluate.py",
        *("--model", tmp_path / "model.keras", "--dataset", "signal_harbor"),
        *("--data-dir", tmp_path / "data", "--output", tmp_path / "out", "--quiet"),
        *("--submission", tmp_path / "predictions"),
        *("--manual-dir", tmp_path, "--skip-unreadable"),
    )
    places = {"data_dir": tmp_path / "data", "manual_dir": tmp_path}
    assert given == [{**places, "skip_unreadable": True}]
    data = load("signal_harbor", "test", tmp_path / "data")
    pairs = list(data)
    scores = check_scores(
        tmp_path / "out/scores.json", *expected_scores(model, pairs, 10, tolerance=3)
    )
    assert scores["images"] == 3 and "inbound" in scores["classes"]
    for i, (image, _) in enumerate(pairs):
        written = np.asarray(Image.open(tmp_path / f"predictions/{data.name(i)}.png"))
        np.testing.assert_array_equal(written, class_map(model, image))


def test_submission_to_cityscapes(run, tmp_path, rng, capsys):
    """Pictures without masks, in a folder for each city; raw ids in files of the same names."""
    model = small_model(19, rng)
    model.save(tmp_path / "model.keras")
    names = ("berlin/berlin_000000_000019_leftImg8bit", "bonn/bonn_000001_000019_leftImg8bit")
    images = [rng.integers(0, 256, (20, 40, 3)).astype("uint8") for _ in names]
    for name, image in zip(names, images, strict=True):
        path = tmp_path / f"images/{name}.png"
        path.parent.mkdir(parents=True)
        Image.fromarray(image).save(path)
    arguments = (
        *("--model", tmp_path / "model.keras", "--images", tmp_path / "images", "--quiet"),
        *("--dataset", "cityscapes", "--submission", tmp_path / "sent"),
    )
    run("evaluate.py", *arguments, "--output", tmp_path / "out")
    assert sorted(path.stem for path in (tmp_path / "sent").iterdir()) == [
        name.split("/")[1] for name in names
    ]
    assert not (tmp_path / "out").exists()
    # From the label table of cityscapesScripts.
    raw = [7, 8, 11, 12, 13, 17, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 31, 32, 33]
    for name, image in zip(names, images, strict=True):
        file = Image.open(tmp_path / f"sent/{name.split('/')[1]}.png")
        assert file.mode == "L" and file.size == (40, 20)
        train_ids = class_map(model, image)
        assert len(np.unique(train_ids)) > 2
        np.testing.assert_array_equal(np.asarray(file), np.array(raw)[train_ids])
    (tmp_path / "images/bonn/berlin_000000_000019_leftImg8bit.png").write_bytes(
        (tmp_path / f"images/{names[0]}.png").read_bytes()
    )
    assert "images of one name in several folders" in fails(run, capsys, "evaluate.py", *arguments)
    mask = tmp_path / "mask.png"
    Image.fromarray(np.zeros((20, 40), "uint8")).save(mask)
    pairs = [path for path in (tmp_path / "images").rglob("*.png") if "berlin" in path.name]
    (tmp_path / "pairs.csv").write_text("".join(f"{path},{mask}\n" for path in pairs))
    arguments = (*arguments[:2], "--images", tmp_path / "pairs.csv", *arguments[4:])
    assert "images of one name in several folders" in fails(run, capsys, "evaluate.py", *arguments)


def fails(run, capsys, *arguments):
    """What a command that must fail says."""
    capsys.readouterr()
    with pytest.raises(SystemExit) as stop:
        run(*arguments)
    assert stop.value.code == 2
    return capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "give --dataset or --images"),
        (("--images", "images"), "without --masks needs --submission"),
        (("--images", "images", "--submission", "images/"), "must be another folder than --images"),
        (("--images", "images", "--masks", "masks", "--max-pixels", 9), "and 9 are allowed"),
        (("--dataset", "ade20k", "--masks", "masks"), "--masks needs the --images"),
        (("--data-set", "ade20k", "--masks", "masks"), "--data-set is deprecated. Use --dataset"),
        (("--dataset", "ade20k", "--output", "model.keras"), "`--output` must be a folder. Receiv"),
        (("--dataset", "ade20k", "--mode", "slide", "--stride", 800), "--stride must be at most"),
    ],
)
def test_arguments(run, tmp_path, model, pairs, monkeypatch, capsys, arguments, message):
    monkeypatch.chdir(tmp_path)
    assert message in fails(run, capsys, "evaluate.py", "--model", "model.keras", *arguments)


def test_other_number_of_classes(run, tmp_path, model, capsys):
    arguments = (
        *("--model", tmp_path / "model.keras", "--images", tmp_path),
        *("--dataset", "cityscapes", "--submission", tmp_path / "sent"),
    )
    found = fails(run, capsys, "evaluate.py", *arguments)
    assert "The model has 3 classes, the data 19" in found


def test_export(run, tmp_path, model, pairs, capsys):
    """The file is proven; where it gives logits, it scores like the model."""
    arguments = ("--model", tmp_path / "model.keras", "--output", tmp_path / "served")
    if BACKEND == "torch":
        assert "KERAS_BACKEND=tensorflow" in fails(run, capsys, "export.py", *arguments)
        return
    run("export.py", *arguments, "--uint8", "--classes", "--size", 24, 40)
    out = capsys.readouterr().out
    assert "24 x 40 " in out and float(out.split("Largest deviation: ")[1].split()[0]) < 1e-4
    run("export.py", *arguments)
    out = capsys.readouterr().out
    assert out.count("differs from the model") == 3
    assert float(out.split("Largest deviation: ")[1].split()[0]) < 1e-4
    folders = folder_arguments(tmp_path)
    run("evaluate.py", *folders[2:], "--model", tmp_path / "served")
    check_scores(tmp_path / "out/scores.json", *expected_scores(model, pairs, 3, tolerance=3))
