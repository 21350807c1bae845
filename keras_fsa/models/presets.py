"""The names and paths that `FsaNet.from_preset` accepts.

| given | it is | weights |
| --- | --- | --- |
| a key of `PRESETS` | the settings of a network that the authors published | random |
| a name in `trained_presets()` | a network that comes with this package | trained |
| a path | a `.keras` file, or a folder with `model.keras` and a card, `README.md` | trained |

The names of published settings follow the authors' wording. Their "linear" is not this library's
`affinity="linear"`:

| in a preset's name | `affinity` of the network | affinity of position n to m |
| --- | --- | --- |
| `dot` | `"dot_product"` | `q_n . k_m / N` |
| `linear` | `"linear_softmax"` | `1 + cos(q_n, k_m)`, normalised over m |

The library's `"linear"`, the first-order expansion of softmax, is in no preset.
"""

import os
import pathlib
from typing import Any

from keras_fsa.arguments import MOST, check_image_shape, integer, one_of
from keras_fsa.backbones.resnet import STAGES, deep_stem_resnet
from keras_fsa.layers import FrequencySelfAttention
from keras_fsa.models.heads import finer_stages
from keras_fsa.types import Path

PACKAGED = pathlib.Path(__file__).parent.parent / "presets"
"""Folder of the trained networks that come with this package, each in a folder with its name."""

CLASSES = {"cityscapes": 19, "ade20k": 150, "voc_aug": 21}
# The authors' names of affinities, and this library's.
AFFINITIES = {"dot": "dot_product", "linear": "linear_softmax"}

# What the networks of a family have in common.
FAMILIES: dict[str, dict[str, Any]] = {
    "ccnet": {
        "normalization": "ccnet",
        "auxiliary_channels": 512,
        "auxiliary_use_bias": True,
    },
    "mmseg": {
        "normalization": "imagenet",
        "auxiliary_channels": 256,
        "auxiliary_use_bias": False,
    },
}
STEMS: dict[str, dict[str, Any]] = {
    "ccnet": {"stem": (64, 64, 128), "contract": False, "pool_rounds_up": True},
    "mmseg": {"stem": (32, 32, 64), "contract": True, "pool_rounds_up": False},
}


def _preset(family, affinity, recurrence, dataset, frequencies):
    return {
        "family": family,
        "num_classes": CLASSES[dataset],
        "frequencies": frequencies,
        "affinity": AFFINITIES[affinity],
        "recurrence": recurrence,
        # Crops of 8 n + 1 pixels, and corners that coincide, go together.
        "align_corners": dataset == "cityscapes",
    }


# Names are FAMILY_AFFINITY_RECURRENCE_DATA: `ccnet_dot_r2_cityscapes` is the network behind the
# paper's Cityscapes test result, the others are those of its ADE20K, VOCaug and Cityscapes tables.
PRESETS = {"ccnet_dot_r2_cityscapes": _preset("ccnet", "dot", 2, "cityscapes", 8)}
for _dataset in CLASSES:
    for _affinity in AFFINITIES:
        for _recurrence in (1, 2):
            _name = f"mmseg_{_affinity}_r{_recurrence}_{_dataset}"
            _frequencies = 10 if _name == "mmseg_linear_r2_voc_aug" else 5
            PRESETS[_name] = _preset("mmseg", _affinity, _recurrence, _dataset, _frequencies)


def trained_presets() -> tuple[str, ...]:
    """Names of the trained networks that come with this package."""
    return tuple(sorted(path.parent.name for path in PACKAGED.glob("*/model.keras")))


def preset_file(preset: Path | None) -> pathlib.Path:
    """The `.keras` file of a trained network.

    Args:
        preset: one of `trained_presets()`; the path of a `.keras` file; or that of a folder with
            `model.keras` in it.

    Raises:
        ValueError: for anything else. It lists what is available, and where to find it.
    """
    path = pathlib.Path(preset) if isinstance(preset, (str, os.PathLike)) and preset else None
    if path is not None:
        if str(preset) in trained_presets():
            return PACKAGED / path / "model.keras"
        if path.suffix == ".keras" and path.is_file():
            return path
        if (path / "model.keras").is_file():
            return path / "model.keras"
    raise ValueError(
        "`preset` must be a trained network, published settings, or a path. "
        f"Received: preset={preset!r}. Trained, in this package: "
        f"{', '.join(map(repr, trained_presets()))}. Published settings with random weights: "
        f"{', '.join(map(repr, PRESETS))}. A path is that of a .keras file, or of a folder with "
        "model.keras in it."
    )


def preset_arguments(preset: str, **changes: Any) -> dict[str, Any]:
    """The arguments with which `FsaNet` is the network of a published setting.

    | | ccnet | mmseg |
    | --- | --- | --- |
    | stem | 64, 64, 128 | 32, 32, 64 |
    | dilation of a stage's first block | the stage's | the previous stage's |
    | max pooling | rounds sizes up | rounds down |
    | widths of queries and keys, values | C / 8, C | C / 2, C / 2 and an output projection |
    | residual | a gain and a bias | batch norm |
    | auxiliary head | 512 channels, with bias | 256, without |
    | images | BGR minus a mean | RGB, mean and standard deviation |

    Args:
        preset: a key of `PRESETS`. Its `linear` stands for `affinity="linear_softmax"`.
        **changes: arguments of `FsaNet` that override the preset's.

    Raises:
        ValueError: for an unknown name, or a wrong argument.
    """
    one_of("preset", preset, tuple(PRESETS))
    setting = dict(PRESETS[preset])
    family = setting.pop("family")
    arguments = {"head_channels": 512, **setting, **FAMILIES[family], **changes}
    dtype = arguments.get("dtype")
    if "backbone" not in arguments:
        image_shape = arguments.get("image_shape", (None, None, 3))
        check_image_shape(image_shape)
        arguments["output_stride"] = arguments.get("output_stride") or 8
        arguments["backbone"] = deep_stem_resnet(
            image_shape=image_shape,
            output_stride=arguments["output_stride"],
            dtype=dtype,
            stages=(*finer_stages(arguments.get("low_level")), *STAGES),
            **STEMS[family],
        )
    if family == "mmseg" and "attention" not in arguments:
        integer("head_channels", arguments["head_channels"], maximum=MOST)
        width = max(1, arguments["head_channels"] // 2)
        arguments["attention"] = FrequencySelfAttention(
            arguments["frequencies"],
            arguments["affinity"] or "dot_product",
            arguments["recurrence"],
            key_dim=width,
            value_dim=width,
            residual="batch_norm",
            data_format="channels_last",
            num_heads=arguments.get("num_heads", 1),
            dtype=dtype,
            name="attention",
        )
    return arguments


def is_hub_preset(preset: Any) -> bool:
    """Whether a name or path is that of a KerasHub preset: a handle or a preset's folder."""
    if not isinstance(preset, (str, os.PathLike)):
        return False
    return "://" in os.fspath(preset) or os.path.isfile(os.path.join(preset, "task.json"))
