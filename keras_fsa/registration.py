"""KerasHub's calls find this package's classes, and neither package is imported for the other.

`keras_hub.models.ImageSegmenter.from_preset` finds the classes that a preset names among those that
are registered with Keras. Ours, in `keras_fsa.hub`, are subclasses of KerasHub's, so they cannot
exist before KerasHub is imported, which takes seconds that few users of this package want to wait.
So `keras_fsa.hub` is imported right after KerasHub: at once where that is imported already, else
when somebody imports it.
"""

import importlib
import importlib.abc
import sys
import warnings

_TRIGGER, _MODULE = "keras_hub", "keras_fsa.hub"


def register_with_keras_hub() -> None:
    """Import `keras_fsa.hub` once KerasHub is imported; nothing happens without KerasHub."""
    if _TRIGGER in sys.modules:
        _register()
    elif not any(isinstance(finder, _AfterKerasHub) for finder in sys.meta_path):
        sys.meta_path.insert(0, _AfterKerasHub())


def _register():
    try:
        importlib.import_module(_MODULE)
    except Exception as error:  # of a KerasHub that is too old: importing that must go on
        warnings.warn(
            f"KerasHub cannot load presets of FsaNet, since {_MODULE} did not import ({error}). "
            'Run: pip install "keras_fsa[hub]"',
            stacklevel=2,
        )


class _AfterKerasHub(importlib.abc.MetaPathFinder):
    """Finds KerasHub as the other finders do, and has `_register` run after its code."""

    def find_spec(self, fullname, path, target=None):
        if fullname != _TRIGGER:
            return None
        for finder in sys.meta_path:
            spec = None
            if finder is not self and hasattr(finder, "find_spec"):
                spec = finder.find_spec(fullname, path, target)
            if spec is not None:
                _run_after(spec.loader)
                return spec
        return None


def _run_after(loader):
    execute = getattr(loader, "exec_module", None)
    if execute is None:
        return

    def exec_module(module):
        execute(module)
        _register()

    loader.exec_module = exec_module
