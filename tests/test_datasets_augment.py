import colorsys
import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from PIL import Image

from keras_fsa.datasets.augment import _photometric, augment, training_batches
from keras_fsa.datasets.folder import folder_dataset
from keras_fsa.images import MEAN_COLOUR

pytestmark = pytest.mark.once

RNG = np.random.default_rng(3)
# Neither random colours, nor scale, nor flip, nor a choice among windows.
PLAIN = {"scales": (1, 1), "max_class_share": 1, "flip": 0, "photometric": False}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Five images in which every pixel tells its image and its place, as its mask does."""
    root = tmp_path_factory.mktemp("pairs")
    for name in ("images", "masks"):
        (root / name).mkdir()
    for number in range(5):
        height, width = 20 + number, 31 - number
        rows, columns = np.mgrid[:height, :width].astype("uint8")
        image = np.stack([np.full_like(rows, number), rows, columns], axis=-1)
        Image.fromarray(image).save(root / f"images/{number}.png")
        Image.fromarray(rows + columns).save(root / f"masks/{number}.png")
    return folder_dataset(root / "images", root / "masks", 60)


def batches(data, count, *args, **kwargs):
    stream = training_batches(data, *args, **kwargs)
    return [stream[i] for i in range(count)]


def example(height=67, width=91):
    image = RNG.integers(0, 256, (height, width, 3)).astype("uint8")
    return image, RNG.integers(0, 19, (height, width)).astype("uint8")


def many(count, image, mask, crop, **settings):
    """Augments one example again and again: images and masks as arrays."""
    pairs = [augment(image, mask, (5, i), crop, **settings) for i in range(count)]
    return [np.stack(side) for side in zip(*pairs, strict=True)]


def test_each_epoch_is_another_permutation(folder):
    data = batches(folder, 6, (7, 9), 5, 1, **PLAIN)
    epochs = [images[:, 0, 0, 0].tolist() for images, _ in data]
    assert all(sorted(epoch) == [*range(5)] for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) > 2
    other = batches(folder, 6, (7, 9), 5, 2, **PLAIN)
    assert [images[:, 0, 0, 0].tolist() for images, _ in other] != epochs


def test_batches_pass_over_the_borders_of_epochs(folder):
    data = batches(folder, 5, (7, 9), 3, 1, **PLAIN)
    numbers = np.concatenate([images[:, 0, 0, 0] for images, _ in data])
    assert sorted(numbers[:5]) == sorted(numbers[5:10]) == [*range(5)]


@pytest.mark.parametrize("step", [1, 2, 4])
def test_a_stream_goes_on_where_another_stopped(folder, step):
    whole = batches(folder, 6, (7, 9), 3, 11)
    rest = batches(folder, 6 - step, (7, 9), 3, 11, start_step=step)
    for (images, masks), (images_again, masks_again) in zip(whole[step:], rest, strict=True):
        np.testing.assert_array_equal(images, images_again)
        np.testing.assert_array_equal(masks, masks_again)


def test_parts_of_batches_are_the_batches(folder):
    whole = batches(folder, 3, (7, 9), 4, 11, start_step=1)
    parts = [batches(folder, 3, (7, 9), 4, 11, start_step=1, part=(i, 2)) for i in range(2)]
    for (images, masks), (first, upper), (second, lower) in zip(whole, *parts, strict=True):
        np.testing.assert_array_equal(images, [*first, *second])
        np.testing.assert_array_equal(masks, [*upper, *lower])
    for part, batch in (((2, 2), 4), ((0, 3), 4)):
        with pytest.raises(ValueError, match=r"`part` must be .* Received: part="):
            training_batches(folder, (7, 9), batch, 11, part=part)


def test_what_is_left_out_is_not_read(folder, tmp_path):
    for name in ("images", "masks"):
        (tmp_path / name).mkdir()
        for number in range(3):
            mode = "RGB" if name == "images" else "L"
            colour = (number,) * len(mode)
            Image.new(mode, (9, 7), colour).save(tmp_path / f"{name}/{number}.png")
    data = folder_dataset(tmp_path / "images", tmp_path / "masks", 3)
    ((_, masks),) = batches(data, 1, (7, 9), 2, 0, **PLAIN)
    (tmp_path / f"images/{masks[0, 0, 0]}.png").unlink()
    stream = training_batches(data, (7, 9), 1, 0, start_step=2, **PLAIN)
    assert len(stream[0]) == 2
    with pytest.raises(ValueError, match=r"Received: .*images/\d\.png: .*No such file"):
        batches(data, 1, (7, 9), 1, 0, **PLAIN)


def test_several_threads_may_read_batches(folder):
    wanted = batches(folder, 60, (7, 9), 2, 1)
    stream, interval = training_batches(folder, (7, 9), 2, 1), sys.getswitchinterval()
    sys.setswitchinterval(1e-6)  # threads change places often
    try:
        with ThreadPoolExecutor(8) as pool:
            found = list(pool.map(stream.__getitem__, range(60)))
    finally:
        sys.setswitchinterval(interval)
    for one, other in zip(found, wanted, strict=True):
        np.testing.assert_array_equal(one[0], other[0])


def test_image_and_mask_stay_together(folder):
    ((images, masks),) = batches(folder, 1, (7, 9), 40, 0, **PLAIN)
    rows, columns = images[..., 1], images[..., 2]
    np.testing.assert_array_equal(masks, rows + columns)
    corners = {(row, column) for row, column in zip(rows[:, 0, 0], columns[:, 0, 0], strict=True)}
    assert len(corners) > 20
    mirrored = dict(PLAIN, flip=0.5)
    ((images, masks),) = batches(folder, 1, (7, 9), 40, 0, **mirrored)
    np.testing.assert_array_equal(masks, images[..., 1] + images[..., 2])
    backwards = images[:, 0, 0, 2] > images[:, 0, 1, 2]
    assert 8 < backwards.sum() < 32  # 40 even draws: outside with odds of 1 in 10 000


def places(old, new):
    """The neighbors and their weights, in float64, of `new` samples of a line of `old`."""
    x = np.clip((np.arange(new) + 0.5) * old / new - 0.5, 0, old - 1)
    low = np.floor(x).astype(int)
    return low, np.minimum(low + 1, old - 1), x - low


def resized(image, size):
    for axis in (0, 1):
        low, high, weight = places(image.shape[axis], size[axis])
        weight = weight[:, None, None] if axis == 0 else weight[:, None]
        image = image.take(low, axis) * (1 - weight) + image.take(high, axis) * weight
    return image


def nearest(mask, size):
    rows, columns = (
        np.floor((np.arange(new) + 0.5) * old / new).astype(int)
        for old, new in zip(mask.shape, size, strict=True)
    )
    return mask[rows][:, columns]


@pytest.mark.parametrize("scale", [0.5, 0.83, 1.7])
def test_a_window_is_what_resizing_and_cropping_give(scale):
    image, mask = example()
    new = [int(side * scale + 0.5) for side in mask.shape]
    large, large_mask = resized(image, new), nearest(mask, new)
    settings = dict(PLAIN, scales=(scale, scale))
    windows = np.lib.stride_tricks.sliding_window_view(large_mask, (19, 23))
    for seed in range(4):
        part, part_mask = augment(image, mask, (0, seed), (19, 23), **settings)
        ((row, column),) = np.argwhere((windows == part_mask).all(axis=(2, 3)))
        expected = large[row : row + 19, column : column + 23]
        # Half a level of rounding, and coordinates in float32.
        np.testing.assert_allclose(part, expected, atol=0.52)


def test_a_small_image_is_padded():
    image, mask = example(5, 8)
    part, part_mask = augment(image, mask, (0, 0), (9, 11), **PLAIN)
    np.testing.assert_array_equal(part[:5, :8], image)
    np.testing.assert_array_equal(part_mask[:5, :8], mask)
    for empty in (np.s_[5:], np.s_[:, 8:]):
        assert (part[empty] == MEAN_COLOUR).all() and (part_mask[empty] == 255).all()


def test_scales_by_ratio_and_by_size():
    image, mask = np.zeros((20, 50, 3), "uint8"), np.zeros((20, 50), "uint8")

    def heights(count=40, **settings):
        _, masks = many(count, image, mask, (130, 300), **{**PLAIN, **settings})
        filled = masks == 0
        shapes = zip(filled.any(2).sum(1).tolist(), filled.any(1).sum(1).tolist(), strict=True)
        return sorted(set(shapes))

    free = heights(scales=(0.5, 2.0))
    assert 10 <= free[0][0] < 14 and 36 < free[-1][0] <= 40 and len(free) > 15
    steps = heights(120, scales=(0.7, 2.1), scale_step=0.1)
    assert steps == [(2 * n, 5 * n) for n in range(7, 22)]
    # The next step would be beyond the largest scale.
    assert heights(scales=(0.5, 1.0), scale_step=0.3) == [(10, 25), (16, 40)]
    # 100x30 holds 50x20 at the scale 1.5; the long side decides with 60x60.
    assert heights(3, scales=(1, 1), base_size=(100, 30)) == [(30, 75)]
    assert heights(3, scales=(1, 1), base_size=(60, 60)) == [(24, 60)]
    assert heights(3, scales=(2, 2), base_size=(60, 60)) == [(48, 120)]


def test_scale_place_and_flip_are_independent():
    rows, columns = np.mgrid[:200, :200].astype("uint8")
    image = np.stack([rows, columns, rows], axis=-1)
    settings = dict(PLAIN, scales=(0.5, 2.0), flip=0.5)
    corners = many(300, image, rows, (20, 20), **settings)[0].astype(float)
    shrunk = (corners[:, -1, 0, 0] - corners[:, 0, 0, 0]) / 19
    mirrored = corners[:, 0, 0, 1] > corners[:, 0, -1, 1]
    down, right = (corners[..., axis].min((1, 2)) / (200 - 20 * shrunk) for axis in (0, 1))
    drawn = np.corrcoef([shrunk, mirrored, down, right])
    # Four standard deviations of the correlation of 300 independent pairs.
    assert abs(drawn - np.eye(4)).max() < 4 / np.sqrt(300)


def test_crops_hold_at_most_three_quarters_of_one_class():
    # One class fills all but a corner; the ignored area does not count.
    mask = np.zeros((40, 40), "uint8")
    mask[20:, 20:] = 1
    mask[:20, 20:] = 255
    windows = np.lib.stride_tricks.sliding_window_view(mask, (8, 8)).reshape(-1, 64)

    def mixed(windows):
        counts = np.stack([(windows == label).sum(1) for label in (0, 1)], axis=1)
        return (counts.min(1) > 0) & (counts.max(1) < 0.75 * counts.sum(1))

    share = mixed(windows).mean()
    assert 0.02 < share < 0.1
    # Ten windows that are looked at, and one that is taken as it comes.
    for limit, expected in ((1, share), (0.75, 1 - (1 - share) ** 11)):
        settings = dict(PLAIN, max_class_share=limit)
        _, masks = many(600, np.zeros((40, 40, 3), "uint8"), mask, (8, 8), **settings)
        found = mixed(masks.reshape(-1, 64)).mean()
        assert abs(found - expected) < 4 * np.sqrt(expected * (1 - expected) / 600)


def test_colours_change_alike_for_one_seed_only():
    image, mask = example(16, 16)
    settings = dict(PLAIN, photometric=True)
    first, again, other = (
        augment(image, mask, seed, (16, 16), **settings)[0] for seed in ((0, 1), (0, 1), (0, 2))
    )
    np.testing.assert_array_equal(first, again)
    assert (first != other).any()


@pytest.mark.parametrize("turn", [0.0, 0.3, 0.5, 0.999])
@pytest.mark.parametrize("saturate", [0.0, 0.4, 0.999])
def test_saturation_and_hue_are_those_of_hsv(turn, saturate):
    image, _ = example(13, 17)
    got = _photometric(image, (1, 1, 1, 0, 0), (0, 0, saturate, turn))
    expected = np.empty(image.shape)
    for place in np.ndindex(image.shape[:2]):
        hue, saturation, value = colorsys.rgb_to_hsv(*(image[place] / 255))
        # Whole steps of 2 degrees, from -36 to 34.
        hue = (hue + (2 * int(36 * turn) - 36) / 360) % 1
        rgb = colorsys.hsv_to_rgb(hue, min(saturation * (0.5 + saturate), 1), value)
        expected[place] = np.multiply(255, rgb)
    # Half a level of rounding, and the arithmetic of float32.
    np.testing.assert_allclose(got, expected, atol=0.501)


def test_brightness_and_contrast():
    image, _ = example(13, 17)
    bright = np.clip(image + 64 * 0.8 - 32, 0, 255)
    for first in (0, 1):
        got = _photometric(image, (0, 0, 1 - first, 1, 1), (0.8, 0.9, 0, 0))
        # Without saturation and hue between, the order does not show.
        np.testing.assert_allclose(got, np.clip(1.4 * bright, 0, 255), atol=0.501)
    unchanged = _photometric(image, (1, 1, 1, 1, 1), (0, 0, 0, 0))
    np.testing.assert_array_equal(unchanged, image)


def test_colours_stay_in_their_ranges():
    grey = np.full((2, 2, 3), 100, "uint8")
    mask = np.zeros((2, 2), "uint8")
    settings = dict(PLAIN, photometric=True)
    values = many(300, grey, mask, (2, 2), **settings)[0][:, 0, 0].astype(int)
    # Grey stays grey: saturation and hue do nothing to it.
    assert np.ptp(values, axis=1).max() <= 1
    values = values[:, 0]
    assert 0.15 < (values == 100).mean() < 0.35  # neither brightness nor contrast: 1 in 4
    assert values.min() >= 0.5 * 68 - 1 and values.max() <= 1.5 * 132 + 1
    assert values.min() < 55 and values.max() > 150


def test_wrong_arguments(folder):
    for name, value in (
        ("crop", (0, 5)),
        ("crop", None),
        ("scales", 0.5),
        ("scales", (np.nan, 1)),
        ("base_size", 3),
        ("max_class_share", np.nan),
        ("flip", None),
        ("pad_colour", 3),
        ("scales", (2, 1)),
        ("scale_step", 0),
        ("base_size", (100, 200)),
        ("max_class_share", 0),
        ("flip", 1.5),
        ("pad_colour", (0, 0, 256)),
    ):
        settings = {"crop": (7, 9), name: value}
        with pytest.raises(ValueError, match=rf"`{name}` must be .*Received: {name}="):
            training_batches(folder, batch=2, seed=0, **settings)
    for settings in ({"batch": 0}, {"seed": -1}, {"start_step": 1.5}, {"photometric": "no"}):
        (name,) = settings
        with pytest.raises(ValueError, match=rf"`{name}` must be"):
            training_batches(folder, **{"crop": (7, 9), "batch": 2, "seed": 0, **settings})
    with pytest.raises(ValueError, match=r"`examples` must be Examples.*Received: examples=\[1"):
        training_batches([1], (7, 9), 2, 0)
    with pytest.raises(ValueError, match=r"`examples` must hold at least one"):
        training_batches(folder[:0], (7, 9), 2, 0)


def test_wrong_pairs_and_earlier_names(folder):
    image, mask = example(9, 9)
    for wrong in ((image, mask[:5]), (image.astype("float64"), mask), (image[..., 0], mask)):
        with pytest.raises(ValueError, match=r"`image` must be .* of uint8,.*Received: image"):
            augment(*wrong, 0, (5, 5))
    padded, _ = augment(image[:3], mask[:3], 0, (5, 5), scales=(1, 1), pad_colour=(1, 2, 3))
    assert (padded[3:] == (1, 2, 3)).all()
    with pytest.warns(DeprecationWarning, match=r"`dataset`.*`examples`"):
        training_batches(dataset=folder, crop=(5, 5), batch=1, seed=0)


def test_wrong_ids_are_named_before_training(tmp_path):
    for name in ("images", "masks"):
        (tmp_path / name).mkdir()
    Image.new("RGB", (9, 7)).save(tmp_path / "images/a.png")
    Image.new("L", (9, 7), 7).save(tmp_path / "masks/a.png")
    data = folder_dataset(tmp_path / "images", tmp_path / "masks", 3, check=False)
    with pytest.raises(ValueError, match=r"masks/a\.png: has ids beyond 0 to 2 .*: 7"):
        training_batches(data, (5, 5), 1, 0)[0]
