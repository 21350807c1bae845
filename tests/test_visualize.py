import keras
import numpy as np
import pytest

from keras_fsa.attention_map import attention_at, softmax_twin
from keras_fsa.layers import FrequencySelfAttention
from keras_fsa.visualize import (
    colour_mask,
    comparison,
    default_palette,
    overlay,
    plot_attention,
    plot_confusion,
    plot_iou,
    plot_overlaps,
    plot_overlay,
    plot_seams,
    plot_spectrum,
    plot_training,
    plot_truncation,
    seam_errors,
)
from tests import reference
from tests.helpers import array, randomize, run_python

pytestmark = pytest.mark.once


def shown(axis):
    return np.asarray(axis.images[0].get_array())


def legend(owner):
    return [text.get_text() for text in owner.get_texts()]


def assert_png(path):
    assert path.read_bytes()[:4] == b"\x89PNG"
    # Nothing else is left behind.
    assert [file.name for file in path.parent.iterdir()] == [path.name]


def test_palette_has_distinct_colours():
    palette = default_palette(40)
    assert palette.shape == (40, 3) and palette.dtype == "uint8"
    assert len(np.unique(palette, axis=0)) == 40
    np.testing.assert_array_equal(default_palette(5), palette[:5])


def test_colour_mask():
    mask = np.array([[0, 1], [255, 1]], "uint8")
    palette = [(1, 2, 3), (4, 5, 6)]
    expected = [[(1, 2, 3), (4, 5, 6)], [(224, 224, 192), (4, 5, 6)]]
    np.testing.assert_array_equal(colour_mask(mask, palette), expected)


def test_more_classes_than_a_byte_holds(rng):
    palette = rng.integers(0, 200, (300, 3)).astype("uint8")
    ids = np.array([[0, 44, 256, 299], [300, 1000, -1, 65535]])
    colours = colour_mask(ids, palette)
    np.testing.assert_array_equal(colours[0], palette[ids[0]])
    pale = colour_mask(np.uint8(255), palette[:3])
    assert (colours[1] == pale).all() and (colour_mask(ids, palette[:50])[0, 2:] == pale).all()
    np.testing.assert_array_equal(colour_mask(ids.astype("uint16"), palette)[0], colours[0])
    plot_overlay(np.zeros((2, 4, 3), "uint8"), ids.astype("uint16"), palette=palette)


def test_comparison(rng, tmp_path):
    images = rng.integers(0, 256, (2, 8, 10, 3)).astype("uint8")
    masks = rng.integers(0, 3, (2, 8, 10, 1)).astype("uint8")
    masks[0, 0] = 255
    predictions = rng.integers(0, 3, (2, 8, 10))
    path = tmp_path / "comparison.png"
    figure = comparison(images, masks, predictions, class_names=["a", "b", "c"], path=path)
    assert_png(path)
    panels = [shown(axis) for axis in figure.axes]
    palette = default_palette(3)
    for row in range(2):
        picture, truth, prediction = panels[3 * row : 3 * row + 3]
        np.testing.assert_array_equal(picture, images[row])
        np.testing.assert_array_equal(truth, colour_mask(masks[row, ..., 0], palette))
        np.testing.assert_array_equal(prediction, palette[predictions[row]])
    assert legend(figure.legends[0]) == ["a", "b", "c", "ignored"]
    two = comparison(images, masks, [predictions, predictions], titles=("one", "other"))
    assert [axis.get_title() for axis in two.axes[:4]] == ["image", "truth", "one", "other"]
    listed = comparison(images, masks, [predictions], class_names=["a", "b", "c"])
    np.testing.assert_array_equal([shown(axis) for axis in listed.axes], panels)


def test_overlay(rng):
    image = rng.integers(0, 256, (5, 7, 3)).astype("uint8")
    mask = rng.integers(0, 2, (5, 7)).astype("uint8")
    mask[0] = 255
    palette = np.array([(10, 20, 30), (200, 100, 0)])
    mixed = overlay(image, mask, palette, opacity=0.25)
    assert mixed.dtype == "uint8"
    np.testing.assert_array_equal(
        mixed[0], np.round(0.75 * image[0] + 0.25 * np.array([224, 224, 192]))
    )
    expected = np.round(0.75 * image[1:] + 0.25 * palette[mask[1:]])
    np.testing.assert_array_equal(mixed[1:], expected)


