import importlib
import sys

import numpy as np
import pytest
import tensorflow_datasets as tfds

from keras_fsa.datasets import builders, load, signal_harbor
from keras_fsa.datasets.signal_harbor import (
    CLASSES,
    MIN_DISTANCE,
    PALETTE,
    SIGNALS,
    SPLITS,
    draw_scene,
    scene_rng,
)

pytestmark = pytest.mark.once

LABEL = {name: label for label, name in enumerate(CLASSES)}
BOATS = (LABEL["inbound"], LABEL["outbound"])
GREEN_SCENE = {"green signal": "red signal", "inbound": "outbound"}
"""The labels of a scene with a green lamp, and what they are under a red one."""


@pytest.fixture(scope="module")
def scenes():
    return [draw_scene(scene_rng("train", index)) for index in range(48)]


@pytest.fixture(scope="module")
def twins():
    """Scenes drawn twice, with a green and with a red lamp: `(image, mask), (image, mask)`."""
    return [
        [draw_scene(scene_rng("test", index), signal) for signal in ("green", "red")]
        for index in range(12)
    ]


def lamp_colour(image, mask):
    """The colour of the coloured pixels of the signal; its mast and its ring are grey."""
    signal = np.isin(mask, (LABEL["green signal"], LABEL["red signal"]))
    red, green = image[signal][:, :2].T.astype(int)
    coloured = abs(red - green) > 60
    return "red" if (red - green)[coloured].mean() > 0 else "green"


def test_the_same_seed_gives_the_same_scene():
    (image, mask), (again, mask_again), (other, _) = (
        draw_scene(scene_rng(split, 5)) for split in ("train", "train", "test")
    )
    np.testing.assert_array_equal(image, again)
    np.testing.assert_array_equal(mask, mask_again)
    assert (image != other).any()


def test_scenes_have_the_promised_form(scenes):
    for image, mask in scenes:
        assert (image.shape, image.dtype) == ((96, 128, 3), np.uint8)
        assert (mask.shape, mask.dtype) == ((96, 128), np.uint8)
        assert image.std() > 20
        assert 0.06 < np.isin(mask, BOATS).mean() < 0.17


def test_all_classes_occur(scenes):
    counts = sum(np.bincount(mask.ravel(), minlength=len(CLASSES)) for _, mask in scenes)
    assert len(counts) == len(CLASSES)
    assert counts.min() > 0.005 * counts.sum()


def test_every_class_has_a_colour_of_its_own():
    assert len(set(PALETTE)) == len(PALETTE) == len(CLASSES)
    assert np.asarray(PALETTE).shape == (len(CLASSES), 3)


def test_the_lamp_tells_the_label_of_the_signal_and_all_boats(scenes):
    seen = []
    for image, mask in scenes:
        colour = lamp_colour(image, mask)
        absent = {"green": GREEN_SCENE.values(), "red": GREEN_SCENE.keys()}[colour]
        assert not np.isin(mask, [LABEL[name] for name in absent]).any()
        assert np.isin(mask, BOATS).any()
        seen.append(colour)
    assert 14 <= seen.count("green") <= 34


def test_the_lamp_changes_only_itself_and_the_labels_of_signal_and_boats(twins):
    red_label = np.arange(len(CLASSES))
    for name, twin in GREEN_SCENE.items():
        red_label[LABEL[name]] = LABEL[twin]
    for (green, mask_green), (red, mask_red) in twins:
        changed = (green != red).any(axis=-1)
        assert changed.sum() > 100
        assert (mask_green[changed] == LABEL["green signal"]).all()
        np.testing.assert_array_equal(mask_red, red_label[mask_green])


def test_the_lamp_is_far_from_every_boat(twins):
    assert MIN_DISTANCE >= 44
    for (green, mask), (red, _) in twins:
        # Only pixels that differ between the two can tell the colour of the lamp.
        lamp = np.argwhere((green != red).any(axis=-1))
        boats = np.argwhere(np.isin(mask, BOATS))
        assert abs(lamp[:, None] - boats).max(axis=-1).min() >= MIN_DISTANCE


