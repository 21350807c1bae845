"""A functional model under torch as a list of steps: the speed path of `Functional.call`.

Keras runs a model's graph layer by layer and looks at each call anew: arguments, dtypes, masks,
scopes. For the four hundred layers of a ResNet101 that costs more than the batch norms do. Here it
is looked at once. Besides, a ReLU or a sum of two maps overwrites a map that nobody else reads, as
PyTorch's networks do it with `inplace=True`, and a map is dropped when its last reader has run.

The layers themselves stay as they are: called by hand, or in another model, they behave as ever.
"""

import types
from typing import Any, NamedTuple

import keras
from keras import layers

SIMPLE = (
    layers.Activation,
    layers.Add,
    layers.BatchNormalization,
    layers.Concatenate,
    layers.Conv2D,
    layers.MaxPooling2D,
    layers.ReLU,
    layers.ZeroPadding2D,
)
"""Layers from floating maps to a map, for which `Layer.__call__` does nothing but call them."""


class _Plan(NamedTuple):
    steps: tuple
    outputs: tuple[int, ...]


class _Unseen:
    """Holds a plan where Keras does not look for layers to save."""

    def __init__(self, plan: _Plan) -> None:
        self.plan = plan


class _Step(NamedTuple):
    layer: keras.Layer
    reads: tuple[int, ...]
    takes_a_list: bool
    writes: int
    policy: Any  # of a simple layer; another one, as after `quantize`, is called by Keras' ways
    overwrites: int | None
    drops: tuple[int, ...]


def run_as_steps(model: keras.Model) -> None:
    """Let a functional model run without looking at each call anew. Torch only.

    Values are the same to the bit. A model with shared layers, or layers that are called otherwise
    than with one map or a list of maps, stays as it is.

    Args:
        model: changed in place.
    """
    numbers = {id(tensor): i for i, tensor in enumerate(model.inputs)}
    calls: list[tuple[keras.Layer, tuple[int, ...], bool]] = []
    for layer in model.operations:
        if isinstance(layer, layers.InputLayer):
            continue
        found = _only_call(layer)
        if found is None or not all(id(x) in numbers for x in keras.tree.flatten(found)):
            return
        reads = tuple(numbers[id(x)] for x in keras.tree.flatten(found))
        numbers[id(layer.output)] = len(numbers)
        calls.append((layer, reads, isinstance(found, list)))
    outputs = [numbers[id(x)] for x in model.outputs]
    model._steps = _Unseen(_Plan(_steps(calls, len(model.inputs), outputs), tuple(outputs)))
    model.call = types.MethodType(_run, model)


def _only_call(layer):
    """The map or list of maps that a layer takes, where it is called once and with nothing else."""
    # Keras makes the tensors of a call public, not what else was given with them.
    nodes = [node for node in layer._inbound_nodes if not node.is_input]
    if not isinstance(layer, keras.Layer) or len(nodes) != 1 or len(nodes[0].output_tensors) != 1:
        return None
    arguments = nodes[0].arguments
    if len(arguments.args) != 1 or any(x is not None for x in arguments.kwargs.values()):
        return None
    found = arguments.args[0]
    flat = found if isinstance(found, list) else [found]
    return found if all(isinstance(x, keras.KerasTensor) for x in flat) else None


def _steps(calls, inputs, outputs):
    last = {number: i for i, (_, reads, _) in enumerate(calls) for number in reads}
    count: dict[int, int] = dict.fromkeys(range(inputs), 2)  # the caller's
    for number in (*outputs, *(number for _, reads, _ in calls for number in reads)):
        count[number] = count.get(number, 0) + 1
    steps = []
    for i, (layer, reads, takes_a_list) in enumerate(calls):
        free = [
            number
            for number in reads
            if count[number] == 1 and _makes_a_fresh_map(calls[number - inputs][0])
        ]
        steps.append(
            _Step(
                layer,
                reads,
                takes_a_list,
                writes=inputs + i,
                policy=layer.dtype_policy if _is_simple(layer) else None,
                overwrites=free[0] if free and _can_overwrite(layer) else None,
                drops=tuple({n for n in reads if last[n] == i and n not in outputs}),
            )
        )
    return tuple(steps)


def _is_simple(layer):
    return (
        type(layer) in SIMPLE
        and layer.activity_regularizer is None
        and layer.compute_dtype == layer.variable_dtype
        and not getattr(layer, "_remat_mode", None)
    )


def _makes_a_fresh_map(layer):
    """Whether it returns new memory which nothing, its own gradient included, reads again."""
    kinds = (layers.Add, layers.BatchNormalization, layers.Conv2D)
    linear = getattr(layer, "activation", None) in (None, keras.activations.linear)
    return type(layer) in kinds and _is_simple(layer) and linear


def _can_overwrite(layer):
    if type(layer) is layers.Activation:
        return _is_simple(layer) and layer.activation is keras.activations.relu
    if type(layer) is layers.ReLU:
        bent = layer.negative_slope or layer.threshold or layer.max_value not in (None, 6)
        return _is_simple(layer) and not bent
    return type(layer) is layers.Add and _is_simple(layer)


def _run(self: keras.Model, inputs: Any, training: Any = None, mask: Any = None) -> Any:
    """`Functional.call`, the neutral twin, for inputs as the model was built for."""
    import torch

    specs = [self.input] if isinstance(self.input, keras.KerasTensor) else self.input
    given = [inputs] if isinstance(specs, list) and not isinstance(inputs, list) else inputs
    plain = mask is None and type(given) is type(specs)
    if plain and isinstance(specs, dict):
        plain = list(given) == list(specs)
    flat = keras.tree.flatten(given) if plain else []
    plain = (
        plain
        and len(flat) == len(self.inputs)
        and all(
            isinstance(x, torch.Tensor)
            and x.ndim == len(spec.shape)
            and keras.backend.standardize_dtype(x.dtype) == spec.dtype
            and getattr(x, "_keras_mask", None) is None
            for x, spec in zip(flat, self.inputs, strict=True)
        )
    )
    if not plain:
        return type(self).call(self, inputs, training=training, mask=mask)
    steps, outputs = self._steps.plan
    maps: list[Any] = [*flat, *(None for _ in steps)]
    for step in steps:
        layer = step.layer
        given = [maps[number] for number in step.reads]
        for number in step.drops:
            maps[number] = None
        maps[step.writes] = _call(layer, given, step, training)
    flat = [maps[number] for number in outputs]
    return keras.tree.pack_sequence_as(self.output, flat)


def _call(layer, given, step, training):
    from torch.nn import functional

    dtype = given[0].dtype
    known = step.policy is layer.dtype_policy and all(
        x.dtype == dtype and keras.backend.standardize_dtype(dtype) == layer.compute_dtype
        for x in given
    )
    if not known:
        return layer(given if step.takes_a_list else given[0], training=training)
    if step.overwrites is not None and _can_overwrite(layer):
        if len(given) == 1:
            relu = functional.relu6 if getattr(layer, "max_value", None) else functional.relu
            return relu(given[0], inplace=True)
        if len(given) == 2 and given[0].shape == given[1].shape:
            first = step.reads.index(step.overwrites)
            return given[first].add_(given[1 - first])
    if type(layer) is layers.BatchNormalization:
        return layer.call(given[0], training=training)
    return layer.call(given if step.takes_a_list else given[0])
