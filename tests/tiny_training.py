"""A training of seconds, for tests in this process and in others."""

import functools

import keras
import tensorflow as tf
from keras import layers

import keras_fsa
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
        "drawn_pictures": None,
        "tensorboard": False,
    }
    return Recipe(**{**defaults, **settings})


def backbone(width=8):
    pictures = keras.Input((None, None, 3))
    x = layers.Conv2D(width, 3, 4, padding="same", use_bias=False, name="conv4")(pictures)
    stage4 = layers.ReLU()(layers.BatchNormalization(momentum=0.8, name="bn4")(x))
    x = layers.Conv2D(width, 3, 2, padding="same", use_bias=False, name="conv5")(stage4)
    stage5 = layers.ReLU()(layers.BatchNormalization(momentum=0.8, name="bn5")(x))
    return keras.Model(pictures, {"stage4": stage4, "stage5": stage5}, name="tiny")


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
    """A picture whose classes are told by their colours, one row of it ignored."""
    height, width = crop
    mask = tf.random.stateless_uniform(
        (height // 8, width // 8), tf.stack([seed, tf.cast(number, "int32")]), 0, CLASSES, "int32"
    )
    mask = tf.repeat(tf.repeat(mask, 8, axis=0), 8, axis=1)
    picture = tf.one_hot(mask, 3, 200, 40, dtype="int32")
    picture += tf.random.stateless_uniform(
        (height, width, 3), tf.stack([seed + 1, tf.cast(number, "int32")]), 0, 50, "int32"
    )
    mask = tf.concat([mask[:-1], tf.fill((1, width), 255)], axis=0)
    return tf.cast(picture, "uint8"), tf.cast(mask, "uint8")


def batches(step, part=(0, 1), batch=4):
    numbers = tf.data.Dataset.counter(step * batch).batch(batch // part[1])
    return numbers.shard(*part[::-1]).unbatch().map(example).batch(batch // part[1])


def run(output, width=8, validation=3, data=None, class_names=None, **settings):
    pictures = tf.data.Dataset.range(1000, 1000 + validation).map(example) if validation else None
    return train(
        recipe(output, **settings),
        CLASSES,
        data or batches,
        pictures,
        functools.partial(build, width=width),
        class_names,
    )
