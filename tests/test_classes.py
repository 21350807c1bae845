"""Softmax and sigmoid from masks to exported files; names and colours that travel with a model."""

import csv
import json
import re

import keras
import numpy as np
import pytest
from PIL import Image

import keras_fsa
from keras_fsa.classes import by_class, decide
from keras_fsa.commands import evaluate, export, predict, train
from keras_fsa.commands.models import load_model
from keras_fsa.datasets.augment import augment
from keras_fsa.datasets.folders_of_classes import folders_of_classes
from keras_fsa.images import read_mask
from keras_fsa.inference import class_map, probabilities
from keras_fsa.large import segment
from keras_fsa.losses import CrossEntropy, SumOfLosses
from keras_fsa.metrics import (
    MeanBinaryIoU,
    binary_confusions,
    binary_scores,
    calibration_counts,
    calibration_error,
    mean_iou,
)
from keras_fsa.models.exporting import load_exported
from keras_fsa.visualize import as_rgb, colour_answers, overlay
from tests.helpers import BACKEND, array, randomize
from tests.tiny_training import backbone

NAMES = ("wet", "road")
PALETTE = ((10, 20, 30), (200, 100, 0))


def small(num_classes, **settings):
    settings = {"frequencies": 2, "head_channels": 6, "normalization": "imagenet"} | settings
    return keras_fsa.FsaNet(num_classes, backbone(), **settings)


def sigmoid(x):
    return 1 / (1 + np.exp(-np.asarray(x, "float64")))


def test_names_and_colours_travel(rng, tmp_path):
    model = small(2, class_names=list(NAMES), palette=np.array(PALETTE, "uint8"))
    model.save(tmp_path / "model.keras")
    again = keras.saving.load_model(tmp_path / "model.keras")
    assert (again.class_names, again.palette, again.activation) == (NAMES, PALETTE, "softmax")
    # A file of an earlier version does not say any of the three.
    config = model.get_config()
    for name in ("class_names", "palette", "activation"):
        del config[name]
    old = keras_fsa.FsaNet.from_config(config)
    assert (old.class_names, old.palette, old.activation) == (None, None, "softmax")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (dict(class_names="ab"), "`class_names` must be a name for each class.*class_names='ab'"),
        (dict(class_names=["a"]), "`class_names` must be .* for num_classes=2. Name every"),
        (dict(class_names=["a", "a"]), "no two alike"),
        (dict(class_names=["a", ""]), "`class_names` must"),
        (dict(class_names=["a", 3]), "`class_names` must"),
        (dict(palette=[(1, 2, 3)]), "`palette` must be .red, green, blue. of 0 to 255"),
        (dict(palette=[(1, 2, 3), (1, 2, 256)]), "`palette` must"),
        (dict(palette=[(1, 2, 3), (1, 2)]), "`palette` must"),
        (dict(palette=3), "`palette` must.*palette=3"),
        (dict(activation="tanh"), "`activation` must be one of 'softmax', 'sigmoid', None"),
    ],
)
def test_wrong_classes(settings, message):
    with pytest.raises(ValueError, match=message):
        small(2, **settings)


def test_one_class_is_the_sigmoid():
    assert small(1).activation == "sigmoid"
    with pytest.raises(ValueError, match="`activation` must be 'sigmoid' for one class.*softmax"):
        small(1, activation="softmax")


@pytest.mark.parametrize("num_classes", [1, 3])
def test_a_training_step(rng, num_classes):
    """Loss and IoU of the valid answers, and a step."""
    model = randomize(small(num_classes, activation="sigmoid", dropout=0.0), rng)
    images = rng.integers(0, 256, (2, 17, 23, 3)).astype("uint8")
    shape = (2, 17, 23, num_classes)
    masks = rng.integers(0, 2, shape).astype("uint8")
    masks[rng.random(shape) < 0.3] = 255
    model.compile(keras.optimizers.SGD(1.0))
    given = masks[..., 0] if num_classes == 1 else masks
    logits = model.predict(images, verbose=0)
    found = model.evaluate(images, given, verbose=0, return_dict=True)
    valid, z = masks != 255, logits.astype("float64")
    loss = np.log1p(np.exp(np.where(masks == 1, -z, z)))[valid].mean()
    # float32 logits of some units.
    np.testing.assert_allclose(found["loss"], loss, rtol=1e-5)
    confusions = [
        [((masks == a) & ((logits >= 0) == b))[..., c].sum() for a, b in ((1, 1), (1, 0), (0, 1))]
        for c in range(num_classes)
    ]
    iou = [hit / (hit + missed + extra) for hit, missed, extra in confusions]
    np.testing.assert_allclose(found["mean_iou"], np.mean(iou), rtol=1e-6)
    history = model.fit(images, given, verbose=0, batch_size=2).history
    assert np.isfinite(history["loss"]).all()


