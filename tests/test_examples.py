"""The examples run end to end, on a little data."""

import json
import runpy
import sys
from pathlib import Path

import keras
import numpy as np
import pytest
from PIL import Image

EXAMPLES = Path(__file__).parent.parent / "examples"


@pytest.fixture
def run(monkeypatch):
    def run(name, *arguments):
        monkeypatch.setattr(sys, "argv", [name, *map(str, arguments)])
        # Examples may import each other, as scripts of one folder do.
        monkeypatch.syspath_prepend(str(EXAMPLES))
        runpy.run_path(str(EXAMPLES / name), run_name="__main__")

    return run


@pytest.fixture
def small_harbour(monkeypatch):
    from keras_fsa.datasets import signal_harbor

    monkeypatch.setattr(signal_harbor, "SPLITS", {"train": 32, "test": 16})


def test_quickstart(run, small_harbour, tmp_path, capsys):
    # As an earlier run leaves it.
    (tmp_path / "saved_model" / "variables").mkdir(parents=True)
    for name in ("fsanet.keras", "prediction.png", "saved_model/saved_model.pb"):
        (tmp_path / name).write_text("old")
    run("quickstart.py", "--epochs", 1, "--data-dir", tmp_path / "data", "--output", tmp_path)
    out = capsys.readouterr().out
    assert "IoU on 16 test images" in out and "inbound" in out
    difference = float(out.split("logits differ by at most ")[1].split(".\n")[0])
    assert difference < 1e-4
    assert keras.saving.load_model(tmp_path / "fsanet.keras").num_classes == 10
    assert (tmp_path / "saved_model" / "saved_model.pb").stat().st_size > 1000
    assert Image.open(tmp_path / "prediction.png").size[0] > 1000


@pytest.mark.once
def test_quickstart_from_the_preset(run, small_harbour, tmp_path, capsys, monkeypatch):
    # As where TensorFlow is missing: the export has its test above.
    monkeypatch.setattr("importlib.util.find_spec", lambda name, *rest: None)
    flags = ("--epochs", 1, "--data-dir", tmp_path / "data", "--output", tmp_path)
    run("quickstart.py", "--from-preset", *flags)
    out = capsys.readouterr().out
    assert "Training without attention" in out and "Training with frequency" not in out
    line = next(line.split() for line in out.splitlines() if line.split()[:1] == ["inbound"])
    assert float(line[2]) > 0.8


@pytest.mark.once
def test_ablate_frequencies(run, small_harbour, tmp_path, capsys):
    run(
        "ablate_frequencies.py",
        *("--epochs", 1, "--frequencies", 2, 8, 99, "--affinity", "linear"),
        *("--data-dir", tmp_path / "data", "--output", tmp_path),
    )
    assert "k = 99 is left out" in capsys.readouterr().out
    lines = (tmp_path / "frequencies.md").read_text().splitlines()[2:]
    table = {
        k: [float(x) for x in row] for k, *row in (line.strip("| ").split(" | ") for line in lines)
    }
    assert list(table) == ["as trained", "2", "8"]
    assert all(0 < iou <= 1 for iou, _, _ in table.values())
    flops = [table[k][1] for k in ("2", "8", "as trained")]
    assert flops == sorted(flops) and flops[0] < flops[-1] / 10
    assert Image.open(tmp_path / "frequencies.png").size[0] > 1000


def test_train_folder(run, tmp_path):
    rng = np.random.default_rng(0)
    for folder in ("images", "masks"):
        (tmp_path / folder).mkdir()
    for i in range(6):
        height, width = 40 + 7 * i, 90 - 5 * i
        image = rng.integers(0, 256, (height, width, 3)).astype("uint8")
        Image.fromarray(image).save(tmp_path / f"images/{i}.jpg")
        mask = rng.choice([0, 1, 9], (height, width)).astype("uint8")
        Image.fromarray(mask).save(tmp_path / f"masks/{i}.png")
    run(
        "train_folder.py",
        *("--images", tmp_path / "images", "--masks", tmp_path / "masks", "--num-classes", 2),
        *("--ignore-label", 9, "--size", 64, 64, "--val-fraction", 0.34, "--batch", 2),
        *("--epochs", 1, "--head-channels", 8, "--output", tmp_path / "out"),
    )
    metrics = json.loads((tmp_path / "out/metrics.json").read_text())
    assert metrics["train_images"] == 4 and metrics["val_images"] == 2
    assert 0 <= metrics["mean_iou"] <= 1 and len(metrics["iou"]) == 2
    for name in ("model.keras", "history.csv", "predictions.png"):
        assert (tmp_path / "out" / name).stat().st_size > 0
