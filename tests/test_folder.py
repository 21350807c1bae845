import os
import re
import sys

import numpy as np
import pytest
from PIL import Image

from keras_fsa.datasets.folder import check_pairs, folder_dataset, match_pairs
from keras_fsa.datasets.masks import remap_reader

pytestmark = pytest.mark.once

RNG = np.random.default_rng(0)
PICTURE = RNG.integers(0, 256, (6, 10, 3)).astype("uint8")
IDS = RNG.integers(0, 3, (6, 10)).astype("uint8")


@pytest.fixture
def folders(tmp_path):
    """Two empty folders, and a function that writes one pair into them."""
    images, masks = tmp_path / "images", tmp_path / "masks"
    images.mkdir()
    masks.mkdir()

    def write(name, picture=PICTURE, ids=IDS, image_ending=".png", mask_ending=".png"):
        Image.fromarray(picture).save(images / f"{name}{image_ending}")
        Image.fromarray(ids).save(masks / f"{name}{mask_ending}")

    return images, masks, write


def elements(*args, **kwargs):
    return list(folder_dataset(*args, **kwargs))


def test_pairs_are_matched_by_name_and_sorted(folders):
    images, masks, write = folders
    write("b.1", image_ending=".JPG")
    write("a", image_ending=".tiff")
    write("a-1")
    write("c", image_ending=".bmp", mask_ending=".PNG")
    (images / ".hidden.png").write_bytes(b"")
    (images / "notes.txt").write_text("")
    (masks / "folder.png").mkdir()
    assert match_pairs(str(images), masks) == [
        (images / "a.tiff", masks / "a.png"),
        (images / "a-1.png", masks / "a-1.png"),
        (images / "b.1.JPG", masks / "b.1.png"),
        (images / "c.bmp", masks / "c.PNG"),
    ]


def test_match_pairs_reports_lonely_files_of_both_sides(folders):
    images, masks, write = folders
    write("a")
    for i in range(7):
        Image.fromarray(PICTURE).save(images / f"p{i}.png")
    Image.fromarray(IDS).save(masks / "m.png")
    with pytest.raises(
        ValueError,
        match=r"(?s)needs a mask of the same name.*7 in images only \(p0, p1, p2, p3, p4, \.\.\.\) "
        r"and 1 in masks only \(m\)\. Rename",
    ):
        match_pairs(images, masks)


def test_match_pairs_wants_folders_with_one_file_of_a_name(folders):
    images, masks, write = folders
    with pytest.raises(FileNotFoundError, match=r"`masks` must be a directory.*masks=.*nowhere"):
        write("a")
        match_pairs(images, masks / "nowhere")
    with pytest.raises(ValueError, match=r"`images` must hold files that end in one of \.png"):
        match_pairs(masks.parent, masks)
    write("a", image_ending=".jpg")
    with pytest.raises(
        ValueError, match=r"`images` must hold one file of each name.*1 name.*\(a\.jpg and a\.png\)"
    ):
        match_pairs(images, masks)


def test_examples_have_the_exact_values_in_order(folders):
    images, masks, write = folders
    ids = IDS.copy()
    ids[0, :4] = 7
    pictures = {name: RNG.integers(0, 256, (5, 8, 3)).astype("uint8") for name in "cab"}
    for name, picture in pictures.items():
        write(name, picture, ids[:5, :8])
    data = folder_dataset(images, masks, 3, ignore_label=7)
    assert len(data) == 3 and data.size is None
    assert [data.name(i) for i in range(3)] == [str(images / f"{name}.png") for name in "abc"]
    expected = np.where(ids == 7, 255, ids)[:5, :8]
    for name, (image, mask) in zip("abc", data, strict=True):
        np.testing.assert_array_equal(image, pictures[name])
        np.testing.assert_array_equal(mask, expected)
        assert image.dtype == mask.dtype == "uint8"


def test_an_ignore_label_among_the_classes_is_ignored(folders):
    images, masks, write = folders
    write("a")
    ((_, mask),) = elements(images, masks, 3, ignore_label=0)
    np.testing.assert_array_equal(mask, np.where(IDS == 0, 255, IDS))


