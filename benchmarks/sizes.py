r"""One trained network on its images at several sizes, of which it was trained at one.

    python -m benchmarks.sizes --model presets/camvid_stage2/model.keras --name stage2_seed0 \
        --data-dir CamVid

The images are resized to each percentage, the classes found there back to the masks. Writes mIoU
and boundary F1 as JSON, and a plot of mIoU over the size.
"""

import argparse
from pathlib import Path
from typing import Any

import keras_fsa
from benchmarks import experiment, scoring
from keras_fsa.inference import class_map
from keras_fsa.visualize.figure import LINE_COLOURS, finish, new_figure, style_lines

PERCENT = (75, 100, 125, 150, 175, 200)


def measure(
    model: keras_fsa.FsaNet, examples: Any, names: tuple, options: argparse.Namespace
) -> list[dict]:
    """A row for each size."""
    rows = []
    for percent in options.values:
        scales = (percent / 100,)
        scores = scoring.score(
            lambda image, scales=scales: class_map(model, image, scales=scales), examples, names
        )
        rows.append({"percent": percent, **scores})
        print(f"{percent:4} % {scores['mean_iou']:.4f}", flush=True)
    return rows


def plot(rows: list[dict], path: Path | None = None) -> Any:
    """Draw mIoU and boundary F1 over the size."""
    figure = new_figure(6.5, 4)
    axis = figure.subplots()
    percents = [row["percent"] for row in rows]
    for key, label, colour in (
        ("mean_iou", "mean IoU", LINE_COLOURS[0]),
        ("mean_boundary_f", "boundary F1", LINE_COLOURS[1]),
    ):
        axis.plot(percents, [row[key] for row in rows], color=colour, marker="o", label=label)
    axis.set_xlabel("size of the images, in per cent of what the network was trained at")
    style_lines(axis, loc="lower right")
    return finish(figure, path)


def main(arguments=None):
    """Measure one network and write JSON and plot."""
    experiment.run("sizes", __doc__, "--percent", PERCENT, measure, plot, arguments)


if __name__ == "__main__":
    main()
