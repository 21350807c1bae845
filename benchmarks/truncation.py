r"""Experiment (d): a trained network at fewer and fewer frequencies, without training it again.

    python -m benchmarks.truncation --model outputs/camvid/regular_seed0/best.keras \
        --name regular_seed0 --data-dir CamVid

`keras_fsa.to_frequency` low-passes what the attention reads to k frequencies an axis: of regular
attention the map before q, k and v, of frequency attention the band. Writes mIoU and boundary F1
for each k, beside those of the network as it was trained, as JSON and as a plot over k. At k = 0
the gain is zero, and the network without its attention. With `--retrain 2`, each of them, the
network as it was trained included, is trained for two more epochs by the recipe of
`examples/train_camvid.py` at a tenth of its learning rate, and scored again. With `--affinity
linear` softmax attention is replaced by its first-order expansion. `--dataset signal_harbor` takes
networks and images of that dataset.
"""

import argparse
import dataclasses
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import keras_fsa
from benchmarks import camvid, experiment, scoring
from keras_fsa.commands.recipe import train_recipe
from keras_fsa.inference import class_map
from keras_fsa.layers import FrequencySelfAttention
from keras_fsa.spectral import parse_frequencies
from keras_fsa.visualize.figure import LINE_COLOURS, finish, new_figure, style_lines

FREQUENCIES = (16, 8, 5, 3, 2, 1)


def within(model: keras_fsa.FsaNet, frequencies: Sequence[int]) -> list[int]:
    """Those of the frequencies that truncate the network's attention."""
    layer = model.attention_layer()
    if not isinstance(layer, FrequencySelfAttention):
        return list(frequencies)
    (_, rows), (_, columns) = parse_frequencies(layer.frequencies)
    return [k for k in frequencies if k < max(rows, columns) and k <= min(rows, columns)]


def retrain(model: keras_fsa.FsaNet, epochs: int, data_dir: str) -> keras_fsa.FsaNet:
    """Train a network on, by the recipe but for its length and learning rate."""
    steps = epochs * camvid.RECIPE.checkpoint_every
    with tempfile.TemporaryDirectory() as folder:
        recipe = dataclasses.replace(
            camvid.RECIPE,
            data_dir=data_dir,
            output=folder,
            steps=steps,
            learning_rate=0.1 * camvid.RECIPE.learning_rate,
            warmup_steps=0,
            validate_every=steps,
            validation_images=1,
            drawn_images=None,
            tensorboard=False,
        )
        return train_recipe(recipe, lambda recipe, num_classes: model)


def measure(
    model: keras_fsa.FsaNet, examples: Any, names: tuple, options: argparse.Namespace
) -> list[dict]:
    """A row for the network as it was trained, k None, and one for each k."""

    def truncated(k):
        # Copies: training one again must not change what the next is made of.
        if k:
            return keras_fsa.to_frequency(model, k, options.affinity or None)
        network = camvid.open_model(options.model)
        if k == 0:
            network.attention_layer().gain.assign(0.0)
        return network

    def scores(network):
        return scoring.score(lambda image: class_map(network, image), examples, names)

    rows = []
    for k in (None, *within(model, options.values)):
        network = truncated(k)
        row = {"frequencies": k, **scores(network)}
        if options.retrain:
            row["retrained"] = scores(retrain(network, options.retrain, options.data_dir))
        rows.append(row)
        print(f"{'as trained' if k is None else k:>12} {row['mean_iou']:.4f}", flush=True)
    return rows


def plot(rows: list[dict], path: Path | None = None) -> Any:
    """Draw mIoU and boundary F1 over k, beside those of the network as it was trained."""
    figure = new_figure(8, 3.6)
    trained, *truncated = rows
    labels = {"mean_iou": "mean IoU", "mean_boundary_f": "mean boundary F1"}
    ways = {"not trained again": lambda row: row}
    if "retrained" in trained:
        ways["trained again"] = lambda row: row["retrained"]
    truncated = sorted(truncated, key=lambda row: row["frequencies"])
    for axis, (key, label) in zip(figure.subplots(1, 2), labels.items(), strict=True):
        for (way, figures), colour in zip(ways.items(), LINE_COLOURS, strict=False):
            points = [figures(row)[key] for row in truncated]
            axis.plot(points, color=colour, marker="o", label=way)
            axis.axhline(figures(trained)[key], color=colour, linestyle="--", linewidth=1)
        axis.set_xticks(range(len(truncated)), [row["frequencies"] for row in truncated])
        axis.set_xlabel("frequencies kept on each axis; dashed: all")
        axis.set_ylabel(label)
        # Or what two seeds differ by would look like much.
        low, high = axis.get_ylim()
        spare = max(0.0, 0.02 - (high - low)) / 2
        axis.set_ylim(low - spare, high + spare)
        style_lines(axis)
    return finish(figure, path)


def main(arguments=None):
    """Measure one network and write JSON and plot."""
    more = [
        ("--retrain", 0, "epochs on CamVid to train each of them for, before it is scored again"),
        ("--affinity", "", "what softmax becomes, `linear`. Default: it stays"),
    ]
    experiment.run(
        "truncation", __doc__, "--frequencies", FREQUENCIES, measure, plot, arguments, more
    )


if __name__ == "__main__":
    main()
