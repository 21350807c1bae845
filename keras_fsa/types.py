"""What public signatures call the things they take. For readers and editors: nothing checks by it.

Tensors are `Any`: each backend has its own class, NumPy arrays do as well, and when a graph is
built there are `keras.KerasTensor`s.
"""

import os
from typing import Any

import keras

Tensor = Any
Size = Any
"""A height or a width: an int, or an integer scalar tensor."""
Shape = tuple[int | None, ...]
Band = tuple[tuple[int, int], tuple[int, int]]
"""Half-open ranges of frequencies: of rows, of columns."""
Frequencies = int | tuple[int, int] | Band
"""See `keras_fsa.spectral.parse_frequencies`."""
DType = str | keras.DTypePolicy | None
"""A dtype policy or its name; None for Keras' global one."""
Path = str | os.PathLike
Dataset = Any
"""`keras_fsa.datasets.examples.Examples`, or a `tf.data.Dataset`."""