def test_masks_of_the_wrong_kind(rng):
    model = small(3, activation="sigmoid")
    model.compile()
    images = np.zeros((1, 16, 24, 3), "uint8")
    with pytest.raises(ValueError, match=r"\(B, H, W, 3\). Received: masks of shape \(1, 16, 24\)"):
        model.fit(images, np.zeros((1, 16, 24), "uint8"), verbose=0)
    with pytest.raises(ValueError, match=r"masks of shape \(1, 16, 24, 2\)"):
        model.fit(images, np.zeros((1, 16, 24, 2), "uint8"), verbose=0)
    for loss in (CrossEntropy(), SumOfLosses([CrossEntropy()])):
        with pytest.raises(ValueError, match="`loss` must be of the model's activation.*softmax"):
            model.compile(loss=loss)
    both = [CrossEntropy(), CrossEntropy(activation="sigmoid")]
    with pytest.raises(ValueError, match="`losses` must be of one activation.*sigmoid and softmax"):
        SumOfLosses(both)
    with pytest.raises(
        ValueError, match=r"of shape \(2, 5, 7\) for logits of shape \(2, 5, 7, 3\)"
    ):
        CrossEntropy(activation="sigmoid")(np.zeros((2, 5, 7)), np.zeros((2, 5, 7, 3)))


@pytest.mark.parametrize("num_classes", [1, 3])
def test_inference(rng, num_classes):
    model = randomize(small(num_classes, activation="sigmoid"), rng)
    image = rng.integers(0, 256, (17, 23, 3)).astype("uint8")
    p = probabilities(model, image)
    # One rounding of exp and one of the quotient.
    expected = sigmoid(model.predict(image[None], verbose=0)[0])
    np.testing.assert_allclose(p, expected, rtol=1e-6)
    flipped = sigmoid(model.predict(image[None, :, ::-1], verbose=0)[0, :, ::-1])
    mean = probabilities(model, image, flip=True)
    np.testing.assert_allclose(mean, (expected + flipped) / 2, rtol=1e-6)
    threshold = float(np.median(p))
    answers = class_map(model, image, threshold=threshold)
    assert answers.dtype == np.uint8
    assert answers.shape == ((17, 23) if num_classes == 1 else (17, 23, 3))
    np.testing.assert_array_equal(by_class(answers, num_classes), p >= threshold)
    assert 0.4 < answers.mean() < 0.6
    big = segment(model, image, tile=16, verbose=False)
    np.testing.assert_array_equal(big, class_map(model, image))
    big = segment(model, image, tile=16, output="probabilities", verbose=False)
    # As of the whole image at once: float32 sums in another order.
    np.testing.assert_allclose(big, p, atol=1e-5)
    # A function says nothing of its activation.
    np.testing.assert_allclose(
        probabilities(model.predict_on_batch, image, activation="sigmoid"), p, rtol=1e-6
    )
    with pytest.raises(
        ValueError, match="`model` must give logits that are numbers. Received: NaN"
    ):
        probabilities(lambda x: np.full((*x.shape[:3], 1), np.nan), image, activation="sigmoid")


def test_decide_and_by_class():
    p = np.array([[[0.2, 0.8], [0.6, 0.4]]])
    np.testing.assert_array_equal(decide(p, "softmax"), [[1, 0]])
    np.testing.assert_array_equal(decide(p, "sigmoid", 0.4), [[[0, 1], [1, 1]]])
    np.testing.assert_array_equal(decide(p[..., :1], "sigmoid", 0.4), [[0, 1]])
    assert (
        by_class(np.zeros((5, 7)), 1).shape == by_class(np.zeros((5, 7, 1)), 1).shape == (5, 7, 1)
    )
    with pytest.raises(ValueError, match=r"Masks of the sigmoid .* shape \(5, 7\) for 2 classes"):
        by_class(np.zeros((5, 7)), 2)
    with pytest.raises(ValueError, match="`threshold` must be .*threshold=2"):
        decide(p, "sigmoid", 2)


