"""A network, taken apart at its attention, so that a tile can stop there and continue later.

Two kinds of layers need the whole map: frequency self-attention and bands of frequencies. One that
resizes a map to the size of another must know where in the whole the tile lies. All layers between
these see neighbourhoods only. `Network` holds the parts in their order; `TileModel` runs a tile
through them until it has what a pass is for: the tile's share of the sums of one attention layer,
the features, or the result.
"""

import contextlib
import math
from collections.abc import Sequence

import keras
import numpy as np
from keras import ops

from keras_fsa.classes import activation_of
from keras_fsa.graphs import left_as_it_was, maker
from keras_fsa.large import geometry
from keras_fsa.layers import FrequencyBands, SpatialSelfAttention
from keras_fsa.layers.resize_like import ResizeLike
from keras_fsa.layers.self_attention import SelfAttention
from keras_fsa.models.fsanet import FsaNet
from keras_fsa.models.torch_memory import free_early
from keras_fsa.patches import Patch, patch_scope
from keras_fsa.resize import positions, resample
from keras_fsa.spectral import xla_scope
from keras_fsa.types import Tensor

OUTPUTS = ("classes", "probabilities", "logits")
# Indices into the views of a network's maps, beside those of its attention layers. The maps of
# low-level stages lie in front of that of stage 5.
FEATURES, LOGITS = -2, -1


class Network:
    """The parts of a model.

    Args:
        model: an `FsaNet`, or a functional model from an image `(B, H, W, channels)` to logits
            `(B, h, w, num_classes)`, with `FrequencySelfAttention`, `FrequencyBands` and
            `ResizeLike` anywhere in it, but not in models within it.

    Attributes:
        attention: the layers that need the whole map, in the order in which an image meets them.
        in_backbone: how many of them come before the features.
        resizes: the layers that resize a map to the size of another, in the same order.
        features: what the last graph takes: of an `FsaNet`, the output of the backbone; with
            `low_level`, those of its stages, too.
        feature_views: the index of each among the views.

    Raises:
        ValueError: for another model, attention between positions, or a size that is fixed.
    """

    def __init__(self, model: keras.Model) -> None:
        self.model = model
        self.align_corners = getattr(model, "align_corners", False)
        if isinstance(model, FsaNet):
            self.normalize: keras.layers.Layer | None = model.normalize
            stages = model.backbone.output
            # A dict as the head takes it, so that both are flattened in one order.
            features = (
                {stage: stages[stage] for stage in model.head.input}
                if model.low_level
                else stages["stage5"]
            )
            graphs = [keras.Model(model.backbone.input, features), model.head]
        elif hasattr(model, "operations") and len(getattr(model, "inputs", ())) == 1:
            self.normalize, graphs = None, [model]
        else:
            raise ValueError(
                "`model` must be an FsaNet, or a functional model of one input. Received: "
                f"model={model!r}. Build it from keras.Input and layers."
            )
        shape = (None, *getattr(model, "image_shape", graphs[0].inputs[0].shape[1:]))
        if len(shape) != 4 or shape[1:3] != (None, None):
            raise ValueError(
                "`model` must take images of any size. Received: a model whose input has the shape "
                f"{tuple(shape)}. Build it with image_shape=(None, None, {shape[-1]}) and carry "
                "the weights over."
            )
        self.channels = shape[-1]
        output = graphs[-1].output
        if not isinstance(output, keras.KerasTensor) or len(output.shape) != 4:
            raise ValueError(
                "`model` must give one map of logits. Received: a model whose output is "
                f"{output!r}. Make a model of the output that counts."
            )
        self.num_classes = output.shape[-1]
        self.activation = activation_of(model)
        self.graphs = [(graph, _parts(graph)) for graph in graphs]
        attention = _of_kind(geometry.GLOBAL, self.graphs)
        self.attention = [layer for layer, _ in attention]
        self.attention_channels = [sources[0].shape[-1] for _, sources in attention]
        self.in_backbone = len(_of_kind(geometry.GLOBAL, self.graphs[:-1]))
        self.resizes = [layer for layer, _ in _of_kind(ResizeLike, self.graphs)]
        self.features = graphs[-1].inputs
        self.feature_views = range(LOGITS - len(self.features), LOGITS)

    def views(
        self, size: int, axis: int, from_features: bool = False
    ) -> tuple[list[geometry.View], int]:
        """What maps see of an image of this size, along one axis.

        Args:
            size: of the image.
            axis: 0 for rows, 1 for columns.
            from_features: whether the features are known everywhere. Maps that are computed from
                them then count as seeing the first pixel of each feature they read.

        Returns:
            The views of each attention layer's map, then of what each resizing layer reads (the map
            and the one whose size it gets), of the features, and of the logits; and the grid on
            which tiles must lie: the least common multiple of the strides of all maps.
        """
        views, grid = [geometry.View(size)], 1
        attention: list[geometry.View] = []
        resizes: list[geometry.View] = []
        for graph, parts in self.graphs:
            features = views
            if from_features and graph is self.graphs[-1][0]:
                views = [geometry.known(view, size) for view in views]
            found = geometry.views(graph, views, axis)
            grid = math.lcm(grid, geometry.grid(found))
            for kind, result in ((geometry.GLOBAL, attention), (ResizeLike, resizes)):
                for _, sources in _of_kind(kind, [(graph, parts)]):
                    result += [found[id(source)] for source in sources]
            views = [found[id(tensor)] for tensor in graph.outputs]
        return [*attention, *resizes, *features, *views], grid


