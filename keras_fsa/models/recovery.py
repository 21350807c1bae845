"""Models that can be used again after `fit`, `evaluate` or `predict` has ended in an error.

Under JAX, Keras takes the weights out of a model for as long as it runs, and gives them back at the
end. Where an error or Ctrl-C comes before, they would be lost: after one `predict` of an image of
the wrong shape, a trained model would have none. Under TensorFlow, a first training step that fails
would forbid the optimizer's variables in all later ones, until the model is compiled anew. Under
torch there is nothing to mend.
"""

import functools

import keras

from keras_fsa.compilation import Model


def recovers(model: Model) -> Model:
    """Class decorator: errors leave a model whole. What a training has learned is kept."""
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