def test_binary_scores(rng):
    masks = rng.integers(0, 2, (7, 11, 3))
    masks[rng.random(masks.shape) < 0.2] = 255
    masks[..., 2][masks[..., 2] == 1] = 0
    answers = rng.integers(0, 2, masks.shape)
    answers[..., 2] = 0
    scores = binary_scores(binary_confusions(masks, answers))
    for c in range(3):
        valid = masks[..., c] != 255
        true, found = masks[..., c][valid] == 1, answers[..., c][valid] == 1
        hit, either = (true & found).sum(), (true | found).sum()
        for name, value in (
            ("class_iou", hit / either if either else np.nan),
            ("class_dice", 2 * hit / (true.sum() + found.sum()) if either else np.nan),
            ("class_accuracy", hit / true.sum() if true.any() else np.nan),
        ):
            np.testing.assert_allclose(scores[name][c], value, rtol=1e-14)
    assert scores["mean_iou"] == np.mean(scores["class_iou"][:2])
    right = (masks == answers)[masks != 255].mean()
    np.testing.assert_allclose(scores["pixel_accuracy"], right, rtol=1e-14)
    metric = MeanBinaryIoU(3, threshold=0.25)
    logits = np.where(answers, -1.0, -1.2).astype("float32")  # log(1/3) lies between
    metric.update_state(masks, logits)
    np.testing.assert_allclose(array(metric.result()), scores["mean_iou"], rtol=1e-6)
    metric.update_state(masks, logits, np.zeros(7))
    np.testing.assert_allclose(array(metric.result()), scores["mean_iou"], rtol=1e-6)
    again = MeanBinaryIoU.from_config(metric.get_config())
    assert again.get_config() == metric.get_config()
    metric.update_state(np.full((1, 1, 3), 2), np.zeros((1, 1, 3), "float32"))
    assert np.isnan(array(metric.result()))
    for wrong in (np.zeros((3, 3, 3), int), None, "x"):
        with pytest.raises(ValueError, match=r"`confusions` must be counts \(num_classes, 2, 2\)"):
            binary_scores(wrong)
    with pytest.raises(ValueError, match="`masks` must have the classes on their last axis"):
        binary_confusions(1, 1)
    with pytest.raises(ValueError, match="`activation` must be one of 'softmax', 'sigmoid'"):
        mean_iou(3, "tanh")


@pytest.mark.parametrize("activation", ["softmax", "sigmoid"])
def test_calibration(rng, activation):
    logits = 2 * rng.standard_normal((13, 17, 3))
    p = sigmoid(logits)
    if activation == "softmax":
        p = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    shape = p.shape if activation == "sigmoid" else p.shape[:-1]
    masks = rng.integers(0, 2 if activation == "sigmoid" else 3, shape)
    masks[rng.random(shape) < 0.2] = 255
    valid = masks != 255
    sure = np.maximum(p, 1 - p) if activation == "sigmoid" else p.max(-1)
    right = (masks == ((p >= 0.5) if activation == "sigmoid" else p.argmax(-1)))[valid]
    sure, expected = sure[valid], 0.0
    for low in np.arange(7) / 7:
        here = (sure >= low) & (sure < low + 1 / 7)
        expected += abs(right[here].sum() - sure[here].sum()) / len(sure)
    counts = calibration_counts(masks, p, activation, bins=7)
    np.testing.assert_allclose(calibration_error(counts), expected, rtol=1e-12)
    halves = [calibration_counts(masks[i], p[i], activation, 7) for i in (np.s_[:5], np.s_[5:])]
    np.testing.assert_allclose(sum(halves), counts, rtol=1e-12)
    # Answers that are always right, at full confidence.
    certain = np.eye(3)[masks % 3] if activation == "softmax" else (masks == 1).astype(float)
    assert calibration_error(calibration_counts(masks, certain, activation)) == 0
    assert np.isnan(calibration_error(np.zeros((3, 5))))
    pixels = masks.reshape(-1, *masks.shape[2:]), p.reshape(-1, 3)
    flat = calibration_counts(*pixels, activation, bins=7)
    np.testing.assert_allclose(flat, counts, rtol=1e-12)
    with pytest.raises(ValueError, match="`probabilities` must lie in 0 to 1"):
        calibration_counts(masks, 3 * p, activation)
    with pytest.raises(ValueError, match=r"`counts` must be numbers of the shape \(3, bins\)"):
        calibration_error(np.zeros(3))


def test_colours(rng):
    mask = np.array([[[0, 0], [1, 0], [1, 1], [255, 0]]], "uint8")
    colours = colour_answers(mask, PALETTE)
    assert colours[0].tolist() == [[255] * 3, [10, 20, 30], [105, 60, 15], [224, 224, 192]]
    image = rng.integers(0, 256, (1, 4, 3)).astype("uint8")
    laid = overlay(image, mask, PALETTE, 0.5)
    np.testing.assert_array_equal(laid[0, 0], image[0, 0])
    np.testing.assert_array_equal(laid[0, 1], np.round(0.5 * image[0, 1] + [5, 10, 15]))
    assert as_rgb(image) is image
    shown = as_rgb(rng.random((50, 40, 5)))
    assert shown.shape == (50, 40, 3) and shown.min() == 0 and shown.max() == 255
    grey = as_rgb(np.arange(100.0).reshape(10, 10, 1))
    np.testing.assert_array_equal(grey[..., 0], grey[..., 2])
    # 2 % and 98 % of 0 to 99.
    assert grey[0, 2, 0] == round(255 * (2 - 1.98) / (97.02 - 1.98))