def test_plot_overlay(rng, tmp_path):
    image = rng.integers(0, 256, (4, 10, 3)).astype("uint8")
    mask = np.zeros((4, 10), "uint8")
    mask[:3] = 2
    mask[3, :1] = 255
    figure = plot_overlay(image, mask, ["a", "b", "c"], path=tmp_path / "overlay.png")
    assert_png(tmp_path / "overlay.png")
    np.testing.assert_array_equal(shown(figure.axes[0]), image)
    np.testing.assert_array_equal(shown(figure.axes[1]), overlay(image, mask, default_palette(3)))
    assert legend(figure.legends[0]) == ["c 75.0 %", "a 22.5 %", "ignored 2.5 %"]
    colours = [patch.get_facecolor()[:3] for patch in figure.legends[0].get_patches()]
    palette = default_palette(3) / 255
    np.testing.assert_allclose(colours, [palette[2], palette[0], np.array([224, 224, 192]) / 255])
    assert legend(plot_overlay(image, mask).legends[0])[0] == "class 2 75.0 %"
    assert legend(plot_overlay(image, mask, ["a", "b"]).legends[0])[0] == "class 2 75.0 %"


@pytest.mark.parametrize("affinity", ["dot_product", "linear_softmax"])
def test_plot_attention(rng, affinity, tmp_path):
    layer = FrequencySelfAttention(3, affinity)
    layer.build((None, 7, 11, 5))
    randomize(layer, rng)
    x = rng.standard_normal((7, 11, 5)).astype("float32")
    layers = {"FSA": layer, "softmax": softmax_twin(layer)}
    picture = rng.integers(0, 256, (28, 44, 3)).astype("uint8")
    figure = plot_attention(x, layers, 5, 2, picture, tmp_path / "attention.png")
    assert_png(tmp_path / "attention.png")
    first, *maps = figure.axes[:3]
    np.testing.assert_array_equal(shown(first), picture)
    for axis, (title, one) in zip(maps, layers.items(), strict=True):
        assert axis.get_title() == title
        np.testing.assert_allclose(shown(axis), 77 * array(attention_at(one, x, 5, 2)), rtol=1e-6)
        # A cross at the position, in the coordinates of the feature map, on the picture too.
        assert [line.get_xydata().tolist() for line in axis.lines] == 2 * [[[2, 5]]]
        assert axis.images[0].get_extent() == first.images[0].get_extent()
    low, high = maps[0].images[0].get_clim()
    # Zero is white for weights of both signs, and the darkest where there are none below it.
    assert low == -high if affinity == "dot_product" else low == 0
    assert len(plot_attention(x, {"FSA": layer}, 5, 2).axes) == 2  # a map and its scale
    with pytest.raises(ValueError, match="at least one layer. Received: layers={}"):
        plot_attention(x, {}, 5, 2)


def test_plot_spectrum(tmp_path):
    # A constant of 3, and a wave of the frequency (4, 1) and norm 4: 9 * 77 of 9 * 77 + 16.
    wave = reference.dct_basis(7, 4, 5) @ reference.dct_basis(11, 1, 2).T
    x = (3 + 4 * wave).astype("float32")[..., None]
    figure = plot_spectrum(x, 4, tmp_path / "spectrum.png")
    assert_png(tmp_path / "spectrum.png")
    left, right = figure.axes[:2]
    total = 9 * 77 + 16
    decades = np.full((7, 11), -6.0)
    decades[0, 0], decades[4, 1] = np.log10(9 * 77 / total), np.log10(16 / total)
    np.testing.assert_allclose(shown(left), decades, atol=1e-4)
    (frame,) = left.patches
    assert (frame.get_xy(), frame.get_width(), frame.get_height()) == ((-0.5, -0.5), 4, 4)
    share = 100 * 9 * 77 / total
    assert legend(right.get_legend()) == [
        f"energy: {share:.1f} % at k = 4",
        "energy without the mean: 0.0 % at k = 4",
    ]
    held, _, centred, *_ = (line.get_ydata() for line in right.lines)
    np.testing.assert_allclose(held, [share] * 4 + [100] * 3, atol=1e-3)
    np.testing.assert_allclose(centred, [0] * 4 + [100] * 3, atol=1e-3)
    with pytest.raises(ValueError, match="height of 7 .* Received: frequencies=8"):
        plot_spectrum(x, 8)


