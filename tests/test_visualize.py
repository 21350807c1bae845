import numpy as np

from keras_fsa.visualize import colour_mask, comparison, confusion_picture, default_palette
from tests.helpers import run_python


def test_palette_has_distinct_colours():
    palette = default_palette(40)
    assert palette.shape == (40, 3) and palette.dtype == "uint8"
    assert len(np.unique(palette, axis=0)) == 40
    np.testing.assert_array_equal(default_palette(5), palette[:5])


def test_colour_mask():
    mask = np.array([[0, 1], [255, 1]], "uint8")
    palette = [(1, 2, 3), (4, 5, 6)]
    expected = [[(1, 2, 3), (4, 5, 6)], [(0, 0, 0), (4, 5, 6)]]
    np.testing.assert_array_equal(colour_mask(mask, palette), expected)


def test_comparison(rng, tmp_path):
    images = rng.integers(0, 256, (2, 8, 10, 3)).astype("uint8")
    masks = rng.integers(0, 3, (2, 8, 10, 1)).astype("uint8")
    masks[0, 0] = 255
    predictions = rng.integers(0, 3, (2, 8, 10))
    path = tmp_path / "comparison.png"
    figure = comparison(images, masks, predictions, class_names=["a", "b", "c"], path=path)
    assert path.read_bytes()[:4] == b"\x89PNG"
    shown = [np.asarray(axis.images[0].get_array()) for axis in figure.axes]
    palette = default_palette(3)
    for row in range(2):
        picture, truth, prediction = shown[3 * row : 3 * row + 3]
        np.testing.assert_array_equal(picture, images[row])
        np.testing.assert_array_equal(truth, colour_mask(masks[row, ..., 0], palette))
        np.testing.assert_array_equal(prediction, palette[predictions[row]])
    legend = [text.get_text() for text in figure.legends[0].get_texts()]
    assert legend == ["a", "b", "c", "ignored"]
    two = comparison(images, masks, [predictions, predictions], titles=("one", "other"))
    assert [axis.get_title() for axis in two.axes[:4]] == ["picture", "truth", "one", "other"]


def test_missing_matplotlib():
    code = """
import sys
sys.modules["matplotlib"] = None
from keras_fsa.visualize import colour_mask, comparison, confusion_picture, default_palette
try:
    default_palette(3)
except ImportError as error:
    print(error)
"""
    assert 'pip install "keras_fsa[examples]"' in run_python(code)


def test_confusion_picture(tmp_path):
    confusion = [[30, 10, 0], [1, 299, 0], [0, 0, 0]]
    path = tmp_path / "confusion.png"
    figure = confusion_picture(confusion, class_names=["a", "b", "c"], path=path)
    assert path.read_bytes()[:4] == b"\x89PNG"
    axis = figure.axes[0]
    shown = axis.images[0].get_array()
    np.testing.assert_allclose(shown[:2], [[75, 25, 0], [100 / 300, 29900 / 300, 0]])
    # No true pixel, no percent.
    assert np.isnan(np.ma.filled(shown[2], np.nan)).all()
    assert [(t.get_position(), t.get_text()) for t in axis.texts] == [
        ((0, 0), "75"),
        ((1, 0), "25"),
        ((1, 1), "100"),
    ]
    names = [label.get_text() for label in axis.get_yticklabels()]
    assert names == ["a", "b", "c"] and axis.get_ylabel() == "true"
    assert not confusion_picture(np.eye(31)).axes[0].texts
