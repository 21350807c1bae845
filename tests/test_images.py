"""Every kind of file that people have, written with Pillow and read in the one way there is."""

import concurrent.futures
import io
import sys
import threading
import time

import numpy as np
import pytest
import rasterio
from PIL import Image

from keras_fsa import images
from keras_fsa.datasets.rasters import read_raster
from keras_fsa.images import ImageError, read_image, read_mask

pytestmark = pytest.mark.once

RNG = np.random.default_rng(7)
RGB = RNG.integers(0, 256, (5, 7, 3)).astype("uint8")
GREY = RNG.integers(0, 256, (5, 7)).astype("uint8")
DEEP = RNG.integers(0, 65536, (5, 7)).astype("uint16")


def stored(pixels, kind="png", **options):
    file = io.BytesIO()
    (pixels if isinstance(pixels, Image.Image) else Image.fromarray(pixels)).save(
        file, kind, **options
    )
    file.seek(0)
    return file


def palette(ids):
    image = Image.fromarray(ids)
    image.putpalette(np.repeat(np.arange(255, -1, -1), 3).tolist())
    return image


def transparent(image):
    image.info["transparency"] = 0 if image.mode == "P" else tuple(RGB[2, 3].tolist())
    return image


@pytest.mark.parametrize(
    ("file", "expected"),
    [
        (stored(RGB), RGB),
        (stored(GREY), GREY[..., None].repeat(3, -1)),
        (stored(DEEP), (DEEP >> 8)[..., None].repeat(3, -1)),
        (stored(DEEP, "tiff"), (DEEP >> 8)[..., None].repeat(3, -1)),
        (stored(palette(GREY)), 255 - GREY[..., None].repeat(3, -1)),
        (stored(transparent(palette(GREY))), 255 - GREY[..., None].repeat(3, -1)),
        (stored(GREY > 99), 255 * (GREY > 99)[..., None].repeat(3, -1)),
        (stored(np.dstack([RGB, GREY])), RGB),
        (stored(np.dstack([GREY, GREY])), GREY[..., None].repeat(3, -1)),
        (stored(transparent(Image.fromarray(RGB))), RGB),
        (stored(np.dstack([255 - RGB, 0 * GREY]).view("uint8"), "png"), 255 - RGB),
        (stored(Image.fromarray(np.dstack([RGB, 0 * GREY]), "CMYK"), "tiff"), 255 - RGB),
    ],
    ids="rgb grey 16 16-tiff palette transparent 1 rgba la transparent-rgb zero-alpha cmyk".split(),
)
def test_images_become_rgb(file, expected):
    file.seek(0)
    image = read_image(file)
    assert image.dtype == "uint8"
    np.testing.assert_array_equal(image, expected)


def test_one_channel():
    assert read_image(stored(GREY), channels=1).shape == (5, 7, 1)
    np.testing.assert_array_equal(read_image(stored(GREY), channels=1)[..., 0], GREY)
    grey = RGB @ [0.299, 0.587, 0.114]
    # Pillow's weights are whole multiples of 2**-16, and it rounds.
    np.testing.assert_allclose(read_image(stored(RGB), channels=1)[..., 0], grey, atol=0.51)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("pixels", [RGB, DEEP], ids=["rgb", "16"])
def test_orientation(orientation, pixels):
    upright = {
        1: lambda x: x,
        2: lambda x: x[:, ::-1],
        3: lambda x: x[::-1, ::-1],
        4: lambda x: x[::-1],
        5: lambda x: x.swapaxes(0, 1),
        6: lambda x: np.rot90(x, -1),
        7: lambda x: x[::-1, ::-1].swapaxes(0, 1),
        8: lambda x: np.rot90(x),
    }[orientation]
    exif = Image.Exif()
    exif[0x0112] = orientation
    file = stored(pixels, exif=exif)
    expected = pixels if pixels.ndim == 3 else (pixels >> 8)[..., None].repeat(3, -1)
    np.testing.assert_array_equal(read_image(file), upright(expected))
    if pixels.ndim == 2:
        file.seek(0)
        np.testing.assert_array_equal(read_mask(file), pixels)


@pytest.mark.parametrize(
    ("file", "expected"),
    [
        (stored(GREY), GREY),
        (stored(palette(GREY)), GREY),
        (stored(DEEP), DEEP),
        (stored(DEEP.astype("int32"), "tiff"), DEEP),
        (stored(GREY > 99), GREY > 99),
    ],
    ids=["grey", "palette", "16", "32", "1"],
)
def test_masks_keep_their_ids(file, expected):
    ids = read_mask(file)
    assert ids.dtype != bool
    np.testing.assert_array_equal(ids, expected)


def test_12_bits(tmp_path):
    path, values = tmp_path / "deep.tif", DEEP >> 4
    size = {"height": len(DEEP), "width": DEEP.shape[1], "count": 1}
    with rasterio.open(path, "w", driver="GTiff", dtype="uint16", NBITS=12, **size) as file:
        file.write(values[None])
    np.testing.assert_array_equal(read_image(path, channels=1)[..., 0], values >> 4)
    np.testing.assert_array_equal(read_mask(path), values)


