"""The types in public signatures."""

import os
from typing import Any, Protocol, runtime_checkable

import keras


@runtime_checkable
class Tensor(Protocol):
    """What the library asks of a tensor, and no more.

    NumPy arrays, `keras.KerasTensor`s and the tensors of TensorFlow, JAX and PyTorch have no common
    base class, but share these members.
    """

    @property
    def shape(self) -> Any:
        """Size of each axis."""

    @property
    def dtype(self) -> Any:
        """Type of the elements."""

    def __getitem__(self, key: Any, /) -> Any: ...
    def __add__(self, other: Any, /) -> Any: ...
    def __radd__(self, other: Any, /) -> Any: ...
    def __sub__(self, other: Any, /) -> Any: ...
    def __rsub__(self, other: Any, /) -> Any: ...
    def __mul__(self, other: Any, /) -> Any: ...
    def __rmul__(self, other: Any, /) -> Any: ...
    def __truediv__(self, other: Any, /) -> Any: ...
    def __rtruediv__(self, other: Any, /) -> Any: ...
    def __matmul__(self, other: Any, /) -> Any: ...
    def __lt__(self, other: Any, /) -> Any: ...
    def __le__(self, other: Any, /) -> Any: ...
    def __gt__(self, other: Any, /) -> Any: ...
    def __ge__(self, other: Any, /) -> Any: ...
    def __neg__(self) -> Any: ...


Size = int | Tensor
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
