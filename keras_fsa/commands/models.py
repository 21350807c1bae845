"""Models from files, in the forms that the commands accept."""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import keras

from keras_fsa.models.exporting import load_exported
from keras_fsa.models.fsanet import FsaNet
from keras_fsa.models.presets import is_hub_preset, preset_file, trained_presets
from keras_fsa.models.trained import load_keras_file
from keras_fsa.settings import Exists


@dataclasses.dataclass(frozen=True)
class Trained(Exists):
    """A rule: a path that exists, or the name of a network that comes with this package."""

    kind: str = "file or folder"

    def check(self, name: str, value: Any) -> None:
        """Raise a `ValueError` for a value that breaks the rule."""
        try:
            super().check(name, model_file(value))
        except ValueError as error:
            names = " or ".join(trained_presets())
            raise ValueError(f"{error} Or name a network of this package: {names}.") from error


TrainedModel = Annotated[Path, Trained()]


def model_file(path: Path) -> Path:
    """The `.keras` file of a network of this package by its name, or of a preset by its folder.

    Any other path is returned unchanged. A path that exists takes precedence over a name.
    """
    if not path.exists() and str(path) in trained_presets():
        return preset_file(path)
    inside = path / "model.keras"
    return inside if inside.is_file() else path


def load_keras_model(path: Path) -> keras.Model:
    """The segmentation model in a `.keras` file, not compiled.

    Args:
        path: the file, or whatever `model_file` accepts for one; or a KerasHub preset's folder.

    Raises:
        ValueError: for a file that is not a complete `.keras` file, or another kind of model.
    """
    path = model_file(path)
    if is_hub_preset(path):
        return FsaNet.from_preset(path)
    if path.suffix != ".keras":
        raise ValueError(
            f"`--model` must be a .keras file. Received: {path}. Write one with "
            "model.save('model.keras')."
        )
    model = load_keras_file(path, "--model")
    shapes = [getattr(model, name, None) for name in ("input_shape", "output_shape")]
    images = getattr(model, "image_shape", None)
    if images is None and not all(isinstance(shape, tuple) and len(shape) == 4 for shape in shapes):
        raise ValueError(
            "`--model` must be a segmentation model, from images (batch, height, width, channels) "
            f"to logits (batch, height, width, classes). Received: {path} with input "
            f"{shapes[0]} and output {shapes[1]}. Train one with keras_fsa train."
        )
    return model


def load_model(path: Path) -> keras.Model | Callable:
    """A model for `keras_fsa.inference`: a Keras model, or a function that runs an exported one.

    Args:
        path: a `.keras` file, a SavedModel's folder, or an `.onnx`, `.tflite` or `.xml` file; or
            anything else that `load_keras_model` accepts.

    Raises:
        ValueError: for anything else, and for files that do not load.
    """
    path = model_file(path)
    if path.suffix == ".keras" or is_hub_preset(path):
        return load_keras_model(path)
    if path.is_dir() and not (path / "saved_model.pb").exists():
        raise ValueError(
            "`--model` must be a .keras file, or a folder with a saved_model.pb in it. Received: "
            f"{path}. Write one with model.save('model.keras') or keras_fsa export."
        )
    if path.is_file() and path.suffix not in (".onnx", ".tflite", ".xml"):
        raise ValueError(
            "`--model` must be a .keras file, or one that keras_fsa export wrote. Received: "
            f"{path}. Write one with model.save('model.keras')."
        )
    try:
        return load_exported(path)
    except ImportError:
        raise
    except Exception as error:
        reason = str(error).strip().splitlines() or [type(error).__name__]
        raise ValueError(
            f"`--model` does not load. Received: {path} ({reason[0][:300]}). Write it with "
            "keras_fsa export."
        ) from error


def num_classes_of(model: keras.Model | Callable) -> int | None:
    """The number of classes of a model; None if only its output shows it."""
    if hasattr(model, "num_classes"):
        return model.num_classes
    return model.output_shape[-1] if isinstance(model, keras.Model) else None
