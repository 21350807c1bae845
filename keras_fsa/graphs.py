"""The graph of a functional model in Keras: which operation makes a tensor, and from what."""

import contextlib
import threading
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import keras
from keras import layers

_POINTWISE = (
    layers.InputLayer,
    layers.Identity,
    layers.Activation,
    layers.ReLU,
    layers.LeakyReLU,
    layers.ELU,
    layers.BatchNormalization,
    layers.Dropout,
    layers.SpatialDropout2D,
    layers.GaussianNoise,
    layers.GaussianDropout,
    layers.Rescaling,
    layers.Dense,
    layers.Add,
    layers.Subtract,
    layers.Multiply,
    layers.Average,
    layers.Maximum,
    layers.Minimum,
)
_LAST_AXIS = (layers.Concatenate, layers.Softmax, layers.LayerNormalization)
# Operations of `keras.ops` in a functional graph, by the names of their classes.
_POINTWISE_OPERATIONS = set(
    "Add Subtract Multiply Divide TrueDivide Maximum Minimum Negative Absolute Square Sqrt Exp "
    "Tanh Relu Relu6 LeakyRelu Elu Selu Gelu Silu Sigmoid HardSigmoid HardSilu HardTanh Softplus "
    "Softsign Clip Cast".split()
)


_one_at_a_time = threading.Lock()


def is_graph(layer: Any) -> bool:
    """Whether a layer is a Functional or Sequential model with Keras' own `call`.

    A class that overrides `call` may do anything with its layers.
    """
    functional = isinstance(layer, keras.Function) and isinstance(layer, keras.Model)
    if not (functional or isinstance(layer, keras.Sequential)):
        return False
    return type(layer).call.__module__.startswith("keras.")


def calls(model: keras.Model) -> list[Any]:
    """The calls that make up a functional model, each after those whose tensors it reads.

    An operation's own `input` and `output` are those of its first call, which may be in another
    model; a nested model's own are inside it.
    """
    place = {id(operation): n for n, operation in enumerate(model.operations)}
    return [
        call
        for _, level in sorted(model._nodes_by_depth.items(), reverse=True)
        for call in sorted(level, key=lambda call: place[id(call.operation)])
    ]


def uncompiled(model: keras.Model) -> keras.Model:
    """A functional model of the same graph that was never compiled.

    `clone_model` would compile its clone as well, and fail if a loss cannot be serialised.
    """
    return keras.Model(model.input, model.output, name=model.name)


def outputs_of(
    layers: Sequence[keras.Layer], model: keras.Model, inputs: Any
) -> tuple[list[Any], Any]:
    """The outputs of a functional model's layers, a list each, and of the model: see `specs_of`.

    A nested model counts by its outputs, not its inner layers. Each layer is called once.
    """
    own = {id(call.operation): call.outputs for call in calls(model)}
    return specs_of([own[id(layer)] for layer in layers], model, inputs)


def specs_of(tensors: Any, model: keras.Model, inputs: Any) -> tuple[Any, Any]:
    """Shapes and dtypes of tensors in a functional model's graph, and of its output.

    Args:
        tensors: tensors of the graph, in any structure.
        model: a functional model.
        inputs: its inputs, `keras.KerasTensor`s.
    """
    every = keras.Model(model.input, [model.output, tensors])
    found, specs = every.compute_output_spec(inputs)
    return specs, found


def node(tensor: keras.KerasTensor) -> Any:
    """The call that made a tensor of a graph.

    A layer may be called several times, and only the tensor's own history, which is private in
    Keras, identifies the call. Tracing the graph by `clone_model` would add calls to the layers.
    """
    history = tensor._keras_history
    return history.operation._inbound_nodes[history.node_index]


def maker(tensor: keras.KerasTensor) -> tuple[Any, list]:
    """The operation that makes a tensor of a graph, and the tensors it reads."""
    made = node(tensor)
    return made.operation, list(made.input_tensors)


def ancestors(tensors: Iterable[keras.KerasTensor]) -> Iterator[keras.KerasTensor]:
    """Some tensors of a graph and all that they are computed from, each once."""
    pending, seen = list(tensors), set()
    while pending:
        tensor = pending.pop()
        if id(tensor) not in seen:
            seen.add(id(tensor))
            yield tensor
            pending += maker(tensor)[1]


def sources(tensor: keras.KerasTensor) -> list[keras.KerasTensor]:
    """The graph's inputs that a tensor is computed from.

    `keras.utils.get_source_inputs` walks each path, and every residual block doubles their number.
    """
    return [found for found in ancestors([tensor]) if not maker(found)[1]]


@contextlib.contextmanager
def left_as_it_was(outputs: Any) -> Iterator[None]:
    """In this block, models may be made from parts of the graph that leads to these tensors.

    For a part that begins in the middle, Keras repeats the calls of its layers and stores them on
    the layers, where they accumulate. It even repeats the calls of input layers, whose tensors then
    belong to the last call, and the original model could not be saved (Keras 3.15). Threads take
    turns, or one would remove the calls that another has added.
    """
    with _one_at_a_time:
        tensors = list(ancestors(keras.tree.flatten(outputs)))
        histories = [tensor._keras_history for tensor in tensors]
        operations = {id(history.operation): history.operation for history in histories}
        calls = [
            (nodes, len(nodes))
            for operation in operations.values()
            for nodes in (operation._inbound_nodes, operation._outbound_nodes)
        ]
        try:
            yield
        finally:
            for tensor, history in zip(tensors, histories, strict=True):
                tensor._keras_history = history
            for nodes, count in calls:
                del nodes[count:]


def pointwise(operation: Any, rank: int) -> bool:
    """Whether, in inference, the result at a position depends on that position alone.

    Args:
        operation: a layer, or an operation of `keras.ops`.
        rank: rank of the tensors that it reads, whose last axis is the channels.
    """
    last = (-1, rank - 1)
    if isinstance(operation, _LAST_AXIS):
        return all(axis in last for axis in keras.tree.flatten(operation.axis))
    if isinstance(operation, keras.Layer):
        return isinstance(operation, _POINTWISE)
    name = type(operation).__name__
    joins = name == "Concatenate" and getattr(operation, "axis", None) in last
    return name in _POINTWISE_OPERATIONS or joins
