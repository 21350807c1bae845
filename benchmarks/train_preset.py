r"""Trains the network of `FsaNet.from_preset("signal_harbor")`: the quickstart's, for longer.

    KERAS_BACKEND=torch python -m benchmarks.train_preset --output outputs/signal_harbor

Every step sees new scenes: they are drawn from a stream of random numbers other than those of the
dataset `signal_harbor`, whose test split is then scored once. The same command resumes a training
that was stopped. At the end it writes the scores to benchmarks/results/presets/signal_harbor.json,
the model and its card to keras_fsa/presets, and the logits of one scene to tests/golden.
"""

import argparse
import json
from pathlib import Path

import keras
import numpy as np

import keras_fsa
from benchmarks import scoring
from benchmarks.make_preset import make_preset
from examples.quickstart import small_backbone
from keras_fsa.datasets import Examples, load
from keras_fsa.datasets.signal_harbor import CLASSES, PALETTE, draw_scene, scene_rng
from keras_fsa.files import whole_file
from keras_fsa.inference import class_map
from keras_fsa.layers import FrequencySelfAttention
from keras_fsa.models.presets import PACKAGED
from keras_fsa.models.trained import load_keras_file
from keras_fsa.training import fit
from keras_fsa.training.optimizer import cosine_decay

# The dataset's splits are drawn from the streams 0 and 1.
TRAINING_STREAM, VALIDATION_STREAM = 2, 3
ROOT = Path(__file__).parent.parent
RESULT = ROOT / "benchmarks/results/presets/signal_harbor.json"
GOLDEN = ROOT / "tests/golden/signal_harbor.npz"
"""Logits of the trained network before its file is halved, which the tests compare with."""


def parse(arguments):
    """The command line's options."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--output", type=Path, default=Path("outputs/signal_harbor"))
    parser.add_argument("--steps", type=int, default=2400)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--learning-rate", type=float, default=5e-3)
    parser.add_argument("--seed", type=int, default=0)
    return parser.parse_args(arguments)


def build(seed):
    """The quickstart's network, its normalisation named."""
    keras.utils.set_random_seed(seed)
    return keras_fsa.FsaNet(
        num_classes=len(CLASSES),
        backbone=small_backbone(),
        attention=FrequencySelfAttention(8, "linear_softmax", residual="batch_norm"),
        head_channels=32,
        normalization="imagenet",
        class_names=CLASSES,
        palette=PALETTE,
    )


def scenes(stream, seed, start, count):
    """Images and masks drawn from a stream, from a number on."""
    numbers = range(start, start + count)
    drawn = [draw_scene(np.random.default_rng((stream, seed, i))) for i in numbers]
    return tuple(map(np.stack, zip(*drawn, strict=True)))


class Scenes(keras.utils.PyDataset):
    """Batches of new scenes that continue after the steps done."""

    def __init__(self, options, step):
        super().__init__()
        self.options, self.step = options, step

    def __len__(self):
        return self.options.steps

    def __getitem__(self, index):
        batch = self.options.batch
        return scenes(TRAINING_STREAM, self.options.seed, (self.step + index) * batch, batch)


def train(options):
    """Train, or resume; `best.keras` and `model.keras` are in the folder of `--output`."""
    model = build(options.seed)
    rate = cosine_decay(options.learning_rate, 1e-5, options.steps, options.steps // 20)
    model.compile(keras.optimizers.Adam(rate))
    images, masks = scenes(VALIDATION_STREAM, options.seed, 0, 160)
    every = min(200, options.steps)
    return fit(
        model,
        lambda step, part: Scenes(options, step),
        options.output,
        options.steps,
        checkpoint_every=every,
        validate_every=5 * every if options.steps >= 5 * every else every,
        settings={"batch": options.batch, "seed": options.seed, "rate": options.learning_rate},
        validation=Examples(160, lambda i: (images[i], masks[i])),
        class_names=CLASSES,
        palette=PALETTE,
    )


def main(arguments=None):
    """Train, score the best model on the dataset's test split, and make the preset."""
    options = parse(arguments)
    train(options)
    best = options.output / "best.keras"
    model = load_keras_file(best)
    scores = scoring.score(
        lambda image: class_map(model, image), load("signal_harbor", "test"), CLASSES
    )
    validated = json.loads(best.with_suffix(".json").read_text())
    result = {
        "name": "quickstart's network",
        "dataset": "signal_harbor",
        "split": "test",
        **scoring.circumstances(
            f"KERAS_BACKEND={keras.backend.backend()} python -m benchmarks.train_preset "
            f"--steps {options.steps} --batch {options.batch} "
            f"--learning-rate {options.learning_rate} --seed {options.seed}"
        ),
        "seed": options.seed,
        "settings": {
            "optimizer": f"Adam, learning rate {options.learning_rate}, warm-up and cosine decay",
            "training": f"{options.steps} steps of {options.batch} new scenes",
            "choice": f"best validation on 160 scenes, mIoU {validated['val_mean_iou']:.4f}",
        },
        "finished": True,
        "parameters": model.count_params(),
        "scores": scores,
    }
    scoring.write(RESULT, result)
    make_preset(best, RESULT, PACKAGED / "signal_harbor")
    image, _ = draw_scene(scene_rng("test", 0))
    logits = model.predict(image[None], verbose=0)[0, ::16, ::16]
    with whole_file(GOLDEN) as unfinished:
        np.savez_compressed(unfinished, logits=logits)


if __name__ == "__main__":
    main()
