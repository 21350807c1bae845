"""The whole state of a training in one file that is always complete.

A process that is killed at any point leaves the old state or the new one (`keras_fsa.files`), and
the state before that stays beside it: a file that the disk damaged is noticed by its checksum, and
the training continues from the previous one. (`keras.callbacks.BackupAndRestore` overwrites its
file in place and knows epochs, not steps.)

The file is an uncompressed `.npz` of plain arrays: one per variable, a JSON header and a SHA-256 of
all of them. Nothing in it is ever unpickled or executed.
"""

import hashlib
import json
import math
import os
import shutil
import tempfile
import warnings
import zipfile
from collections.abc import Sequence
from pathlib import Path

import keras
import numpy as np
from keras import ops

from keras_fsa import types
from keras_fsa.arguments import integer
from keras_fsa.files import whole_file

_LARGEST_HEADER = 2**28
"""Bytes. A header holds a row of figures per checkpoint, and a line per variable."""


class DamagedCheckpoint(ValueError):
    """A file that is no complete checkpoint of this library."""


def check_writable(folder: types.Path) -> None:
    """Create a folder, and check that files can be written there.

    Raises:
        ValueError: if they cannot.
    """
    try:
        Path(folder).mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=Path(folder)):
            pass
    except OSError as error:
        raise ValueError(
            f"`output` must be a folder that can be written. Received: output={str(folder)!r} "
            f"({error}). Choose another one."
        ) from error


def check_room(folder: types.Path, model: keras.Model, names: Sequence[str]) -> None:
    """Check that the disk holds files of a compiled model's whole state, and a temporary one.

    Args:
        folder: where they are written.
        model: a compiled model whose optimizer is built.
        names: their names; files that are already there need no further room.

    Raises:
        OSError: if it does not.
    """
    variables = model.variables + model.optimizer.variables
    size = sum(4 * math.prod(variable.shape) for variable in variables)
    files = [Path(folder) / name for name in names]
    need = size * (len(files) + 1) - sum(file.stat().st_size for file in files if file.exists())
    free = shutil.disk_usage(folder).free
    if free < need:
        raise OSError(
            f"The files of this training take {need / 1e9:.1f} GB of disk. Received: "
            f"output={str(folder)!r}, with {free / 1e9:.1f} GB free. Free some space, or choose a "
            "folder on another disk."
        )


def check_finite(model: keras.Model, step: int) -> None:
    """Check the weights, and the optimizer's state, of a model that is about to be written.

    Raises:
        FloatingPointError: if one is NaN or infinite. It names the variable and the step.
    """
    _finite_arrays(model, step)


def previous(path: types.Path) -> Path:
    """Where the checkpoint before the one at `path` is kept."""
    path = Path(path)
    return path.with_name(f"{path.stem}.previous{path.suffix}")


def save_checkpoint(
    path: types.Path,
    model: keras.Model,
    step: int,
    settings: dict,
    history: Sequence[dict] = (),
    keep_previous: bool = True,
) -> None:
    """Write the weights, the random states, the optimizer's state, the step and the settings.

    Args:
        path: an `.npz` file.
        model: a compiled model.
        step: number of steps done.
        settings: a dict of what must be equal when the training continues, of JSON's types.
        history: rows of figures so far, of JSON's types.
        keep_previous: whether an earlier file stays as `previous(path)`. False where that file is
            known to be damaged.

    Raises:
        ValueError: if the step is negative.
        FloatingPointError: if a weight is not finite; the old file is then unchanged.
    """
    integer("step", step, minimum=0)
    arrays = _finite_arrays(model, step)
    description = {
        "step": step,
        "settings": settings,
        "history": list(history),
        "weights": _describe(model.variables),
        "optimizer": _describe(model.optimizer.variables),
    }
    header = np.frombuffer(json.dumps(description).encode(), "uint8")
    with whole_file(path) as temporary:
        with open(temporary, "wb") as file:
            np.savez(
                file,
                header=header,
                **{str(i): value for i, value in enumerate(arrays)},
                sha256=_checksum([header, *arrays]),
            )
            file.flush()
            os.fsync(file.fileno())
        if keep_previous and Path(path).exists():
            # Killed here, a training continues from the previous file.
            os.replace(path, previous(path))


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
        DamagedCheckpoint: a ValueError, if the file is not a complete checkpoint, or holds a
            negative step or values that are not finite.
        ValueError: if settings or architecture differ: the message says how. The model is left
            unchanged by every error.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            header, stored = _read_header(archive)
            _check_same(path, header, model, settings)
            variables = model.variables + model.optimizer.variables
            arrays = [_read_array(archive, str(i), v) for i, v in enumerate(variables)]
            # Version 0.1.0 wrote none.
            if "sha256.npy" in archive.namelist():
                expected = _read_member(archive, "sha256", 1024)
                if not np.array_equal(expected, _checksum([stored, *arrays])):
                    raise ValueError("its checksum is wrong")
    except _Differs:
        raise
    except Exception as error:
        # Damaged files meet zipfile, NumPy and json with errors of many kinds.
        if isinstance(error, FileNotFoundError):
            raise
        raise DamagedCheckpoint(
            f"A checkpoint must be a complete file of this library. Received: {path} "
            f"({type(error).__name__}: {error}). Remove it to continue from the previous one, if "
            "there is one, or choose another output to start again."
        ) from error
    for variable, value in zip(variables, arrays, strict=True):
        variable.assign(value)
    return header["step"], header["history"]


