"""Whole pictures, windows, scales and mirror images, against plain loops in float64."""

import math
import tracemalloc
from concurrent.futures import ThreadPoolExecutor

import keras
import numpy as np
import pytest
from keras import layers

import keras_fsa
from keras_fsa.classes import answers
from keras_fsa.inference import batches_by_size, class_map, probabilities
from tests.helpers import randomize


def small_model(num_classes=5, **settings):
    pictures = keras.Input((None, None, 3))
    x = layers.Conv2D(6, 3, 2, padding="same", activation="relu")(pictures)
    backbone = keras.Model(pictures, {"stage5": layers.Conv2D(8, 3, padding="same")(x)})
    return keras_fsa.FsaNet(
        num_classes,
        backbone,
        frequencies=3,
        auxiliary_loss_weight=0,
        **{"head_channels": 8, "normalization": "imagenet", **settings},
    )


def resize(x, size, align_corners=False):
    """Bilinear resizing of (H, W, C), output by output."""

    def line(x, n):
        m = len(x)
        out = []
        for j in range(n):
            p = j * (m - 1) / max(n - 1, 1) if align_corners else (j + 0.5) * m / n - 0.5
            p = min(max(p, 0), m - 1)
            i = min(math.floor(p), m - 1)
            out.append(x[i] * (1 - (p - i)) + x[min(i + 1, m - 1)] * (p - i))
        return np.stack(out)

    rows = line(np.asarray(x, "float64"), size[0])
    return line(rows.swapaxes(0, 1), size[1]).swapaxes(0, 1)


PROFILES = {
    "mean": lambda n: np.ones(n),
    "hann": lambda n: np.array([math.sin(math.pi * (i + 0.5) / n) ** 2 for i in range(n)]),
    "gaussian": lambda n: np.array([math.exp(-32 * ((i + 0.5) / n - 0.5) ** 2) for i in range(n)]),
}


