"""A training that is killed at any moment goes on as if it had not been."""

import signal
import subprocess
import sys

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_fsa.files import whole_file
from keras_fsa.training.checkpoint import restore_checkpoint, save_checkpoint
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
    "none": "",
}
TRAIN = """
import io, json, os, signal, sys, threading
import numpy as np
from tests import tiny_training

def kill():
    os.kill(os.getpid(), signal.SIGKILL)
    threading.Event().wait()
{}
tiny_training.run(sys.argv[1], steps=9)
"""


def test_killed_anywhere_it_ends_as_if_it_had_not_been(tmp_path):
    killed, whole = tmp_path / "killed", tmp_path / "whole"
    left = {"step": 4, "write": 6, "none": 9}
    for moment, code in KILLS.items():
        done = run(TRAIN.format(code), killed)
        expected = 0 if moment == "none" else -signal.SIGKILL
        assert done.returncode == expected, (moment, done.stderr)
        with np.load(killed / "checkpoint.npz") as file:  # complete, whatever was going on
            header = file["header"].tobytes().decode()
            assert f'"step": {left[moment]},' in header
            assert all(np.isfinite(file[name]).all() for name in file.files)
    tiny_training.run(whole, steps=9)
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
    assert not list(killed.rglob("*.partial*"))


def run(code, output):
    return subprocess.run(
        [sys.executable, "-c", code, str(output)],
        capture_output=True,
        text=True,
    )


def test_a_finished_training_is_not_trained_again(tmp_path):
    model = tiny_training.run(tmp_path, steps=2)
    (tmp_path / "model.keras").unlink()

    def no_data(step, part):
        raise AssertionError

    again = tiny_training.run(tmp_path, steps=2, data=no_data)
    for one, two in zip(model.weights, again.weights, strict=True):
        np.testing.assert_array_equal(array(one), array(two))
    assert (tmp_path / "model.keras").exists()


def test_another_architecture_or_other_settings(tmp_path):
    path, settings = tmp_path / "checkpoint.npz", {"crop": (1, 2), "steps": 3}
    model = compiled(3, 3)
    save_checkpoint(path, model, 3, settings, [{"loss": 1.5}])
    assert restore_checkpoint(path, model, settings) == (3, [{"loss": 1.5}])
    for other, found in (
        (compiled(3), r"dense[_0-9]*/bias there only"),
        (compiled(3, 3, 3), r"dense[_0-9]*/kernel here only"),
        (compiled(3, 4), r"kernel of shape \(3, 3\) there and .* of shape \(3, 4\) here"),
        (compiled(3, 3, optimizer="adam"), r"velocity here only"),
    ):
        before = [array(w) for w in other.weights]
        with pytest.raises(ValueError, match=rf"{found}.* Give the same settings, or another --o"):
            restore_checkpoint(path, other, settings)
        for weight, value in zip(other.weights, before, strict=True):
            np.testing.assert_array_equal(array(weight), value)
    with pytest.raises(ValueError, match=r"Received: .*with steps=3 there and 4 here"):
        restore_checkpoint(path, model, {**settings, "steps": 4})

    path.write_bytes(path.read_bytes()[:-50])
    with pytest.raises(ValueError, match="must be a complete file.*Remove it to start anew"):
        restore_checkpoint(path, model, settings)


def compiled(*widths, optimizer="sgd"):
    model = keras.Sequential([keras.Input((3,))] + [keras.layers.Dense(n) for n in widths])
    model.compile(optimizer, "mse")
    model.optimizer.build(model.trainable_variables)
    return model


def test_not_a_number_stops_and_keeps_the_last_checkpoint(tmp_path):
    def data(step, part):
        batches = tiny_training.batches(step, part)
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
    model = compiled(3)
    model.weights[1].assign([1, np.inf, 2])
    with pytest.raises(FloatingPointError, match=r"Received: .*bias with NaN .* after step 9"):
        save_checkpoint(tmp_path / "checkpoint.npz", model, 9, {})
    assert not list(tmp_path.iterdir())


def test_a_file_that_fails_leaves_the_old_one(tmp_path):
    path = tmp_path / "file"
    path.write_text("old")
    with pytest.raises(RuntimeError), whole_file(path) as temporary:
        temporary.write_text("half")
        raise RuntimeError
    assert path.read_text() == "old" and [p.name for p in tmp_path.iterdir()] == ["file"]
    with whole_file(path) as temporary:
        temporary.write_text("new")
    assert path.read_text() == "new" and [p.name for p in tmp_path.iterdir()] == ["file"]