def test_lists_of_files_keep_their_order(folders):
    images, masks, write = folders
    write("a")
    write("b", PICTURE[::-1])
    pairs = match_pairs(images, masks)[::-1]
    data = elements(*zip(*pairs, strict=True), num_classes=3)
    np.testing.assert_array_equal(data[0][0], PICTURE[::-1])
    np.testing.assert_array_equal(data[1][0], PICTURE)


def test_names_beyond_ascii(folders):
    images, masks, write = folders
    write("Straße 1")
    assert len(elements(images, masks, 3)) == 1


def test_a_slow_file_keeps_its_place(folders):
    images, masks, write = folders
    write(
        "0", RNG.integers(0, 256, (1500, 1500, 3)).astype("uint8"), np.zeros((1500, 1500), "uint8")
    )
    for i in range(1, 40):
        write(f"{i:02}")
    heights = [image.shape[0] for image, _ in elements(images, masks, 3)]
    assert heights == [1500] + [6] * 39


def palette(ids):
    file = Image.fromarray(ids)
    file.putpalette(np.repeat(np.arange(255, -1, -1), 3).tolist())
    assert file.mode == "P"
    return file


@pytest.mark.parametrize(
    "file",
    [palette(IDS), Image.fromarray(IDS.astype("uint16")), Image.fromarray(IDS.astype("int32"))],
    ids=lambda file: file.mode,
)
def test_masks_of_one_channel_hold_ids(folders, file):
    images, masks, write = folders
    write("a")
    (masks / "a.png").unlink()
    file.save(masks / "a.tif")
    ((_, mask),) = elements(images, masks, 3)
    np.testing.assert_array_equal(mask, IDS)


def test_palette_and_one_bit_png_masks_hold_ids(folders):
    images, masks, write = folders
    write("a")
    palette(IDS).save(masks / "a.png")
    ((_, mask),) = elements(images, masks, 3)
    np.testing.assert_array_equal(mask, IDS)
    Image.fromarray(IDS > 1).save(masks / "a.png")
    assert Image.open(masks / "a.png").mode == "1"
    ((_, mask),) = elements(images, masks, 2)
    np.testing.assert_array_equal(mask, IDS > 1)


def test_ids_of_16_bits_do_not_wrap_around(folders):
    images, masks, write = folders
    ids = IDS.astype("uint16")
    ids[2, 3] = 256
    write("a", ids=ids)
    ((_, mask),) = elements(images, masks, 3, ignore_label=256)
    assert mask[2, 3] == 255
    with pytest.raises(ValueError, match=r"a\.png: has ids beyond 0 to 2 .* label 255: 256"):
        folder_dataset(images, masks, 3)
    with pytest.raises(ValueError, match=r"a\.png: has ids beyond 0 to 2"):
        elements(images, masks, 3, check=False)


def test_pictures_are_converted_to_rgb_with_one_warning(folders):
    images, masks, write = folders
    deep = (PICTURE[..., 0].astype("uint16") << 8) + 77
    alpha = np.concatenate([PICTURE, PICTURE[..., :1]], axis=-1)
    write("a")
    write("b", deep)
    write("c", PICTURE[..., 1])
    write("d", alpha)
    write("e")
    file = palette(PICTURE[..., 2])
    file.info["transparency"] = bytes(range(256))
    file.save(images / "e.png")
    with pytest.warns(UserWarning) as caught:
        data = elements(images, masks, 3)
    (warning,) = caught
    assert str(warning.message).startswith("4 of 5 images are not RGB with 8 bits per channel")
    assert f"The first one is {images / 'b.png'} (mode I" in str(warning.message)
    a, b, c, d, e = (image for image, _ in data)
    np.testing.assert_array_equal(a, PICTURE)
    np.testing.assert_array_equal(b, PICTURE[..., [0, 0, 0]])
    np.testing.assert_array_equal(c, PICTURE[..., [1, 1, 1]])
    np.testing.assert_array_equal(d, PICTURE)
    np.testing.assert_array_equal(e, 255 - PICTURE[..., [2, 2, 2]])


