r"""How many frequencies does trained attention need? Low frequency without retraining, measured.

    python examples/ablate_frequencies.py [--affinity linear] [--output DIR]
    python examples/ablate_frequencies.py --model runs/street/model.keras \
        --images images/val --masks masks/val --ignore-label 11 --size 240 320

The attention of a trained FsaNet is truncated to its k lowest frequencies per axis, for one k after
the other, and the network is scored each time. Nothing is trained on the way. Without --model, a
small FsaNet with regular self-attention is trained first, on the dataset `signal_harbor`, as in
`quickstart.py`.

Regular attention remains a softmax over all positions, of a low-passed map: that shows what it
needs, and costs more than before. With --affinity linear the softmax is replaced by its first-order
expansion, which turns it into frequency self-attention.

What comes out, printed and in the folder of --output: `frequencies.md`, a table with the mIoU, the
operations of the attention alone (a multiplication with its addition counts as two) and the time of
the whole network for each k; `frequencies.png`, the same as a plot; `model.keras`, if one was
trained.

It runs on TensorFlow, JAX and torch: set KERAS_BACKEND.
"""

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from quickstart import harbor, train

import keras_fsa
from keras_fsa.classes import activation_of, names_of
from keras_fsa.commands.command import command
from keras_fsa.commands.data import Source
from keras_fsa.commands.evaluate import class_iou
from keras_fsa.commands.models import TrainedModel, load_keras_model
from keras_fsa.commands.predict import attention_layer
from keras_fsa.datasets import load
from keras_fsa.files import whole_file
from keras_fsa.flops import attention_flops
from keras_fsa.layers import SpatialSelfAttention
from keras_fsa.settings import (
    Count,
    ExistingFolder,
    Label,
    OutputFolder,
    Pixels,
    Seed,
)
from keras_fsa.spectral import check_band_fits
from keras_fsa.visualize.figure import finish, new_figure

COLUMNS = ("k", "mIoU", "attention MFLOP", "ms per image")


@dataclass(frozen=True)
class Ablate:
    """How many frequencies does trained attention need?"""

    model: TrainedModel | None = None
    """An FsaNet with attention, a .keras file or a trained preset's name; none: one is trained."""
    images: ExistingFolder | None = None
    """Folder of images to score it on; none: the test set of the harbour."""
    masks: ExistingFolder | None = None
    """Folder of their masks."""
    size: tuple[Pixels, Pixels] = (240, 320)
    """Height and width that images are resized to."""
    ignore_label: Label = 255
    """Id in the masks of pixels of no class."""
    data_dir: str | None = None
    """Where the harbour is kept; none: TFDS's folder."""
    frequencies: tuple[Count, ...] = (1, 2, 3, 5, 8, 12, 16)
    """The k to try."""
    affinity: Literal["linear"] | None = None
    """What softmax becomes; none: it stays."""
    batch: Count = 16
    """Images at a time."""
    epochs: Count = 6
    """Of the training without --model."""
    seed: Seed = 0
    """Of the training without --model."""
    output: OutputFolder = Path("outputs/frequencies")
    """Folder for all results."""

    def check(self):
        if bool(self.images) != bool(self.masks):
            raise ValueError("--images and --masks go together. Give both, or none.")
        if self.images and not self.model:
            raise ValueError("--images needs --model, a network trained on such images.")


def ablate(settings):
    if settings.model:
        model = load_keras_model(settings.model)
        attention_layer(model)
    else:
        attention = SpatialSelfAttention(residual="batch_norm")
        training = harbor("train", settings.data_dir)
        model = train(attention, *training, settings.epochs, settings.seed)
        with whole_file(settings.output / "model.keras") as unfinished:
            model.save(unfinished)
    if settings.images:
        source = Source(
            settings.images, settings.masks, activation_of(model), settings.ignore_label
        )
        data = source.open(names_of(model, model.num_classes), settings.size)
    else:
        data = load("signal_harbor", "test", settings.data_dir)
    data = data.batch(settings.batch)

    images = np.asarray(next(iter(data))[0])
    height, width = model.backbone.compute_output_shape(images.shape)["stage5"][1:3]
    print(f"Images of {images.shape[1:3]}, feature maps of {(height, width)}.")

    rows = [("as trained", *measure(model, data, images, height, width))]
    for k in settings.frequencies:
        try:
            check_band_fits(k, height, width)
            truncated = keras_fsa.to_frequency(model, k, settings.affinity)
        except ValueError as error:
            print(f"k = {k} is left out. {error}")
            continue
        rows.append((k, *measure(truncated, data, images, height, width)))

    table = as_markdown(rows)
    print(table)
    with whole_file(settings.output / "frequencies.md") as unfinished:
        unfinished.write_text(table)
    plot(rows, settings.output / "frequencies.png")
    print(f"Written to {settings.output}")


def measure(model, data, images, height, width):
    """Mean IoU, millions of operations of the attention, milliseconds for an image."""
    iou = class_iou(model.predict_on_batch, data, model.num_classes, activation_of(model))
    flops = attention_flops(attention_layer(model), height, width)
    seconds = []
    # The scoring has warmed it up.
    for _ in range(10):
        start = time.perf_counter()
        model.predict_on_batch(images)
        seconds.append(time.perf_counter() - start)
    return float(np.nanmean(iou)), flops / 1e6, 1e3 * float(np.median(seconds)) / len(images)


def as_markdown(rows):
    lines = [COLUMNS, ["---:"] * len(COLUMNS)]
    lines += [(k, f"{iou:.4f}", f"{flops:.2f}", f"{ms:.2f}") for k, iou, flops, ms in rows]
    return "".join(f"| {' | '.join(map(str, line))} |\n" for line in lines)


def plot(rows, path):
    """One panel for each measure; the model as it was trained is the dashed line."""
    (_, *untruncated), *truncated = rows
    figure = new_figure(11, 3.4)
    for i, axis in enumerate(figure.subplots(1, 3), start=1):
        axis.plot([row[0] for row in truncated], [row[i] for row in truncated], "o-")
        axis.axhline(untruncated[i - 1], color="0.4", linestyle="--", label="as trained")
        axis.set_xlabel("k, frequencies per axis")
        axis.set_xticks([row[0] for row in truncated])
        axis.set_title(COLUMNS[i])
        if i > 1:
            axis.set_ylim(0, 1.2 * max(row[i] for row in rows))
        axis.grid(alpha=0.3)
    axis.legend(loc="lower right")
    finish(figure, path)


if __name__ == "__main__":
    command(Ablate, ablate, description=__doc__)
