"""What half precision costs and saves: the same weights under each dtype policy, as a table.

    python examples/precision.py --model fsanet.keras images/

A mixed policy computes in half precision from float32 weights; plain float16 and bfloat16 store
them in it, too. Normalisation of images, tokens, gains of the attention and logits are float32
under all of them. The last column is the share of pixels, over all images, that get the answer that
float32 gives them. Times are medians, one image at a time, after a first run of its size. --save
writes the `.keras` files.
"""

import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import keras
import numpy as np
from tyro.conf import Positional

from keras_fsa.classes import activation_of, answers
from keras_fsa.commands.command import command
from keras_fsa.commands.data import read_images
from keras_fsa.commands.models import TrainedModel, load_keras_model
from keras_fsa.models.trained import with_policy
from keras_fsa.settings import Count, ExistingFolder, OutputFolder, Pixels

Policy = Literal["float32", "mixed_bfloat16", "bfloat16", "mixed_float16", "float16"]


@dataclass(frozen=True)
class Precision:
    """What half precision costs and saves: the same weights under each dtype policy."""

    images: Positional[ExistingFolder]
    """Folder of images."""
    model: TrainedModel
    """A .keras file, or the name of a trained preset."""
    limit: Count = 20
    """How many images at most."""
    policies: tuple[Policy, ...] = (
        "float32",
        "mixed_bfloat16",
        "bfloat16",
        "mixed_float16",
        "float16",
    )
    """The first is the measure of the rest."""
    size: tuple[Pixels, Pixels] | None = None
    """Height and width to resize the images to; none: as they are."""
    save: OutputFolder | None = None
    """Folder for the .keras files; none: they are deleted."""


def predict(model, images):
    """The answers to all images, and the median time for one in milliseconds."""
    maps, times, sizes = [], [], set()
    for image in images:
        if image.shape not in sizes:
            sizes.add(image.shape)
            model.predict_on_batch(image[None])
        start = time.perf_counter()
        logits = model.predict_on_batch(image[None])[0]
        times.append(1000 * (time.perf_counter() - start))
        maps.append(answers(logits, activation_of(model)).reshape(-1))
    return np.concatenate(maps), np.median(times)


def measure(settings):
    """Print the table."""
    model = load_keras_model(settings.model)
    images = read_images(settings.images, model, settings.limit, settings.size)
    print(f"{len(images)} images, Keras {keras.__version__} on {keras.backend.backend()}\n")
    print(f"| dtype policy | file, MiB | ms for an image | pixels as in {settings.policies[0]} |")
    print("| --- | ---: | ---: | ---: |")
    with tempfile.TemporaryDirectory() as temporary:
        folder = settings.save or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        for policy in settings.policies:
            file = folder / f"{policy}.keras"
            copy = with_policy(model, policy)
            copy.set_weights(model.get_weights())
            copy.save(file)
            # From the file: what is measured is what can be kept.
            classes, milliseconds = predict(keras.saving.load_model(file, compile=False), images)
            if policy == settings.policies[0]:
                expected = classes
            same, size = np.mean(classes == expected), file.stat().st_size / 2**20
            print(
                f"| {policy} | {size:.2f} | {milliseconds:.0f} | {100 * same:.2f} % |", flush=True
            )


if __name__ == "__main__":
    command(Precision, measure, description=__doc__)
