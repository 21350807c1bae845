"""Trained networks in `.keras` files: opened safely, adapted to other classes or precisions."""

import zipfile
from typing import Any

import keras

from keras_fsa.checkpoints import check_values
from keras_fsa.spectral import token_dtype
from keras_fsa.types import Path
from keras_fsa.weights import copy_weights


def load_keras_file(path: Path, name: str = "path") -> keras.Model:
    """The model in a `.keras` file, not compiled. No code in the file is run.

    The optimizer is not loaded: it may name classes of the engine that the model was trained on,
    and importing them after another engine can abort the process.

    Args:
        path: the file.
        name: the argument that named it, for errors.

    Raises:
        ValueError: for a file that is not a complete `.keras` file with finite weights.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            archive.getinfo("config.json")
        model = keras.saving.load_model(path, compile=False, safe_mode=True)
    except Exception as error:
        reason = str(error).strip().splitlines() or [type(error).__name__]
        raise ValueError(
            f"`{name}` does not load. Received: {path} ({reason[0][:300]}). Give a complete "
            ".keras file of a model of this library."
        ) from error
    # Both heads call their layers alike.
    for weight in model.weights:
        check_values(str(path), {weight.path: keras.ops.convert_to_numpy(weight)})
    return model


def with_policy(model: keras.Model, policy: str, **changes: Any) -> keras.Model:
    """A new model of the same configuration under another dtype policy.

    It applies to every layer except the one that returns the logits, which is float32 under mixed
    precision.

    Args:
        model: any Keras model.
        policy: name of a dtype policy.
        **changes: other values of its configuration.

    Returns:
        The new model. Its weights are random.
    """
    wide = token_dtype(keras.DTypePolicy(policy).compute_dtype)

    def convert(config, policy):
        if isinstance(config, dict):
            if config.get("class_name") == "DTypePolicy":
                return keras.dtype_policies.serialize(keras.DTypePolicy(policy))
            policy = wide if config.get("name") == "logits" else policy
            return {key: convert(value, policy) for key, value in config.items()}
        if isinstance(config, (list, tuple)):
            return type(config)(convert(value, policy) for value in config)
        return config

    return type(model).from_config({**convert(model.get_config(), policy), **changes})


def adapted(model: keras.Model, policy: str, **changes: Any) -> keras.Model:
    """A trained `FsaNet` under a dtype policy, with other arguments of its last layers.

    Args:
        model: the network.
        policy: name of a dtype policy.
        **changes: `num_classes`, `activation`, `class_names` and `palette`. With another number of
            classes, the last layers are new, with random weights, so the heads are not frozen, and
            names, colours and activation are not taken from the model.
    """
    if changes.get("num_classes", model.num_classes) != model.num_classes:
        reset: dict[str, Any] = dict.fromkeys(("activation", "class_names", "palette"))
        changes = {**reset, "frozen": {}, **changes}
    copy = with_policy(model, policy, **changes)
    new_classes = copy.num_classes != model.num_classes
    for old, new in zip(_parts(model), _parts(copy), strict=True):
        if not (new_classes and old.name == "logits"):
            copy_weights(old, new)
    return copy


def _parts(model):
    heads = (head for head in (model.head, model.auxiliary_head) if head is not None)
    return [model.normalize, model.backbone, *(layer for head in heads for layer in head.layers)]


def in_float32(model: keras.Model) -> keras.Model:
    """A trained `FsaNet`, or a copy in float32 if any layer computes in another precision."""
    others = ("float16", "bfloat16", "float64")
    has_other = any(layer.compute_dtype in others for layer in model._flatten_layers())
    return adapted(model, "float32") if has_other else model
