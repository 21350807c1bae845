"""Data sets whose examples can be had by their number, without reading those before.

A shuffle of a whole epoch, and a training that goes on in the middle of one, both want example
4711 at once. `tf.data` reads from the front, so a data set keeps what it was made of beside it: a
key for each example (a path, a place in a file) and the function that reads it from its key.
"""

from collections.abc import Callable

from keras_fsa.arguments import optional_import
from keras_fsa.types import Dataset


def indexed_dataset(keys: tuple, read: Callable, name: Callable) -> Dataset:
    """A `tf.data.Dataset` of `read(*key)` that remembers its keys.

    Args:
        keys: Tuple of lists or arrays of equal length, one entry per example.
        read: Function of the entries of one example, as tensors, that returns `(image, mask)`.
        name: Function from the number of an example to what people know it by.

    Returns:
        The data set, of known cardinality and in the order of the keys, with the arguments as its
        attributes `keys` (tensors now), `read` and `name`. Transformations (`map`, `take` and so
        on) lose them.
    """
    tf = optional_import("tensorflow", "examples")
    with tf.device("CPU"):
        keys = tuple(tf.constant(part) for part in keys)
    dataset = tf.data.Dataset.from_tensor_slices(keys).map(
        read, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True
    )
    # tf.data.experimental.at would do without, but hangs where maps run in parallel.
    dataset.keys, dataset.read, dataset.name = keys, read, name
    return dataset
