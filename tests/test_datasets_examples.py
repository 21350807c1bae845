"""Examples by number and batches of them, on the backend at hand."""

import os
import re
import subprocess
import sys
import time

import keras
import numpy as np
import pytest

from keras_fsa.datasets.augment import training_batches
from keras_fsa.datasets.examples import Batches, Examples, in_order

RNG = np.random.default_rng(11)
COUNT = 11
PAIRS = [
    (RNG.integers(0, 256, (5, 7, 3)).astype("uint8"), np.full((5, 7), number % 3, "uint8"))
    for number in range(COUNT)
]


def numbered(count=COUNT):
    """Examples whose image says its number in each pixel."""
    return Examples(
        count,
        lambda i: (np.full((5, 7, 3), i, "uint8"), np.full((5, 7), i % 3, "uint8")),
        lambda i: f"image {i}",
        (5, 7),
    )


def first_pixels(batches):
    return [np.asarray(images)[:, 0, 0, 0].tolist() for images, _ in batches]


def model():
    inputs = keras.Input((None, None, 3))
    outputs = keras.layers.Conv2D(3, 1)(keras.layers.Rescaling(1 / 255)(inputs))
    network = keras.Model(inputs, outputs)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True, ignore_class=255)
    network.compile("sgd", loss)
    return network


def test_examples_are_a_sequence():
    examples = Examples(COUNT, PAIRS.__getitem__, "image {}".format)
    assert len(examples) == COUNT and examples.size is None
    for index in (0, 4, -1):
        for got, expected in zip(examples[index], PAIRS[index], strict=True):
            np.testing.assert_array_equal(got, expected)
    assert examples.name(4) == "image 4" and examples.name(-1) == "image 10"
    for part, numbers in (
        (examples[2:5], [2, 3, 4]),
        (examples[::4], [0, 4, 8]),
        (examples[2:][1:3], [3, 4]),
        (examples[::-1][:2], [10, 9]),
        (examples.take(2), [0, 1]),
        (examples.take(99), [*range(11)]),
        (examples.take(-1), [*range(11)]),
        (examples.skip(9), [9, 10]),
    ):
        assert isinstance(part, Examples)
        assert [part.name(i) for i in range(len(part))] == [f"image {i}" for i in numbers]
        np.testing.assert_array_equal([x for x, _ in part], [PAIRS[i][0] for i in numbers])
    with pytest.raises(IndexError):
        examples[COUNT]
    assert repr(examples[:3]) == "<Examples: 3, size=None>"
    for name, call in (("count", examples.take), ("count", examples.skip)):
        with pytest.raises(ValueError, match=rf"`{name}` must be .*Received: {name}=1\.5"):
            call(1.5)


def test_transform():
    small = numbered().transform(lambda image, mask: (image[:2], mask[:2]), (2, 7))
    assert small.size == (2, 7) and small[3:].name(0) == "image 3"
    assert small[5][0].shape == (2, 7, 3) and (small[5][0] == 5).all()


def test_in_memory_reads_each_example_once():
    reads = []

    def read(index):
        reads.append(index)
        return np.full((5, 7, 3), index, "uint8"), np.zeros((5, 7), "uint8")

    kept = Examples(4, read, "image {}".format, (5, 7)).in_memory()
    assert kept.size == (5, 7) and kept[1:].name(0) == "image 1"
    for _ in range(2):
        assert [int(image[0, 0, 0]) for image, _ in kept] == [0, 1, 2, 3]
    assert sorted(reads) == [0, 1, 2, 3]
    with pytest.raises(ValueError, match="read-only"):
        kept[0][0][0] = 1
    own = read(0)
    assert len(list(Examples(1, lambda _: own).in_memory())) == 1
    own[0][0] = 1  # the arrays of whoever made them are not read-only
    crops = training_batches(kept, (5, 7), 2, 0)
    assert crops[0][0].flags.writeable
    reads.clear()
    # Room for two of 140 bytes each.
    few = Examples(4, read).in_memory(gigabytes=300e-9)
    for _ in range(2):
        assert len(list(few)) == 4
    assert len(reads) == 6
    with pytest.raises(ValueError, match=r"`gigabytes` must be .*Received: gigabytes=0\."):
        kept.in_memory(0)