def test_plot_truncation(rng, tmp_path):
    image = rng.integers(0, 256, (11, 13, 3)).astype("uint8")
    figure = plot_truncation(image, (3, 5), tmp_path / "truncation.png")
    assert_png(tmp_path / "truncation.png")
    low = reference.projector(11, 13, ((0, 3), (0, 5))) @ image.reshape(-1, 3).astype("float64")
    low = low.reshape(image.shape)
    before, after, difference = (shown(axis) for axis in figure.axes)
    np.testing.assert_array_equal(before, image)
    # Rounded to whole colours from float32, so at most one off where a half is near.
    np.testing.assert_allclose(after, np.clip(low, 0, 255), atol=0.501)
    np.testing.assert_allclose(difference, (image - low).mean(-1), atol=1e-3)
    share = np.square(low).sum() / np.square(image.astype("float64")).sum()
    titles = [(axis.get_title(), axis.get_xlabel()) for axis in figure.axes]
    assert titles[1] == ("attention sees 3 x 5 frequencies", f"{100 * share:.1f} % of the energy")
    assert titles[2][1] == f"{100 * (1 - share):.1f} % of the energy"
    one = plot_truncation(image[..., 0] / 255, 3)
    before, after, difference = (shown(axis) for axis in one.axes)
    np.testing.assert_allclose(after + difference, before, atol=1e-6)
    with pytest.raises(ValueError, match=r"RGB \(H, W, 3\).*\(11, 13, 2\)"):
        plot_truncation(image[..., :2])
    assert len(plot_truncation(np.zeros((8, 9, 3), "uint8")).axes) == 3


CSV = """epoch,learning_rate,loss,mean_iou,val_loss,val_mean_iou
0,0.01,2.5,0.25,NA,NA
1,0.005,1.5,0.5,2.0,0.375
"""


def curves(figure):
    return {
        (axis.get_title(), line.get_label()): line.get_xydata().tolist()
        for axis in figure.axes
        for line in axis.lines
    }


def test_plot_training_of_a_log(tmp_path):
    (tmp_path / "history.csv").write_text(CSV)
    (tmp_path / "out").mkdir()
    figure = plot_training(tmp_path / "history.csv", tmp_path / "out" / "training.png")
    assert_png(tmp_path / "out" / "training.png")
    lines = curves(figure)
    assert list(lines) == [
        (score, part) for score in ("loss", "mean iou") for part in ("training", "validation")
    ]
    assert lines["loss", "training"] == [[1, 2.5], [2, 1.5]]
    assert lines["mean iou", "validation"] == [[2, 0.375]]  # the first epoch had none
    assert [axis.get_xlabel() for axis in figure.axes] == ["epoch", "epoch"]
    (tmp_path / "empty.csv").write_text("")
    with pytest.raises(ValueError, match="at least one epoch and one score. Received: history="):
        plot_training(tmp_path / "empty.csv")
    with pytest.raises(FileNotFoundError):
        plot_training(tmp_path / "none.csv")


def test_plot_training_of_steps(tmp_path):
    path = tmp_path / "history.csv"
    path.write_text(
        "step,loss,mean_iou,learning_rate,validation_mean_iou,seconds_per_step\n"
        "500,2.5,0.25,0.01,,0.5\n1000,1.5,0.5,0.005,0.375,0.5\n"
    )
    figure = plot_training(path)
    assert [axis.get_xlabel() for axis in figure.axes] == ["step", "step"]
    assert curves(figure) == {
        ("loss", "training"): [[500, 2.5], [1000, 1.5]],
        ("mean iou", "training"): [[500, 0.25], [1000, 0.5]],
        ("mean iou", "validation"): [[1000, 0.375]],
    }


