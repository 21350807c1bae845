"""The public surface is what `docs/api.txt` lists, and imports go the way CONTRIBUTING says."""

import ast
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import keras_fsa
from keras_fsa._deprecation import renamed_arguments
from tests.public_api import listing

pytestmark = pytest.mark.once

ROOT = Path(__file__).parent.parent
HEAVY = ("tensorflow", "torch", "jax", "keras_cv", "keras_hub", "scipy", "PIL", "matplotlib")


def test_the_listing_is_up_to_date():
    assert (ROOT / "docs/api.txt").read_text() == listing(), (
        "The public surface changed. Look at the difference, then run: "
        "python -m tests.public_api > docs/api.txt"
    )


def test_each_public_name_is_there_after_the_import():
    """In a new process: here, other tests have imported submodules."""
    code = (
        "import keras_fsa; print(all(hasattr(keras_fsa, name) for name in keras_fsa.__all__)); "
        "print(set(keras_fsa.__all__) <= set(dir(keras_fsa)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["True", "True"]
    with pytest.raises(AttributeError, match="module 'keras_fsa' has no attribute 'nonsense'"):
        keras_fsa.nonsense  # noqa: B018


def rooms():
    """The rooms of the house, from CONTRIBUTING: the level of each, counted from the ground."""
    text = (ROOT / "CONTRIBUTING.md").read_text()
    (block,) = re.findall(r"```rooms\n(.*?)```", text, re.DOTALL)
    levels = [line.split("  ")[0].split(", ") for line in block.splitlines()]
    return {room: level for level, names in enumerate(levels) for room in names}


def test_imports_go_one_way():
    levels = rooms()
    package = ROOT / "keras_fsa"
    for path in sorted(package.rglob("*.py")):
        parts = path.relative_to(package).with_suffix("").parts
        if parts[0] in ("__init__", "__main__"):
            continue
        assert parts[0] in levels, f"{parts[0]} has no place in CONTRIBUTING's list of rooms"
        for room in imported_rooms(path):
            if room != parts[0]:
                assert levels[room] < levels[parts[0]], f"{path} imports {room}, which is above it"


def imported_rooms(path):
    """What a file imports of the package, wherever in the file."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module == "keras_fsa":
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("keras_fsa."):
            yield node.module.split(".")[1]
        elif isinstance(node, ast.Import):
            for alias in node.names:
                if alias.name.startswith("keras_fsa."):
                    yield alias.name.split(".")[1]


def test_no_heavy_import_at_the_top():
    """Other than in what is imported at the point of use."""
    for path in sorted((ROOT / "keras_fsa").rglob("*.py")):
        for node in ast.parse(path.read_text()).body:
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            assert not [name for name in names if name.split(".")[0] in HEAVY], path


def test_renamed_arguments():
    @renamed_arguments(picture="image")
    def show(image, size=1):
        return image, size

    assert show("x", size=2) == ("x", 2)
    with pytest.warns(
        DeprecationWarning, match=r"`picture` of `.*show` is deprecated.*Use `image`"
    ):
        assert show(picture="y") == ("y", 1)
    with (
        pytest.warns(DeprecationWarning),
        pytest.raises(TypeError, match=r"`image` must be given once\. Received: both"),
    ):
        show(image="x", picture="y")


def test_a_missing_engine_is_named():
    code = (
        "import sys; sys.modules['tensorflow'] = None; import importlib.util as util; "
        "find = util.find_spec; "
        "util.find_spec = lambda name, *rest: "
        "name == 'jax' if name in ('tensorflow', 'jax', 'torch') else find(name, *rest); "
        "import keras_fsa"
    )
    environment = {**os.environ, "KERAS_BACKEND": "tensorflow"}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, env=environment)
    message = done.stderr.decode()
    assert done.returncode == 1
    assert "ImportError: Keras must find the engine" in message
    assert "KERAS_BACKEND='tensorflow' (" in message and "jax installed" in message
