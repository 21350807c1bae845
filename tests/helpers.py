"""What several test files need."""

import contextlib
import functools
import os
import subprocess
import sys

import keras
import numpy as np

BACKEND = keras.backend.backend()


def array(x):
    return keras.ops.convert_to_numpy(x)


def randomize(layer, rng, scale=0.3):
    """Random weights everywhere: a fresh attention layer is the identity, and hides mistakes."""
    for weight in layer.weights:
        value = scale * rng.standard_normal(weight.shape)
        weight.assign(np.abs(value) + 0.5 if weight.name.endswith("variance") else value)
    return layer


def weights_by_name(layer):
    return {weight.name: array(weight) for weight in layer.weights}


@contextlib.contextmanager
def default_dtype(floatx):
    """Keras' default dtype within the block."""
    # Whoever asks for the policy first fixes it, to the default dtype of that moment.
    keras.config.dtype_policy()
    before = keras.config.floatx()
    keras.config.set_floatx(floatx)
    try:
        yield
    finally:
        keras.config.set_floatx(before)


def call(layer, x, training=False):
    """`layer(x, training=training)`; JAX compiles it whole, not each operation in it."""
    if BACKEND != "jax":
        return layer(x, training=training)
    import jax

    if not layer.built:
        layer.build(x.shape)
    run = jax.jit(functools.partial(layer.stateless_call, training=training))
    trainable, others = layer.trainable_variables, layer.non_trainable_variables
    y, moved = run([w.value for w in trainable], [w.value for w in others], x)
    for variable, value in zip(others, moved, strict=True):
        variable.assign(value)
    return y


def gradients(layer, x, upstream):
    """Gradient of sum(upstream * layer(x)) with respect to x and the trainable weights."""
    if BACKEND == "tensorflow":
        import tensorflow as tf

        x = tf.convert_to_tensor(x)
        with tf.GradientTape() as tape:
            tape.watch(x)
            loss = tf.reduce_sum(layer(x) * upstream)
        values = tape.gradient(loss, [x, *[w.value for w in layer.trainable_weights]])
    elif BACKEND == "torch":
        import torch

        x = torch.tensor(x, requires_grad=True)
        loss = (layer(x) * torch.tensor(upstream)).sum()
        values = torch.autograd.grad(loss, [x, *[w.value for w in layer.trainable_weights]])
    else:
        import jax

        def loss(x, weights):
            y, _ = layer.stateless_call(weights, [w.value for w in layer.non_trainable_weights], x)
            return (y * upstream).sum()

        gradient = jax.jit(jax.grad(loss, (0, 1)))
        values = gradient(x, [w.value for w in layer.trainable_weights])
        values = [values[0], *values[1]]
    return [array(value) for value in values]


def run_python(code, *arguments, **environment):
    """Run code in a new process of this backend; its output. Fails if the process does."""
    done = subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


PREDICT_FILES = """
import sys
import keras, keras_fsa
import numpy as np
arrays = np.load(sys.argv[1])
outputs = {
    name: keras.saving.load_model(f"{sys.argv[2]}/{name}.keras").predict(arrays[name], verbose=0)
    for name in arrays.files
}
np.savez(sys.argv[3], **outputs)
"""


def predict_in_new_process(models, inputs, folder, prologue="", **environment):
    """Save the models, and predict from the files in a process that imports keras_fsa only.

    Args:
        models, inputs: dicts with the same keys.
        prologue: code that runs first in the new process.
    """
    for name, model in models.items():
        model.save(folder / f"{name}.keras")
    np.savez(folder / "inputs.npz", **inputs)
    code = prologue + PREDICT_FILES
    run_python(code, folder / "inputs.npz", folder, folder / "outputs.npz", **environment)
    return dict(np.load(folder / "outputs.npz"))
