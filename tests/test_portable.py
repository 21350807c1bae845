"""Models that one backend trained go on under another, where no other engine can be imported."""

import json
import re
import zipfile

import keras
import numpy as np
import pytest

from keras_fsa.layers import FrequencySelfAttention
from keras_fsa.portable import make_portable, portable_config
from keras_fsa.training.optimizer import SGD, poly_decay
from tests import tiny_training
from tests.helpers import BACKEND, array, run_python

PRIVATE = "keras.src.backend.torch.optimizers.torch_adam"

# In the other process: only one engine can be imported.
CONTINUE = """
import importlib.machinery, os, sys

others = {"tensorflow", "jax", "torch", "triton"} - {os.environ["KERAS_BACKEND"]}

class WithoutOthers(importlib.machinery.PathFinder):
    @classmethod
    def find_spec(cls, name, path=None, target=None):
        return None if name.split(".")[0] in others else super().find_spec(name, path, target)

finder = importlib.machinery.PathFinder
sys.meta_path = [WithoutOthers if each is finder else each for each in sys.meta_path]
import json
import numpy as np
import keras, keras_fsa

folder = sys.argv[1]
batch = np.load(f"{folder}/batch.npz")
results = {}
for name in sys.argv[2:]:
    model = keras.saving.load_model(f"{folder}/{name}.keras")
    values = {"logits": model.predict_on_batch(batch["x"])}
    values |= {f"state {i}": v.numpy() if hasattr(v, "numpy") else np.asarray(v)
               for i, v in enumerate(model.optimizer.variables)}
    names = [[v.name, list(v.shape)] for v in model.optimizer.variables]
    if name not in ("functional", "old"):  # whose fit is not another one
        model.fit(batch["x"], batch["y"], batch_size=2, epochs=1, shuffle=False, verbose=0)
    values |= {f"weight {i}": keras.ops.convert_to_numpy(w) for i, w in enumerate(model.weights)}
    np.savez(f"{folder}/{name}.npz", names=np.array(json.dumps(names)), **values)
assert not others & set(sys.modules)
"""


def optimizers():
    return {
        "adam": keras.optimizers.Adam(0.01),
        "adamw": keras.optimizers.AdamW(0.01, weight_decay=0.1),
        "sgd": keras.optimizers.SGD(0.1, momentum=0.9),
        "pytorch_sgd": SGD(poly_decay(0.1, 0.01, 10), 0.9, l2=0.01),
        "float16": keras.optimizers.Adam(0.01),
    }


def rename_as_version_0_1(path):
    """A file as version 0.1.0 wrote it under torch."""
    with zipfile.ZipFile(path) as archive:
        content = {name: archive.read(name) for name in archive.namelist()}
    config = json.loads(content["config.json"])
    config["compile_config"]["optimizer"].update(module=PRIVATE, registered_name="Adam")
    content["config.json"] = json.dumps(config)
    with zipfile.ZipFile(path, "w") as archive:
        for name, value in content.items():
            archive.writestr(name, value)


@pytest.fixture
def trained(tmp_path, rng):
    """Compiled models that were fitted and saved, by name, and the batch that they see."""
    x, y = next(tiny_training.batches(0))
    np.savez(tmp_path / "batch.npz", x=x, y=y)
    models = {}
    for name, optimizer in optimizers().items():
        policy = "mixed_float16" if name == "float16" else "float32"
        recipe = tiny_training.recipe(tmp_path, dropout=0.0, mixed_precision=policy)
        models[name] = tiny_training.build(recipe, 3)
        models[name].compile(optimizer)
    inputs = keras.Input((16, 24, 3))
    outputs = keras.layers.Conv2D(3, 1)(
        FrequencySelfAttention(2)(keras.layers.Rescaling(1 / 255)(inputs))
    )
    models["functional"] = keras.Model(inputs, outputs)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True, ignore_class=255)
    models["functional"].compile(keras.optimizers.Adam(0.01), loss)
    for name, model in models.items():
        model.fit(x, y, batch_size=2, epochs=2, shuffle=False, verbose=0)
        model.save(tmp_path / f"{name}.keras")
    make_portable(tmp_path / "functional.keras")
    models["adam"].save(tmp_path / "old.keras")
    rename_as_version_0_1(tmp_path / "old.keras")
    return models | {"old": models["adam"]}, x, y


def test_trained_models_continue_under_the_other_backends(trained, tmp_path):
    models, x, y = trained
    expected = {}
    for name, model in models.items():
        text = zipfile.ZipFile(tmp_path / f"{name}.keras").read("config.json").decode()
        assert name == "old" or not re.search("keras.src.backend|torch_", text)
        assert name == "old" or json.loads(text)["compile_config"]["jit_compile"] == "auto"
        if name == "old":
            expected[name] = expected["adam"]
            continue
        logits = model.predict_on_batch(x)
        state = [array(v) for v in model.optimizer.variables]
        names = [[v.name, list(v.shape)] for v in model.optimizer.variables]
        assert len(state) > 2 or name == "sgd"
        model.fit(x, y, batch_size=2, epochs=1, shuffle=False, verbose=0)
        expected[name] = logits, state, names, [array(w) for w in model.weights]
    for other in sorted({"tensorflow", "jax", "torch"} - {BACKEND}):
        run_python(CONTINUE, tmp_path, *models, KERAS_BACKEND=other)
        for name, (logits, state, names, weights) in expected.items():
            with np.load(tmp_path / f"{name}.npz") as found:
                assert json.loads(found["names"].item()) == names
                half = name == "float16"
                np.testing.assert_allclose(found["logits"], logits, atol=2e-2 if half else 1e-4)
                for i, value in enumerate(state):
                    np.testing.assert_array_equal(found[f"state {i}"], value)
                if name in ("functional", "old"):
                    continue
                for i, value in enumerate(weights):
                    # Adam divides by the root of small numbers, half of the digits in float16.
                    atol = 2e-2 if half else 1e-3
                    np.testing.assert_allclose(found[f"weight {i}"], value, atol=atol)


def test_configs_get_public_names():
    private = {"module": PRIVATE, "class_name": "Adam", "config": {}, "registered_name": "Adam"}
    public = {**private, "module": "keras.optimizers", "registered_name": None}
    nested = {"optimizer": {"module": "keras.optimizers", "config": {"inner_optimizer": private}}}
    assert portable_config(private) == public
    assert portable_config(nested)["optimizer"]["config"]["inner_optimizer"] == public
    assert portable_config([private, (private, 3)]) == [public, (public, 3)]
    own = {"module": "mine.torch_adam", "class_name": "Adam", "registered_name": "mine>Adam"}
    assert portable_config(own) == own
    compiled = {"optimizer": public, "jit_compile": False}
    assert portable_config(compiled) == {"optimizer": public, "jit_compile": "auto"}


def test_what_is_no_keras_file(tmp_path):
    path = tmp_path / "model.keras"
    with pytest.raises(FileNotFoundError):
        make_portable(path)
    path.write_text("no archive")
    with pytest.raises(ValueError, match=r"must be a .keras file. Received: path=.* Pass what"):
        make_portable(path)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("other", "")
    before = path.read_bytes()
    with pytest.raises(ValueError, match=r"must be a .keras file. Received: path=.*config.json"):
        make_portable(path)
    assert path.read_bytes() == before and [file.name for file in tmp_path.iterdir()] == [path.name]