def restore_latest(
    path: types.Path, model: keras.Model, settings: dict
) -> tuple[int, list[dict], bool] | None:
    """`restore_checkpoint` of the file at `path`, or of the one before where that is damaged.

    Args:
        path, model, settings: as for `restore_checkpoint`.

    Returns:
        The number of steps done, the history, and whether the file at `path` is whole; None where
        there is no checkpoint.

    Raises:
        DamagedCheckpoint: if every file there is damaged.
        ValueError: as `restore_checkpoint`.
    """
    path, before = Path(path), previous(path)
    if not path.exists() and not before.exists():
        return None
    try:
        return *restore_checkpoint(path, model, settings), True
    except (DamagedCheckpoint, FileNotFoundError) as error:
        if not before.exists():
            raise
        state = *restore_checkpoint(before, model, settings), False
        warnings.warn(f"{error} Continuing from {before}.", stacklevel=2)
        return state


class _Differs(ValueError):
    """A checkpoint of other settings, or of another architecture."""


def _finite_arrays(model, step):
    variables = model.variables + model.optimizer.variables
    arrays = [ops.convert_to_numpy(variable) for variable in variables]
    # bfloat16 is not NumPy's own: a file would hold raw bytes of it.
    arrays = [a.astype("float32") if a.dtype.kind == "V" else a for a in arrays]
    for variable, value in zip(variables, arrays, strict=True):
        if not _is_finite(value):
            raise FloatingPointError(
                f"Weights must be finite. Received: {variable.path} with NaN or infinity after "
                f"step {step}. Earlier files are unchanged; lower the learning rate."
            )
    return arrays


def _is_finite(array):
    return array.dtype.kind in "iub" or bool(np.isfinite(array).all())


def _checksum(arrays):
    digest = hashlib.sha256()
    for array in arrays:
        array = np.ascontiguousarray(array)
        digest.update(f"{array.dtype.str} {array.shape}".encode())
        digest.update(array.data if array.size else b"")
    return np.frombuffer(digest.digest(), "uint8")


def _read_header(archive):
    stored = _read_member(archive, "header", _LARGEST_HEADER)
    header = json.loads(stored.tobytes())
    if not isinstance(header, dict):
        raise ValueError("its header is not an object")
    step = header["step"]
    if isinstance(step, bool) or not isinstance(step, int) or step < 0:
        raise ValueError(f"its step is {step!r}")
    if not isinstance(header["settings"], dict):
        raise ValueError("its settings are not an object")
    for name in ("history", "weights", "optimizer"):
        if not isinstance(header[name], list):
            raise ValueError(f"its {name} is not a list")
    if not all(isinstance(row, dict) for row in header["history"]):
        raise ValueError("its history does not consist of objects")
    for entry in header["weights"] + header["optimizer"]:
        path, name, shape = entry
        if not (isinstance(path, str) and isinstance(name, str) and isinstance(shape, list)):
            raise ValueError(f"it describes a variable by {entry!r}")
    return header, stored


def _read_member(archive, name, limit):
    info = archive.getinfo(f"{name}.npy")
    if info.file_size > limit or info.compress_type != zipfile.ZIP_STORED:
        raise ValueError(f"{name} is not stored as expected")
    # NumPy would take memory for whatever shape a file claims.
    with archive.open(info) as file:
        version = np.lib.format.read_magic(file)
        read = {
            (1, 0): np.lib.format.read_array_header_1_0,
            (2, 0): np.lib.format.read_array_header_2_0,
        }[version]
        shape, _, dtype = read(file)
        if dtype.hasobject or dtype.itemsize * math.prod(shape) > info.file_size:
            raise ValueError(f"{name} is not an array of its size")
    with archive.open(info) as file:
        return np.lib.format.read_array(file, allow_pickle=False)


def _read_array(archive, name, variable):
    # Eight bytes hold the largest of a variable's types.
    array = _read_member(archive, name, 8 * math.prod(variable.shape) + 4096)
    if array.shape != tuple(variable.shape):
        raise ValueError(f"it holds {variable.path} in the shape {array.shape}")
    if not _is_finite(array):
        raise ValueError(f"it holds {variable.path} with NaN or infinity")
    return array


def _check_same(path, header, model, settings):
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
        raise _Differs(
            "A training continues only with the settings and the architecture of its checkpoint. "
            f"Received: {path} with {'; '.join(differences[:8])}{more}. Pass the same settings, or "
            "another --output to start again."
        )


def _describe(variables):
    return [[variable.path, variable.name, list(variable.shape)] for variable in variables]


def _differences(before, now, names=True):
    """In the order of the variables: paths hold automatic names, which count up in a process.

    `names=False`: the names of an optimizer's variables contain them, too.
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