def test_exif_orientation_turns_the_picture_alone(folders):
    images, masks, write = folders
    exif = Image.Exif()
    exif[0x0112] = 6  # stored with its right side up: turn clockwise to view it
    upright = PICTURE
    write("a", ids=IDS)
    Image.fromarray(np.rot90(upright)).save(images / "a.png", exif=exif)
    ((image, mask),) = elements(images, masks, 3)
    np.testing.assert_array_equal(image, upright)
    np.testing.assert_array_equal(mask, IDS)

    (images / "a.png").unlink()
    upright = np.full((16, 24, 3), 40, "uint8")
    upright[:8] = 200
    write("a", ids=np.zeros((16, 24), "uint8"))
    (images / "a.png").unlink()
    Image.fromarray(np.rot90(upright)).save(images / "a.jpg", exif=exif, quality=95)
    ((image, _),) = elements(images, masks, 3)
    np.testing.assert_allclose(image.astype(int), upright, atol=3)


def test_size_resizes_pictures_smoothly_and_masks_to_the_nearest(folders):
    images, masks, write = folders
    stripes = np.zeros((8, 24, 3), "uint8")
    stripes[:, ::2] = 200
    ids = RNG.integers(0, 3, (8, 24)).astype("uint8")
    write("a", stripes, ids)
    write("b", PICTURE, IDS)
    data = folder_dataset(images, masks, 3, size=(4, 6))
    assert data.size == (4, 6)
    (image, mask), (_, other) = data
    # Without antialiasing the stripes would give 0 and 200.
    np.testing.assert_allclose(image[:, 1:-1].astype(int), 100, atol=5)
    np.testing.assert_array_equal(mask, ids[1::2, 2::4])
    rows, columns = ((np.arange(4) + 0.5) * 6 / 4).astype(int), ((np.arange(6) + 0.5) * 10 / 6)
    np.testing.assert_array_equal(other, IDS[rows][:, columns.astype(int)])


def test_size_enlarges_bilinearly(folders):
    images, masks, write = folders
    picture = np.zeros((2, 2, 3), "uint8")
    picture[:, 1] = 200
    write("a", picture, IDS[:2, :2])
    ((image, _),) = elements(images, masks, 3, size=(2, 4))
    np.testing.assert_array_equal(image[0, :, 0], [0, 50, 150, 200])


