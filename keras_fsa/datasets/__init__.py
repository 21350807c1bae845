"""Datasets for semantic segmentation: four benchmarks, a drawn one, and your own folders.

```python
from keras_fsa.datasets import describe, load
from keras_fsa.datasets.augment import training_batches

train = load("voc_aug", "train_aug", data_dir="data", manual_dir="archives")
batches = training_batches(train, crop=(512, 512), batch=16, seed=0, base_size=(2048, 512))
colours = describe("voc_aug").palette
```

Both `load` and `folder_dataset` return `Examples`, which every backend trains on. Your folders,
CamVid and the drawn dataset need no TensorFlow; TensorFlow Datasets prepares the other three.
`keras_fsa check` looks through a dataset before an expensive training.

Under TensorFlow, or where TensorFlow Datasets was imported before, importing this package registers
its builders, so that `tfds.load("signal_harbor")` works, too. Under JAX and torch, where TensorFlow
should not load unasked, `import keras_fsa.datasets.builders` registers them.
"""

import importlib.util
import sys
from typing import Any

import keras

from keras_fsa.datasets.examples import Examples
from keras_fsa.datasets.folder import folder_dataset
from keras_fsa.datasets.registry import describe, load

__all__ = ["Examples", "describe", "folder_dataset", "load"]

_BUILDERS = ("Ade20k", "SignalHarbor", "VocAug")


def __getattr__(name: str) -> Any:
    if name in _BUILDERS:
        return getattr(importlib.import_module("keras_fsa.datasets.builders"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def _is_installed(package):
    if package in sys.modules:
        return sys.modules[package] is not None
    return importlib.util.find_spec(package) is not None


def _tfds_is_wanted():
    packages = ("tensorflow", "tensorflow_datasets", "importlib_resources")
    if keras.backend.backend() != "tensorflow" and "tensorflow_datasets" not in sys.modules:
        return False
    return all(map(_is_installed, packages))


if _tfds_is_wanted():
    importlib.import_module("keras_fsa.datasets.builders")