def test_plot_training_of_what_fit_returns(tmp_path):
    inputs = keras.Input((1,))
    model = keras.Model(inputs, keras.layers.Dense(1)(inputs))
    model.compile("sgd", "mse")
    x, log = np.ones((4, 1)), tmp_path / "log.csv"
    callback = keras.callbacks.CSVLogger(log)
    history = model.fit(
        x, x, validation_data=(x, x), epochs=3, initial_epoch=1, callbacks=[callback], verbose=0
    )
    lines = curves(plot_training(history))
    assert lines["loss", "validation"] == [
        [epoch, loss] for epoch, loss in zip((2, 3), history.history["val_loss"], strict=True)
    ]
    from_log = curves(plot_training(log))
    assert list(from_log) == list(lines)
    np.testing.assert_allclose(from_log["loss", "training"], lines["loss", "training"])
    assert curves(plot_training(history.history))["loss", "training"][0][0] == 1
    history = model.fit(
        x, x, validation_data=(x, x), validation_freq=2, epochs=6, initial_epoch=1, verbose=0
    )
    found = [epoch for epoch, _ in curves(plot_training(history))["loss", "validation"]]
    assert found == [2, 4, 6]
    # Of the third, the fourth or the fifth epoch.
    with pytest.raises(ValueError, match="1 values of 'validation loss' for 5 epochs. Pass"):
        plot_training({"loss": [5, 4, 3, 2, 1], "val_loss": [3]})


def test_plot_iou(tmp_path):
    scores = [[0.25, np.nan, 0.5], [0.75, 0.0, 1.0]]
    figure = plot_iou(scores, ["a", "b", "c"], ("without", "with"), tmp_path / "iou.png")
    assert_png(tmp_path / "iou.png")
    (axis,) = figure.axes
    bars = [[bar.get_width() for bar in container] for container in axis.containers]
    np.testing.assert_allclose(bars, [[0.25, 0, 0.5, 0.375], [0.75, 0, 1, 1.75 / 3]])
    assert [label.get_text() for label in axis.get_yticklabels()] == ["a", "b", "c", "mean"]
    texts = [text.get_text() for text in axis.texts]
    assert texts[:4] == ["0.250", "absent", "0.500", "0.375"] and texts[5] == "0.000"
    assert legend(figure.legends[0]) == ["without", "with"]
    assert not plot_iou([0.5, 0.25]).legends
    with pytest.raises(ValueError, match=r"row for each title.*shape \(1, 2\) for 1 .* and 3"):
        plot_iou([0.5, 0.25], ["a", "b", "c"])
    with pytest.raises(ValueError, match=r"in \[0, 1\].* from 0.5 to 25. Divide"):
        plot_iou([0.5, 25])


def test_missing_matplotlib():
    code = """
import sys
sys.modules["matplotlib"] = None
from keras_fsa.visualize import colour_mask, comparison, plot_confusion, default_palette
assert default_palette(300).shape == (300, 3)
try:
    plot_confusion([[1, 0], [0, 1]])
except ImportError as error:
    print(error)
"""
    assert 'pip install "keras_fsa[tools]"' in run_python(code)


def test_plot_confusion(tmp_path):
    confusion = [[30, 10, 0], [1, 299, 0], [0, 0, 0]]
    path = tmp_path / "confusion.png"
    figure = plot_confusion(confusion, class_names=["a", "b", "c"], path=path)
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
    assert not plot_confusion(np.eye(31)).axes[0].texts


