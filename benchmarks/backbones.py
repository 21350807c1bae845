"""Parameters and output strides of backbones: `python -m benchmarks.backbones [--json FILE]`.

Networks that can be built without a download, at their published size, up to stage 5.
"""

import argparse
import json
from collections.abc import Callable
from pathlib import Path

import keras

from keras_fsa.backbones.features import build_backbone

IMAGE_SHAPE = (None, None, 3)
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


def rows() -> list[dict]:
    """A row for each network."""
    networks: dict[str, Callable] = {f'`"{name}"`': lambda name=name: name for name in NAMED}
    for name in APPLICATIONS:
        build = getattr(keras.applications, name)
        networks[f"`keras.applications.{name}`"] = lambda build=build: build(
            weights=None, include_top=False, input_shape=IMAGE_SHAPE
        )
    return [row(name, build()) for name, build in networks.items()]


def row(name: str, network: str | keras.Model) -> dict:
    """Parameters, and the output strides that do not raise."""
    strides, parameters = [], 0
    for output_stride in (8, 16, 32):
        try:
            backbone = build_backbone(network, IMAGE_SHAPE, output_stride, None)
        except ValueError:
            continue
        strides.append(output_stride)
        parameters = backbone.count_params()
    print(f"| {name} | {parameters / 1e6:.1f} | {', '.join(map(str, strides))} |", flush=True)
    return {"backbone": name.strip("`"), "parameters": parameters, "output_strides": strides}


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path, help="file to write")
    options = parser.parse_args()
    print("| backbone | parameters, millions | output strides |\n| --- | ---: | --- |")
    table = rows()
    if options.json:
        options.json.write_text(json.dumps(table, indent=1) + "\n")


if __name__ == "__main__":
    main()
