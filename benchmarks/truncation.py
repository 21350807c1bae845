r"""Experiment (d): a trained network at fewer and fewer frequencies, without training it again.

    python -m benchmarks.truncation --model outputs/camvid/regular_seed0/best.keras \
        --name regular_seed0 --data-dir CamVid

`keras_fsa.to_frequency` low-passes what the attention reads to k frequencies an axis: of regular
attention the map before q, k and v, of frequency attention the band. Writes mIoU and boundary F1
for each k, beside those of the network as it was trained, as JSON and as a plot over k.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import keras_fsa
from benchmarks import experiment, scoring
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


def measure(
    model: keras_fsa.FsaNet, examples: Any, names: tuple, frequencies: Sequence[int]
) -> list[dict]:
    """A row for the network as it was trained, k None, and one for each k."""
    rows = []
    for k in (None, *within(model, frequencies)):
        network = model if k is None else keras_fsa.to_frequency(model, k)
        scores = scoring.score(
            lambda image, network=network: class_map(network, image), examples, names
        )
        rows.append({"frequencies": k, **scores})
        print(f"{k or 'as trained'!s:>12} {scores['mean_iou']:.4f}", flush=True)
    return rows


def plot(rows: list[dict], path: Path | None = None) -> Any:
    """Draw mIoU and boundary F1 over k, beside those of the network as it was trained."""
    figure = new_figure(6.5, 4)
    axis = figure.subplots()
    trained, *truncated = rows
    labels = {"mean_iou": "mean IoU", "mean_boundary_f": "mean boundary F1"}
    for (key, label), colour in zip(labels.items(), LINE_COLOURS, strict=False):
        points = sorted((row["frequencies"], row[key]) for row in truncated)
        axis.plot(*zip(*points, strict=True), color=colour, marker="o", label=label)
        axis.axhline(trained[key], color=colour, linestyle="--", linewidth=1)
    axis.set_xscale("log", base=2)
    axis.set_xticks(*[[row["frequencies"] for row in truncated]] * 2)
    axis.set_xlabel("frequencies kept on each axis; dashed: as trained")
    style_lines(axis)
    return finish(figure, path)


def main(arguments=None):
    """Measure one network and write JSON and plot."""
    experiment.run("truncation", __doc__, "--frequencies", FREQUENCIES, measure, plot, arguments)


if __name__ == "__main__":
    main()
