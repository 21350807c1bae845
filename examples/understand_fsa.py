"""Frequency self-attention by hand: from an image to tokens, to attention, to an image.

    python examples/understand_fsa.py [--output DIR] [--scene 0] [--frequencies 8]

In an image of the dataset `signal_harbor`, boats that enter and boats that leave look alike; the
lamp tells which they are. Nothing is trained here. We pretend that a network has found out all that
can be seen from nearby, "sky", "lamp", "boat", and write down a few numbers as the weights of
one attention layer: boats ask, lamps answer. The layer then names the boats, by way of 64 tokens.

On the way the paper's claim is checked before your eyes: attention between frequencies is attention
between all positions of the low-passed map, at a small part of its cost.

Left behind in the output folder: `spectrum.png`, `truncation.png`, `attention.png`, `boats.png`,
and `understand.png`, which tells it all in one row.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import keras
import numpy as np
from keras import ops

from keras_fsa import affinities, spectral
from keras_fsa.attention_map import attention_at, softmax_twin
from keras_fsa.commands.command import command
from keras_fsa.datasets.signal_harbor import (
    CLASSES,
    GREEN,
    INBOUND,
    OUTBOUND,
    PALETTE,
    RED,
    draw_scene,
    scene_rng,
)
from keras_fsa.energy import energy_held, energy_shares
from keras_fsa.flops import attention_flops
from keras_fsa.layers import FrequencySelfAttention, SpatialSelfAttention
from keras_fsa.settings import OutputFolder, Whole
from keras_fsa.visualize import (
    comparison,
    overlay,
    plot_attention,
    plot_spectrum,
    plot_truncation,
)
from keras_fsa.visualize.attention import mark, show_attention
from keras_fsa.visualize.figure import finish, new_figure

STRIDE = 4
# What a boat is before anyone knows its kind. Channels: the classes, then this one.
BOAT = len(CLASSES)
NAMES = (*CLASSES, "boat")
COLOURS = (*PALETTE, (176, 132, 232))
# Sharp enough for softmax to find the lamp, too.
SHARPNESS = 3.0


def without_kinds(mask):
    """The mask as one sees it from nearby: the kind of a boat is unknown."""
    return np.where((mask == INBOUND) | (mask == OUTBOUND), BOAT, mask)


def features(mask):
    """How much of each class each 4 x 4 block holds: `(24, 32, 11)`, no kind of boat in it."""
    one_hot = np.eye(len(NAMES), dtype="float32")[without_kinds(mask)]
    height, width, channels = one_hot.shape
    blocks = (height // STRIDE, STRIDE, width // STRIDE, STRIDE, channels)
    return one_hot.reshape(blocks).mean(axis=(1, 3))


def attention_layer(cls, **arguments):
    """One application, with weights by hand: boats ask, lamps answer with their colour.

    The second dimension of queries and keys is the same for all classes: no vector is zero, so that
    cosines exist everywhere.
    """
    channels = len(NAMES)
    layer = cls(key_dim=2, **arguments)
    layer.build((None, None, None, channels))
    query, key = np.full((2, channels, 2), 0.1, "float32")
    query[:, 0] = key[:, 0] = 0
    query[BOAT, 0] = key[GREEN, 0] = key[RED, 0] = SHARPNESS
    value = np.zeros((channels, channels), "float32")
    value[GREEN, INBOUND] = value[RED, OUTBOUND] = 1
    layer.query_kernel.assign(query)
    layer.key_kernel.assign(key)
    layer.value_kernel.assign(value)
    layer.gain.assign(1.0)
    return layer


def name_boats(layer, mask):
    """The mask without kinds, in which each boat gets the kind that the attention tells it."""
    output = ops.convert_to_numpy(layer(features(mask)[None]))[0]
    inbound = output[..., INBOUND] > output[..., OUTBOUND]
    kinds = np.where(inbound, INBOUND, OUTBOUND).repeat(STRIDE, 0).repeat(STRIDE, 1)
    seen = without_kinds(mask)
    return np.where(seen == BOAT, kinds, seen)


def table_of_pairs(layer, feature_map, frequencies):
    """The affinities that nobody forms, `(N, N)`, in float64: the dot product on the low pass."""
    low = ops.convert_to_numpy(spectral.low_pass(feature_map[None], frequencies))[0]
    low = low.reshape(-1, low.shape[-1]).astype("float64")
    query, key = (low @ ops.convert_to_numpy(w) for w in (layer.query_kernel, layer.key_kernel))
    return query @ key.T / len(low)


def a_boat(mask):
    """The position, in the feature map, that is most a boat: row, column."""
    boat = features(mask)[..., BOAT]
    return np.unravel_index(boat.argmax(), boat.shape)


def front_page(image, tokens, held, weights, named, row, column, path):
    """All of it in one row: a boat asks, 64 tokens, what it attends to, its kind."""
    figure = new_figure(12.5, 2.95)
    axes = figure.subplots(1, 4, width_ratios=(4, 3, 4, 4))
    height, width = weights.shape
    extent = (-0.5, width - 0.5, height - 0.5, -0.5)
    size = np.sqrt(np.square(tokens).sum(axis=-1))
    axes[0].imshow(image, extent=extent)
    axes[1].imshow(np.log(size + 1e-3), cmap="viridis")
    show_attention(axes[2], weights)
    axes[3].imshow(overlay(image, named, COLOURS, opacity=0.7), extent=extent)
    mark(axes[0], row, column)
    mark(axes[2], row, column)
    titles = (
        "1. A boat asks: in or out?",
        f"2. {size.size} tokens: {held:.0%} of energy",
        "3. What it attends to, from the tokens",
        "4. The lamp's colour names the boats",
    )
    for axis, title in zip(axes, titles, strict=True):
        axis.set_title(title, fontsize=11, pad=7)
        axis.set_xticks([])
        axis.set_yticks([])
    finish(figure, path)


@dataclass(frozen=True)
class Understand:
    """Frequency self-attention by hand."""

    output: OutputFolder = Path("outputs/understand")
    """Folder for the figures."""
    scene: Annotated[int, Whole(0)] = 0
    """Number of the test image."""
    frequencies: Annotated[int, Whole(1, 24)] = 8
    """k, of 24 rows and 32 columns."""


def understand(settings):
    output, k = settings.output, settings.frequencies
    output.mkdir(parents=True, exist_ok=True)

    print(f"Backend: {keras.backend.backend()}\n\n1. From the image to a feature map")
    image, mask = draw_scene(scene_rng("test", settings.scene), "red")
    x = features(mask)
    height, width, channels = x.shape
    print(f"   image {image.shape}, features {x.shape}: {height * width} positions")

    print(f"\n2. From positions to tokens: the {k} x {k} lowest frequencies")
    tokens = ops.convert_to_numpy(spectral.analysis(x[None], k))
    held = float(energy_held(energy_shares(x))[k - 1])
    centred = float(energy_held(energy_shares(x, without_mean=True))[k - 1])
    print(f"   tokens {tokens.shape}: {held:.1%} of the energy, {centred:.1%} without the mean")
    plot_spectrum(x, k, output / "spectrum.png")
    plot_truncation(image, k, output / "truncation.png")

    print("\n3. Attention between tokens is attention between positions of the low-passed map")
    for affinity in affinities.names(spectral=True):
        frequency = attention_layer(FrequencySelfAttention, affinity=affinity, frequencies=k)
        spatial = attention_layer(SpatialSelfAttention, affinity=affinity, low_pass=k)
        added = [ops.convert_to_numpy(layer(x[None])) - x for layer in (frequency, spatial)]
        scale, difference = np.abs(added[1]).max(), np.abs(added[0] - added[1]).max()
        print(f"   {affinity:>14}: both add up to {scale:.1e}, and differ by {difference:.1e}")
        if difference > 1e-5 * max(1, scale):
            raise SystemExit("They should agree to rounding. Please report this.")

    print("\n4. What one boat attends to, of all positions, out of the tokens")
    layer = attention_layer(FrequencySelfAttention, frequencies=k)
    row, column = a_boat(mask)
    weights = ops.convert_to_numpy(attention_at(layer, x, row, column))
    table = table_of_pairs(layer, x, k)
    difference = np.abs(weights.reshape(-1) - table[row * width + column]).max()
    top = np.unravel_index(weights.argmax(), weights.shape)
    print(
        f"   row {row}, column {column} attends most to row {top[0]}, column {top[1]}; its map and "
        f"its row of the\n   table of {len(table)} x {len(table)} pairs, up to "
        f"{weights.max():.1e}, differ by {difference:.1e}"
    )
    layers = {"frequency self-attention": layer, "softmax attention": softmax_twin(layer)}
    plot_attention(x, layers, row, column, image, output / "attention.png")

    print("\n5. Back to the image: the same scene with either lamp")
    scenes = [draw_scene(scene_rng("test", settings.scene), lamp) for lamp in ("green", "red")]
    named = [name_boats(layer, truth) for _, truth in scenes]
    for lamp, (_, truth), guess in zip(("green", "red"), scenes, named, strict=True):
        boats = without_kinds(truth) == BOAT
        right = (guess == truth)[boats].mean()
        print(f"   {lamp:>5} lamp: {right:.0%} of {boats.sum()} boat pixels have the right kind")
    images, truths = (np.stack(arrays) for arrays in zip(*scenes, strict=True))
    comparison(
        images,
        truths,
        [np.stack([without_kinds(truth) for truth in truths]), np.stack(named)],
        class_names=NAMES,
        palette=COLOURS,
        path=output / "boats.png",
        titles=("seen from nearby", "after attention"),
    )

    print("\n6. What it costs, in millions of operations for one image")
    print(f"   {'':>26}{height} x {width} x {channels}     97 x 97 x 512")
    for name, cls, arguments in (
        ("frequency, dot product", FrequencySelfAttention, {"frequencies": k}),
        ("spatial, dot product", SpatialSelfAttention, {"affinity": "dot_product"}),
        ("spatial, softmax", SpatialSelfAttention, {}),
    ):
        here = attention_flops(attention_layer(cls, **arguments), height, width)
        large = cls(**arguments)
        large.build((None, 97, 97, 512))
        there = attention_flops(large, 97, 97)
        print(f"   {name:>26}{here / 1e6:13,.2f} {there / 1e6:17,.0f}")

    grid = tokens.reshape(k, k, channels)
    path = output / "understand.png"
    front_page(image, grid, held, weights, named[1], row, column, path)
    print(f"\nFigures are in {output}")


if __name__ == "__main__":
    command(Understand, understand, description=__doc__)
