"""`keras_fsa benchmark`: which figures come, and from where. How fast it is, no test says."""

import itertools
import re

import keras
import numpy as np
import pytest

import keras_fsa
from keras_fsa.commands import benchmark
from keras_fsa.flops import attention_flops
from tests import tiny_training as tiny

pytestmark = pytest.mark.once


def run(*arguments):
    benchmark.main([str(word) for word in arguments], "benchmark")


def figures(capsys):
    """The value behind each name."""
    lines = capsys.readouterr().out.splitlines()
    return dict(re.match(r" *([a-zA-Z ]+?)  (.*)", line).groups() for line in lines)


def test_times():
    """The first call is apart; a clock that stands still between two readings of a call."""
    readings = iter([0, 9, 10, 11, 20, 24, 30, 32])
    calls = itertools.count()
    first, times = benchmark.timed(lambda: next(calls), 3, lambda: next(readings))
    assert (first, times, next(calls)) == (9, [1, 4, 2], 4)


def test_a_model_of_other_channels(tmp_path, capsys):
    image = keras.Input((None, None, 5))
    keras.Model(image, keras.layers.Conv2D(2, 1)(image)).save(tmp_path / "model.keras")
    run("--model", tmp_path / "model.keras", "--size", 8, 9, "--runs", 1)
    assert figures(capsys)["images"] == "1 of 8 x 9 x 5"


def test_a_model_file(tmp_path, monkeypatch, capsys):
    model = keras_fsa.FsaNet(
        3, tiny.backbone(), frequencies=2, head_channels=6, normalization="imagenet"
    )
    model.save(tmp_path / "model.keras")
    seen = []
    predict = keras_fsa.FsaNet.predict_on_batch
    monkeypatch.setattr(
        keras_fsa.FsaNet, "predict_on_batch", lambda self, x: seen.append(x) or predict(self, x)
    )
    run("--model", tmp_path / "model.keras", "--size", 19, 29, "--batch", 2, "--runs", 3)
    found = figures(capsys)
    assert [x.shape for x in seen] == [(2, 19, 29, 3)] * 4
    assert found["images"] == "2 of 19 x 29 x 3" and "of 3 calls" in found["latency"]
    engine = keras.backend.backend()
    assert found["model"] == f"{tmp_path / 'model.keras'}, on {engine}, CPU"
    median, least = (
        float(number) * {"s": 1, "ms": 1e-3}[unit]
        for number, unit in re.findall(r"([\d.e+-]+) (m?s) ", found["latency"])
    )
    assert 0 < least <= median
    # Both are printed in three digits.
    assert float(found["throughput"].split()[0]) == pytest.approx(2 / median, rel=0.02)
    # The map of stage 5 is an eighth of the image, rounded up by each stride: 4 and 2.
    operations = 2 * attention_flops(model.attention_layer(), 3, 4) / 1e6
    assert found["attention"].endswith(f", {operations:.4g} million operations")
    peak, before = re.findall(r"([\d.]+) [MG]B", found["peak memory"])
    assert float(peak) > 0 and float(before) > 0


def test_the_attention_is_that_of_the_model(monkeypatch):
    """What is timed are the layer of the model, and a model that hands a map through."""
    model = keras_fsa.FsaNet(
        3, tiny.backbone(), frequencies=2, head_channels=6, normalization="imagenet"
    )
    runs = []

    def timed(run, count):
        run()
        runs.append(run.func.__self__)
        return 9.0, [5.0, 3.0, 4.0] if len(runs) == 1 else [1.0, 1.0, 2.0]

    monkeypatch.setattr(benchmark, "timed", timed)
    seconds, _ = benchmark.attention(model, (2, 19, 29, 3), 3)
    assert seconds == 3.0
    assert [part.input.shape for part in runs] == [(None, 3, 4, 6)] * 2
    assert runs[0].layers[-1] is model.attention_layer()
    assert isinstance(runs[1].layers[-1], keras.layers.Identity)


def test_presets_and_exported_models(monkeypatch, tmp_path, capsys):
    run("--model", "signal_harbor", "--size", 31, 41, "--runs", 1)
    assert "million operations" in figures(capsys)["attention"]

    def exported(images):
        return np.zeros((*images.shape[:3], 2), "float32")

    (tmp_path / "saved").mkdir()
    monkeypatch.setattr(benchmark, "load_model", lambda path: exported)
    run("--model", tmp_path / "saved", "--size", 5, 7)
    found = figures(capsys)
    assert found["model"].endswith("saved, on its own runtime") and "attention" not in found
    assert "of 20 calls" in found["latency"]


def test_wrong_flags(capsys):
    for flags, message in (
        (["--model", "nothing"], "`--model` must be a trained network, published settings, or"),
        (["--model", "signal_harbor", "--runs", "0"], "`--runs` must be a positive int"),
        (["--model", "signal_harbor", "--size", "0", "3"], "`--size` must be a positive int"),
    ):
        with pytest.raises(SystemExit) as stop:
            run("--size", 5, 7, *flags)
        assert stop.value.code == 2 and message in capsys.readouterr().err
