r"""Experiment (b): what is lost where memory allows windows only, what a whole head brings back.

    python -m benchmarks.windows --model outputs/camvid/frequency_seed0/best.keras \
        --name frequency_seed0 --data-dir CamVid

One trained network, on windows of one side after the other, and on the whole image:

- plain: windows side by side, each an image of its own;
- Hann: windows that overlap by half, blended (`keras_fsa.inference.class_map`, `blend="hann"`);
- joined features: the backbone alone is run in windows, of which a margin of a quarter of the side
  is dropped; its features, one value for each 8 or 16 pixels, are put together, and the head with
  its attention, if it has one, sees them all. The same of a network without attention says what of
  that is due to attention. Its windows are no larger than those of the others.

Writes mIoU and boundary F1 of each as JSON, and a plot of mIoU over the side of the window.
"""

import argparse
from pathlib import Path
from typing import Any

import keras
import numpy as np

import keras_fsa
from benchmarks import experiment, scoring
from keras_fsa.inference import class_map
from keras_fsa.models.heads import finer_stages, seen_by_head
from keras_fsa.resize import resize_bilinear
from keras_fsa.visualize.figure import LINE_COLOURS, finish, new_figure, style_lines

SIDES = (96, 128, 192)
WAYS = ("plain", "hann", "joined features")


class Features:
    """The stages that a network's head takes of an image, computed in windows.

    A window begins on the coarsest grid and its size is that of the image modulo the stride, so
    that strided convolutions with "same" padding, which depends on the parity of the size, see what
    they see in the whole image.
    """

    def __init__(self, model: keras_fsa.FsaNet) -> None:
        self.model = model
        self.stages = (*finer_stages(model.low_level), "stage5")

    def __call__(self, image: np.ndarray, window: int) -> dict[str, np.ndarray]:
        shapes = self.model.backbone.compute_output_shape((1, *image.shape))
        grid = round(image.shape[0] / shapes["stage5"][1])
        maps = {stage: np.zeros(shapes[stage], "float32") for stage in self.stages}
        margin = window // 4 // grid * grid
        for rows, own_rows in spans(image.shape[0], window, margin, grid):
            for columns, own_columns in spans(image.shape[1], window, margin, grid):
                found = self._features(image[rows, columns])
                for stage, part in found.items():
                    step = round(image.shape[0] / shapes[stage][1])
                    pieces = zip((own_rows, own_columns), (rows, columns), (1, 2), strict=True)
                    target, source = zip(
                        *(
                            _on_map(own, read, step, maps[stage].shape[axis])
                            for own, read, axis in pieces
                        ),
                        strict=True,
                    )
                    maps[stage][:, *target] = part[:, *source]
        return maps

    def _features(self, image):
        features = self.model.backbone(self.model.normalize(image[None]), training=False)
        return {stage: keras.ops.convert_to_numpy(features[stage]) for stage in self.stages}


def spans(size: int, window: int, margin: int, grid: int) -> list[tuple[slice, slice]]:
    """Windows along an axis: `(what is read, what of it is kept)`, in pixels.

    All sizes are that of the axis modulo the grid, and at most `window`.
    """
    if size <= window:
        return [(slice(0, size), slice(0, size))]
    side = window - (window - size) % grid
    step = (side - 2 * margin) // grid * grid
    starts = [*range(0, size - side, step), size - side]
    result = []
    for start, following in zip(starts, [*starts[1:], None], strict=True):
        first = 0 if start == 0 else start + margin
        stop = size if following is None else following + margin
        result.append((slice(start, start + side), slice(first, stop)))
    return result


def _on_map(own, read, step, limit):
    """What is kept, as positions of the whole map and of the window's."""
    first, stop = own.start // step, min(limit, -(-own.stop // step))
    offset = read.start // step
    return slice(first, stop), slice(first - offset, stop - offset)


def with_joined_features(model: keras_fsa.FsaNet, image: np.ndarray, window: int) -> np.ndarray:
    """Class ids of an image whose features are computed in windows."""
    maps = Features(model)(image, window)
    logits = model.head(seen_by_head(maps, model.low_level), training=False)
    logits = resize_bilinear(logits, *image.shape[:2], model.align_corners)
    return keras.ops.convert_to_numpy(logits)[0].argmax(-1).astype("uint8")


def predictor(model: keras_fsa.FsaNet, way: str, window: int | None) -> Any:
    """A function from an image to class ids."""
    if way == "plain":
        return lambda image: class_map(model, image, window=window, stride=window)
    if way == "hann":
        return lambda image: class_map(
            model, image, window=window, stride=window and window // 2, blend="hann"
        )
    return lambda image: with_joined_features(model, image, window)


def measure(
    model: keras_fsa.FsaNet, examples: Any, names: tuple, options: argparse.Namespace
) -> list[dict]:
    """A row for the whole image, and one for each way and window."""
    places = [("whole", None), *((way, window) for window in options.values for way in WAYS)]
    rows = []
    for way, window in places:
        predict = predictor(model, "plain" if way == "whole" else way, window)
        scores = scoring.score(predict, examples, names)
        rows.append({"way": way, "window": window, **scores})
        print(f"{way:16} {window or ''!s:>4} {scores['mean_iou']:.4f}", flush=True)
    return rows


def plot(rows: list[dict], path: Path | None = None) -> Any:
    """Draw mIoU over the side of the windows: a line for each way, and the whole image's."""
    figure = new_figure(6.5, 4)
    axis = figure.subplots()
    (whole,) = [row["mean_iou"] for row in rows if row["way"] == "whole"]
    axis.axhline(whole, color="0.4", linestyle="--", label="whole image")
    for way, colour in zip(WAYS, LINE_COLOURS, strict=False):
        points = sorted((row["window"], row["mean_iou"]) for row in rows if row["way"] == way)
        axis.plot(*zip(*points, strict=True), color=colour, marker="o", label=way)
    axis.set_xlabel("side of the windows in pixels")
    axis.set_ylabel("mean IoU")
    # The whole image lies far above the windows, with room for the legend between.
    style_lines(axis, loc="upper left", bbox_to_anchor=(0, 0.95))
    return finish(figure, path)


def main(arguments=None):
    """Measure one network and write JSON and plot."""
    experiment.run("windows", __doc__, "--windows", SIDES, measure, plot, arguments)


if __name__ == "__main__":
    main()
