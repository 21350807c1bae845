"""The model card of a preset: what the network is, what it was trained on, how to load it."""

import os
from typing import Any

from keras_fsa.files import whole_file
from keras_fsa.types import Path

CARD = "model_card.md"
"""The card's own file. `README.md` is a copy, which KerasHub's upload replaces and deletes."""
README = "README.md"

_MASKS = {"softmax": "integer classes", "sigmoid": "0 and 1 for each class"}
_TEMPLATE = """\
---
library_name: keras-hub
pipeline_tag: image-segmentation
{licence_line}tags:
- keras
- keras_fsa
- fsanet
- semantic-segmentation
---
# {name}

FsaNet, semantic segmentation with frequency self-attention
([arXiv:2211.15595](https://arxiv.org/abs/2211.15595)), for TensorFlow, JAX and PyTorch.

| | |
| --- | --- |
{rows}

## Figures

{figures}

## Use

```bash
pip install "keras_fsa[hub]"
```

```python
import keras_fsa
import keras_hub

task = keras_hub.models.ImageSegmenter.from_preset("{handle}")  # or this folder's path
logits = task.predict(images)  # (B, H, W, {channels}) of 0 to 255, to (B, H, W, {num_classes})

model = keras_fsa.FsaNet.from_preset("{handle}")  # the same network without KerasHub's task
other = keras_hub.models.ImageSegmenter.from_preset("{handle}", num_classes=5)  # to fine-tune
```

Masks for training hold {masks}; 255 marks pixels to ignore.
"""


def write_card(
    task: Any,
    folder: Path,
    trained_on: str | None = None,
    figures: dict[str, float] | None = None,
    licence: str | None = None,
) -> None:
    """Write the card of a task into a preset's folder, as `model_card.md` and `README.md`.

    Args:
        task: an `FsaNetImageSegmenter`.
        folder: the preset's folder.
        trained_on, figures, licence: see `FsaNetImageSegmenter.save_to_preset`. Omitted items are
            "not stated" in the card.
    """
    backbone, converter = task.backbone, getattr(task.preprocessor, "image_converter", None)
    size = getattr(converter, "image_size", None)
    attention = backbone.attention
    if not isinstance(attention, str):
        attention = "none" if attention is None else type(attention).__name__
    rows = {
        "trained on": trained_on or "not stated",
        "licence": licence or "not stated",
        "classes": task.num_classes,
        "a pixel has": "one class" if task.activation == "softmax" else "any number of classes",
        "image encoder": backbone.image_encoder.name,
        "attention": attention,
        "parameters": f"{task.count_params():,}",
        "images": "any size" if size is None else f"resized to {size[0]} x {size[1]}",
    }
    name = os.path.basename(os.path.abspath(folder))
    scores = _rows(figures or {})
    text = _TEMPLATE.format(
        name=name,
        handle=f"./{name}",
        licence_line=f"license: {licence}\n" if licence else "",
        rows=_rows(rows),
        figures=f"| score | value |\n| --- | ---: |\n{scores}" if scores else "Not stated.",
        channels=backbone.image_shape[-1],
        num_classes=task.num_classes,
        masks=_MASKS[task.activation],
    )
    for file in (CARD, README):
        with whole_file(os.path.join(folder, file)) as temporary:
            temporary.write_text(text, encoding="utf-8")


def _rows(table):
    """Rows of a Markdown table, in which a bar or a line break would end a cell."""
    return "\n".join(
        "| " + " | ".join(" ".join(str(cell).split()).replace("|", "\\|") for cell in row) + " |"
        for row in table.items()
    )
