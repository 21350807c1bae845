"""What must work where one engine is installed: run by `tests/environments.py`, in each of them.

`work` trains, saves, loads and predicts, and runs the command lines. `travel` opens the files that
`work` left in all environments, compares logits and the optimizer's state, and trains on.
"""

import importlib.util
import subprocess
import sys
from pathlib import Path

import numpy as np

ENGINES = ("tensorflow", "jax", "torch")
SIZE = (65, 97)


def main(step: str, name: str, engine: str, folder: Path) -> None:
    """Run a step; an error ends the process."""
    if name != "all":
        others = [other for other in ENGINES if other != engine]
        there = [other for other in others if importlib.util.find_spec(other)]
        assert not there, f"{name} must be alone, and is beside {there}"
    {"work": work, "travel": travel}[step](name, engine, folder)


def examples():
    """Images and masks of three classes, the same in each environment."""
    rng = np.random.default_rng(5)
    images = rng.integers(0, 256, (4, *SIZE, 3)).astype("uint8")
    return images, (images[..., 0] // 86).astype("uint8")


def work(name, engine, folder):
    """All that a user of one engine does."""
    import keras

    import keras_fsa
    from keras_fsa.datasets.signal_harbor import draw_scene

    assert keras.backend.backend() == engine
    # The README's first lines.
    scene, mask = draw_scene(np.random.default_rng(7))
    trained = keras_fsa.FsaNet.from_preset("signal_harbor")
    assert (keras_fsa.inference.class_map(trained, scene) == mask).mean() > 0.9

    images, masks = examples()
    for optimizer in ("adamw", "sgd"):
        keras.utils.set_random_seed(3)
        model = keras_fsa.FsaNet(
            3, backbone="resnet18", output_stride=16, frequencies=3, head_channels=32
        )
        model.compile(optimizer, jit_compile=False)
        model.fit(images, masks, batch_size=2, verbose=0)
        path = folder / f"{name}-{engine}-{optimizer}.keras"
        model.save(path)
        logits = model.predict(images, verbose=0)
        loaded = keras.saving.load_model(path)
        np.testing.assert_allclose(loaded.predict(images, verbose=0), logits, atol=1e-5)
        state = [keras.ops.convert_to_numpy(variable) for variable in model.optimizer.variables]
        np.savez(path.with_suffix(".npz"), logits, *state)

    deep = keras_fsa.FsaNet(19, backbone="resnet101")
    assert deep.predict(images[:1], verbose=0).shape == (1, *SIZE, 19)

    inputs = keras.Input((None, None, 8))
    outputs = keras_fsa.layers.FrequencySelfAttention(3)(inputs)
    network = keras.Sequential([keras.Model(inputs, outputs), keras.layers.Conv2D(1, 1)])
    network.compile("sgd", "mse", jit_compile=False)
    network.fit(np.ones((2, 7, 11, 8), "float32"), np.ones((2, 7, 11, 1)), verbose=0)

    commands(folder / f"{name}-{engine}", images, masks)


def commands(folder, images, masks):
    """The command lines, on a folder of images."""
    from PIL import Image

    for kind, arrays in (("images", images), ("masks", masks)):
        (folder / kind).mkdir(parents=True, exist_ok=True)
        for number, array in enumerate(arrays):
            Image.fromarray(array).save(folder / kind / f"{number}.png")
    pairs = ["--images", "images", "--masks", "masks"]
    model = ["--model", "out/model.keras"]
    small = "--num-classes 3 --backbone resnet18 --output-stride 16 --frequencies 2 --epochs 1"
    for line in (
        ["check", *pairs, "--num-classes", "3"],
        ["train", *pairs, *small.split(), "--size", "64", "64", "--batch", "2", "--output", "out"],
        ["predict", *model, "--output", "drawn", "images"],
        ["evaluate", *model, *pairs, "--output", "scores"],
        ["benchmark", *model, "--size", "65", "97", "--runs", "3"],
        ["doctor"],
    ):
        subprocess.run([sys.executable, "-m", "keras_fsa", *line], check=True, cwd=folder)


def travel(name, engine, folder):
    """Files of all environments open here, and train on."""
    import keras

    import keras_fsa  # noqa: F401 (all that a file needs)

    images, masks = examples()
    paths = sorted(folder.glob("*.keras"))
    assert paths
    for path in paths:
        model = keras.saving.load_model(path)
        with np.load(path.with_suffix(".npz")) as saved:
            logits, *state = (saved[key] for key in saved.files)
        np.testing.assert_allclose(model.predict(images, verbose=0), logits, atol=1e-4)
        for variable, value in zip(model.optimizer.variables, state, strict=True):
            np.testing.assert_allclose(keras.ops.convert_to_numpy(variable), value, atol=1e-6)
        before = int(model.optimizer.iterations)
        model.fit(images, masks, batch_size=2, verbose=0)
        assert int(model.optimizer.iterations) == before + 2
        print(f"{path.name} opened on {engine} in {name}", flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:4], Path(sys.argv[4]))