def reference(
    forward, picture, scales, flip, window, stride, fit=None, align_corners=False, blend="mean"
):
    """The recipe, step by step: window logits summed at the scaled size, divided, resized."""
    height, width = picture.shape[:2]
    factor = 1
    if fit:
        factor = min(fit[0] / max(height, width), fit[1] / min(height, width))
    views = []
    for scale in scales:
        h, w = (int(n * factor * scale + 0.5) for n in (height, width))
        scaled = resize(picture, (h, w))
        for mirrored in (False, True)[: 1 + flip]:
            view = scaled[:, ::-1] if mirrored else scaled
            total, count = 0, np.zeros((h, w, 1))
            wh, ww = (min(n, m or n) for n, m in zip((h, w), (window, window), strict=True))
            profile = PROFILES[blend](wh)[:, None, None] * PROFILES[blend](ww)[:, None]
            for i in range(max(h - wh + (stride or 1) - 1, 0) // (stride or 1) + 1):
                for j in range(max(w - ww + (stride or 1) - 1, 0) // (stride or 1) + 1):
                    bottom, right = min(i * (stride or 1) + wh, h), min(j * (stride or 1) + ww, w)
                    part = np.s_[bottom - wh : bottom, right - ww : right]
                    logits = forward(view[part][None].astype("float32"))[0].astype("float64")
                    padded = np.zeros((h, w, logits.shape[-1]))
                    padded[part] = profile * logits
                    total = total + padded
                    count[part] += profile
            logits = resize(total / count, (height, width), align_corners)
            e = np.exp(logits - logits.max(-1, keepdims=True))
            p = e / e.sum(-1, keepdims=True)
            views.append(p[:, ::-1] if mirrored else p)
    return np.mean(views, axis=0)


SETTINGS = {
    "whole": dict(),
    "slide": dict(window=17, stride=11),
    "larger window": dict(window=41, stride=20),
    "all": dict(window=19, stride=13, scales=(0.75, 1.0, 1.5), flip=True),
    "fit": dict(fit=(61, 23), flip=True),
    "hann": dict(window=17, stride=9, blend="hann"),
    "gaussian": dict(window=19, stride=13, blend="gaussian", scales=(0.75, 1.0, 1.5), flip=True),
}


@pytest.mark.parametrize("name", SETTINGS)
@pytest.mark.parametrize("align_corners", [False, True])
def test_equals_plain_loops(rng, name, align_corners):
    model = randomize(small_model(align_corners=align_corners), rng)
    picture = rng.integers(0, 256, (29, 37, 3)).astype("uint8")
    settings = SETTINGS[name]
    want = reference(
        model.predict_on_batch,
        picture,
        **{"scales": (1.0,), "flip": False, "window": None, "stride": None, **settings},
        align_corners=align_corners,
    )
    got = probabilities(model, picture, **settings)
    assert got.shape == (29, 37, 5) and got.dtype == np.float32
    assert want.std() > 0.05
    # The model's float32 answers to pictures whose float32 resizing differs in the last bit.
    np.testing.assert_allclose(got, want, atol=3e-5)
    np.testing.assert_array_equal(class_map(model, picture, **settings), got.argmax(-1))


def test_batches_and_sizes(rng):
    """Pictures of a batch are independent; the result may have a size of its own."""
    model = randomize(small_model(), rng)
    pictures = rng.integers(0, 256, (2, 23, 31, 3)).astype("uint8")
    settings = dict(window=13, stride=7, flip=True, size=(41, 19))
    both = probabilities(model, pictures, **settings)
    assert both.shape == (2, 41, 19, 5)
    for picture, got in zip(pictures, both, strict=True):
        np.testing.assert_allclose(got, probabilities(model, picture, **settings), atol=1e-5)
    ids = class_map(model, pictures)
    assert ids.shape == (2, 23, 31) and ids.dtype == np.uint8


def test_more_classes_than_a_byte_holds():
    """Class 299 must not become class 43."""
    logits = np.zeros((1, 4, 5, 300), "float32")
    logits[..., 299], logits[:, 2, 3, 255] = 1, 2
    classes = class_map(lambda images: logits, np.zeros((4, 5, 3), "uint8"))
    want = np.full((4, 5), 299)
    want[2, 3] = 255
    np.testing.assert_array_equal(classes, want)
    np.testing.assert_array_equal(answers(logits, "softmax")[0], want)


def test_windows():
    """Each window starts a stride after the last; the final one ends with the picture."""
    seen = []

    def forward(windows):
        seen.append((*map(int, windows[0, 0, 0, :2]), *windows.shape[1:3]))
        return np.zeros((*windows.shape[:3], 2), "float32")

    rows, columns = np.meshgrid(np.arange(25), np.arange(31), indexing="ij")
    picture = np.stack([rows, columns, rows], axis=-1)
    probabilities(forward, picture, window=(25, 13), stride=(5, 8))
    assert seen == [(0, 0, 25, 13), (0, 8, 25, 13), (0, 16, 25, 13), (0, 18, 25, 13)]


def test_a_model_that_copies(rng):
    """Logits that are the picture itself come back exactly, whatever the windows."""
    picture = rng.uniform(0, 5, (53, 47, 3)).astype("float32")
    e = np.exp(picture)
    want = e / e.sum(-1, keepdims=True)
    got = probabilities(lambda x: x, picture, window=20, stride=9, flip=True)
    np.testing.assert_allclose(got, want, rtol=1e-5)


@pytest.mark.parametrize("blend", ["mean", "hann", "gaussian"])
def test_equal_logits_stay_exact(rng, blend):
    """Where all windows agree the result is theirs, to the rounding of float32."""
    want = rng.uniform(-3, 3, 5).astype("float32")
    e = np.exp(want.astype("float64"))
    got = probabilities(
        lambda x: np.broadcast_to(want, (*x.shape[:3], 5)),
        np.zeros((131, 97, 3), "uint8"),
        window=(53, 41),
        stride=(17, 41),
        blend=blend,
    )
    np.testing.assert_allclose(got, np.broadcast_to(e / e.sum(), got.shape), rtol=1e-6)


def test_a_result_so_small_that_windows_lie_between_its_places(rng):
    picture = rng.random((9, 9, 3))
    # Of 9 rows 3 are shown: 1, 4 and 7. The window of 2 and 3 shows none.
    got = probabilities(lambda x: x, picture, size=(3, 3), window=2, stride=2)
    want = np.exp(picture[1::3, 1::3])
    np.testing.assert_allclose(got, want / want.sum(-1, keepdims=True), rtol=1e-5)


def test_blending_removes_seams():
    """Windows that answer with their own number: jumps where they end, a ramp when blended."""

    def forward(windows):
        value = np.broadcast_to(windows[:, :1, :1, :1] / 100, (*windows.shape[:3], 1))
        return np.concatenate([value, np.zeros_like(value)], axis=-1)

    image = np.tile(np.arange(96)[None, :, None], (8, 1, 3)).astype("float32")
    steps = {}
    for blend in ("mean", "hann", "gaussian"):
        p = probabilities(forward, image, window=(8, 32), stride=(8, 16), blend=blend)
        logits = np.log(p[4, :, 0] / p[4, :, 1])
        steps[blend] = np.abs(np.diff(logits)).max()
    assert steps["hann"] < 0.3 * steps["mean"] and steps["gaussian"] < 0.6 * steps["mean"]


@pytest.mark.parametrize("scales", [(1.0,), (2.0, 1.0)])
def test_memory(scales):
    """One array of the result's size, one more for several views, and small change."""
    height, width, classes = 512, 768, 19
    table = np.zeros((64, 64, classes), "float32")

    def forward(windows):
        return table[None, : windows.shape[1], : windows.shape[2]]

    picture = np.zeros((height, width, 3), "uint8")
    tracemalloc.start()
    class_map(forward, picture, window=64, stride=48, scales=scales)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    result = height * width * classes * 4
    # A picture of twice the size, in float32, is what the scale itself needs.
    scaled = height * width * 3 * 4 * max(scales) ** 2
    assert peak < len(scales) * result + scaled + 0.6 * result


def test_batches_by_size():
    pictures = [np.zeros((h, 5, 3)) for h in (1, 2, 1, 3, 1, 2, 1, 2)]
    stream = [(picture, i) for i, picture in enumerate(pictures)]

    def indices(*arguments):
        return [[i for _, i in batch] for batch in batches_by_size(stream, *arguments)]

    assert indices(2) == [[0, 2], [1, 5], [4, 6], [3], [7]]
    assert indices(1) == [[i] for i in range(8)]
    # With one place to wait, the oldest goes alone.
    assert indices(2, 1) == [[0], [1], [2], [3], [4], [5], [6], [7]]


PICTURE = np.zeros((8, 9, 3), "uint8")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (dict(window=0), r"`window` must be a positive int. Received: window=0"),
        (dict(window=(1, 2, 3)), r"`window` must be one number or two. Received: window=\(1, 2, 3"),
        (dict(stride=4), r"`stride` needs a `window`. Received: window=None, stride=4"),
        (dict(window=4, stride=5), r"at most `window`.*Received: window=\(4, 4\), stride=\(5, 5"),
        (dict(scales=()), r"`scales` must be a sequence of one or more.*Received: scales=\(\)"),
        (dict(scales=(1, 0)), r"`scales` must be a finite number above 0. Received: scales=0"),
        (dict(fit=(512, 2048)), r"`fit` must be \(long, short\).*Write fit=\(2048, 512\)"),
    ],
)
def test_errors(settings, message):
    with pytest.raises(ValueError, match=message):
        probabilities(lambda x: x, PICTURE, **settings)


