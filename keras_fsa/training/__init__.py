"""Training that survives being stopped, on one device or several.

`fit` (`loop.py`) trains any compiled model. It is composed of `callbacks.py`, whose parts also work
in a `model.fit` of your own. `train` runs it by a recipe; `recipe.py` holds all settings. The rest
serves them: `examples.py`, `optimizer.py`, `batch_norm.py`, `checkpoint.py`, `devices.py`, and
`memory.py`, which estimates what a step takes.
"""

from keras_fsa.training.devices import find_devices
from keras_fsa.training.loop import fit, split_examples, train
from keras_fsa.training.recipe import Recipe

__all__ = ["Recipe", "find_devices", "fit", "split_examples", "train"]