def test_reading_ahead_keeps_the_order_and_is_lazy():
    def slow(number):
        time.sleep(0.02 if number % 5 == 0 else 0)
        started.append(number)
        return number

    started = []
    assert list(in_order(slow, range(40))) == [*range(40)]
    started.clear()
    results = in_order(slow, range(4000))
    assert [next(results) for _ in range(3)] == [0, 1, 2]
    results.close()
    assert len(started) < 400


def test_batches_hold_all_examples():
    assert first_pixels(numbered().batch(4)) == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9, 10]]
    assert first_pixels(numbered().batch(4, drop_remainder=True)) == [[0, 1, 2, 3], [4, 5, 6, 7]]
    shuffled = first_pixels(numbered(60).batch(16, shuffle=True, seed=3))
    order = [number for batch in shuffled for number in batch]
    assert sorted(order) == [*range(60)] != order
    assert shuffled == first_pixels(numbered(60).batch(16, shuffle=True, seed=3))
    assert shuffled != first_pixels(numbered(60).batch(16, shuffle=True, seed=4))
    for settings in ({"batch_size": 0}, {"drop_remainder": 1}, {"shuffle": "no"}, {"seed": -1}):
        (name,) = settings
        with pytest.raises(ValueError, match=rf"`{name}` must be .*Received: {name}="):
            numbered().batch(**{"batch_size": 2, **settings})


def test_fit_evaluate_and_predict_take_batches():
    examples, network = numbered(), model()
    history = network.fit(
        examples.batch(4, shuffle=True), epochs=2, validation_data=examples[:5].batch(2), verbose=0
    ).history
    assert len(history["val_loss"]) == 2 and np.isfinite(history["loss"]).all()
    assert network.predict(examples.batch(3), verbose=0).shape == (COUNT, 5, 7, 3)
    images, masks = (np.stack(side) for side in zip(*examples, strict=True))
    expected = network.evaluate(images, masks, batch_size=3, verbose=0)
    # Float32 sums in another order.
    assert network.evaluate(examples.batch(3), verbose=0) == pytest.approx(expected, rel=1e-5)


def test_fit_takes_endless_batches_and_passes_over_epochs():
    seen = []

    def read(index):
        seen.append(index)
        return PAIRS[index]

    batches = training_batches(Examples(COUNT, read), (5, 7), 2, 0)
    history = model().fit(batches, steps_per_epoch=4, epochs=3, verbose=0).history
    assert len(history["loss"]) == 3 and np.isfinite(history["loss"]).all()
    # 24 crops are trained on, and some more are read ahead: no epoch begins anew.
    assert set(seen[:COUNT]) <= set(range(COUNT)) and len(set(seen)) == COUNT


def test_images_of_several_sizes_in_batches_of_one():
    sizes = [(4, 6), (4, 6), (5, 3), (7, 2)]
    examples = Examples(
        4, lambda i: (np.zeros((*sizes[i], 3), "uint8"), np.zeros(sizes[i], "uint8")), str
    )
    assert [masks.shape[1:] for _, masks in examples.batch(1)] == sizes
    assert np.isfinite(model().evaluate(examples.batch(1), verbose=0))
    if keras.backend.backend() != "tensorflow":
        with pytest.raises(ValueError, match=r"of one size\. Received: 0 of shape .*and 2 of"):
            list(examples.batch(4))


