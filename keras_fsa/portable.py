"""Files of compiled models that open on every backend.

Keras' torch backend has optimizer classes of its own, and a `.keras` file of a model that was
compiled there names them by their private module, which imports torch. `FsaNet` writes the public
names, and reads both. Whether to compile with XLA or torch.compile is another such thing: Keras
writes what `jit_compile="auto"` came to on the writing backend; here a file says "auto", so pass
another choice to `compile` after loading. For other models, such as a network of your own with a
layer of ours:

```python
model.save("model.keras")
keras_fsa.portable.make_portable("model.keras")
```

The same call, with any backend or none of torch installed, opens a file that was saved without it.
Weights and the optimizer's state need nothing: they have the same order, shapes and names.
"""

import json
import re
import zipfile
from typing import Any

from keras_fsa.files import whole_file
from keras_fsa.types import Path

__all__ = ["make_portable", "portable_config"]

_PRIVATE = re.compile(r"keras\.src\.backend\.torch\.optimizers\.torch_\w+")


def portable_config(config: Any) -> Any:
    """A copy of a serialized object with public names of optimizers and `jit_compile="auto"`.

    Args:
        config: what `keras.saving.serialize_keras_object` or `model.get_compile_config` returns.
    """
    if isinstance(config, (list, tuple)):
        return type(config)(portable_config(item) for item in config)
    if not isinstance(config, dict):
        return config
    config = {key: portable_config(value) for key, value in config.items()}
    module = config.get("module")
    if isinstance(module, str) and _PRIVATE.fullmatch(module):
        config.update(module="keras.optimizers", registered_name=None)
    if {"optimizer", "jit_compile"} <= config.keys():
        config["jit_compile"] = "auto"
    return config


def make_portable(path: Path) -> None:
    """Give Keras' optimizers in a `.keras` file their public names; the file is replaced whole.

    Args:
        path: a `.keras` file.

    Raises:
        ValueError: if it is not a `.keras` file.
        FileNotFoundError: if there is no such file.
    """
    name = "config.json"
    try:
        with zipfile.ZipFile(path) as archive, whole_file(path) as temporary:
            config = json.loads(archive.read(name))
            with zipfile.ZipFile(temporary, "w") as new:
                for item in archive.infolist():
                    if item.filename == name:
                        new.writestr(item, json.dumps(portable_config(config)))
                        continue
                    with archive.open(item) as old, new.open(item, "w") as file:
                        while block := old.read(2**24):
                            file.write(block)
    except (zipfile.BadZipFile, KeyError, json.JSONDecodeError) as error:
        raise ValueError(
            f"`path` must be a .keras file. Received: path={str(path)!r} ({error}). Pass what "
            "model.save wrote."
        ) from error
