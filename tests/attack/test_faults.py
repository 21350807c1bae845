"""Files with a flipped byte, and disks that are full: values are right, or an error names the file.

Kills and clashes of processes are in test_files.py, test_resume.py and test_large_runs.py, flipped
bytes of checkpoints in test_resume.py and test_checkpoints.py.
"""

import json
import subprocess
import sys

import keras
import numpy as np
import pytest
from keras import layers
from PIL import Image

import keras_fsa
from keras_fsa.commands.models import load_keras_model
from keras_fsa.images import read_image, read_mask
from keras_fsa.large.journal import Journal
from tests import tiny_training
from tests.helpers import run_python

pytestmark = pytest.mark.once

RNG = np.random.default_rng(7)
PIXELS = RNG.integers(0, 256, (17, 23, 3)).astype("uint8")
IDS = RNG.integers(0, 5, (17, 23)).astype("uint8")
TOKENS = RNG.normal(size=(5, 7)).astype("float32")


def model():
    keras.utils.set_random_seed(3)
    images = keras.Input((None, None, 3))
    backbone = keras.Model(images, {"stage5": layers.Conv2D(4, 3, 4, padding="same")(images)})
    return keras_fsa.FsaNet(
        3,
        backbone,
        frequencies=2,
        head_channels=4,
        auxiliary_loss_weight=0,
        normalization="imagenet",
    )


def weights(path):
    return np.concatenate([w.ravel() for w in load_keras_model(path).get_weights()])


KINDS = {
    "image.png": (lambda path: Image.fromarray(PIXELS).save(path), read_image),
    "mask.png": (lambda path: Image.fromarray(IDS).save(path), read_mask),
    "model.keras": (lambda path: model().save(path), weights),
}


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    return tmp_path_factory.mktemp("faults")


@pytest.mark.parametrize("seed", range(25))
@pytest.mark.parametrize("kind", KINDS)
def test_a_flipped_byte(kind, seed, place):
    write, read = KINDS[kind]
    if not (place / kind).exists():
        write(place / kind)
    content = bytearray((place / kind).read_bytes())
    right = read(place / kind)
    content[np.random.default_rng(seed).integers(len(content))] ^= 0x10
    damaged = place / f"flipped_{kind}"
    damaged.write_bytes(content)
    try:
        found, message = read(damaged), None
    except ValueError as error:
        found, message = None, str(error)
    if message is None:
        np.testing.assert_array_equal(found, right)
    else:
        assert damaged.name in message and len(message.splitlines()) <= 3


@pytest.mark.parametrize("seed", range(25))
@pytest.mark.filterwarnings("always")
def test_a_flipped_byte_of_a_note(seed, tmp_path, recwarn):
    """Of large images: the work is done again, so a note that is damaged is not an error."""
    journal = Journal(tmp_path, {})
    journal.write("note", tokens=TOKENS)
    path = tmp_path / "note.npz"
    content = bytearray(path.read_bytes())
    content[np.random.default_rng(seed).integers(len(content))] ^= 0x10
    path.write_bytes(content)
    note = journal.read("note")
    if note is None:
        assert "note.npz is damaged" in str(recwarn[0].message)
    else:
        np.testing.assert_array_equal(note["tokens"], TOKENS)


def test_damaged_settings_of_a_large_image(tmp_path):
    (tmp_path / "settings.json").write_text('{"ima')
    with pytest.raises(ValueError, match=r"`work_dir` must hold whole files.*settings\.json"):
        Journal(tmp_path, {})


FULL = """
import resource, sys
from keras_fsa.training import callbacks
from tests import tiny_training
from tests.helpers import run_python
class Full(callbacks.StopAtNonFinite):
    def on_train_batch_begin(self, batch, logs=None):
        if self.step == 5:
            # From here on no file can grow beyond this, as on a disk that is full.
            resource.setrlimit(resource.RLIMIT_FSIZE, (4096, resource.RLIM_INFINITY))
callbacks.StopAtNonFinite = Full
tiny_training.run(sys.argv[1], steps=9)
"""


def test_a_training_whose_disk_is_full(tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", FULL, str(tmp_path)], stderr=subprocess.PIPE, text=True
    )
    assert done.returncode != 0
    assert "File too large" in done.stderr or "errno = 27" in done.stderr, done.stderr
    names = {path.name for path in tmp_path.iterdir() if path.is_file()}
    assert not [name for name in names if "partial" in name]
    assert "model.keras" not in names
    with np.load(tmp_path / "checkpoint.npz") as file:
        assert '"step": 4,' in file["header"].tobytes().decode()
    tiny_training.run(str(tmp_path), steps=9)
    load_keras_model(tmp_path / "model.keras")
    with np.load(tmp_path / "checkpoint.npz") as file:
        assert '"step": 9,' in file["header"].tobytes().decode()


KILLED = """
import json, os, pathlib, random, signal, sys, time
from keras_fsa.models.exporting import written_at_once

def export(path):
    version = 0
    while True:
        version += 1
        with written_at_once(path) as unfinished:
            folder = pathlib.Path(unfinished)
            (folder / "variables").mkdir(parents=True)
            for name in ("saved_model.pb", "variables/data", "fingerprint.pb"):
                (folder / name).write_text(f"{version:9d}" * 9999)

random.seed(7)
versions = []
for _ in range(40):
    child = os.fork()
    if not child:
        export(sys.argv[1])
    time.sleep(random.uniform(0.01, 0.06))
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    folder = pathlib.Path(sys.argv[1])
    if folder.exists():
        files = [path for path in folder.rglob("*") if path.is_file()]
        texts = {path.read_text() for path in files}
        versions.append([len(files), len(texts), len(texts.pop())])
with written_at_once(sys.argv[1]) as unfinished:
    pathlib.Path(unfinished).mkdir()
    (pathlib.Path(unfinished) / "saved_model.pb").write_text("")
print(json.dumps(versions))
"""


def test_exports_killed_at_random_moments(tmp_path):
    """Each leaves a whole SavedModel, of one version; the next export removes the remains."""
    path = tmp_path / "served"
    versions = json.loads(run_python(KILLED, str(path)).splitlines()[-1])
    assert len(versions) > 30 and all(found == [3, 1, 9 * 9999] for found in versions)
    assert [p.name for p in tmp_path.iterdir()] == ["served"]
