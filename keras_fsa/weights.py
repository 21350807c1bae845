"""The weights of a layer, copied to another."""

from typing import Any

import keras


def copy_weights(old: keras.Layer, new: keras.Layer) -> None:
    """Copy the weights of a layer to another one with the same configuration.

    Low-rank adaptations (Keras' `enable_lora`) are copied, too. If the new layer has none, as in
    heads that are built anew, its kernel includes what they have learned.

    Args:
        old: a built layer.
        new: its copy, built.
    """
    # A layer may derive state from its weights when they are loaded, as `Normalization` does; and
    # with a low-rank adaptation, the kernel it saves is the sum that it uses.
    store: dict[str, Any] = {}
    old.save_own_variables(store)
    new.load_own_variables({k: keras.ops.convert_to_numpy(v) for k, v in store.items()})
    if getattr(old, "lora_enabled", False) and not getattr(new, "lora_enabled", False):
        return
    new.set_weights(old.get_weights())
    for inner, new_inner in zip(old._flatten_layers(), new._flatten_layers(), strict=False):
        if getattr(new_inner, "lora_enabled", False):
            # Keras 3.15's dense layers forget it when they are built.
            new_inner.lora_alpha = inner.lora_alpha