def _of_kind(kind, graphs):
    """`(layer, the tensors it reads)` for all layers of a kind that parts lead to, in order."""
    steps = (step for _, parts in graphs for step in parts)
    return [(layer, sources) for _, layer, sources in steps if isinstance(layer, kind)]


def _parts(graph):
    """`(model of a part, the layer behind it or None, the tensors it reads)`, in order.

    The layer is attention or `ResizeLike`, and the part makes the (first) map that it is given. The
    part before the first such layer takes the graph's inputs; each later one also what the layers
    before made.
    """
    parts, known = [], list(graph.inputs)
    for layer, sources, made in _nodes(graph):
        parts.append((_part(known, sources[0]), layer, sources))
        known.append(made)
    return [*parts, (_part(known, graph.output), None, [])]


def _part(known, output):
    if any(output is tensor for tensor in known):
        index = next(i for i, tensor in enumerate(known) if tensor is output)
        return lambda tensors, training: tensors[index]
    with left_as_it_was(output):
        part = keras.Model(list(known), output)
        free_early(part)
    return part


def _nodes(graph):
    """`(layer, its inputs, its output)` of attention and `ResizeLike` in a graph, sources first."""
    found, seen, pending = [], set(), [(tensor, False) for tensor in graph.outputs]
    while pending:
        tensor, visited = pending.pop()
        operation, sources = maker(tensor)
        if visited:
            if isinstance(operation, (*geometry.GLOBAL, ResizeLike)):
                found.append((operation, sources, tensor))
            continue
        if id(tensor) in seen:
            continue
        seen.add(id(tensor))
        if isinstance(operation, SpatialSelfAttention):
            raise ValueError(
                "Attention between positions needs all of them at once. Received: "
                f"{operation.name!r}, a SpatialSelfAttention with affinity="
                f"{operation.affinity!r}. Truncate it: keras_fsa.to_frequency(model, "
                "frequencies=8), for softmax with affinity='linear'."
            )
        if isinstance(operation, keras.Model):
            inside = [
                layer
                for layer in operation._flatten_layers(include_self=False)
                if isinstance(layer, (SelfAttention, FrequencyBands, ResizeLike))
            ]
            if inside:
                raise ValueError(
                    "Attention and ResizeLike must be in the model itself, not in a model within "
                    f"it. Received: {inside[0].name!r} in {operation.name!r}. Call its layers one "
                    "by one; of a task of KerasHub pass keras_fsa.hub.to_fsanet(task)."
                )
        pending.append((tensor, True))
        pending += [(source, False) for source in sources]
    return found


def input_analyses(layer: keras.Layer) -> int:
    """How many of the sums that an attention layer asks for are tokens of its input.

    All others are over maps that it synthesises from tokens, which needs no image.
    """
    return len(layer.bands) if isinstance(layer, FrequencyBands) else 1