@pytest.mark.parametrize("of", ["batches", "training"])
def test_an_error_of_an_example_reaches_the_user(of):
    def read(index):
        if index == 3:
            raise ValueError("masks/3.png: has ids beyond 0 to 2: 7")
        return PAIRS[index]

    examples = Examples(COUNT, read)
    data = examples.batch(2) if of == "batches" else training_batches(examples, (5, 7), 2, 0)
    # TensorFlow wraps the error in one of its own. Five of six batches in a random order may lack
    # that example.
    with pytest.raises(Exception, match=r"masks/3\.png: has ids beyond 0 to 2: 7"):
        model().fit(data, steps_per_epoch=5, shuffle=False, verbose=0)


@pytest.mark.once
def test_images_of_a_wider_type_than_the_first_are_an_error_in_tf_data():
    """TensorFlow would let their values wrap around."""
    pytest.importorskip("tensorflow")
    images = np.full((4, 4, 1), 44, "uint8"), np.full((4, 4, 1), 300, "uint16")
    batches = Batches(lambda i: [i], lambda i: (images[i], images[0][..., 0]), 2)
    with pytest.raises(Exception, match=r"type of the first.*Received: uint16 after uint8"):
        list(batches.as_tf_dataset())


def test_methods_of_tf_data_still_work():
    tf = pytest.importorskip("tensorflow")
    examples = numbered()
    dataset = examples.as_tf_dataset()
    assert dataset.cardinality() == COUNT
    assert dataset.element_spec[0] == tf.TensorSpec((5, 7, 3), tf.uint8)
    with pytest.warns(DeprecationWarning, match=r"`map` of tf\.data is deprecated.*as_tf_dataset"):
        mapped = examples.map(lambda image, mask: (image + 1, mask))
    assert [int(image[0, 0, 0]) for image, _ in mapped] == [*range(1, COUNT + 1)]
    with pytest.warns(DeprecationWarning):
        assert first_pixels(examples.shuffle(3, 0).batch(COUNT))[0] != [*range(COUNT)]
    batches = training_batches(examples, (5, 7), 2, 0)
    with pytest.warns(DeprecationWarning):
        taken = list(batches.take(3).as_numpy_iterator())
    for (images, masks), (image, mask) in zip(taken, (batches[i] for i in range(3)), strict=True):
        np.testing.assert_array_equal(images, image)
        np.testing.assert_array_equal(masks, mask)
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = examples.nothing


def test_no_tensorflow_is_imported(tmp_path):
    """Folders, the drawn dataset, batches and the check, where TensorFlow cannot be imported."""
    code = """
import sys
from PIL import Image
for package in ("tensorflow", "tensorflow_datasets", "importlib_resources"):
    sys.modules[package] = None
import numpy as np, keras
from keras_fsa.datasets import __main__ as command, describe, folder_dataset, load
from keras_fsa.datasets.augment import training_batches
import os
for kind in ("images", "masks"):
    os.mkdir(kind)
    for i in range(3):
        Image.new("RGB" if kind == "images" else "L", (9, 7), i if kind == "masks" else (i, i, i)
            ).save(f"{kind}/{i}.png")
train = folder_dataset("images", "masks", 3)
batches = training_batches(train, (5, 5), 2, 0)
model = keras.Sequential([keras.Input((None, None, 3)), keras.layers.Conv2D(3, 1)])
model.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
model.fit(batches, steps_per_epoch=2, validation_data=train.batch(3), verbose=0)
assert load("signal_harbor", "test")[0][0].shape == (96, 128, 3)
command.main("check --images images --masks masks --num-classes 3".split())
try:
    load("ade20k", "train", "data")
except ImportError as error:
    assert "keras_fsa[datasets]" in str(error)
else:
    raise AssertionError
"""
    own = keras.backend.backend()
    backend = "torch" if own == "tensorflow" else own
    paths = [os.getcwd(), os.environ.get("PYTHONPATH", "")]
    environment = {
        **os.environ,
        "KERAS_BACKEND": backend,
        "PYTHONPATH": os.pathsep.join(filter(None, paths)),
    }
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    # As of a thread pool that is shut down too late.
    assert "Exception ignored" not in done.stderr
    assert re.search(r"^0 problems$", done.stdout, re.M)
