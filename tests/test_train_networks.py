"""The command that trains on folders: its networks, its cache, and what it says of mistakes."""

import dataclasses
import sys
from typing import get_args, get_type_hints

import keras
import numpy as np
import pytest
from PIL import Image

import keras_fsa
from keras_fsa.commands import recipe as recipes
from keras_fsa.commands.train import Train, build_model, train
from keras_fsa.datasets import folder
from keras_fsa.models.preprocessing import STATISTICS
from keras_fsa.training import Recipe
from tests.helpers import BACKEND
from tests.tiny_training import backbone

pytestmark = pytest.mark.once


@pytest.fixture
def settings(tmp_path):
    rng = np.random.default_rng(0)
    for kind in ("images", "masks"):
        (tmp_path / kind).mkdir()
    for i in range(5):
        image = rng.integers(0, 256, (32, 32, 3)).astype("uint8")
        Image.fromarray(image).save(tmp_path / f"images/{i}.png")
        mask = rng.integers(0, 2, (32, 32)).astype("uint8")
        Image.fromarray(mask).save(tmp_path / f"masks/{i}.png")
    backbone().save(tmp_path / "backbone.keras")
    return Train(
        images=tmp_path / "images",
        masks=tmp_path / "masks",
        num_classes=2,
        size=(32, 32),
        batch=2,
        epochs=3,
        head_channels=8,
        frequencies=2,
        backbone=str(tmp_path / "backbone.keras"),
        normalization="tf",
        output=tmp_path / "out",
    )


def test_every_normalization_has_a_flag():
    literal, _ = get_args(get_type_hints(Train)["normalization"])
    assert set(get_args(literal)) == {"auto", *STATISTICS}


def test_a_backbone_in_a_file(settings):
    model = build_model(settings)
    assert model.normalization == "tf" and model.backbone.name == "tiny"
    broken = settings.output.parent / "broken.keras"
    broken.write_bytes(b"weights")
    with pytest.raises(ValueError, match=r"`backbone` does not load. Received: .*broken\.keras"):
        build_model(dataclasses.replace(settings, backbone=str(broken)))
    with pytest.raises(ValueError, match=r"`backbone` must be a name or a file that exists"):
        build_model(dataclasses.replace(settings, backbone="nothing.keras"))


@pytest.mark.parametrize(("gigabytes", "kept"), [(2.0, True), (0.0, False)])
def test_images_are_kept_between_epochs(settings, monkeypatch, gigabytes, kept):
    read, seen = folder.read_mask, []

    def counted(path, *args, **kwargs):
        seen.append(path)
        return read(path, *args, **kwargs)

    monkeypatch.setattr(folder, "read_mask", counted)
    train(dataclasses.replace(settings, cache_gigabytes=gigabytes))
    # Four of five are trained on, two steps an epoch, three epochs; all are checked at first.
    times = sorted(seen.count(path) for path in set(seen))[:4]
    assert times == [2] * 4 if kept else min(times) > 2


def test_without_matplotlib(settings, monkeypatch, capsys):
    """The last thing that is done must not make hours look lost."""
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    train(dataclasses.replace(settings, epochs=1))
    assert "Drawing is off: This needs the package 'matplotlib'" in capsys.readouterr().out
    names = {path.name for path in settings.output.iterdir()}
    assert {"best.keras", "metrics.json"} <= names and "predictions.png" not in names


def test_a_recipe_may_change_its_cache_when_it_resumes():
    recipe = Recipe("camvid")
    assert (
        recipe.what_must_stay() == dataclasses.replace(recipe, cache_gigabytes=1.0).what_must_stay()
    )


def test_a_recipe_keeps_images(monkeypatch):
    """`train_recipe` hands on examples that are read once, those that were chosen."""
    from keras_fsa import datasets
    from keras_fsa.datasets import augment
    from keras_fsa.datasets.examples import Examples

    seen, handed, given = [], [], []
    image, mask = np.zeros((4, 4, 3), "uint8"), np.zeros((4, 4), "uint8")
    examples = Examples(6, lambda i: seen.append(i) or (image.copy(), mask.copy()))
    monkeypatch.setattr(datasets, "load", lambda *a, **k: given.append((a, k)) or examples)
    monkeypatch.setattr(
        augment, "training_batches", lambda examples, *a, **k: handed.append(examples)
    )
    monkeypatch.setattr(recipes, "train", lambda recipe, n, batches, *rest: batches(0, (0, 1)))
    for gigabytes, expected in ((0.0, [0, 2, 4] * 2), (1.0, [0, 2, 4])):
        seen.clear()
        places = {"manual_dir": "archives", "skip_unreadable": True}
        recipe = Recipe("signal_harbor", "data", cache_gigabytes=gigabytes, **places)
        recipes.train_recipe(recipe, choose=lambda part: part[::2])
        assert given[-2:] == [(("signal_harbor", s, "data"), places) for s in ("train", "test")]
        for _ in range(2):
            assert len([handed[-1][i] for i in range(3)]) == 3
        assert seen == expected


def depthwise():
    images = keras.Input((None, None, 3))
    x = keras.layers.Conv2D(4, 3, 4, padding="same")(images)
    x = keras.layers.DepthwiseConv2D(3, padding="same", name="deep")(x)
    return keras.Model(images, {"stage5": x})


@pytest.mark.once(engine="tensorflow")
def test_xla_for_depthwise_convolutions_is_advised_against(recwarn):
    arguments = {"head_channels": 4, "auxiliary_loss_weight": 0, "normalization": "imagenet"}
    model = keras_fsa.FsaNet(2, depthwise(), **arguments)
    model.compile()
    keras_fsa.FsaNet(2, backbone(), **arguments).compile(jit_compile=True)
    assert not [w for w in recwarn if "XLA" in str(w.message)]
    if BACKEND == "tensorflow":
        with pytest.warns(UserWarning, match=r"slower with depthwise.*Received: .*layer 'deep'"):
            model.compile(jit_compile=True)