def test_nothing_is_drawn_after_the_colour_of_the_lamp():
    colours = set()
    for index in range(8):
        drawn, given = scene_rng("train", index), scene_rng("train", index)
        image, mask = draw_scene(drawn)
        signal = lamp_colour(image, mask)
        colours.add(signal)
        twin, twin_mask = draw_scene(given, signal)
        np.testing.assert_array_equal(image, twin)
        np.testing.assert_array_equal(mask, twin_mask)
        assert given.choice(tuple(SIGNALS)) == signal
        assert given.bit_generator.state == drawn.bit_generator.state
    assert colours == set(SIGNALS)


def test_buoys_of_both_colours_occur_under_both_lamps(twins):
    colours = set()
    for (image, mask), _ in twins:
        red, green = image[mask == LABEL["buoy"]][:, :2].T.astype(int)
        colours |= {"red"} if (red - green > 80).any() else set()
        colours |= {"green"} if (green - red > 60).any() else set()
    # Twins share their buoys, so what occurs under one lamp occurs under the other.
    assert colours == {"red", "green"}


def test_wrong_arguments_are_refused():
    with pytest.raises(ValueError, match="must be one of .*Received: signal='blue'.* at random"):
        draw_scene(np.random.default_rng(0), signal="blue")
    with pytest.raises(ValueError, match="must be one of .*Received: split='val'.*Pass the name"):
        scene_rng("val", 0)


def test_tfds_loads_both_splits(tmp_path, monkeypatch):
    assert SPLITS == {"train": 640, "test": 160}
    monkeypatch.setattr(signal_harbor, "SPLITS", {"train": 5, "test": 2})
    for split, count in (("train", 5), ("test", 2)):
        pairs = tfds.load("signal_harbor", split=split, as_supervised=True, data_dir=tmp_path)
        image, mask = pairs.element_spec
        assert (image.shape, image.dtype) == ((96, 128, 3), np.uint8)
        assert (mask.shape, mask.dtype) == ((96, 128, 1), np.uint8)
        assert len(list(pairs)) == count

        examples = tfds.load("signal_harbor", split=split, data_dir=tmp_path, shuffle_files=True)
        indices = []
        for example in examples.as_numpy_iterator():
            image, mask = draw_scene(scene_rng(split, int(example["index"])))
            np.testing.assert_array_equal(example["image"], image)
            np.testing.assert_array_equal(example["mask"][..., 0], mask)
            indices.append(int(example["index"]))
        assert sorted(indices) == list(range(count))
    info = tfds.builder("signal_harbor", data_dir=tmp_path).info
    assert tuple(info.features["mask"].names) == CLASSES


@pytest.mark.parametrize("missing", ["tensorflow", "tensorflow_datasets", "importlib_resources"])
def test_builders_name_the_pip_command(monkeypatch, missing):
    monkeypatch.setitem(sys.modules, missing, None)
    monkeypatch.delitem(sys.modules, builders.__name__)
    command = r'pip install "keras_fsa\[datasets\]"'
    with pytest.raises(ImportError, match=f"Received: .*{missing}.*{command}"):
        importlib.import_module(builders.__name__)


def test_a_missing_pillow_names_the_pip_command(monkeypatch):
    monkeypatch.setitem(sys.modules, "PIL", None)
    monkeypatch.delitem(sys.modules, "PIL.Image", raising=False)
    with pytest.raises(ImportError, match=r'PIL.*pip install "keras_fsa\[tools\]"'):
        draw_scene(np.random.default_rng(0))


def test_load_draws_the_examples():
    data = load("signal_harbor", "test")
    assert len(data) == 160 and data.size == (96, 128) and data.name(3) == "test 3"
    for got, expected in zip(data[3], draw_scene(scene_rng("test", 3)), strict=True):
        np.testing.assert_array_equal(got, expected)