def test_augmentation_of_answers_and_other_images(rng):
    image = rng.random((19, 29, 5)).astype("float32")
    mask = (image[..., :2] > 0.5).astype("uint8")
    crop, answers = augment(image, mask, 3, (17, 37), scales=(1.0, 1.0), flip=0.0)
    assert (crop.shape, crop.dtype, answers.shape) == ((17, 37, 5), np.float32, (17, 37, 2))
    np.testing.assert_array_equal(answers[:, 29:], 255)
    np.testing.assert_array_equal(answers[:, :29] == 1, crop[:, :29, :2] > 0.5)
    np.testing.assert_allclose(crop[:, 29:], np.broadcast_to(crop[:, 29:30], (17, 8, 5)))
    np.testing.assert_allclose(crop[0, 30], crop[:, :29].mean((0, 1)), rtol=1e-5)
    one, _ = augment(image[..., :1], mask[..., 0], 3, (17, 37), max_class_share=1)
    assert one.shape == (17, 37, 1)


@pytest.fixture
def folders(rng, tmp_path):
    """Bright means road, blue means wet: images, and a folder of masks for each class."""
    for name in ("images", "masks/road", "masks/wet", "binary"):
        (tmp_path / name).mkdir(parents=True)
    for i in range(6):
        road, wet = (np.kron(rng.integers(0, 2, (2, 3)), np.ones((8, 8))) for _ in range(2))
        image = np.stack([200 * road, 200 * road, 200 * wet], -1) + rng.integers(0, 50, (16, 24, 3))
        Image.fromarray(image.astype("uint8")).save(tmp_path / f"images/{i}.png")
        road[0, 0] = 255
        for name, mask in (("masks/road", road), ("masks/wet", wet), ("binary", road)):
            Image.fromarray(mask.astype("uint8")).save(tmp_path / f"{name}/{i}.png")
    return tmp_path


def test_folders_of_classes(folders):
    masks = [folders / "masks" / name for name in NAMES]
    data = folders_of_classes(folders / "images", masks)
    assert len(data) == 6 and data.name(2).endswith("2.png")
    image, mask = data[2]
    assert image.shape == (16, 24, 3) and mask.shape == (16, 24, 2)
    assert mask[0, 0, 1] == 255 and mask[0, 0, 0] != 255
    np.testing.assert_array_equal(mask[1:, :, 0], image[1:, :, 2] >= 200)
    np.testing.assert_array_equal(mask[1:, :, 1], image[1:, :, 0] >= 200)
    images, answers = next(iter(data.batch(4)))
    assert array(images).shape == (4, 16, 24, 3) and array(answers).shape == (4, 16, 24, 2)
    read = []
    once = folders_of_classes(
        folders / "images", masks, (8, 12), check=False,
        image_reader=lambda path: read.append(path) or np.asarray(Image.open(path)),
    )  # fmt: skip
    resized, smaller = once[2]
    assert len(read) == 1 and resized.shape == (8, 12, 3)
    np.testing.assert_array_equal(smaller[1:], mask[3::2, 1::2])
    Image.fromarray(np.full((16, 24), 7, "uint8")).save(masks[1] / "2.png")
    with pytest.raises(ValueError, match=f"Received: {masks[1]}/2.png: has ids beyond 0 to 1"):
        once[2]
    Image.fromarray(np.zeros((16, 23), "uint8")).save(masks[1] / "2.png")
    with pytest.raises(ValueError, match=f"its mask {masks[1]}/2.png is 16 high and 23 wide"):
        folders_of_classes(folders / "images", masks)
    with pytest.raises(ValueError, match="`masks` must be a list with the folder of each class"):
        folders_of_classes(folders / "images", folders / "masks")


