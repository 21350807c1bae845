"""FsaNet in three minutes: train, score, save, load, deploy, draw.

    python examples/quickstart.py [--output DIR] [--epochs 6] [--seed 0] [--from-preset]

The dataset `signal_harbor` is drawn on the spot. In it, boats that enter and boats that leave look
alike; only the signal at the far end of the harbour tells which is which, and it is further away
than a small convolutional network can see. The same network is trained twice, without attention
and with frequency self-attention, and both scores are printed. With --from-preset the network with
attention is `FsaNet.from_preset("signal_harbor")`, which was trained for longer, and only the other
one is trained.

The output folder then holds `fsanet.keras` (the model), `saved_model/` (the same for serving, any
image size; TensorFlow writes it) and `prediction.png` (images, truth, both predictions).
"""

import importlib.util
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import keras
import numpy as np
from keras import layers

import keras_fsa
from keras_fsa.commands.command import command
from keras_fsa.datasets import load
from keras_fsa.datasets.signal_harbor import CLASSES, PALETTE
from keras_fsa.layers import FrequencySelfAttention
from keras_fsa.metrics import confusion_matrix, confusion_scores
from keras_fsa.models.exporting import load_exported
from keras_fsa.settings import Count, OutputFolder, Seed
from keras_fsa.visualize import comparison


@dataclass(frozen=True)
class Quickstart:
    """FsaNet in three minutes: train, score, save, load, deploy, draw."""

    output: OutputFolder = Path("outputs/quickstart")
    """Folder for all results."""
    data_dir: str | None = None
    """Where the dataset is kept; none: TFDS's folder."""
    epochs: Count = 6
    """Of each of the two trainings."""
    seed: Seed = 0
    """Of weights and data."""
    from_preset: bool = False
    """Take the trained network that comes with the package, instead of training with attention."""


def small_backbone():
    """Three convolutions, features at a quarter of the size.

    Any model does that names its features so. With the head's three convolutions each position sees
    the pixels up to 20 away; the resizing of the logits adds at most 4. The signal is 44 away.
    """

    def block(x, filters, stride):
        # With padding="same" and a stride, the size of the image would move what a position sees.
        x = layers.Conv2D(filters, 3, stride, use_bias=False)(layers.ZeroPadding2D(1)(x))
        return layers.ReLU()(layers.BatchNormalization(momentum=0.9)(x))

    images = keras.Input((None, None, 3))
    stage4 = block(block(images, 24, stride=2), 48, stride=2)
    return keras.Model(images, {"stage4": stage4, "stage5": block(stage4, 48, stride=1)})


def harbor(split, data_dir):
    """Images `(N, 96, 128, 3)` and masks `(N, 96, 128)`."""
    return tuple(map(np.stack, zip(*load("signal_harbor", split, data_dir), strict=True)))


def train(attention, images, masks, epochs, seed):
    keras.utils.set_random_seed(seed)
    model = keras_fsa.FsaNet(
        num_classes=len(CLASSES),
        backbone=small_backbone(),
        normalization="imagenet",
        attention=attention,
        head_channels=32,
    )
    schedule = keras.optimizers.schedules.CosineDecay(5e-3, epochs * len(images) // 8)
    model.compile(optimizer=keras.optimizers.Adam(schedule))
    model.fit(images, masks, batch_size=8, epochs=epochs)
    return model


def class_scores(model, images, masks):
    """IoU of each class, and their mean."""
    ids = model.predict(images, verbose=0).argmax(axis=-1)
    scores = confusion_scores(confusion_matrix(masks, ids, len(CLASSES)))["class_iou"]
    return dict(zip((*CLASSES, "mean"), (*scores, scores.mean()), strict=True))


def export_saved_model(model, keras_file, folder):
    """Export; under torch, which writes no SavedModel, in a TensorFlow process from the file."""
    if keras.backend.backend() != "torch":
        return model.export(folder, verbose=False)
    code = (
        "import sys; from keras_fsa.commands.export import main; "
        "main(['--model', sys.argv[1], '--output', sys.argv[2]])"
    )
    environment = {**os.environ, "KERAS_BACKEND": "tensorflow"}
    subprocess.run([sys.executable, "-c", code, keras_file, folder], env=environment, check=True)
    return None


def quickstart(settings):
    output = settings.output
    output.mkdir(parents=True, exist_ok=True)
    print(f"Backend: {keras.backend.backend()}. Drawing the harbour ...")
    training = harbor("train", settings.data_dir)
    images, masks = harbor("test", settings.data_dir)

    print("\nTraining without attention")
    without = train(None, *training, settings.epochs, settings.seed)
    if settings.from_preset:
        model = keras_fsa.FsaNet.from_preset("signal_harbor")
    else:
        print("\nTraining with frequency self-attention")
        # These settings learn the signal an epoch or two before the defaults do.
        attention = FrequencySelfAttention(8, "linear_softmax", residual="batch_norm")
        model = train(attention, *training, settings.epochs, settings.seed)

    keras_file = str(output / "fsanet.keras")
    model.save(keras_file)
    model = keras.saving.load_model(keras_file)

    scores = {
        "without": class_scores(without, images, masks),
        "with": class_scores(model, images, masks),
    }
    print(f"\nIoU on {len(images)} test images\n{'class':>12}  without     with")
    for name in scores["with"]:
        print(f"{name:>12}  {scores['without'][name]:7.3f}  {scores['with'][name]:7.3f}")

    if importlib.util.find_spec("tensorflow"):
        folder = str(output / "saved_model")
        export_saved_model(model, keras_file, folder)
        served = load_exported(folder)(images[:1])
        difference = np.abs(served - model.predict(images[:1], verbose=0)).max()
        print(f"\nThe SavedModel serves an image; its logits differ by at most {difference:.1e}.")
    else:
        print("\nNo SavedModel is written without TensorFlow: pip install tensorflow")

    few = slice(0, 3)
    comparison(
        images[few],
        masks[few],
        [np.argmax(m.predict(images[few], verbose=0), axis=-1) for m in (without, model)],
        class_names=CLASSES,
        palette=PALETTE,
        path=output / "prediction.png",
        titles=("without attention", "with FSA"),
    )
    print(f"The model, the SavedModel and a figure are in {output}")


if __name__ == "__main__":
    command(Quickstart, quickstart, description=__doc__)
