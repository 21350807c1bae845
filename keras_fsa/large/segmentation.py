"""Images of any size: the attention of the whole image, tile by tile.

A network that sees an image window by window knows nothing beyond each window. Frequency
self-attention has no such limit: all that the whole image contributes to a position are the tokens,
and they are a *sum over tiles*,

    X = D_H^T x D_W = sum over tiles of D_H[rows]^T x[rows, columns] D_W[columns]

So the image passes through the network twice. In the first pass each tile runs up to the attention,
and the tiles' shares of the tokens are added up. The tokens then attend, as often as the recurrence
says. In the second pass each tile runs again: the attention's output is synthesised for its rows
and columns, and the tile runs on to the logits. Up to rounding, the result is that of the whole
image at once, provided that tiles read as much around them as the convolutions see.

| affinity, recurrence R  | passes over the image | passes over positions, without the image |
| ----------------------- | --------------------- | ---------------------------------------- |
| `dot_product`, any R    | 2                     | 0                                        |
| `linear`, R             | 2                     | R - 1                                    |
| `linear_softmax`, R     | 2                     | 2 R - 1                                  |
| `FrequencyBands`        | 2                     | 0                                        |
| no attention            | 1                     | 0                                        |

A pass over positions synthesises low-frequency maps from a few tokens, tile by tile, and sums over
them: unit keys for `linear_softmax` and, from the second recurrence on, the map after a round.
(`linear_softmax` on a band without the constant frequency needs one more such pass in each round.)
A model with attention in several places needs one more pass over the image for each of them. With
`keep_features`, only the first pass runs the backbone; the others begin at its features.

Source: arXiv:2211.15595 for the attention; tiles are this library's.
"""

import hashlib
import itertools
import os
from typing import Any

import keras
import numpy as np

from keras_fsa.arguments import boolean, integer, one_of, optional_import, positive_int
from keras_fsa.classes import dtype_of_ids
from keras_fsa.files import whole_file
from keras_fsa.large import tiles
from keras_fsa.large.journal import Journal
from keras_fsa.large.network import FEATURES, LOGITS, OUTPUTS, Network
from keras_fsa.large.unseen import seen_pixels, unseen_values
from keras_fsa.large.workers import Pass, Workers, digest_of
from keras_fsa.metrics import IGNORE_LABEL
from keras_fsa.types import Path


