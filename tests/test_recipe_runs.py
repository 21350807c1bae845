"""The benchmark recipes' harness, on drawn images and a tiny network: killed, resumed, counted."""

import dataclasses
import json
import sys

import keras
import pytest
from PIL import Image

import keras_fsa
from benchmarks import operations, recipes, sections
from keras_fsa.backbones.features import build_backbone
from keras_fsa.datasets import signal_harbor
from tests.tiny_training import backbone

pytestmark = pytest.mark.once

CROP = (32, 40)
FULL = dataclasses.replace(
    recipes.RECIPES["cityscapes"],
    dataset="signal_harbor",
    crop=CROP,
    steps=60,
    batch=4,
    ohem_keep=400,
    head_channels=8,
    frequencies=2,
    validation_size=None,
)
CHILD = """
import sys
from benchmarks import recipes
from tests import test_recipe_runs

test_recipe_runs.make_tiny(setattr)
recipes.main(sys.argv[1:])
"""


def make_tiny(replace):
    """Put a tiny recipe in the place of the benchmarks', by `setattr` or one that is undone."""

    def build(recipe, num_classes):
        return keras_fsa.FsaNet(
            num_classes,
            backbone(),
            frequencies=recipe.frequencies,
            recurrence=recipe.recurrence,
            head_channels=recipe.head_channels,
        )

    replace(signal_harbor, "SPLITS", {"train": 3, "test": 1})
    replace(recipes, "RECIPES", {"cityscapes": FULL})
    replace(recipes, "build_model", build)
    replace(recipes, "COMMAND", [sys.executable, "-c", CHILD])
    replace(sections, "NETWORKS", {"tiny": "Tiny", "resnet101": "ResNet101"})


def forward_by_hand(classes):
    """Operations of the tiny network for a crop: stage 4 is 8 x 10, stage 5 is 4 x 5."""
    backbone_ = 9 * 3 * 8 * 80 + 9 * 8 * 8 * 20
    head = 9 * 8 * 8 * 20 + 9 * 8 * 8 * 20 + 9 * 16 * 8 * 20 + 8 * classes * 20
    auxiliary = 9 * 8 * 4 * 80 + 4 * classes * 80
    # Two frequencies on each axis: 4 tokens of 8 channels, queries and keys of 2.
    transform = 8 * 2 * 20 + 8 * 2 * 2 * 4
    token_maps, mixing = 4 * 8 * (2 + 2 + 8), 2 * 4 * 2 * 8
    attention = 2 * transform + 2 * (token_maps + mixing)
    return 2 * (backbone_ + head + auxiliary + attention)


def test_a_run_that_is_killed_and_its_page(tmp_path, monkeypatch, capfd):
    make_tiny(monkeypatch.setattr)
    monkeypatch.setenv("PYTHONPATH", str(recipes.ROOT))
    flags = ["--recipe", "cityscapes", "--backbone", "tiny", "--steps", "4", "--batch", "2"]
    flags += ["--output", str(tmp_path / "runs"), "--plot", str(tmp_path / "losses.png")]
    flags += ["--results", str(tmp_path / "recipes"), "--batch-norm", "batch"]
    recipes.main(flags)
    out = capfd.readouterr().out
    assert "Killed after step 2." in out and "Resuming from step 2 of" in out
    file = tmp_path / "recipes/cityscapes_tiny.json"
    assert str(tmp_path) not in file.read_text()
    result = json.loads(file.read_text())
    assert result["starts"] == [0, 2] and list(result["losses"]) == ["1", "2", "3", "4"]
    assert list(result["validations"]) == ["2", "4"]
    assert result["memory"] > 1e7 and len(result["seconds_of_first_steps"]) == 2
    assert all(seconds > 0 for seconds in result["seconds_per_step"].values())
    assert result["changed"]["learning_rate"] == [0.01, 0.005]
    assert result["changed"]["ohem_keep"] == [400, 200]
    assert result["changed"]["batch_norm"] == ["moving", "batch"]
    assert result["command"].endswith("--steps 4 --batch 2 --batch-norm batch")
    assert "crop" not in result["changed"]
    assert result["forward_operations"] == forward_by_hand(10)
    assert result["whole"]["images"] == 60 * 4

    steps = (tmp_path / "runs/cityscapes_tiny/clock.jsonl").read_text()
    recipes.main(flags)  # has ended: nothing is trained
    assert (tmp_path / "runs/cityscapes_tiny/clock.jsonl").read_text() == steps

    assert Image.open(tmp_path / "losses.png").size[0] > 500
    lines = recipes.plot([result]).axes[0].get_lines()
    assert list(lines[0].get_ydata()) == list(result["losses"].values())
    assert list(lines[1].get_xdata()) == [2, 2]

    losses = list(result["losses"].values())
    page = sections.recipes(tmp_path)
    assert "| cityscapes, Tiny | random | 32x40 | 2 | 0.005 | 4 | 2 + 2 |" in page
    assert f"| {losses[0]:.2f} to {losses[-1]:.2f} |" in page
    # Forward and twice that backward, 240 crops.
    total = 3 * forward_by_hand(10) * 240
    estimate = sections.recipes_estimate(tmp_path)
    assert f"| cityscapes, ResNet101 | 240 | 0 G | {total:.1e} |".replace("+", "") in estimate
    assert "| 1 A100, TF32 | 156 | 938 | 15 % |" in estimate
    cpu = result["seconds_per_step"]["cpu"]
    assert sections.sustained(result) == pytest.approx(total / 240 * 2 / cpu)


def test_hours_of_an_estimate():
    """938 images a second of 3 x 8.178 GFLOP are 23.0 TFLOP/s, 14.75 % of 156."""
    (one, eight, *_) = operations.GPUS
    assert one.efficiency == pytest.approx(0.1475, abs=1e-4)
    assert operations.training_seconds(1e18, one) == pytest.approx(1e18 / 23.01e12, rel=1e-3)
    faster = operations.training_seconds(1e18, one) / operations.training_seconds(1e18, eight)
    assert faster == pytest.approx(7248 / 938)


def test_operations_of_a_published_network():
    """ResNet50 with its stride in the 1x1: 3.8e9 multiply-adds, He et al., arXiv 1512.03385."""
    model = build_backbone("resnet50", (None, None, 3), 32, "float32")
    count, _ = operations.network_operations(model, keras.KerasTensor((1, 224, 224, 3)))
    assert count == pytest.approx(2 * 3.8e9, rel=0.02)


def test_operations_of_other_convolutions():
    x = images = keras.Input((11, 13, 4))
    x = keras.layers.DepthwiseConv2D(3, depth_multiplier=2)(x)  # 9 x 11 x 8
    x = keras.layers.Conv2D(6, 5, strides=2, groups=2, padding="same")(x)  # 5 x 6 x 6
    model = keras.Model(images, keras.layers.ReLU()(x))
    count, _ = operations.network_operations(model, keras.KerasTensor((1, 11, 13, 4)))
    assert count == 2 * (9 * 11 * 8 * 9 + 5 * 6 * 6 * 25 * 4)
    dense = keras.Model(images, keras.layers.Dense(3)(images))
    with pytest.raises(ValueError, match=r"known of convolutions. Received: <Dense"):
        operations.network_operations(dense, keras.KerasTensor((1, 11, 13, 4)))


def test_steps_must_be_even(capsys):
    with pytest.raises(SystemExit):
        recipes.parse(["--recipe", "cityscapes", "--steps", "3"])
    assert "--steps must be even" in capsys.readouterr().err
