"""A training that is killed at any moment goes on as if it had not been."""

import signal
import subprocess
import sys

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_fsa.training.checkpoint import atomic_file, restore_checkpoint, save_checkpoint
from tests import tiny_training
from tests.helpers import array

# What a process of the training does before it begins, and so where it dies.
KILLS = {
    # While the fifth step runs: it takes some milliseconds.
    "step": """
from keras_fsa.training import loop
def begin(self, batch, logs=None):
    if self.step == 4:
        threading.Timer(0.001, kill).start()
loop._Progress.on_train_batch_begin = begin
""",
    # While the checkpoint of the eighth step is written.
    "write": """
savez = np.savez
def half(file, **arrays):
    if json.loads(arrays["header"].tobytes())["step"] == 8:
        whole = io.BytesIO()
        savez(whole, **arrays)
        file.write(whole.getvalue()[: len(whole.getvalue()) // 2])
        file.flush()
        kill()
    savez(file, **arrays)
np.savez = half
""",
    # While the trained network is written.
    "model": """
save = keras_fsa.FsaNet.save
def half(self, path, **kwargs):
    path.write_bytes(b"half")
    kill()
keras_fsa.FsaNet.save = half
""",
    "none": "",
}
TRAIN = """
import io, json, os, signal, sys, threading
import numpy as np
import keras_fsa
from tests import tiny_training

def kill():
    os.kill(os.getpid(), signal.SIGKILL)
    threading.Event().wait()
{}
tiny_training.run(sys.argv[1], steps=11)
"""


def test_killed_anywhere_it_ends_as_if_it_had_not_been(tmp_path):
    killed, whole = tmp_path / "killed", tmp_path / "whole"
    left = {"step": 4, "write": 6, "model": 11, "none": 11}
    cache = {"JAX_COMPILATION_CACHE_DIR": str(tmp_path / "jax")}
    cache["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"
    for moment, code in KILLS.items():
        done = run(TRAIN.format(code), killed, **cache)
        expected = 0 if moment == "none" else -signal.SIGKILL
        assert done.returncode == expected, (moment, done.stderr)
        with np.load(killed / "checkpoint.npz") as file:  # complete, whatever was going on
            header = file["header"].tobytes().decode()
            assert f'"step": {left[moment]},' in header
            assert all(np.isfinite(file[name]).all() for name in file.files)
    done = run(TRAIN.format(""), whole, **cache)
    assert done.returncode == 0, done.stderr
    with np.load(killed / "checkpoint.npz") as file, np.load(whole / "checkpoint.npz") as other:
        assert file.files == other.files
        for name in file.files[1:]:
            # Bit by bit: dropout, momentum and data included. One thread sums in one order.
            np.testing.assert_array_equal(file[name], other[name])
    models = [keras.saving.load_model(path / "model.keras") for path in (killed, whole)]
    for one, two in zip(*(model.weights for model in models), strict=True):
        np.testing.assert_array_equal(array(one), array(two))
    columns = [
        [line.split(",")[:5] for line in (path / "history.csv").read_text().splitlines()]
        for path in (killed, whole)
    ]
    assert columns[0] == columns[1]
    assert not (killed / "checkpoint.npz.partial").exists()


def run(code, output, **environment):
    from os import environ

    return subprocess.run(
        [sys.executable, "-c", code, str(output)],
        env={**environ, **environment},
        capture_output=True,
        text=True,
    )


def test_a_finished_training_is_not_trained_again(tmp_path):
    model = tiny_training.run(tmp_path, steps=2)
    (tmp_path / "model.keras").unlink()

    def no_data(step):
        raise AssertionError

    again = tiny_training.run(tmp_path, steps=2, data=no_data)
    for one, two in zip(model.weights, again.weights, strict=True):
        np.testing.assert_array_equal(array(one), array(two))
    assert (tmp_path / "model.keras").exists()

    with pytest.raises(ValueError, match="steps=2 there and 4 here") as error:
        tiny_training.run(tmp_path, steps=4)
    assert "another --output" in str(error.value)
    before = (tmp_path / "checkpoint.npz").read_bytes()
    with pytest.raises(ValueError, match=r"kernel of shape \(3, 3, 3, 8\) there .*\(3, 3, 3, 16\)"):
        tiny_training.run(tmp_path, steps=2, width=16)
    assert (tmp_path / "checkpoint.npz").read_bytes() == before


def test_another_number_of_weights(tmp_path):
    path = tmp_path / "checkpoint.npz"
    one, two = compiled(1), compiled(2)
    save_checkpoint(path, two, 3, {"a": (1, 2)}, [{"b": 1}])
    before = [array(w) for w in one.weights]
    with pytest.raises(ValueError, match=r"dense[_0-9]*/bias there only"):
        restore_checkpoint(path, one, {"a": (1, 2)})
    assert all((array(w) == b).all() for w, b in zip(one.weights, before, strict=True))
    assert restore_checkpoint(path, two, {"a": (1, 2)}) == (3, [{"b": 1}])
    path.write_bytes(path.read_bytes()[:-50])
    with pytest.raises(ValueError, match="must be a complete file.*Remove it to start anew"):
        restore_checkpoint(path, two, {"a": (1, 2)})


def compiled(count):
    model = keras.Sequential([keras.Input((3,))] + [keras.layers.Dense(3) for _ in range(count)])
    model.compile("sgd", "mse")
    model.optimizer.build(model.trainable_variables)
    return model


def test_not_a_number_stops_and_keeps_the_last_checkpoint(tmp_path):
    def data(step):
        batches = tiny_training.batches(step)
        index = tf.data.Dataset.counter(step)

        def spoil(n, batch):
            picture = tf.cast(batch[0], "float32")
            return tf.where(n == 4, float("nan"), picture), batch[1]

        return tf.data.Dataset.zip(index, batches).map(spoil)

    # Moving statistics: of the batch, they would be NaN from then on, too.
    with pytest.raises(FloatingPointError, match=r"Received: loss=nan in step 5. .*npz stands"):
        tiny_training.run(tmp_path, data=data, steps=6, batch_norm="moving")
    with np.load(tmp_path / "checkpoint.npz") as file:
        assert '"step": 4,' in file["header"].tobytes().decode()
    model = tiny_training.run(tmp_path, steps=6, batch_norm="moving")
    assert all(np.isfinite(array(w)).all() for w in model.weights)


def test_weights_that_are_not_finite_are_not_written(tmp_path):
    model = compiled(1)
    model.weights[1].assign([1, np.inf, 2])
    with pytest.raises(FloatingPointError, match=r"Received: .*bias with NaN .* after step 9"):
        save_checkpoint(tmp_path / "checkpoint.npz", model, 9, {})
    assert not list(tmp_path.iterdir())


def test_a_file_that_fails_leaves_the_old_one(tmp_path):
    path = tmp_path / "file"
    path.write_text("old")
    with pytest.raises(RuntimeError), atomic_file(path) as file:
        file.write(b"half")
        raise RuntimeError
    assert path.read_text() == "old" and [p.name for p in tmp_path.iterdir()] == ["file"]
