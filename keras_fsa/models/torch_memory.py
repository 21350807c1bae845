"""Maps freed as soon as nothing needs them any more: the memory path under torch.

A functional Keras model holds the outputs of all its layers until it has run. TensorFlow and JAX
compile that away; under torch the maps of a ResNet101 on an image of 513x513 take 3.1 GiB, though
no layer needs more than two at a time. Reused memory is also faster than new memory.
"""

import gc
import types
from collections import defaultdict
from typing import Any, NamedTuple

import keras

from keras_fsa.graphs import is_graph


class _Step(NamedTuple):
    name: str
    takes: str | list[str]
    frees: list[str]
    """The maps that no later step needs."""


class _Plan(NamedTuple):
    inputs: Any
    """Names in the structure of the model's inputs; `outputs`, in that of its outputs."""
    steps: list[_Step]
    outputs: Any


def free_early(model: keras.Model) -> None:
    """Let a model free each map after its last use, if no gradient is needed. Torch only.

    This applies to the functional models in it whose layers take a tensor, or a list of tensors,
    and return one. Layers run as in Keras, in the same order. All other models stay as they are,
    and so does every call for training, with a mask, or while torch records gradients or compiles.

    Args:
        model: changed in place. On other backends nothing is done.
    """
    if keras.backend.backend() != "torch":
        return
    for graph in model._flatten_layers():
        # A Sequential model has no configuration of a graph.
        if is_graph(graph) and isinstance(graph, keras.Function):
            plan = _plan(graph)
            if plan is not None:
                graph.call = types.MethodType(_running(plan), graph)


def _plan(graph):
    """How to run a graph; None if it is not of the simple kind."""
    try:
        config = graph.get_config()
        inputs, outputs = (_names(config[end]) for end in ("input_layers", "output_layers"))
        nodes = [
            (layer["name"], _arguments(layer["inbound_nodes"]))
            for layer in config["layers"]
            if layer["inbound_nodes"]
        ]
    except (KeyError, NotImplementedError, _NotSimple):
        return None
    if not all(isinstance(operation.output, keras.KerasTensor) for operation in graph.operations):
        return None
    last = {name: i for i, (_, takes) in enumerate(nodes) for name in keras.tree.flatten(takes)}
    for name in keras.tree.flatten(outputs):
        last.pop(name, None)
    frees = defaultdict(list)
    for name, i in last.items():
        frees[i].append(name)
    steps = [_Step(name, takes, frees[i]) for i, (name, takes) in enumerate(nodes)]
    return _Plan(inputs, steps, outputs)


class _NotSimple(Exception):
    pass


def _names(structure):
    """The names of layers, in place of references to their first outputs."""
    match structure:
        case [str(name), 0, 0]:
            return name
        case list() | tuple():
            return [_names(part) for part in structure]
        case dict():
            return {key: _names(part) for key, part in structure.items()}
    raise _NotSimple


def _arguments(nodes):
    """The name of a layer's input, or a list of names."""
    match nodes:
        # `training=False` is what holds in every call that comes here.
        case [{"args": [argument], "kwargs": kwargs}] if all(
            value is None or (key, value) == ("training", False) for key, value in kwargs.items()
        ):
            if isinstance(argument, (list, tuple)):
                return [_reference(part) for part in argument]
            return _reference(argument)
    raise _NotSimple


def _reference(argument):
    match argument:
        case {"class_name": "__keras_tensor__", "config": {"keras_history": [str(name), 0, 0]}}:
            return name
    raise _NotSimple


def _running(plan):
    """`keras.Model.call` of a functional model; the neutral twin is Keras' own.

    A closure, because Keras prints the arguments of a call that fails. It holds only names: a copy
    of the model must run the copy's layers.
    """

    def call(self, inputs, training=None, mask=None):
        import torch

        kept = torch.is_grad_enabled() or torch.compiler.is_compiling()
        kept = kept or training or mask is not None
        known = None if kept else _inputs(self, inputs, plan.inputs)
        if known is None:
            return type(self).call(self, inputs, training=training, mask=mask)
        del inputs
        operations = {operation.name: operation for operation in self.operations}
        for name, takes, frees in plan.steps:
            if isinstance(takes, str):
                known[name] = operations[name](known[takes])
            else:
                known[name] = operations[name]([known[source] for source in takes])
            for source in frees:
                del known[source]
            if not isinstance(takes, str):
                # The functions by which Keras goes through lists leave cycles that hold their maps.
                gc.collect(0)
        outputs = keras.tree.map_structure(known.get, plan.outputs)
        return outputs[0] if isinstance(outputs, list) and len(outputs) == 1 else outputs

    return call


def _inputs(graph, inputs, names):
    """The inputs by name; None if Keras would have to convert them."""
    try:
        keras.tree.assert_same_structure(inputs, names)
    except ValueError:
        return None
    known = dict(zip(keras.tree.flatten(names), keras.tree.flatten(inputs), strict=True))
    fits = all(
        len(x.shape) == len(tensor.shape)
        and keras.backend.standardize_dtype(x.dtype) == tensor.dtype
        for x, tensor in zip(keras.tree.flatten(inputs), graph.inputs, strict=True)
    )
    return known if fits else None
