"""Two devices train as one does at the same global batch: virtual CPU devices, gloo processes."""

import csv
import os
import socket
import subprocess
import sys

import numpy as np
import pytest

from keras_fsa.training import devices
from tests.helpers import BACKEND, run_python

# Dropout draws other noise for each device, and a batch is then no longer what it was.
TRAIN = """
import sys
import numpy as np
from tests import tiny_training

def train(output, devices, batch_norm):
    tiny_training.run(
        output, steps=5, checkpoint_every=5, validate_every=5, dropout=0.0, validation=5,
        validation_batch=2, devices=devices, batch_norm=batch_norm,
    )
"""
STATISTICS = """
import keras
from keras_fsa.training import fit
from keras_fsa.training.devices import find_devices

def batches(step, part):
    while True:
        yield 2 * (np.full((2, 4, 4, 3), 1.0 + 2 * part[0], "float32"),)

norm = keras.layers.BatchNormalization(momentum=0.9)
model = keras.Sequential([keras.Input((4, 4, 3)), norm])
model.compile("sgd", "mean_squared_error")
found = find_devices("all")
fit(model, batches, "{0}/statistics", 2, checkpoint_every=2, devices=found)
np.save("{0}/mean" + str(found.process), keras.ops.convert_to_numpy(norm.moving_mean))
"""
TWO_DEVICES = {
    "jax": "",
    "tensorflow": """
import tensorflow as tf
cpu = tf.config.list_physical_devices("CPU")[0]
tf.config.set_logical_device_configuration(cpu, 2 * [tf.config.LogicalDeviceConfiguration()])
""",
}


def row(output):
    (found,) = csv.DictReader((output / "history.csv").open())
    return found


def assert_same(one, two):
    for name in ("loss", "val_mean_iou"):
        np.testing.assert_allclose(float(row(one)[name]), float(row(two)[name]), atol=1e-4)
    with np.load(one / "checkpoint.npz") as first, np.load(two / "checkpoint.npz") as second:
        assert first.files == second.files
        for name in first.files[1:]:
            if first[name].dtype == "float32":  # not the iterations, nor the random states
                np.testing.assert_allclose(first[name], second[name], atol=1e-4, rtol=1e-4)


@pytest.mark.skipif(BACKEND == "torch", reason="torch takes processes, in the test below")
@pytest.mark.parametrize("batch_norm", ["moving", "batch"])
def test_two_virtual_devices_equal_one(tmp_path, batch_norm):
    code = TWO_DEVICES[BACKEND] + TRAIN
    for name in ("one", "all"):
        code += f"train({str(tmp_path / name)!r}, {name!r}, {batch_norm!r})\n"
    run_python(code, XLA_FLAGS="--xla_force_host_platform_device_count=2")
    assert_same(tmp_path / "one", tmp_path / "all")


@pytest.mark.skipif(BACKEND != "torch", reason="the other backends take one process")
def test_two_processes_equal_one(tmp_path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    both = tmp_path / "all"
    code = TRAIN + f"train({str(both)!r}, 'all', 'moving')\n" + STATISTICS.format(str(tmp_path))
    environment = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": "2"}
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", code],
            env={**os.environ, **environment, "RANK": rank, "LOCAL_RANK": rank},
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in "01"
    ]
    namespace = {}
    exec(TRAIN, namespace)
    namespace["train"](tmp_path / "one", "one", "moving")
    for process in processes:
        _, errors = process.communicate(timeout=120)
        assert process.returncode == 0, errors
    assert_same(tmp_path / "one", both)
    means = [np.load(tmp_path / f"mean{rank}.npy") for rank in "01"]
    np.testing.assert_array_equal(*means)
    # Two steps, each of whose means is 1 in one process and 3 in the other.
    np.testing.assert_allclose(means[0], 2 * (1 - 0.9**2), rtol=1e-6)


def test_a_batch_that_does_not_divide(tmp_path, monkeypatch):
    from keras_fsa.training import loop
    from tests import tiny_training

    monkeypatch.setattr(loop, "find_devices", lambda _: devices.Devices(count=3))
    with pytest.raises(ValueError, match=r"multiple of .* Received: batch=4 on 3 devices. Change"):
        tiny_training.run(tmp_path, devices="all")


@pytest.mark.skipif(BACKEND != "torch", reason="the other backends take one process")
def test_several_gpus_without_torchrun(monkeypatch):
    import torch

    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.delenv("RANK", raising=False)
    with pytest.raises(ValueError, match=r"Received: devices='all' with 2 GPUs .*Run: torchrun"):
        devices.find_devices("all")
