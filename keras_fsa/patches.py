"""A part of a map that stands for the whole: what lets attention run tile by tile.

The tokens of a map are a sum over its positions, `X = D_H^T x D_W`, so every part of a map has its
share of them; and the map that tokens stand for, `x = D_H X D_W^T`, can be written for any part, by
the rows of the bases that belong to it. Frequency self-attention reads and writes maps by nothing
else. Inside `patch_scope`, `keras_fsa.spectral` does both for a part: a layer is called with the
part, and works as on the whole.

What it asks of all positions, a sum, must be known for that. The first time it is not: the shares
of all parts are gathered, added up, and given to the next run.

    patch = Patch(size, first, shape, own)
    with patch_scope(patch):
        layer(part)                     # patch.shares[0]: this part's share of the layer's tokens

    patch = Patch(size, first, shape, own, sums=[sum of the shares of all parts])
    with patch_scope(patch):
        y = layer(part)                 # rows and columns of what the layer makes of the whole map
"""

import contextlib
import contextvars
from collections.abc import Callable, Iterator, Sequence

from keras import ops

from keras_fsa.types import Size, Tensor

_current: contextvars.ContextVar["Patch | None"] = contextvars.ContextVar("patch", default=None)


class Patch:
    """Where a part of a map lies, and what is known of the whole.

    Args:
        size: height and width of the whole map, ints.
        first: row and column of the whole at which the part begins: ints or integer tensors.
        shape: height and width of the part, ints.
        own: `((first row, last row + 1), (first column, last column + 1))` in the whole: those of
            the part's positions that speak for it. Parts may overlap, as tiles with a margin do;
            the positions they own must not.
        sums: `(1, T, C)` tokens of the whole, one for each time that a layer analyses a map, in
            that order, as far as they are known.
        weight: `(1, h, w, 1)`, or None for ones: how much each position of the layer's input says.

    Attributes:
        asked: how often a map has been analysed.
        shares: of the sums that are not known, what the part adds to each. Only the first ones are
            of use: a later one may build on a sum that is not known, for which it has zeros.
    """

    def __init__(
        self,
        size: tuple[int, int],
        first: Sequence[Size],
        shape: tuple[int, int],
        own: Sequence[Sequence[Size]],
        sums: Sequence[Tensor] = (),
        weight: Tensor | None = None,
    ) -> None:
        self.size = tuple(size)
        self.first = tuple(first)
        self.shape = tuple(shape)
        self.own = tuple(own)
        self.sums = list(sums)
        self.weight = weight
        self.asked = 0
        self.shares: list[Tensor] = []

    def positions(self, axis: int) -> Tensor:
        """Rows (axis 0) or columns (axis 1) of the whole that the part holds: int32."""
        return self.first[axis] + ops.arange(0, self.shape[axis], dtype="int32")

    def owned(self, axis: int, dtype: str) -> Tensor:
        """1 for each of `positions` that is the part's own, 0 for the others."""
        position = self.positions(axis)
        start, stop = self.own[axis]
        return ops.cast(ops.logical_and(position >= start, position < stop), dtype)

    def sum_of(self, share: Callable[[], Tensor]) -> Tensor:
        """The sum over all parts of what `share` gives for one; zeros while it is not known."""
        index = self.asked
        self.asked += 1
        if index < len(self.sums):
            return self.sums[index]
        self.shares.append(share())
        return ops.zeros_like(self.shares[-1])


def current() -> Patch | None:
    """The patch that layers work on, or None where maps are whole."""
    return _current.get()


@contextlib.contextmanager
def patch_scope(patch: Patch) -> Iterator[Patch]:
    """Layers called within take a map of the patch's shape for the whole map."""
    token = _current.set(patch)
    try:
        yield patch
    finally:
        _current.reset(token)
