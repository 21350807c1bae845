import numpy as np
import pytest

from keras_fsa.datasets.signal_coast import MIN_DISTANCE, draw_coast
from keras_fsa.datasets.signal_harbor import (
    BUOY,
    GREEN,
    INBOUND,
    OUTBOUND,
    PIER,
    RED,
    SIGNALS,
)

pytestmark = pytest.mark.once

# The smallest, and one that no part of the drawing divides.
SIZES = (128, 256), (263, 617)


def rng(index):
    return np.random.default_rng((7, index))


@pytest.fixture(scope="module")
def twins():
    """Coasts drawn twice, with a green and with a red lamp."""
    return [
        [draw_coast(rng(index), size, signal) for signal in ("green", "red")]
        for size in SIZES
        for index in range(6)
    ]


def test_the_same_seed_gives_the_same_coast():
    (image, mask), (again, mask_again), (other, _) = (
        draw_coast(rng(index), (128, 256)) for index in (0, 0, 1)
    )
    np.testing.assert_array_equal(image, again)
    np.testing.assert_array_equal(mask, mask_again)
    assert (image != other).any()


def test_coasts_have_the_promised_form(twins):
    for i, ((image, mask), _) in enumerate(twins):
        size = SIZES[i // 6]
        assert (image.shape, image.dtype) == ((*size, 3), np.uint8)
        assert (mask.shape, mask.dtype) == (size, np.uint8)
        assert image.std() > 20
        share = np.bincount(mask.ravel(), minlength=10) / mask.size
        assert 0.02 < share[INBOUND] < 0.12 and share[BUOY] > 0.001
        assert (share[[PIER, RED, OUTBOUND]] == 0).all()


def test_the_lamp_changes_only_itself_and_the_labels_of_signal_and_boats(twins):
    red_label = np.arange(10)
    red_label[[GREEN, INBOUND]] = RED, OUTBOUND
    for (green, mask_green), (red, mask_red) in twins:
        changed = (green != red).any(axis=-1)
        assert changed.sum() > 100
        assert (mask_green[changed] == GREEN).all()
        np.testing.assert_array_equal(mask_red, red_label[mask_green])


def test_the_lamp_is_far_from_every_boat_and_large_enough_for_eight_frequencies(twins):
    assert MIN_DISTANCE >= 0.5
    for (green, mask), (red, _) in twins:
        # Only pixels that differ between the two can tell the colour of the lamp.
        lamp = np.argwhere((green != red).any(axis=-1) | (mask == GREEN))
        boats = np.argwhere(mask == INBOUND)
        assert boats[:, 0].min() - lamp[:, 0].max() >= MIN_DISTANCE * len(mask)
        for size, extent in zip(mask.shape, np.ptp(lamp, axis=0) + 1, strict=True):
            assert extent >= size / 8


def test_boats_are_as_large_on_a_larger_coast_and_as_dense():
    shares = []
    for size in ((128, 512), (512, 1024)):
        _, mask = draw_coast(rng(0), size, "green")
        boats = mask == INBOUND
        shares.append(boats.mean())
        # Runs of boat pixels along the rows: none is longer than a boat or two are wide.
        edges = np.diff(np.pad(boats.astype(int), ((0, 0), (1, 1))))
        lengths = np.argwhere(edges == -1)[:, 1] - np.argwhere(edges == 1)[:, 1]
        assert 24 < np.percentile(lengths, 99) < 80
    assert 0.7 < shares[0] / shares[1] < 1.4


def test_nothing_is_drawn_after_the_colour_of_the_lamp():
    colours = set()
    for index in range(8):
        drawn, given = rng(index), rng(index)
        image, mask = draw_coast(drawn, (128, 256))
        signal = "green" if (mask == GREEN).any() else "red"
        colours.add(signal)
        twin, twin_mask = draw_coast(given, (128, 256), signal)
        np.testing.assert_array_equal(image, twin)
        np.testing.assert_array_equal(mask, twin_mask)
        assert given.choice(tuple(SIGNALS)) == signal
        assert given.bit_generator.state == drawn.bit_generator.state
    assert colours == set(SIGNALS)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"signal": "blue"}, r"must be one of .*Received: signal='blue'.* at random"),
        ({"size": (127, 256)}, r"at least 128 x 256.*Received: size=\(127, 256\).*larger coast"),
        ({"size": (128, 255)}, r"at least 128 x 256.*Received: size=\(128, 255\)"),
        ({"size": 128}, r"`size`.*Received: size=128"),
    ],
)
def test_wrong_arguments_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        draw_coast(rng(0), **arguments)
