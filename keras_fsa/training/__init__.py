"""Training by a recipe: goes on after a kill, on one device or several.

`recipe.py` holds all settings, `loop.py` trains by them, `command.py` makes command-line flags of
them. The rest serves `loop.py`: `optimizer.py`, `batch_norm.py`, `checkpoint.py`, `devices.py`.
"""

from keras_fsa.training.command import main
from keras_fsa.training.loop import train
from keras_fsa.training.recipe import Recipe

__all__ = ["Recipe", "main", "train"]