@pytest.mark.parametrize("zero", ["minisblack", "miniswhite"])
@pytest.mark.parametrize("bits", [1, 2, 4, 8, 16])
def test_greys_of_few_bits_and_those_whose_zero_is_white(bits, zero, tmp_path):
    """Masks and rasters have what is stored, images what is seen."""
    path, values = tmp_path / "a.tif", DEEP >> 16 - bits
    values = values.astype("uint16" if bits == 16 else "uint8")
    size = {"height": len(DEEP), "width": DEEP.shape[1], "count": 1, "dtype": values.dtype}
    with rasterio.open(path, "w", "GTiff", nbits=bits, photometric=zero, **size) as file:
        file.write(values[None])
    np.testing.assert_array_equal(read_mask(path), values)
    np.testing.assert_array_equal(read_raster(path, 1)[..., 0], values)
    seen = values >> 8 if bits == 16 else values * (255 // (2**bits - 1))
    seen = 255 - seen if zero == "miniswhite" else seen
    np.testing.assert_array_equal(read_image(path, channels=1)[..., 0], seen)


@pytest.mark.parametrize(
    ("read", "file", "reason"),
    [
        (read_image, stored(GREY.astype("float32"), "tiff"), r"32 bits per channel \(mode F\)"),
        (read_image, stored(GREY.astype("int32"), "tiff"), r"32 bits per channel \(mode I\)"),
        (read_image, io.BytesIO(b"no image"), "cannot identify image file"),
        (read_image, io.BytesIO(b""), "cannot identify image file"),
        (read_image, io.BytesIO(stored(RGB).getvalue()[:90]), "truncated"),
        (read_mask, stored(GREY, "jpeg"), "is a JPEG"),
        (read_mask, stored(RGB), "is not one channel of class ids but a RGB file"),
        (read_mask, stored(np.dstack([GREY, GREY])), "but a LA file"),
        (read_mask, stored(GREY.astype("float32"), "tiff"), "but a F file"),
    ],
)
def test_what_cannot_be_read_is_said(read, file, reason):
    file.seek(0)
    with pytest.raises(
        ImageError, match=rf"must be a file that can be read\. Received: .*{reason}"
    ):
        read(file)


def test_a_missing_file_keeps_its_error(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"nowhere\.png"):
        read_image(tmp_path / "nowhere.png")


def test_an_image_without_height(tmp_path):
    content = bytearray(stored(RGB, "bmp").getvalue())
    content[22:26] = bytes(4)
    path = tmp_path / "flat.bmp"
    path.write_bytes(content)
    with pytest.raises(ImageError, match=r"flat\.bmp: "):
        read_image(path)


def test_the_limit_of_pixels(monkeypatch):
    with pytest.raises(
        ImageError, match=r"too many pixels \(7 x 5, and 34 are allowed\), raise `ma"
    ):
        read_image(stored(RGB), max_pixels=34)
    with pytest.raises(ImageError, match=r"too many pixels"):
        read_mask(stored(GREY), max_pixels=34)
    assert read_image(stored(RGB), max_pixels=35).shape == (5, 7, 3)
    # Pillow has a limit of its own, which ours takes the place of.
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10)
    monkeypatch.setattr(images, "MAX_PIXELS", 10)
    with pytest.raises(ImageError, match="too many pixels"):
        read_image(stored(RGB), max_pixels=10)
    for limit in (35, None):
        assert read_image(stored(RGB), max_pixels=limit).shape == (5, 7, 3)
    assert Image.MAX_IMAGE_PIXELS == 10
    with pytest.raises(ValueError, match=r"`max_pixels` must be .*Received: max_pixels=0\."):
        read_image(stored(RGB), max_pixels=0)
    with pytest.raises(ValueError, match=r"`channels` must be one of 1, 3\. Received: channels=4"):
        read_image(stored(RGB), channels=4)


def test_the_limits_of_threads(monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10)
    opened, begun = Image.open, threading.Event()

    def slowly(file):
        first, _ = not begun.is_set(), begun.set()
        time.sleep(0.1 if first else 0.3)
        return opened(file)

    monkeypatch.setattr(Image, "open", slowly)
    with concurrent.futures.ThreadPoolExecutor() as pool:
        first = pool.submit(read_image, stored(RGB), max_pixels=None)
        begun.wait()
        # It would be opened within the limit that Pillow has again by then.
        second = pool.submit(read_image, stored(RGB), max_pixels=35)
    assert first.result().shape == second.result().shape == (5, 7, 3)
    assert Image.MAX_IMAGE_PIXELS == 10


def test_a_missing_pillow_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "PIL.Image", None)
    with pytest.raises(ImportError, match=r'pip install "keras_fsa\[tools\]"'):
        read_image("any.png")
