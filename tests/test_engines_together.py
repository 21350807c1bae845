"""No script imports triton behind TensorFlow, which aborts the process where both are there.

Keras' torch backend imports triton, with the builds of torch that have it; and loading a compiled
model of one engine under another can import that engine's backend.
"""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.helpers import BACKEND, run_python

EXAMPLES = Path(__file__).parent.parent / "examples"
# Stops the process as triton would, whichever build of torch is installed.
WATCH = """
import importlib.abc, os, sys
class Watch(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] == "triton" and "tensorflow" in sys.modules:
            os.write(2, b"triton behind TensorFlow")
            os.abort()
        if name == "torch" and "tensorflow" in sys.modules:
            os.write(2, b"torch behind TensorFlow")
            os.abort()
sys.meta_path.insert(0, Watch())
"""
TRAINED = """
import sys
import keras, numpy as np, keras_fsa
images = keras.Input((None, None, 3))
backbone = keras.Model(images, {"stage5": keras.layers.Conv2D(4, 3, 4, padding="same")(images)})
model = keras_fsa.FsaNet(
    3, backbone, frequencies=3, head_channels=8, auxiliary_loss_weight=0
)
model.compile(keras.optimizers.Adam(1e-3), jit_compile=False)
model.fit(np.zeros((1, 32, 32, 3), "uint8"), np.zeros((1, 32, 32), "uint8"), verbose=0)
model.save(sys.argv[1])
"""
EXPORT = """
import sys
from keras_fsa.commands import main
main(["export", "--model", sys.argv[1], "--output", sys.argv[2]])
"""


@pytest.mark.skipif(BACKEND != "torch", reason="the file must be trained on torch")
def test_a_model_trained_on_torch_is_exported_by_tensorflow(tmp_path):
    model, folder = tmp_path / "model.keras", tmp_path / "served"
    run_python(TRAINED, model)
    run_python(WATCH + EXPORT, model, folder, KERAS_BACKEND="tensorflow")
    assert (folder / "saved_model.pb").exists()


def test_the_watch_sees_it():
    """Or the test above could not fail."""
    code = WATCH + "import tensorflow, torch"
    environment = {**os.environ, "KERAS_BACKEND": "tensorflow"}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, env=environment)
    assert done.returncode == -6 and b"behind TensorFlow" in done.stderr


def test_examples_load_models_without_optimizers():
    """An optimizer may be of another engine. Quickstart loads its own, in its engine."""
    for path in EXAMPLES.glob("*.py"):
        text = path.read_text()
        loads = text.count("load_model(") - text.count("load_keras_model(")
        allowed = 1 if path.name == "quickstart.py" else text.count("compile=False")
        assert loads <= allowed, path.name
