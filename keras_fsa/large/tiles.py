"""Where tiles lie: which pixels each owns, and which it must read for that.

Along each axis the image is cut at multiples of the tile's size. Each pixel is owned by one tile.
What a tile reads is wider, and is of one size for all tiles of a pass, so that the network is
compiled for one shape only: at a border of the image a tile reads more on the other side.
"""

import dataclasses
import math
from collections.abc import Sequence
from fractions import Fraction

import numpy as np

from keras_fsa.large.geometry import View
from keras_fsa.large.network import LOGITS, interpolation
from keras_fsa.resize import positions


def cuts(size: int, tile: int) -> list[tuple[int, int]]:
    """The half-open ranges of pixels that the tiles own along one axis."""
    return [(start, min(start + tile, size)) for start in range(0, size, tile)]


@dataclasses.dataclass(frozen=True)
class Axis:
    """The tiles of one pass, along one axis.

    Attributes:
        size: of the image.
        reads: number of pixels that each tile reads.
        own: of each tile, the pixels it owns.
        starts: of each tile, the first pixel it reads.
        views: see `Network.views`.
    """

    size: int
    reads: int
    own: list[tuple[int, int]]
    starts: list[int]
    views: list[View]

    @property
    def tiles(self) -> range:
        """Their numbers."""
        return range(len(self.own))

    def count(self, layer: int) -> int:
        """How many positions of a map a tile has."""
        view = self.views[layer]
        return view.size - int((self.size - self.reads) / view.stride)

    def first(self, index: int, layer: int) -> int:
        """The first of a map's positions that a tile has."""
        return int(self.starts[index] / self.views[layer].stride)

    def part(self, index: int, layer: int) -> slice:
        """A map's positions that a tile has."""
        first = self.first(index, layer)
        return slice(first, first + self.count(layer))

    def owned(self, index: int, layer: int) -> tuple[int, int]:
        """The half-open range of a map's positions that a tile owns."""
        return self.views[layer].positions(*self.own[index], self.size)


def plan(
    size: int,
    views: list[View],
    grid: int,
    tile: int,
    targets: Sequence[int],
    halo: int | None = None,
    align_corners: bool | None = False,
) -> Axis:
    """The tiles of the pass for some of the maps `views`; of the last one, for its pixels.

    Args:
        size: of the image.
        views, grid: of the network, see `Network.views`.
        tile: pixels that a tile owns, a multiple of the grid.
        targets: indices of the maps, see `Network.views`.
        halo: pixels that a tile reads beyond its own. Default: as many as the maps see.
        align_corners: of the resizing of logits.
    """
    own = cuts(size, tile)
    needs = [(size, 0)] * len(own)
    for target in targets:
        view = views[target]
        reach = view
        if halo is not None:
            reach = View(view.size, view.stride, Fraction(-halo), halo + view.stride - 1)
        read = positions(view.size, size, align_corners) if target == LOGITS else None
        for i, (start, stop) in enumerate(own):
            if read is None:
                first, last = view.positions(start, stop, size)
            else:
                first, last = int(read[start]), min(int(read[stop - 1]) + 2, view.size)
            low, high = reach.seen(first, last) if first < last else (start, stop)
            low, high = min(max(low, 0), size - 1) // grid * grid, min(max(high, 1), size)
            needs[i] = min(needs[i][0], low), max(needs[i][1], high)
    longest = max(high - low for low, high in needs)
    # Of the remainder that the image has.
    reads = size - max(0, size - longest) // grid * grid
    starts = [min(low, size - reads) for low, _ in needs]
    return Axis(size, reads, own, starts, views)


def margin(views: list[View]) -> int:
    """The widest margin that any map of a pass needs on either side, in pixels."""
    return max(math.ceil(max(-view.low, view.high - view.stride + 1)) for view in views)


def resizing(axis: Axis, index: int, align_corners: bool | None) -> np.ndarray:
    """The interpolation of a tile's logits to its pixels, `(pixels of a tile, positions)`.

    For a tile that the image's border cuts off, the rows beyond it are zero.
    """
    size, count = axis.views[LOGITS].size, axis.count(LOGITS)
    (start, stop), (first_start, first_stop) = axis.own[index], axis.own[0]
    matrix = np.zeros((first_stop - first_start, count))
    matrix[: stop - start] = interpolation(
        size, axis.size, start, stop, axis.first(index, LOGITS), count, align_corners
    )
    return matrix


def between(axis: Axis, index: int, layer: int, align_corners: bool | None) -> np.ndarray:
    """The interpolation of a tile's map `layer` to the size of its map `layer + 1`.

    Returns:
        float64 `(positions of the second, positions of the first)`.
    """
    (coarse, fine), first = axis.views[layer : layer + 2], axis.first(index, layer + 1)
    return interpolation(
        coarse.size,
        fine.size,
        first,
        first + axis.count(layer + 1),
        axis.first(index, layer),
        axis.count(layer),
        align_corners,
    )


def weights(axis: Axis, index: int, layer: int) -> np.ndarray:
    """How much of each position's cell each pixel that a tile reads makes up.

    The cell of position `i` is the `stride` pixels from `stride * i` on that lie in the image; for
    a position beyond the image, the last pixel.

    Returns:
        float64 `(positions, pixels)`, whose rows sum to one for the positions that the tile owns.
    """
    view, start, count = axis.views[layer], axis.starts[index], axis.count(layer)
    matrix = np.zeros((count, axis.reads))
    end = axis.size - start
    for row in range(count):
        first = min(math.floor(view.stride * row), end - 1)
        last = min(max(math.ceil(view.stride * (row + 1)), first + 1), end)
        if last <= axis.reads:
            matrix[row, first:last] = 1 / (last - first)
    return matrix
