"""The table of dtype policies, on a tiny model."""

import re
import runpy
import sys
from pathlib import Path

import keras
import numpy as np
from PIL import Image

from tests.helpers import randomize
from tests.test_inference import small_model

EXAMPLE = Path(__file__).parent.parent / "examples/precision.py"
POLICIES = ["float32", "bfloat16"]


def test_table(rng, tmp_path, monkeypatch, capsys):
    # Wide enough for weights to be most of the file.
    model = randomize(small_model(head_channels=64), rng, 0.1)
    model.save(tmp_path / "model.keras")
    (tmp_path / "images").mkdir()
    for i in range(2):
        image = rng.integers(0, 256, (40, 56, 3)).astype("uint8")
        Image.fromarray(image).save(tmp_path / f"images/{i}.png")
    arguments = ["precision.py", tmp_path / "images", "--model", tmp_path / "model.keras"]
    arguments += ["--size", 24, 32, "--save", tmp_path / "saved", "--policies", *POLICIES]
    monkeypatch.setattr(sys, "argv", [str(a) for a in arguments])
    runpy.run_path(str(EXAMPLE), run_name="__main__")
    out = capsys.readouterr().out
    row = r"^\| (\w+) \| ([\d.]+) \| \d+ \| ([\d.]+) % \|$"
    rows = {name: (float(size), float(same)) for name, size, same in re.findall(row, out, re.M)}
    assert list(rows) == POLICIES and rows["float32"][1] == 100
    size, same = rows["bfloat16"]
    assert 0.45 < size / rows["float32"][0] < 0.75 and same > 96
    saved = keras.saving.load_model(tmp_path / "saved/bfloat16.keras")
    for layer in (saved.backbone.layers[1], saved.head.get_layer("fuse_conv")):
        assert layer.dtype_policy.name == "bfloat16"
    assert {w.dtype for w in saved.backbone.weights} == {"bfloat16"}
    # Logits and gains stay float32: each weight is rounded to what it is stored in.
    for weight, stored in zip(model.get_weights(), saved.get_weights(), strict=True):
        np.testing.assert_array_equal(stored, weight.astype(stored.dtype))