def segment(
    model: keras.Model,
    image: Any,
    sink: Any = None,
    *,
    tile: int = 1024,
    halo: int | None = None,
    output: str = "classes",
    nodata: float | None = None,
    keep_features: bool = False,
    work_dir: Path | None = None,
    executor: Any = None,
    verbose: bool = True,
) -> Any:
    """Segment an image of any size, tile by tile, with the attention of the whole.

    Args:
        model: an `FsaNet` with frequency self-attention or none, for images of any size; or a
            functional model from images to logits, with attention in any places.
        image: `(H, W, channels)`, or `(H, W)` for one channel: anything with a `shape` and a
            `dtype` that is sliced as NumPy arrays are: an array, a memory map, a Zarr or Dask
            array, or what `keras_fsa.large.open_image` opens.
        sink: where the result goes, block by block: anything that takes `sink[rows, columns] =
            block`, such as a memory map or a Zarr array, `(H, W)` for classes, else `(H, W,
            num_classes)`, also for the classes of a model of several sigmoids. Its dtype must hold
            the result's. Default: a new array.
        tile: side of the tiles in pixels, rounded down to a multiple of the model's coarsest
            stride. A tile takes the memory of an image of `tile + 2 halo` pixels.
        halo: pixels that a tile reads around its own. Default: as many as the network sees, which
            makes the result exact: see `keras_fsa.large.halo`. With fewer it is an approximation.
        output: `"classes"`, uint8 (ids uint16 from 256 classes on); `"probabilities"`, or
            `"logits"`, float32.
        nodata: the value, NaN included, that all channels of a pixel have where the camera saw
            nothing. Such pixels are set to zero after the normalisation of an `FsaNet`; another
            model is given zeros, before what it does to images itself. Their class is 255, their
            probabilities and logits are 0. Each position of the map that the attention reads is
            weighted by the share of its pixels that were seen, so that the others contribute
            nothing. Default: `image.nodata` if there is such an attribute; else all pixels count.
            Where that is NaN, which marks what lies outside an image's own mask, such pixels stay
            unseen beside those of another value.
        keep_features: whether to keep what the backbone of an `FsaNet` makes of the image, so that
            it runs once instead of in every pass: `H W C / stride ** 2` numbers of stage 5, and as
            many of `low_level` stages, in memory, or with a `work_dir` in Zarr arrays there.
        work_dir: a folder for sums and progress: the same call continues there after the process
            was killed. `sink` must then be something that outlives the process, opened again as it
            was left; by default it is the file `result.npy` in the folder. Into a sink that does
            not hold the finished tiles, all are written again.
        executor: where tiles are computed: None for this process, a `concurrent.futures` executor,
            or a `dask.distributed` client. Each worker receives the model once; this process reads
            the image, sends the tiles, and adds up the sums in a fixed order. So the result does
            not depend on the number of workers, only their machines' rounding.
        verbose: whether to show a progress bar.

    Returns:
        The sink.

    Memory: what the model takes for a tile, the tokens, and the pixels of the tiles on their way to
    workers.

    Raises:
        ValueError: for a wrong argument; a model that cannot be computed tile by tile, naming the
            layer; an image or a sink of the wrong shape; a `work_dir` of another run.
        FloatingPointError: if pixels, or a tile's share of the tokens, are not finite, naming
            the tile.
        ImportError: if workers lack this package.
        OSError: if the sink cannot be written, or the disk has no room for `result.npy`.
            Finished tiles stay.

    Example:
    >>> import numpy as np
    >>> from keras_fsa.large import segment
    >>> model = keras_fsa.FsaNet(19, backbone="resnet18", head_channels=32)
    >>> image = np.zeros((150, 210, 3), "uint8")
    >>> segment(model, image, tile=128, halo=32, verbose=False).shape
    (150, 210)
    """
    one_of("output", output, OUTPUTS)
    positive_int("tile", tile)
    integer("halo", halo, 0, optional=True)
    boolean("keep_features", keep_features)
    boolean("verbose", verbose)
    network = Network(model)
    if keep_features and len(network.graphs) == 1:
        raise ValueError(
            "`keep_features` is for models with a backbone: an FsaNet. Received: keep_features="
            f"True with model={model!r}. Leave it out: the image then passes through the whole "
            "model each time."
        )
    size = _image_size(image, network.channels)
    unseen = unseen_values(nodata, getattr(image, "nodata", None))
    ids = output == "classes" and network.activation == "softmax"
    if unseen and ids and network.num_classes > IGNORE_LABEL:
        raise ValueError(
            f"`nodata` pixels have the class {IGNORE_LABEL}, which must not be one of the model's. "
            f"Received: nodata={unseen[0]!r} for {network.num_classes} classes. Take "
            "output='probabilities', which are 0 there."
        )
    settings = {}
    if work_dir is not None:
        settings = {
            "model": digest_of(model),
            "image": _fingerprint(image),
            "tile": tile,
            "halo": halo,
            "output": output,
            "nodata": list(map(repr, unseen)),
            "keep_features": keep_features,
        }
    journal = Journal(work_dir, settings)
    sink = _checked_sink(sink, journal, output, size, network)
    job = _Job(network, image, size, tile, halo, output, unseen, journal, verbose)
    workers = Workers(model, executor)
    try:
        sums: list[list[Any]] = []
        for layer in range(len(network.attention)):
            if keep_features and layer == network.in_backbone:
                job.keep_features(workers, sums)
            sums.append([])
            job.gather(workers, layer, sums)
        job.write(workers, sums, sink)
    finally:
        workers.close()
    return sink


