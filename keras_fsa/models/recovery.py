"""Models that remain usable after `fit`, `evaluate` or `predict` has ended in an error.

Under JAX, Keras takes the weights out of a model while it runs, and puts them back at the end. If
an error or Ctrl-C intervened, they would be lost: after one `predict` of an image of the wrong
shape, a trained model would have none. Under TensorFlow, if the first training step failed, all
later ones could not create the optimizer's variables until the model was compiled anew. Under torch
there is nothing to repair.
"""

import functools

import keras

from keras_fsa.compilation import Model


def recovers(model: Model) -> Model:
    """Class decorator: a model stays intact after errors and keeps what it has learned."""
    guarded = {"jax": _keeps_weights, "tensorflow": _traces_anew}.get(keras.backend.backend())
    if guarded:
        for name in ("fit", "evaluate", "predict"):
            setattr(model, name, guarded(getattr(model, name)))
    return model


def _traces_anew(method):
    @functools.wraps(method)
    def run(self, *args, **kwargs):
        try:
            return method(self, *args, **kwargs)
        except Exception:
            self.train_function = self.test_function = None
            raise

    return run


def _keeps_weights(method):
    @functools.wraps(method)
    def run(self, *args, **kwargs):
        variables = [*self.variables]
        optimizer = getattr(self, "optimizer", None)
        if optimizer is not None:
            if method.__name__ == "fit" and not optimizer.built:
                # Else Keras would make its variables after the look at them.
                optimizer.build(self.trainable_variables)
            variables += optimizer.variables
        before = [(variable, variable.value) for variable in variables]
        try:
            return method(self, *args, **kwargs)
        except BaseException:
            # A step overwrites the values that it is given; Keras has the new ones.
            for variable, value in before:
                if _is_lost(variable) and not value.is_deleted():
                    variable.assign(value)
            if any(_is_lost(variable) for variable, _ in before):
                self.jax_state_sync()
            raise

    return run


def _is_lost(variable):
    try:
        _ = variable.value
    except TypeError:  # how a variable says that it has no value
        return True
    return False
