"""A training of seconds, for tests in this process and in others."""

import functools
import itertools

import keras
import numpy as np
from keras import layers

import keras_fsa
from keras_fsa.datasets.examples import Examples
from keras_fsa.training import Recipe, train

CROP = (16, 24)
CLASSES = 3


def recipe(output, **settings):
    defaults = {
        "dataset": "tiny",
        "output": str(output),
        "crop": CROP,
        "batch": 4,
        "steps": 10,
        "learning_rate": 0.1,
        "head_channels": 8,
        "frequencies": 2,
        "checkpoint_every": 2,
        "validate_every": 4,
        "validation_size": CROP,
        "drawn_images": None,
        "tensorboard": False,
    }
    return Recipe(**{**defaults, **settings})


def backbone(width=8):
    images = keras.Input((None, None, 3))
    x = layers.Conv2D(width, 3, 4, padding="same", use_bias=False, name="conv4")(images)
    stage4 = layers.ReLU()(layers.BatchNormalization(momentum=0.8, name="bn4")(x))
    x = layers.Conv2D(width, 3, 2, padding="same", use_bias=False, name="conv5")(stage4)
    stage5 = layers.ReLU()(layers.BatchNormalization(momentum=0.8, name="bn5")(x))
    return keras.Model(images, {"stage4": stage4, "stage5": stage5}, name="tiny")


def build(recipe, num_classes, width=8):
    return keras_fsa.FsaNet(
        num_classes,
        backbone(width),
        frequencies=recipe.frequencies,
        head_channels=recipe.head_channels,
        dropout=recipe.dropout,
        dtype=recipe.mixed_precision,
    )


def example(number, seed=0, crop=CROP):
    """An image whose classes are told by their colours, one row of it ignored."""
    height, width = crop
    rng = np.random.default_rng((seed, number))
    mask = rng.integers(0, CLASSES, (height // 8, width // 8))
    mask = mask.repeat(8, axis=0).repeat(8, axis=1)
    image = np.where(mask[..., None] == np.arange(3), 200, 40)
    image = image + rng.integers(0, 50, (height, width, 3))
    mask[-1] = 255
    return image.astype("uint8"), mask.astype("uint8")


def batches(step, part=(0, 1), batch=4):
    """Endless batches of NumPy arrays."""
    share = batch // part[1]
    for first in itertools.count(step * batch + part[0] * share, batch):
        images, masks = zip(*map(example, range(first, first + share)), strict=True)
        yield np.stack(images), np.stack(masks)


def run(output, width=8, validation=3, data=None, class_names=None, **settings):
    images = None
    if validation:
        images = Examples(validation, lambda number: example(1000 + number), size=CROP)
    return train(
        recipe(output, **settings),
        CLASSES,
        data or batches,
        images,
        functools.partial(build, width=width),
        class_names,
    )