def halo(model: keras.Model, size: tuple[int, int] = (4096, 4096)) -> int:
    """How many pixels around a tile a network's convolutions see: the halo of exact tiles.

    Args:
        model: as for `segment`.
        size: height and width of the image. The halo depends on little more than their parity.

    Raises:
        ValueError: as `segment`, for a model that cannot be computed tile by tile.
    """
    network = Network(model)
    return max(tiles.margin(network.views(n, axis)[0]) for axis, n in enumerate(size))


class _Job:
    """The passes of one image through one network."""

    def __init__(self, network, image, size, tile, halo, output, unseen, journal, verbose):
        self.network, self.image, self.output = network, image, output
        self.halo, self.unseen = halo, unseen
        self.journal, self.verbose = journal, verbose
        found = [network.views(n, axis) for axis, n in enumerate(size)]
        self.views, grids = [list(item) for item in zip(*found, strict=True)]
        self.size, self.grids = size, grids
        # An array `(h, w, C)` for each map that the head takes, once they are kept.
        self.features = None
        if tile < max(grids):
            raise ValueError(
                "`tile` must be at least the model's coarsest stride. Received: "
                f"tile={tile}, with a stride of {max(grids)}. Take tile={64 * max(grids)}."
            )
        self.tiles = [tile // grid * grid for grid in grids]
        self.map_sizes = list(zip(*([v.size for v in views] for views in self.views), strict=True))
        self.sizes = tuple(self.map_sizes[: len(network.attention)])

    def plans(self, *targets):
        """The tiles of a pass for some maps, along rows and along columns."""
        return [
            tiles.plan(
                n, views, grid, tile, targets, self.halo, align_corners=self.network.align_corners
            )
            for n, views, grid, tile in zip(
                self.size, self.views, self.grids, self.tiles, strict=True
            )
        ]

    def keep_features(self, workers, sums):
        """Run the image through the backbone, and keep its features."""
        maps = self.network.feature_views
        axes = self.plans(*maps)
        grid = _grid(axes)
        task = Pass(self.sizes, FEATURES, self.output)
        done = int((self.journal.read("features") or {"done": 0})["done"])
        features = [self._feature_store(number, done) for number in range(len(maps))]
        inputs = (self._tile_inputs(axes, at, sums, FEATURES) for at in grid[done:])
        bar = self._bar(len(grid), "features")
        for number, blocks in enumerate(workers.map(task, inputs), start=done):
            for view, store, block in zip(maps, features, blocks, strict=True):
                own, inside = [], []
                for axis, i in zip(axes, grid[number], strict=True):
                    (start, stop), first = axis.owned(i, view), axis.first(i, view)
                    own.append(slice(start, stop))
                    inside.append(slice(start - first, stop - first))
                store[tuple(own)] = block[0][tuple(inside)]
            self.journal.write("features", number + 1 == len(grid), done=number + 1)
            bar(number + 1)
        self.features = features
        self.views = [
            self.network.views(n, axis, from_features=True)[0] for axis, n in enumerate(self.size)
        ]

    def _feature_store(self, number, done):
        """An array for one of the maps that the head takes."""
        tensor = self.network.features[number]
        size = self.map_sizes[self.network.feature_views[number]]
        shape, dtype = (*size, tensor.shape[-1]), keras.backend.standardize_dtype(tensor.dtype)
        if dtype == "bfloat16":  # which NumPy lacks
            dtype = "float32"
        if self.journal.folder is None:
            return np.empty(shape, dtype)
        zarr = optional_import("zarr", "large")
        path = self.journal.folder / f"features_{number}.zarr"
        if done:
            return zarr.open_array(path, mode="r+")
        return zarr.create_array(
            path, shape=shape, chunks=(32, 32, shape[-1]), dtype=dtype, overwrite=True
        )

    def gather(self, workers, layer, sums):
        """Fill `sums[layer]` with all sums that the layer asks for."""
        asked = 1
        while len(sums[layer]) < asked:
            name = f"sums_{layer}_{len(sums[layer])}"
            found = self.journal.read(name)
            if found is None:
                found = self._one_pass(workers, layer, sums, name)
                self.journal.write(name, **found)
            asked = int(found.pop("asked"))
            sums[layer] = [*sums[layer], *_numbered(found)]

    def _one_pass(self, workers, layer, sums, name):
        """One more sum; of a layer's input, all of its bands at once."""
        axes = self.plans(layer)
        grid = _grid(axes)
        name = f"{name}_partial"
        note = self.journal.read(name) or {"done": 0, "asked": 0}
        done, asked = int(note.pop("done")), int(note.pop("asked"))
        totals = _numbered(note)
        if sums[layer]:
            shape = tuple(
                max(stop - start for start, stop in (axis.owned(i, layer) for i in axis.tiles))
                for axis in axes
            )
            task = Pass(self.sizes, layer, self.output, shape)
            inputs = (self._position_inputs(axes, at, sums, layer, shape) for at in grid[done:])
        else:
            task = Pass(self.sizes, layer, self.output)
            inputs = (self._tile_inputs(axes, at, sums, layer) for at in grid[done:])
        bar = self._bar(len(grid), f"attention {layer + 1}, sum {len(sums[layer]) + 1}")
        for number, result in enumerate(workers.map(task, inputs), start=done):
            if result is not None:
                asked = int(result["asked"])
                shares = [np.asarray(share, "float64") for share in result["shares"]]
                _check_finite(shares, axes, grid[number], "A tile's share of the tokens")
                totals = totals or [0.0] * len(shares)
                totals = [total + share for total, share in zip(totals, shares, strict=True)]
            self.journal.write(name, False, done=number + 1, asked=asked, **_named(totals))
            bar(number + 1)
        if not totals:
            raise ValueError(
                "An image must have pixels that were seen. Received: an image whose pixels are all "
                f"nodata={' or '.join(map(repr, self.unseen))}. Check `nodata`."
            )
        dtype = self.network.attention[layer].token_dtype
        return {"asked": asked, **_named([total.astype(dtype) for total in totals])}

    def write(self, workers, sums, sink):
        """The last pass: from tiles to blocks of the result."""
        axes = self.plans(LOGITS)
        grid = _grid(axes)
        task = Pass(self.sizes, LOGITS, self.output)
        note = self.journal.read("result") or {"done": 0}
        done, shown = int(note["done"]), int(note.get("shown", 0))
        # A sink that was made anew does not hold the tiles that are done.
        if done and note.get("digest") != _digest_of_block(sink, *self._own(axes, grid[shown])):
            done = shown = 0
        inputs = (self._tile_inputs(axes, at, sums, LOGITS) for at in grid[done:])
        bar = self._bar(len(grid), "result")
        for number, block in enumerate(workers.map(task, inputs), start=done):
            rows, columns = self._own(axes, grid[number])
            block = self._block(block, rows, columns)
            sink[rows, columns] = block
            # One of zeros would not tell a new sink from the old one.
            shown = number if block.any() else shown
            if self.journal.due() or number + 1 == len(grid):
                # First the block, then the note of it.
                getattr(sink, "flush", lambda: None)()
                digest = _digest_of_block(sink, *self._own(axes, grid[shown]))
                self.journal.write("result", done=number + 1, shown=shown, digest=digest)
            bar(number + 1)

    @staticmethod
    def _own(axes, at):
        """The rows and the columns that a tile owns."""
        return [slice(*axis.own[i]) for axis, i in zip(axes, at, strict=True)]

    def _block(self, result, rows, columns):
        """What is written of a tile's result, which is None where no pixel was seen."""
        size = (rows.stop - rows.start, columns.stop - columns.start)
        shape = _result_shape(self.output, size, self.network)
        if self.output == "classes":
            block = np.full(shape, IGNORE_LABEL, _result_dtype("classes", self.network))
        else:
            block = np.zeros(shape, getattr(result, "dtype", "float32"))
        if result is not None:
            seen = self._read(rows, columns)[1] if self.unseen else slice(None)
            block[seen] = result[0, : size[0], : size[1]][seen]
        return block

    def _read(self, rows, columns):
        """Pixels `(h, w, channels)`, and which of them were seen: None where all count."""
        pixels = np.asarray(self.image[rows, columns])
        pixels = pixels.reshape(*pixels.shape[:2], -1)
        if not self.unseen:
            return pixels, None
        seen = seen_pixels(pixels, self.unseen)
        return np.where(seen[..., None], pixels, 0), seen

    def _tile_inputs(self, axes, at, sums, target):
        """Inputs of a `TileModel` for one tile; None where it has no pixel that was seen."""
        pairs = list(zip(axes, at, strict=True))
        layers = range(len(self.network.attention))
        inputs = {
            "places": np.array([_place(axes, at, i, i == target) for i in layers], "int32"),
            "sums": sums[: target + 1 if target in layers else len(sums)],
            "resizes": [
                [
                    tiles.between(axis, i, len(layers) + 2 * number, layer.align_corners)
                    for axis, i in pairs
                ]
                for number, layer in enumerate(self.network.resizes)
            ],
        }
        seen = None
        if self.features is None or self.unseen:
            pixels, seen = self._read(
                *(slice(axis.starts[i], axis.starts[i] + axis.reads) for axis, i in pairs)
            )
        if self.features is None:
            # Looked for here, because what a rectifier makes of NaN depends on the engine.
            _check_finite([pixels], axes, at, "The pixels that a tile reads")
            inputs["image"] = pixels[None]
        else:
            inputs["features"] = [
                np.asarray(store[tuple(axis.part(i, view) for axis, i in pairs)])[None]
                for view, store in zip(self.network.feature_views, self.features, strict=True)
            ]
        if target == LOGITS:
            for name, (axis, i) in zip(("rows", "columns"), pairs, strict=True):
                inputs[name] = tiles.resizing(axis, i, self.network.align_corners)
        if seen is None:
            return inputs
        own = seen[
            tuple(
                slice(axis.own[i][0] - axis.starts[i], axis.own[i][1] - axis.starts[i])
                for axis, i in pairs
            )
        ]
        # Features of unseen pixels count too: the tiles beside read them.
        if target != FEATURES and not own.any():
            return None
        if self.features is None:
            inputs["seen"] = seen[None, :, :, None]
        if target in layers:
            down, across = (tiles.weights(axis, i, target) for axis, i in pairs)
            inputs["weight"] = (down @ seen @ across.T)[None, :, :, None]
        return inputs

    def _position_inputs(self, axes, at, sums, layer, shape):
        """Inputs of a `SumModel` for one tile of a layer's map."""
        place = [axis.owned(i, layer) for axis, i in zip(axes, at, strict=True)]
        firsts = [
            max(0, min(start, axis.views[layer].size - count))
            for (start, _), axis, count in zip(place, axes, shape, strict=True)
        ]
        return {"places": np.array([*firsts, *place[0], *place[1]], "int32"), "sums": sums[layer]}

    def _bar(self, steps, name):
        if not self.verbose:
            return lambda done: None
        print(name)
        return keras.utils.Progbar(steps, unit_name="tile").update


def _grid(axes):
    """Row by row: the number of a tile along each axis."""
    return list(itertools.product(*(axis.tiles for axis in axes)))


def _place(axes, at, layer, target):
    """A row of `"places"`, see `TileModel`."""
    firsts = [axis.first(i, layer) for axis, i in zip(axes, at, strict=True)]
    own = [axis.owned(i, layer) if target else (0, 0) for axis, i in zip(axes, at, strict=True)]
    return [*firsts, *own[0], *own[1]]


def _named(arrays):
    return {f"array_{i}": array for i, array in enumerate(arrays)}


def _numbered(note):
    return [note[f"array_{i}"] for i in range(len(note))]


def _check_finite(arrays, axes, at, what):
    if all(np.isfinite(array).all() for array in arrays):
        return
    rows, columns = (axis.own[i] for axis, i in zip(axes, at, strict=True))
    raise FloatingPointError(
        f"{what} must be finite, for one that is not spoils the whole image. Received: NaN or "
        f"infinity in the tile of rows {rows[0]} to {rows[1] - 1} and columns {columns[0]} to "
        f"{columns[1] - 1}. Check the image there (`nodata` leaves pixels out), and the model's "
        "weights."
    )


def _image_size(image, channels):
    shape = tuple(getattr(image, "shape", ()))
    if len(shape) not in (2, 3) or (*shape, 1)[2] != channels or min(shape) < 1:
        raise ValueError(
            f"`image` must be an array of the shape (H, W, {channels}), the channels of the model "
            f"last. Received: image of shape {shape or type(image).__name__}. Move the axis of the "
            "channels, leave some out (`bands`, of a raster file), or build the model with another "
            "image_shape."
        )
    return shape[:2]


def _result_dtype(output, network):
    if output != "classes":
        return "float32"
    return dtype_of_ids(network.num_classes) if network.activation == "softmax" else "uint8"


def _result_shape(output, size, network):
    one_answer = network.activation == "softmax" or network.num_classes == 1
    return size if output == "classes" and one_answer else (*size, network.num_classes)


def _checked_sink(sink, journal, output, size, network):
    shape = _result_shape(output, size, network)
    dtype = _result_dtype(output, network)
    if sink is None and journal.folder is None:
        return np.empty(shape, dtype)
    if sink is None:
        path = journal.folder / "result.npy"
        if not path.exists():
            journal.forget("result")
            with whole_file(path) as unfinished:
                np.lib.format.open_memmap(unfinished, "w+", dtype, shape)
                # Where the disk fills up later, writing to a mapped file ends the process.
                if hasattr(os, "posix_fallocate"):
                    with open(unfinished, "rb+") as file:
                        os.posix_fallocate(file.fileno(), 0, os.fstat(file.fileno()).st_size)
        return np.lib.format.open_memmap(path, "r+")
    writeable = getattr(getattr(sink, "flags", None), "writeable", True)
    if not hasattr(sink, "__setitem__") or not writeable:
        raise ValueError(
            "`sink` must take sink[rows, columns] = block. Received: a "
            f"{type(sink).__name__} that cannot be written. Open it for writing: np.lib.format."
            f"open_memmap(path, 'w+', '{dtype}', {shape}) or zarr.create_array."
        )
    rule: Any = "safe" if output == "classes" else "same_kind"
    if not np.can_cast(dtype, getattr(sink, "dtype", dtype), rule):
        raise ValueError(
            f"`sink` must hold {dtype}, what output={output!r} gives. Received: sink of dtype "
            f"{sink.dtype}, which would change the numbers. Create one of {dtype}."
        )
    if tuple(getattr(sink, "shape", shape)) != shape:
        raise ValueError(
            f"`sink` must have the shape {shape} of the result for output={output!r}. Received: "
            f"sink of shape {tuple(sink.shape)}. Create one of that shape, or leave it out."
        )
    return sink


def _digest_of_block(sink, rows, columns):
    """Of a block as the sink holds it; "" for a sink that can only be written to."""
    if not hasattr(sink, "__getitem__"):
        return ""
    return hashlib.sha256(np.ascontiguousarray(sink[rows, columns]).tobytes()).hexdigest()


def _fingerprint(image):
    """Tells images apart by their size and a few blocks of pixels: reading all would take long."""
    digest = hashlib.sha256(f"{tuple(image.shape)} {image.dtype}".encode())
    for i in range(5):
        rows, columns = (
            slice(start, start + 16) for start in (n * i // 5 for n in image.shape[:2])
        )
        digest.update(np.ascontiguousarray(np.asarray(image[rows, columns])).data)
    return digest.hexdigest()
