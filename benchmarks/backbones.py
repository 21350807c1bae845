"""Backbones, their parameters and speed: `python -m benchmarks.backbones [--json FILE]`.

Networks that can be built without a download, at their published size, up to stage 5. The time is
that of one image through the backbone, by `predict_on_batch`: the least of a few.
"""

import argparse
import functools
from collections.abc import Callable
from pathlib import Path

import keras
import numpy as np

from benchmarks import measuring, scoring
from benchmarks.report import table
from keras_fsa.backbones.features import build_backbone
from keras_fsa.models.speed import use_speed_paths

IMAGE_SHAPE = (None, None, 3)
OUTPUT_STRIDES = (8, 16, 32)
NAMED = ("resnet18", "resnet50", "resnet101", "efficientnet_lite0", "efficientnet_lite2")
APPLICATIONS = (
    "MobileNetV2",
    "MobileNetV3Large",
    "EfficientNetB0",
    "EfficientNetV2B0",
    "ConvNeXtTiny",
    "DenseNet121",
    "VGG16",
)


def networks() -> dict[str, Callable]:
    """What makes each network."""
    found: dict[str, Callable] = {name: lambda name=name: name for name in NAMED}
    for name in APPLICATIONS:
        build = getattr(keras.applications, name)
        found[f"keras.applications.{name}"] = lambda build=build: build(
            weights=None, include_top=False, input_shape=IMAGE_SHAPE
        )
    return found


def measure(name: str, network: str | keras.Model, size: int, rounds: int) -> dict:
    """Parameters, and seconds at each output stride that does not raise."""
    image = np.random.default_rng(0).uniform(0, 255, (1, size, size, 3)).astype("float32")
    row: dict = {"backbone": name, "seconds": {}, "cpu_seconds": {}}
    for stride in OUTPUT_STRIDES:
        try:
            backbone = build_backbone(network, IMAGE_SHAPE, stride, None)
        except ValueError:
            continue
        # As `FsaNet` does with its own.
        use_speed_paths(backbone)
        backbone.predict_on_batch(image)
        least = measuring.least_times(functools.partial(backbone.predict_on_batch, image), rounds)
        row["parameters"] = backbone.count_params()
        row["seconds"][stride], row["cpu_seconds"][stride] = least
    return row


def markdown(rows: list[dict]) -> str:
    """The rows as a table; a stride that a backbone cannot have stays empty."""
    lines = []
    for row in rows:
        # JSON has no keys that are numbers.
        seconds = {int(stride): value for stride, value in row["cpu_seconds"].items()}
        cells = [f"{1e3 * seconds[s]:.0f}" if s in seconds else "" for s in OUTPUT_STRIDES]
        lines.append([f"`{row['backbone']}`", f"{row['parameters'] / 1e6:.1f}", *cells])
    header = ["backbone", "parameters, millions", *(f"ms, stride {s}" for s in OUTPUT_STRIDES)]
    return table(header, lines)


def main(arguments=None) -> dict:
    """Measure, print the table, write the file."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--json", type=Path, help="file to write")
    parser.add_argument("--size", type=int, default=513)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--networks", nargs="+", choices=networks(), default=[*networks()])
    options = parser.parse_args(arguments)
    builders = networks()
    command = f"KERAS_BACKEND={measuring.BACKEND} python -m benchmarks.backbones"
    command += f" --size {options.size} --rounds {options.rounds}"
    result = {**scoring.circumstances(command), "size": options.size}
    result["rows"] = []
    for name in options.networks:
        row = measure(name, builders[name](), options.size, options.rounds)
        result["rows"].append(row)
        if options.json:
            scoring.write(options.json, result)
    print(markdown(result["rows"]))
    return result


if __name__ == "__main__":
    main()
