"""The whole state of a training in one file that is always complete.

A process that is killed, wherever, leaves either the old state or the new one, see
`keras_fsa.files`. (`keras.callbacks.BackupAndRestore` overwrites its file in place and knows
epochs, not steps.)
"""

import json
import math
import shutil
import tempfile
import zipfile
from collections.abc import Sequence
from pathlib import Path

import keras
import numpy as np
from keras import ops

from keras_fsa import types
from keras_fsa.files import whole_file


def check_writable(folder: types.Path) -> None:
    """Make a folder, and see that files can be written there.

    Raises:
        ValueError: where they cannot.
    """
    try:
        Path(folder).mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise ValueError(
            f"`output` must be a folder that can be written. Received: output={str(folder)!r} "
            f"({error}). Name another one."
        ) from error


def check_room(folder: types.Path, model: keras.Model, names: Sequence[str]) -> None:
    """See that the disk holds files of a compiled model's whole state, and a temporary one.

    Args:
        folder: where they are written.
        model: a compiled model whose optimizer is built.
        names: their names; what is there already takes no further room.

    Raises:
        OSError: where it does not.
    """
    variables = model.variables + model.optimizer.variables
    size = sum(4 * math.prod(variable.shape) for variable in variables)
    files = [Path(folder) / name for name in names]
    need = size * (len(files) + 1) - sum(file.stat().st_size for file in files if file.exists())
    free = shutil.disk_usage(folder).free
    if free < need:
        raise OSError(
            f"The files of this training take {need / 1e9:.1f} GB of disk. Received: "
            f"output={str(folder)!r}, with {free / 1e9:.1f} GB free. Make room, or name a folder "
            "on another disk."
        )


def save_checkpoint(
    path: types.Path, model: keras.Model, step: int, settings: dict, history: Sequence[dict] = ()
) -> None:
    """Write the weights, the random states, the optimizer's state, the step and the settings.

    Args:
        path: an `.npz` file.
        model: a compiled model.
        step: number of steps done.
        settings: a dict of what must be equal when the training goes on, JSON's types.
        history: rows of figures so far, JSON's types.

    Raises:
        FloatingPointError: where a weight is not finite; the old file stands as it was.
    """
    variables = model.variables + model.optimizer.variables
    arrays = [ops.convert_to_numpy(variable) for variable in variables]
    for variable, value in zip(variables, arrays, strict=True):
        if np.issubdtype(value.dtype, np.floating) and not np.isfinite(value).all():
            raise FloatingPointError(
                f"Weights must be finite. Received: {variable.path} with NaN or infinity after "
                f"step {step}. The last checkpoint stands as it was; lower the learning rate."
            )
    header = {
        "step": step,
        "settings": settings,
        "history": list(history),
        "weights": _describe(model.variables),
        "optimizer": _describe(model.optimizer.variables),
    }
    with whole_file(path) as temporary, open(temporary, "wb") as file:
        np.savez(
            file,
            header=np.frombuffer(json.dumps(header).encode(), "uint8"),
            **{str(i): value for i, value in enumerate(arrays)},
        )


def restore_checkpoint(
    path: types.Path, model: keras.Model, settings: dict
) -> tuple[int, list[dict]]:
    """Bring a compiled model to the state of a checkpoint.

    Args:
        path: what `save_checkpoint` wrote.
        model: a compiled model, built by the same code.
        settings: as given to `save_checkpoint`.

    Returns:
        The number of steps done, and the history.

    Raises:
        ValueError: for a file that is no checkpoint, other settings or another architecture: what
            differs is named, and the model is left as it was.
    """
    try:
        with np.load(path) as file:
            header = json.loads(file["header"].tobytes())
            arrays = [file[str(i)] for i in range(len(header["weights"] + header["optimizer"]))]
    except (KeyError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise ValueError(
            f"A checkpoint must be a complete file of this library. Received: {path} ({error}). "
            "Remove it to start anew."
        ) from error
    # Through JSON and back, so that tuples compare as the lists they were saved as.
    settings = json.loads(json.dumps(settings))
    before = header["settings"]
    differences = [
        f"{name}={before.get(name)!r} there and {settings.get(name)!r} here"
        for name in sorted({*before, *settings})
        if before.get(name) != settings.get(name)
    ]
    differences += _differences(header["weights"], _describe(model.variables)) or _differences(
        header["optimizer"], _describe(model.optimizer.variables), names=False
    )
    if differences:
        more = f"; and {len(differences) - 8} more" if len(differences) > 8 else ""
        raise ValueError(
            "A training goes on only with the settings and the architecture of its checkpoint. "
            f"Received: {path} with {'; '.join(differences[:8])}{more}. Give the same settings, or "
            "another --output to start anew."
        )
    variables = model.variables + model.optimizer.variables
    for variable, value in zip(variables, arrays, strict=True):
        variable.assign(value)
    return header["step"], header["history"]


def _describe(variables):
    return [[variable.path, variable.name, list(variable.shape)] for variable in variables]


def _differences(before, now, names=True):
    """In the order of the variables: paths hold automatic names, which count up in a process.

    `names=False`: those of an optimizer's variables hold them, too.
    """
    found = [
        f"{path} of shape {tuple(shape)} there and {other_path} of shape {tuple(other_shape)} here"
        for (path, name, shape), (other_path, other_name, other_shape) in zip(
            before, now, strict=False
        )
        if shape != other_shape or (names and name != other_name)
    ]
    count = min(len(before), len(now))
    found += [f"{path} there only" for path, *_ in before[count:]]
    return found + [f"{path} here only" for path, *_ in now[count:]]
