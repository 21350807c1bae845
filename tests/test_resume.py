"""A training that is killed at any moment goes on as if it had not been."""

import csv
import io
import json
import signal
import subprocess
import sys

import keras
import numpy as np
import pytest

from keras_fsa.training.checkpoint import (
    DamagedCheckpoint,
    previous,
    restore_checkpoint,
    save_checkpoint,
)
from tests import tiny_training
from tests.helpers import array

# What a process of the training does before it begins, and so where it dies.
KILLS = {
    # While the fifth step runs: it takes some milliseconds.
    "step": """
import keras
from keras_fsa.training import callbacks
class Killer(callbacks.StopAtNonFinite):
    def on_train_batch_begin(self, batch, logs=None):
        if self.step == 4:
            threading.Timer(0.001, kill).start()
callbacks.StopAtNonFinite = Killer
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
        for name in set(file.files) - {"header", "sha256"}:  # which know the seconds
            # Bit by bit: dropout, momentum and data included. One thread sums in one order.
            np.testing.assert_array_equal(file[name], other[name])
    models = [keras.saving.load_model(path / "model.keras") for path in (killed, whole)]
    for one, two in zip(*(model.weights for model in models), strict=True):
        np.testing.assert_array_equal(array(one), array(two))
    columns = [list(csv.DictReader((path / "history.csv").open())) for path in (killed, whole)]
    for rows in columns:
        for row in rows:
            del row["seconds_per_step"]
    assert columns[0] == columns[1] and len(columns[0]) == 5
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
        with pytest.raises(ValueError, match=rf"{found}.* Pass the same settings, or another --o"):
            restore_checkpoint(path, other, settings)
        for weight, value in zip(other.weights, before, strict=True):
            np.testing.assert_array_equal(array(weight), value)
    with pytest.raises(ValueError, match=r"Received: .*with steps=3 there and 4 here"):
        restore_checkpoint(path, model, {**settings, "steps": 4})


def damaged(content, header=None, array=None, **changes):
    """A checkpoint's bytes with another header, or another first array, and a right checksum."""
    with np.load(io.BytesIO(content)) as file:
        arrays = dict(file)
    found = json.loads(arrays["header"].tobytes())
    found.update(changes)
    text = json.dumps(found if header is None else header).encode()
    arrays["header"] = np.frombuffer(text, "uint8")
    if array is not None:
        arrays["0"] = array
    del arrays["sha256"]
    file = io.BytesIO()
    np.savez(file, **arrays)
    return file.getvalue()


def first_byte(content):
    return bytes([content[0] ^ 1]) + content[1:]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (first_byte, "BadZipFile"),
        (lambda content: content[:-50], "BadZipFile"),
        (lambda content: b"", "BadZipFile"),
        (lambda content: damaged(content, step=-3), "its step is -3"),
        (lambda content: damaged(content, step=True), "its step is True"),
        (lambda content: damaged(content, step="3"), "its step is '3'"),
        (lambda content: damaged(content, header=[1]), "its header is not an object"),
        (lambda content: damaged(content, header={}), "KeyError: 'step'"),
        (lambda content: damaged(content, settings=[]), "its settings are not an object"),
        (lambda content: damaged(content, history=7), "its history is not a list"),
        (lambda content: damaged(content, history=[7]), "its history does not consist of objects"),
        (lambda content: damaged(content, weights=[[1, 2, 3]]), "describes a variable by"),
        (lambda content: damaged(content, weights=[5]), "TypeError"),
        (lambda content: damaged(content, array=np.full((3, 3), np.nan)), "NaN or infinity"),
        (lambda content: damaged(content, array=np.ones((3, 2))), r"in the shape \(3, 2\)"),
        (lambda content: damaged(content, array=np.ones((99, 99))), "0 is not stored as expected"),
        (lambda content: damaged(content, array=np.array([None])), "not an array of its size"),
    ],
)
def test_files_that_are_no_checkpoint(tmp_path, change, message):
    path, model = tmp_path / "checkpoint.npz", compiled(3, 3)
    save_checkpoint(path, model, 3, {}, [{"loss": 1.5}])
    path.write_bytes(change(path.read_bytes()))
    before = [array(w) for w in model.weights]
    with pytest.raises(ValueError, match=rf"must be a complete file.*{message}") as error:
        restore_checkpoint(path, model, {})
    assert "allow_pickle" not in str(error.value)
    for weight, value in zip(model.weights, before, strict=True):
        np.testing.assert_array_equal(array(weight), value)