def test_check_pairs_reports_the_problems_of_all_files(folders):
    images, masks, write = folders
    for name in "abcdefg":
        write(name)
    whole = (images / "a.png").read_bytes()
    (images / "a.png").write_bytes(whole[: len(whole) // 2])
    (images / "b.png").write_text("not a picture")
    Image.fromarray(IDS[:, :7]).save(masks / "c.png")
    Image.fromarray(PICTURE).save(masks / "d.png")
    Image.fromarray(IDS + np.uint8(9)).save(masks / "e.png")
    Image.fromarray(PICTURE[..., 0].astype("float32")).save(images / "f.tif")
    (images / "f.png").unlink()
    Image.fromarray(PICTURE[..., 0].astype("int32")).save(images / "g.tif")
    (images / "g.png").unlink()
    pairs = match_pairs(images, masks)
    with pytest.raises(ValueError) as caught:
        check_pairs(pairs, 3)
    first, *problems, last = str(caught.value).splitlines()
    assert first.endswith("num_classes=3, ignore_label=255, and 7 pairs with 7 problem(s):")
    for problem, expected in zip(
        problems,
        [
            f"- {images}/a.png: .*truncated",
            f"- {images}/b.png: cannot identify image file",
            f"- {images}/c.png is 6 high and 10 wide .*its mask {masks}/c.png is 6 high and 7 wide",
            f"- {masks}/d.png: is not one channel of class ids but a RGB file",
            f"- {masks}/e.png: has ids beyond 0 to 2 that are not the ignore label 255: 9, 10, 11",
            f"- {images}/f.tif: has 32 bits per channel \\(mode F\\)",
            f"- {images}/g.tif: has 32 bits per channel \\(mode I\\)",
        ],
        strict=True,
    ):
        assert re.match(expected, problem)
    assert last.startswith("Correct or remove these files")


def test_masks_of_no_and_yes_in_255_are_warned_of(folders, recwarn):
    images, masks, write = folders
    write("a", ids=IDS * 0)
    write("b", ids=(IDS > 0) * np.uint8(255))
    with pytest.warns(UserWarning, match="nothing but 0 and the ignore label 255.*line 255,1"):
        folder_dataset(images, masks, 2)
    reader = remap_reader({255: 1})
    mask = folder_dataset(images, masks, 2, mask_reader=reader)[1][1]
    np.testing.assert_array_equal(mask, IDS > 0)
    write("c", ids=np.minimum(IDS, 1))
    folder_dataset(images, masks, 2)
    assert len(recwarn) == 0


def test_both_files_of_a_pair_are_reported(folders):
    images, masks, write = folders
    write("a")
    (images / "a.png").write_bytes(b"")
    (masks / "a.png").unlink()
    Image.fromarray(IDS).save(masks / "a.jpg")
    with pytest.raises(
        ValueError, match=r"(?s)1 pairs with 2 problem.*images/a\.png: .*masks/a\.jpg: is a JPEG"
    ):
        folder_dataset(images, masks, 3)


def test_only_the_first_ten_problems_are_listed(folders):
    images, masks, write = folders
    for i in range(12):
        write(f"{i:02}")
    with pytest.raises(ValueError, match=r"12 problem") as caught:
        check_pairs(match_pairs(images, masks), 2)
    assert str(caught.value).count("has ids beyond") == 10
    assert "09.png" in str(caught.value) and "10.png" not in str(caught.value)
    assert "- and 2 more\n" in str(caught.value)


def test_a_progress_bar_shows_for_many_pairs(folders, capsys):
    images, masks, write = folders
    write("a")
    pairs = match_pairs(images, masks)
    check_pairs(pairs * 200, 3)
    assert capsys.readouterr().out == ""
    check_pairs(pairs * 201, 3)
    assert "201/201" in capsys.readouterr().out


@pytest.mark.parametrize("num_classes", [0, 256])
def test_num_classes_fits_into_masks(folders, num_classes):
    images, masks, write = folders
    write("a")
    for check in (True, False):
        with pytest.raises(
            ValueError, match=rf"`num_classes` must be .*num_classes={num_classes}\."
        ):
            folder_dataset(images, masks, num_classes, check=check)
    with pytest.raises(ValueError, match="`num_classes` must be"):
        check_pairs([], num_classes)


@pytest.mark.parametrize("size", [(4,), (4, 0), (4, 6, 3)])
def test_size_is_height_and_width(folders, size):
    images, masks, _write = folders
    with pytest.raises(ValueError, match=r"`size` must be 2 positive ints.*size=\("):
        folder_dataset(images, masks, 3, size=size)


def test_images_and_masks_are_of_one_kind(folders):
    images, _masks, write = folders
    write("a")
    files = [os.fspath(images / "a.png")]
    for wrong, received in (
        ((images, files), r"images=.*images'?\)?, masks=list of 1\. Pass"),
        ((files, files * 2), r"images=list of 1, masks=list of 2"),
        (([], []), r"images=list of 0, masks=list of 0"),
        ((None, None), r"images=None, masks=None"),
        ((3, files), r"images=3, masks=list of 1"),
    ):
        with pytest.raises(ValueError, match=rf"two directories, or two lists.*{received}"):
            folder_dataset(*wrong, 3)
    with pytest.raises(ValueError, match=r"must hold paths of files\. Received: an item None"):
        folder_dataset([None], files, 3)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("ignore_label", float("nan")),
        ("ignore_label", None),
        ("ignore_label", "255"),
        ("check", "no"),
        ("size", 3),
        ("size", (4.5, 6)),
        ("max_pixels", 0),
    ],
)
def test_wrong_arguments_are_named(folders, name, value):
    images, masks, write = folders
    write("a")
    with pytest.raises(ValueError, match=rf"`{name}` must be .*Received: {name}="):
        folder_dataset(images, masks, 3, **{name: value})


def test_too_many_pixels_are_refused_unless_allowed(folders):
    images, masks, write = folders
    write("a")
    with pytest.raises(ValueError, match=r"a\.png: has too many pixels \(10 x 6, and 59 are"):
        folder_dataset(images, masks, 3, max_pixels=59)
    assert len(folder_dataset(images, masks, 3, max_pixels=60)) == 1


def test_a_missing_package_is_named(folders, monkeypatch):
    images, masks, write = folders
    write("a")
    monkeypatch.setitem(sys.modules, "PIL", None)
    with pytest.raises(ImportError, match=r'PIL.*pip install "keras_fsa\[tools\]"'):
        folder_dataset(images, masks, 3)