def test_plot_overlaps(tmp_path):
    # Truth and answer: no and no, no and yes; yes and no, yes and yes.
    counts = [[[900, 10], [30, 60]], [[999, 1], [0, 0]], [[1000, 0], [0, 0]]]
    path = tmp_path / "overlaps.png"
    figure = plot_overlaps(counts, ["road", "wet", "snow"], path)
    assert_png(path)
    (axis,) = figure.axes
    found, missed, wrongly = (
        [(bar.get_x(), bar.get_width()) for bar in bars] for bars in axis.containers
    )
    np.testing.assert_allclose(found, [(0, 0.6), (0, 0), (0, 0)], atol=1e-12)
    np.testing.assert_allclose(missed, [(0.6, 0.3), (0, 0), (0, 0)], atol=1e-12)
    np.testing.assert_allclose(wrongly, [(0.9, 0.1), (0, 1), (0, 0)], atol=1e-12)
    assert [text.get_text() for text in axis.texts] == ["0.600", "0.000", "absent"]
    assert legend(figure.legends[0]) == ["found", "missed", "wrongly found"]
    with pytest.raises(ValueError, match=r"`confusions` must be .num_classes, 2, 2.*\(3, 2\)"):
        plot_overlaps(np.ones((3, 2)))


def test_earlier_names():
    from keras_fsa import visualize

    for old, new in (("attention_picture", plot_attention), ("iou_picture", plot_iou)):
        with pytest.warns(DeprecationWarning, match=f"visualize.{old}` .* Use `{new.__name__}`"):
            assert getattr(visualize, old) is new
    with pytest.raises(AttributeError, match="no attribute 'portrait'"):
        visualize.portrait  # noqa: B018


def test_seam_errors_pixel_by_pixel(rng):
    exact = rng.uniform(0, 1, (11, 17, 3))
    prediction = rng.uniform(0, 1, exact.shape)
    rows, columns = [0, 4, 11], [5, 13]
    errors = {}
    for i in range(11):
        for j in range(17):
            # Halves: a seam lies between pixels. The borders of the image are no seams.
            away = [abs(i + 0.5 - s) for s in rows[1:2]] + [abs(j + 0.5 - s) for s in columns]
            d = int(min(away) - 0.5)
            errors.setdefault(d, []).append(np.abs(exact[i, j] - prediction[i, j]).sum() / 2)
    got = seam_errors(exact, prediction, (rows, columns))
    np.testing.assert_allclose(got, [np.mean(errors[d]) for d in sorted(errors)], rtol=1e-12)
    ids = seam_errors(exact.argmax(-1), prediction.argmax(-1), (rows, columns))
    assert ids.shape == got.shape and ((ids >= 0) & (ids <= 1)).all()


def test_plot_seams(rng, tmp_path):
    exact = rng.uniform(0, 1, (12, 16, 2))
    predictions = {"plain": np.roll(exact, 1, 0), "exact tiles": exact}
    figure = plot_seams(exact, predictions, ([6], [8]), tmp_path / "seams.png", distance=4)
    assert_png(tmp_path / "seams.png")
    lines = figure.axes[0].lines
    want = 100 * seam_errors(exact, predictions["plain"], ([6], [8]))[:4]
    np.testing.assert_allclose(lines[0].get_ydata(), want)
    assert not lines[1].get_ydata().any()
    assert legend(figure.axes[0].get_legend())[1] == "exact tiles: 0.00 % on average"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((np.zeros((4, 5)), np.zeros((5, 4)), ([2], [])), r"one shape.*\(4, 5\).*\(5, 4\)"),
        (
            (np.zeros((4, 5)), np.zeros((4, 5)), ([5], [])),
            r"`seams` must .*\(\[5\], \[\]\) .* 4 x 5",
        ),
        ((np.zeros((4, 5)), np.zeros((4, 5)), ([], [])), r"`seams` must be .* at least one"),
        ((np.zeros((4, 5)), np.zeros((4, 5)), ([1.5], [])), r"`seams` must be \(rows, columns\)"),
        ((np.zeros((4, 5)), np.zeros((4, 5)), 3), r"`seams` must .* Received: seams=3"),
        ((np.full((4, 5, 2), np.nan), np.zeros((4, 5, 2)), ([2], [])), r"must be finite.* NaN"),
    ],
)
def test_seam_errors_of_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        seam_errors(*arguments)
    with pytest.raises(ValueError, match="`predictions` must hold at least one.*Received: predic"):
        plot_seams(arguments[0], {}, arguments[2])