def test_classes_in_place_of_logits():
    with pytest.raises(ValueError, match=r"must give logits.*Received: an output of shape \(1, "):
        probabilities(lambda x: x[..., 0], PICTURE)
    # What a file gives that was exported with answers to several classes.
    with pytest.raises(ValueError, match="must give logits.*dtype uint8.*cannot be averaged"):
        probabilities(lambda x: (x > 100).astype("uint8"), PICTURE, activation="sigmoid")


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (np.zeros((0, 9, 3)), r"`images` must hold at least one image.*shape \(0, 9, 3\)"),
        (np.zeros((0, 8, 9, 3)), r"`images` must hold at least one image.*shape \(0, 8, 9, 3\)"),
        (np.full((8, 9, 3), np.nan), r"`images` must be finite.*dtype float64 with NaN"),
        (np.full((8, 9, 3), np.inf, "float32"), r"`images` must be finite.*dtype float32 with"),
        (
            np.full((8, 9, 3), "x"),
            r"`images` must be finite numbers. Received: images of dtype <U1",
        ),
        ("scene.png", r"`images` must be an array. Received: images='scene.png'. Read the file"),
        ([np.zeros((8, 9, 3)), np.zeros((7, 9, 3))], r"`images` must be of one size. Received: a"),
    ],
)
def test_wrong_images(images, message):
    for function in (probabilities, class_map):
        with pytest.raises(ValueError, match=message):
            function(lambda x: x, images)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_logits_that_are_no_numbers(value):
    """They would be class 0 to argmax."""

    def forward(x):
        logits = np.zeros((*x.shape[:3], 4), "float32")
        logits[:, 5, 4] = value
        return logits

    with pytest.raises(ValueError, match="`model` must give logits .* Received: NaN or infinite"):
        class_map(forward, PICTURE, window=6)


def test_earlier_names():
    with pytest.warns(DeprecationWarning, match="`pictures` of `class_map` is .* Use `images`"):
        ids = class_map(lambda x: x, pictures=PICTURE)
    assert ids.shape == (8, 9)


def test_rank_error():
    with pytest.raises(ValueError, match=r"Received: images of shape \(8, 9\)"):
        probabilities(lambda x: x, PICTURE[..., 0])


def test_many_threads_at_once():
    """Keras' own predict fails under JAX where threads call it at once."""
    image = keras.Input((None, None, 3))
    outputs = keras.layers.Conv2D(4, 3, padding="same")(image)
    model = keras.Model(image, outputs)
    random = np.random.default_rng(8)
    images = [random.integers(0, 256, (2, *size, 3)).astype("uint8") for size in ((7, 5), (11, 13))]
    wanted = [probabilities(model, image) for image in images]
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda number: probabilities(model, images[number % 2]), range(160)))
    for number, result in enumerate(found):
        np.testing.assert_array_equal(result, wanted[number % 2])