class TileModel(keras.Model):
    """One pass of a tile through a network. Keras compiles it, as it does any model.

    Args:
        network: the parts.
        sizes: height and width of each attention layer's map, in the whole.
        stop: index of the attention layer whose shares are wanted, or `FEATURES`, or `LOGITS` for
            the result.
        output: `"classes"`, `"probabilities"` or `"logits"`.

    Call arguments:
        inputs: a dict of

            - `"image"`: the tile with its margin, `(1, h, w, channels)`; or `"features"`, a list,
              where these are known.
            - `"places"`: int32, a row for each attention layer: its map's first row and column,
              and the half-open ranges of rows and columns that the tile owns.
            - `"sums"`: for each attention layer, its list of known sums.
            - `"resizes"`: for each resizing layer, the interpolation of rows and of columns between
              the tile's two maps.
            - `"rows"`, `"columns"`: interpolation from the tile's logits to its pixels.
            - `"seen"`: `(1, h, w, 1)`, 1 where the camera saw the pixel, and `"weight"`, that of
              the positions of the layer `stop`. Where all was seen, neither.

    Output:
        `{"shares": [...], "asked": number of sums that the layer asks for}`; a list of the tile's
        features; or a block of pixels: `(1, H, W, num_classes)`, for classes int32 and without the
        last axis, unless there are answers to several classes (`keras_fsa.classes`).
    """

    def __init__(
        self,
        network: Network,
        sizes: Sequence[tuple[int, int]],
        stop: int,
        output: str,
    ) -> None:
        super().__init__(autocast=False)
        self.network = network
        # Of its weights, those of the parts: what is not an attribute would be a constant to JAX.
        self.model = network.model
        self.sizes = sizes
        self.stop = stop
        self.output_kind = output
        self.jit_compile = network.model.jit_compile
        # Or Keras, under JAX, would run it once without compiling it, an operation at a time.
        self.built = True

    def predict_step(self, *args, **kwargs):
        xla = keras.backend.backend() == "tensorflow" and self.jit_compile
        with xla_scope() if xla else contextlib.nullcontext():
            return super().predict_step(*args, **kwargs)

    def call(self, inputs):
        network, graphs, index = self.network, self.network.graphs, 0
        resizes = list(inputs["resizes"])
        if "features" in inputs:
            x, graphs, index = inputs["features"], graphs[-1:], network.in_backbone
            del resizes[: len(_of_kind(ResizeLike, network.graphs[:-1]))]
        else:
            x = self._normalized(inputs["image"], inputs.get("seen"))
        for graph, parts in graphs:
            known = keras.tree.flatten(x)
            if self.stop == FEATURES and graph is network.graphs[-1][0]:
                return known
            for part, layer, _ in parts:
                x = part(list(known), training=False)
                if layer is None:
                    continue
                if isinstance(layer, ResizeLike):
                    known.append(_resized(layer, x, *resizes.pop(0)))
                    continue
                patch = self._patch(index, inputs, x)
                with patch_scope(patch):
                    y = layer(x, training=False)
                if index == self.stop:
                    return _shares(layer, patch)
                known.append(y)
                index += 1
        return self._result(x, inputs["rows"], inputs["columns"])

    def _normalized(self, x, seen):
        if self.network.normalize is not None:
            x = self.network.normalize(x)
        return x if seen is None else x * ops.cast(seen, x.dtype)

    def _patch(self, index, inputs, x):
        return patch_of(
            self.sizes[index],
            x.shape[1:3],
            inputs["places"][index],
            inputs["sums"][index],
            inputs.get("weight") if index == self.stop else None,
        )

    def _result(self, logits, rows, columns):
        rows, columns = (ops.cast(matrix, logits.dtype) for matrix in (rows, columns))
        # With few classes, several times as fast under torch as products in batches.
        x = ops.einsum("hj,bjkc->bhkc", rows, logits)
        x = ops.einsum("wk,bhkc->bhwc", columns, x)
        softmax = self.network.activation == "softmax"
        if self.output_kind == "classes":
            if softmax:
                return ops.argmax(x, axis=-1)
            yes = ops.cast(x >= 0, "int32")
            return yes[..., 0] if yes.shape[-1] == 1 else yes
        if self.output_kind == "probabilities":
            return ops.softmax(x) if softmax else ops.sigmoid(x)
        return x


class SumModel(keras.Model):
    """What a tile adds to a sum over a map that an attention layer synthesises from tokens.

    Args:
        layer: the attention layer.
        size: height and width of its map.
        shape: height and width of a tile of it.
        channels: of its map.

    Call arguments:
        inputs: a dict of `"places"` and `"sums"`, as for `TileModel`, of this layer.

    Output:
        As of `TileModel`.
    """

    def __init__(
        self, layer: keras.Layer, size: tuple[int, int], shape: tuple[int, int], channels: int
    ) -> None:
        super().__init__(autocast=False)
        self.layer, self.size, self.shape, self.channels = layer, size, shape, channels
        self.built = True  # as a `TileModel` is

    def call(self, inputs):
        patch = patch_of(self.size, self.shape, inputs["places"], inputs["sums"])
        x = ops.zeros((1, *self.shape, self.channels), self.layer.compute_dtype)
        with patch_scope(patch):
            self.layer(x, training=False)
        return _shares(self.layer, patch)


def patch_of(
    size: tuple[int, int],
    shape: tuple[int, int],
    place: Tensor,
    sums: Sequence[Tensor],
    weight: Tensor | None = None,
) -> Patch:
    """The patch that a row of `"places"` describes."""
    own = ((place[2], place[3]), (place[4], place[5]))
    return Patch(size, (place[0], place[1]), shape, own, sums, weight)


def _resized(layer, x, rows, columns):
    rows, columns = (ops.cast(matrix, layer.compute_dtype) for matrix in (rows, columns))
    return resample(ops.cast(x, layer.compute_dtype), rows, columns)


def _shares(layer, patch):
    # After the tokens of its input, a layer asks for one sum after the other.
    wanted = 1 if patch.sums else input_analyses(layer)
    return {"shares": patch.shares[:wanted], "asked": ops.convert_to_tensor(patch.asked, "int32")}


def interpolation(
    size: int,
    new_size: int,
    start: int,
    stop: int,
    first: int,
    count: int,
    align_corners: bool | None,
) -> np.ndarray:
    """The part of bilinear resizing that gives the positions `start .. stop - 1` of the result.

    Args:
        size, new_size: of the whole map and of the whole result, along one axis.
        start, stop: positions of the result.
        first, count: the positions of the map that there are: from `first` on, `count` of them.
            Beyond these it is continued by its last values, as at the border of the whole.
        align_corners: see `keras_fsa.resize`.

    Returns:
        float64 `(stop - start, count)`.
    """
    position = positions(size, new_size, align_corners)[start:stop]
    position = np.clip(position, first, first + count - 1)
    return np.maximum(0.0, 1.0 - np.abs(position[:, None] - (first + np.arange(count))))