@pytest.mark.parametrize("kind", ["binary", "masks"])
def test_from_folders_to_a_file_for_serving(folders, capsys, kind):
    """Train, score, predict and, where the engine can, export: by the command line only."""
    several, out = kind == "masks", folders / "out"
    settings = ["--num-classes", 2, "--activation", "sigmoid"] if several else ["--num-classes", 1]
    names = ["road", "wet"] if several else ["street"]
    if not several:
        settings += ["--class-names", "street"]

    def run(command, *arguments):
        command.main([str(word) for word in arguments], "test")
        return capsys.readouterr().out

    backbone().save(folders / "backbone.keras")
    data = ["--images", folders / "images", "--masks", folders / kind]
    run(
        train, *data, *settings, "--size", 16, 24, "--batch", 2, "--epochs", 1, "--output", out,
        "--backbone", folders / "backbone.keras", "--normalization", "imagenet",
        "--head-channels", 6, "--frequencies", 2, "--val-fraction", 0.34,
    )  # fmt: skip
    scored = json.loads((out / "metrics.json").read_text())
    assert list(scored["iou"]) == names
    model = keras.saving.load_model(out / "best.keras", compile=False)
    assert (list(model.class_names), model.activation) == (names, "sigmoid")

    flags = "--output", out / "e", "--quiet", "--threshold", 0.4
    printed = run(evaluate, "--model", out / "best.keras", *data, *flags)
    scores = json.loads((out / "e/scores.json").read_text())
    assert list(scores["classes"]) == names and "calibration error" in printed
    assert Image.open(out / "e/overlaps.png").size[0] > 400
    assert not (out / "e/confusion.png").exists()
    total = 0
    for i in range(6):
        image = np.asarray(Image.open(folders / f"images/{i}.png"))
        parts = [folders / kind / name for name in names] if several else [folders / kind]
        mask = np.stack([np.asarray(Image.open(part / f"{i}.png")) for part in parts], -1)
        yes = class_map(model, image, threshold=0.4)
        total += binary_confusions(mask, by_class(yes, len(names)))
    np.testing.assert_allclose(scores["mean_iou"], binary_scores(total)["mean_iou"], rtol=1e-12)

    image = folders / "images/0.png"
    p = probabilities(model, np.asarray(Image.open(image)))
    threshold = float(np.median(p))
    flags = "--masks", "--threshold", threshold
    printed = run(predict, "--model", out / "best.keras", image, "--output", out / "p", *flags)
    with open(out / "p/shares.csv", newline="") as file:
        header, row = csv.reader(file)
    assert header == ["image", *names]
    np.testing.assert_allclose(
        [float(x) for x in row[1:]], 100 * (p >= threshold).mean((0, 1)), atol=1e-4
    )
    assert re.search(rf"{names[0]} +\d+\.\d\d %", printed)
    for i, name in enumerate(names):
        mask = read_mask(out / "p/masks" / (name if several else "") / "0.png")
        np.testing.assert_array_equal(mask, p[..., i] >= threshold)
    if several:
        flags = "--submission", out / "sent", "--output", out / "f"
        with pytest.raises(SystemExit):
            run(evaluate, "--model", out / "best.keras", *data, *flags)
        assert "`--submission` holds one class at a pixel. Received" in capsys.readouterr().err

    if BACKEND != "torch" and not several:
        run(export, "--model", out / "best.keras", "--output", out / "s", "--classes", "--uint8")
        served = load_exported(out / "s")
        answers = served(np.asarray(Image.open(image))[None])[0]
        assert answers.shape == (16, 24)
        assert ((p[..., 0] >= 0.5) == answers).mean() > 0.99
    if BACKEND == "tensorflow" and several:
        flags = ["--window", 16, "--flip"]
        printed = run(export, "--model", out / "best.keras", "--output", out / "w", *flags)
        assert "Largest deviation" in printed
        again = load_model(out / "w")
        assert (again.class_names, again.activation) == (names, "sigmoid")
        with_views = probabilities(model, np.asarray(Image.open(image)), window=16, flip=True)
        # Log odds, and back: float32 at p near 1 has 6e-8, which the odds magnify little.
        through = probabilities(again, np.asarray(Image.open(image)))
        np.testing.assert_allclose(through, with_views, atol=1e-5)


def test_a_wrong_description(tmp_path, rng):
    if BACKEND == "torch":  # which writes no file
        return
    model = small(2, class_names=NAMES, palette=PALETTE)
    model.export(tmp_path / "served", verbose=False)
    served = load_exported(tmp_path / "served")
    assert served.class_names == list(NAMES) and served.num_classes == 2
    assert served.palette == [list(colour) for colour in PALETTE]
    description = tmp_path / "served/assets.extra/fsanet.json"
    description.write_text("{}")
    with pytest.raises(ValueError, match="description of an exported model must be .*fsanet.json"):
        load_exported(tmp_path / "served")
    description.unlink()
    assert not hasattr(load_exported(tmp_path / "served"), "activation")