def test_every_flipped_byte_of_the_contents_is_noticed(tmp_path):
    """Or it changes nothing: archives have fields that no reader needs."""
    path, model = tmp_path / "checkpoint.npz", compiled(3, 3)
    save_checkpoint(path, model, 3, {"a": 1}, [{"loss": 1.5}])
    content = path.read_bytes()
    before = [array(w) for w in model.weights]
    noticed = 0
    for place in range(0, len(content), 13):
        path.write_bytes(content[:place] + bytes([content[place] ^ 4]) + content[place + 1 :])
        try:
            assert restore_checkpoint(path, model, {"a": 1}) == (3, [{"loss": 1.5}])
        except ValueError:
            noticed += 1
        for weight, value in zip(model.weights, before, strict=True):
            np.testing.assert_array_equal(array(weight), value)
    assert noticed > 0.5 * len(range(0, len(content), 13))


def test_the_checksum_is_verified(tmp_path):
    """Where the archive's own checksums are right."""
    path, model = tmp_path / "checkpoint.npz", compiled(3, 3)
    save_checkpoint(path, model, 3, {})
    with np.load(path) as file:
        arrays = dict(file)
    arrays["0"] = arrays["0"] + 1
    np.savez(path, **arrays)
    with pytest.raises(DamagedCheckpoint, match="its checksum is wrong"):
        restore_checkpoint(path, model, {})
    del arrays["sha256"]  # as version 0.1.0 wrote them
    np.savez(path, **arrays)
    assert restore_checkpoint(path, model, {})[0] == 3


def test_a_damaged_checkpoint_falls_back_to_the_one_before(tmp_path):
    path = tmp_path / "checkpoint.npz"
    whole = tiny_training.run(tmp_path / "whole", steps=6)
    tiny_training.run(tmp_path, steps=6)
    (tmp_path / "model.keras").unlink()
    path.write_bytes(first_byte(path.read_bytes()))
    with pytest.warns(UserWarning, match=r"must be a complete .* Continuing from .*previous.npz"):
        model = tiny_training.run(tmp_path, steps=6)
    for one, two in zip(model.weights, whole.weights, strict=True):
        np.testing.assert_array_equal(array(one), array(two))
    restored = restore_checkpoint(
        path, model, tiny_training.recipe(tmp_path).what_must_stay() | {"steps": 6}
    )
    assert restored[0] == 6 and len(restored[1]) == 3
    # The damaged file did not take the place of the good one before it.
    with np.load(previous(path)) as file:
        assert '"step": 4,' in file["header"].tobytes().decode()
    path.unlink()  # killed between the two renames
    with pytest.warns(UserWarning, match="Continuing from"):
        tiny_training.run(tmp_path, steps=6)
    for file in (path, previous(path)):
        file.write_bytes(b"")
    with pytest.raises(ValueError, match=r"must be a complete file.* choose another output"):
        tiny_training.run(tmp_path, steps=6)


def test_a_step_below_zero_is_not_written(tmp_path):
    with pytest.raises(ValueError, match=r"`step` must be a non-negative int. Received: step=-1"):
        save_checkpoint(tmp_path / "checkpoint.npz", compiled(3), -1, {})


def compiled(*widths, optimizer="sgd"):
    model = keras.Sequential([keras.Input((3,))] + [keras.layers.Dense(n) for n in widths])
    model.compile(optimizer, "mse")
    model.optimizer.build(model.trainable_variables)
    return model


def test_not_a_number_stops_and_keeps_the_last_checkpoint(tmp_path):
    def data(step, part):
        for number, (images, masks) in enumerate(tiny_training.batches(step, part), step):
            yield np.where(number == 4, np.float32("nan"), images.astype("float32")), masks

    # Moving statistics: of the batch, they would be NaN from then on, too.
    with pytest.raises(FloatingPointError, match=r"Received: loss=nan in step 5. Earlier"):
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
