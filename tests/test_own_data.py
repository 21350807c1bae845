"""Images and masks of one's own, in small files of the true formats."""

import dataclasses
import json

import cv2
import keras
import numpy as np
import pytest
import rasterio
from PIL import Image
from pycocotools import mask as coder

import keras_fsa
from keras_fsa.commands import evaluate, predict, train
from keras_fsa.commands.data import Source, takes_stored_values
from keras_fsa.datasets import folder_dataset
from keras_fsa.datasets.masks import colour_reader, read_colour_table, read_id_table, remap_reader
from keras_fsa.datasets.pairs import read_pairs
from keras_fsa.datasets.polygons import coco_dataset, labelme_dataset
from keras_fsa.datasets.rasters import read_raster, statistics
from keras_fsa.images import ImageError, read_image

pytestmark = pytest.mark.once

SIZE = (13, 17)


def write_tiff(path, pixels, **settings):
    """As GDAL does it: planar bands, compressed by LZW."""
    height, width, count = pixels.shape
    settings = {"compress": "lzw", "interleave": "band", **settings}
    with rasterio.open(
        path, "w", driver="GTiff", height=height, width=width, count=count, dtype=pixels.dtype,
        **settings,
    ) as file:  # fmt: skip
        file.write(np.moveaxis(pixels, -1, 0))


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "float32"])
@pytest.mark.parametrize("channels", [1, 3, 5])
@pytest.mark.parametrize("ending", ["tif", "npy"])
def test_rasters(rng, tmp_path, dtype, channels, ending):
    pixels = (rng.random((*SIZE, channels)) * 250).astype(dtype) * (250 if "16" in dtype else 1)
    path = tmp_path / f"image.{ending}"
    np.save(path, pixels) if ending == "npy" else write_tiff(path, pixels)
    found = read_raster(path, channels)
    assert found.dtype == dtype
    np.testing.assert_array_equal(found, pixels)
    with pytest.raises(ImageError, match=f"image.{ending}: has {channels} channels, and 2 are wan"):
        read_raster(path, 2)


def test_16_bits_that_pillow_takes_for_rgb(rng, tmp_path):
    deep = rng.integers(0, 65536, (*SIZE, 3)).astype("uint16")
    cv2.imwrite(str(tmp_path / "deep.png"), deep[..., ::-1])
    for interleave in ("pixel", "band"):
        settings = {"photometric": "RGB", "interleave": interleave, "compress": "none"}
        write_tiff(tmp_path / f"{interleave}.tif", deep, **settings)
    for name in ("deep.png", "pixel.tif", "band.tif"):
        np.testing.assert_array_equal(read_raster(tmp_path / name, 3), deep)
    for name in ("deep.png", "pixel.tif"):
        np.testing.assert_array_equal(read_image(tmp_path / name), deep >> 8)
    with pytest.raises(ImageError, match="band.tif: has 16 bits in a plane for each channel"):
        read_image(tmp_path / "band.tif")


def test_other_rasters(rng, tmp_path):
    deep = rng.integers(0, 65536, SIZE).astype("uint16")
    Image.fromarray(deep).save(tmp_path / "deep.png")
    np.testing.assert_array_equal(read_raster(tmp_path / "deep.png", 1)[..., 0], deep)
    colour = rng.integers(0, 256, (*SIZE, 3)).astype("uint8")
    exif = Image.Exif()
    exif[0x0112] = 3
    Image.fromarray(colour).save(tmp_path / "turned.png", exif=exif)
    np.testing.assert_array_equal(read_raster(tmp_path / "turned.png", 3), colour[::-1, ::-1])
    np.save(tmp_path / "nan.npy", np.full((*SIZE, 2), np.nan))
    np.save(tmp_path / "wide.npy", np.arange(2 * 13 * 17.0).reshape(*SIZE, 2))
    assert read_raster(tmp_path / "wide.npy", 2).dtype == "float32"
    (tmp_path / "broken.tif").write_bytes(b"II*\0")
    for name, message in (
        ("nan.npy", "nan.npy: holds NaN or infinity"),
        ("broken.tif", "An image must be a file that can be read. Received: .*broken.tif"),
    ):
        with pytest.raises(ImageError, match=message):
            read_raster(tmp_path / name, 2)
    with pytest.raises(ImageError, match="has too many pixels .17 x 13, and 100 are allowed"):
        read_raster(tmp_path / "wide.npy", 2, max_pixels=100)
    with pytest.raises(FileNotFoundError):
        read_raster(tmp_path / "none.tif", 2)


def test_resized_rasters_keep_type_and_range(rng, tmp_path):
    for name in ("images", "masks"):
        (tmp_path / name).mkdir()
    blocks = rng.integers(0, 60_000, (3, 4, 5)).astype("uint16")
    write_tiff(tmp_path / "images/a.tif", np.kron(blocks, np.ones((6, 6, 1), "uint16")))
    ids = (blocks[..., 0] > 30_000).astype("uint8")
    Image.fromarray(np.kron(ids, np.ones((6, 6), "uint8"))).save(tmp_path / "masks/a.png")
    data = folder_dataset(
        tmp_path / "images", tmp_path / "masks", 2, (9, 12),
        image_reader=lambda path: read_raster(path, 5),
    )  # fmt: skip
    image, mask = data[0]
    assert image.dtype == "uint16" and image.shape == (9, 12, 5)
    # The middle of a block of 3 pixels is that block's value.
    np.testing.assert_allclose(image[1::3, 1::3], blocks, atol=1)
    np.testing.assert_array_equal(mask[1::3, 1::3], ids)
    mean, std = statistics(data)
    np.testing.assert_allclose(mean, image.mean((0, 1)), rtol=1e-10)
    np.testing.assert_allclose(std, image.astype("float64").std((0, 1)), rtol=1e-6)
    images, _ = next(iter(data.batch(1)))
    assert keras.backend.standardize_dtype(images.dtype) == "uint16"


def test_colours(tmp_path):
    table = tmp_path / "colours.txt"
    table.write_text(
        "\ufeffr g b name\n128 64 0 road side\n0,0,255,sea\n\nignored 9 9 9\nsky; 1; 2; 3\n"
    )
    names, colours, ignored = read_colour_table(table)
    assert names == ["road side", "sea", "sky"]
    assert (colours, ignored) == ([(128, 64, 0), (0, 0, 255), (1, 2, 3)], [(9, 9, 9)])
    pixels = np.array([[[0, 0, 255], [9, 9, 9]], [[1, 2, 3], [128, 64, 0]]], "uint8")
    read = colour_reader(colours, ignored)
    Image.fromarray(pixels).save(tmp_path / "rgb.png")
    Image.fromarray(pixels).quantize(16).save(tmp_path / "palette.png")
    for name in ("rgb.png", "palette.png"):
        np.testing.assert_array_equal(read(tmp_path / name), [[1, 255], [2, 0]])
    # Opaque, and turned for viewers: masks are taken as they are stored, and checked as images are.
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(pixels).convert("RGBA").save(tmp_path / "rgba.png", exif=exif)
    np.testing.assert_array_equal(read(tmp_path / "rgba.png"), [[1, 255], [2, 0]])
    with pytest.raises(ImageError, match="2 x 2, and 3 are allowed"):
        colour_reader(colours, ignored, max_pixels=3)(tmp_path / "rgb.png")
    content = (tmp_path / "rgb.png").read_bytes()
    place = content.index(b"IDAT") - 4
    length = int.from_bytes(content[place : place + 4], "big")
    (tmp_path / "bad.png").write_bytes(
        content[: place + 8 + length] + b"gone" + content[place + 12 + length :]
    )
    with pytest.raises(ImageError, match="the checksum of a part"):
        read(tmp_path / "bad.png")
    pixels[0, 0] = 7
    Image.fromarray(pixels).save(tmp_path / "rgb.png")
    with pytest.raises(ValueError, match=r"1 pixels of colours that are not .* as \[7, 7, 7\]"):
        read(tmp_path / "rgb.png")
    with pytest.raises(ValueError, match="is a JPEG"):
        read(tmp_path / "rgb.jpg")
    with pytest.raises(ValueError, match="`colours` must be one or more"):
        colour_reader([])
    for line in ("no number", "1 2 sea", "1 2 256 x", "1 2 3 a\n1 2 3 b", "1 2 3 a\n1 2 4 a"):
        table.write_text(line)
        with pytest.raises(ValueError, match="A colour table must hold red, green, blue.*line"):
            read_colour_table(table)


def test_ids(tmp_path):
    (tmp_path / "ids.csv").write_text("7,0\n11, 1\n255,ignored\n", "utf-8-sig")
    table = read_id_table(tmp_path / "ids.csv", 19)
    assert table == {7: 0, 11: 1, 255: 19}
    Image.fromarray(np.array([[7, 11], [255, 2]], "uint8")).save(tmp_path / "mask.png")
    np.testing.assert_array_equal(remap_reader(table)(tmp_path / "mask.png"), [[0, 1], [19, 2]])
    # One step, not one after the other.
    both = remap_reader({7: 11, 11: 7})(tmp_path / "mask.png")
    np.testing.assert_array_equal(both, [[11, 7], [255, 2]])
    with pytest.raises(ValueError, match="`table` must be a non-negative int. Received: table=-1"):
        remap_reader({3: -1})
    for text, message in (("7,0\n8\n", "line 2: '8'"), ("from,to\n", "without such a line")):
        (tmp_path / "ids.csv").write_text(text)
        with pytest.raises(ValueError, match=f"table of ids .* {message}"):
            read_id_table(tmp_path / "ids.csv")


def test_pairs(tmp_path):
    for name in ("a.png", "b.png"):
        (tmp_path / name).write_bytes(b"x")
    listing = tmp_path / "pairs.csv"
    listing.write_text(f"image,mask\na.png,b.png,more\n{tmp_path / 'b.png'}, a.png\n")
    images, masks = read_pairs(listing)
    assert [path.name for path in images + masks] == ["a.png", "b.png", "b.png", "a.png"]
    for text, message in (
        ("a.png\n", "Each line must name .* line 1: 'a.png'"),
        ("a.png,c.png\n", "line 1: 'a.png,c.png', without .*c.png"),
        ("image,mask\n", "A file of pairs must hold some"),
    ):
        listing.write_text(text)
        with pytest.raises(ValueError, match=message):
            read_pairs(listing)


@pytest.mark.parametrize("read", [read_pairs, read_id_table, read_colour_table])
def test_tables_that_a_spreadsheet_wrote(tmp_path, read):
    (tmp_path / "table.csv").write_text("1,2,3,Stra\xdfe\n", "latin-1")
    with pytest.raises(ValueError, match="text in UTF-8. Received: .*table.csv .*0xdf.*encoding"):
        read(tmp_path / "table.csv")


@pytest.fixture
def images(rng, tmp_path):
    (tmp_path / "images").mkdir()
    for name in ("a.png", "b.png"):
        pixels = rng.integers(0, 256, (*SIZE, 3)).astype("uint8")
        Image.fromarray(pixels).save(tmp_path / "images" / name)
    return tmp_path / "images"


def rectangle(top, left, bottom, right):
    inside = np.zeros(SIZE, bool)
    inside[top:bottom, left:right] = True
    return inside


def coco_file(path, **changes):
    big, small, crowd = rectangle(1, 2, 11, 14), rectangle(3, 4, 7, 9), rectangle(0, 0, 13, 5)
    counts = coder.encode(np.asfortranarray(crowd.astype("uint8")))
    plain = {"size": list(SIZE), "counts": _run_lengths(small)}
    data = {
        "categories": [{"id": 9, "name": "boat"}, {"id": 4, "name": "sea"}],
        "images": [
            {"id": 2, "file_name": "b.png", "height": SIZE[0], "width": SIZE[1]},
            {"id": 1, "file_name": "a.png", "height": SIZE[0], "width": SIZE[1]},
        ],
        "annotations": [
            {"image_id": 1, "category_id": 9, "segmentation": plain},
            {
                "image_id": 1,
                "category_id": 4,
                "iscrowd": 0,
                "segmentation": [[2, 1, 14, 1, 14, 11, 2, 11]],
            },
            {
                "image_id": 1,
                "category_id": 9,
                "iscrowd": 1,
                "segmentation": {"size": list(SIZE), "counts": counts["counts"].decode()},
            },
        ],
    }
    path.write_text(json.dumps({**data, **changes}))
    return big, small, crowd


def _run_lengths(inside):
    """Uncompressed: lengths of runs in columns, of zeros first."""
    flat = inside.T.reshape(-1)
    edges = np.flatnonzero(np.diff(flat)) + 1
    return np.diff([0, *edges, flat.size]).tolist()


def test_coco(images, tmp_path):
    file = tmp_path / "coco.json"
    big, small, crowd = coco_file(file)
    data, names = coco_dataset(images, file)
    assert names == ["background", "sea", "boat"]
    assert [name[-5:] for name in map(data.name, range(2))] == ["a.png", "b.png"]
    expected = np.where(small, 2, np.where(big, 1, np.where(crowd, 255, 0)))
    np.testing.assert_array_equal(data[0][1], expected)
    np.testing.assert_array_equal(data[1][1], np.zeros(SIZE))
    np.testing.assert_array_equal(data[1][0], np.asarray(Image.open(images / "b.png")))
    data, names = coco_dataset(images, file, activation="sigmoid", size=(26, 34))
    assert names == ["sea", "boat"]
    mask = data[0][1][::2, ::2]
    np.testing.assert_array_equal(mask[..., 0], np.where(big, 1, np.where(crowd, 255, 0)))
    np.testing.assert_array_equal(mask[..., 1], np.where(small, 1, np.where(crowd, 255, 0)))
    # Detections have no outline, and two corners enclose nothing.
    plain = [
        {"image_id": 1, "category_id": 9, "segmentation": code}
        for code in ([], [[2, 1, 14, 1]], [[2, 1, 14, 1], [2, 1, 14, 1, 14, 11, 2, 11]])
    ]
    coco_file(file, annotations=plain)
    np.testing.assert_array_equal(coco_dataset(images, file)[0][0][1], np.where(big, 2, 0))
    coco_file(file, annotations=[{**plain[0], "segmentation": [[1, 2, 3, 4, 5, "x"]]}])
    with pytest.raises(ValueError, match="The regions of an image must be .*a.png"):
        coco_dataset(images, file)[0][0]
    coco_file(file, categories=[{"id": i, "name": f"{i}"} for i in range(255)], annotations=[])
    with pytest.raises(ValueError, match="at most 255 classes.*Received: 255 classes"):
        coco_dataset(images, file)
    for changes, message in (
        ({"categories": []}, "`annotations` must be a COCO file.*KeyError"),
        ({"annotations": [{"image_id": 1, "category_id": 4}]}, "KeyError: 'segmentation'"),
        (
            {"images": [{"id": 1, "file_name": "z", "height": 3, "width": 3}]}
            | {"annotations": []},
            "Annotations must name images that exist.*1 that do not, such as .*z",
        ),
    ):
        coco_file(file, **changes)
        with pytest.raises(ValueError, match=message):
            coco_dataset(images, file)
    file.write_text("[]")
    with pytest.raises(ValueError, match="Annotations must be a JSON file.*no object at the top"):
        coco_dataset(images, file)
    entry = {"id": 1, "file_name": "a.png", "height": 5, "width": 5}
    coco_file(file, images=[entry], annotations=[])
    with pytest.raises(ValueError, match="An image must have the size .* of 13 x 17 for 5 x 5"):
        coco_dataset(images, file)[0][0]


def labelme_file(path, *shapes, image="../images/a.png"):
    shapes = [
        {"label": label, "points": points, **({"shape_type": kind} if kind else {})}
        for label, kind, points in shapes
    ]
    sheet = {"imagePath": image, "imageHeight": SIZE[0], "imageWidth": SIZE[1], "shapes": shapes}
    path.write_text(json.dumps(sheet))


@pytest.mark.parametrize("table", ["id_table", "colour_table"])
def test_the_limit_of_pixels_holds_for_masks_of_any_kind(images, tmp_path, table):
    (tmp_path / "id_table").write_text("0,0\n")
    (tmp_path / "colour_table").write_text("0 0 0 sea\n")
    (tmp_path / "masks").mkdir()
    for name in "ab":
        Image.new("L" if table == "id_table" else "RGB", SIZE[::-1]).save(
            tmp_path / f"masks/{name}.png"
        )
    data = Source(images, tmp_path / "masks", "softmax", **{table: tmp_path / table})
    assert not data.open(["sea"])[0][1].any()
    with pytest.raises(ValueError, match=r"masks/a\.png: has too many pixels \(17 x 13, and 9 are"):
        dataclasses.replace(data, max_pixels=9).open(["sea"])


def test_the_order_of_a_colour_table_is_that_of_the_classes(images, tmp_path):
    (tmp_path / "table.txt").write_text("0 0 0 sea\n1 1 1 boat\nignored 9 9 9\n")
    (tmp_path / "masks").mkdir()
    for name in "ab":
        Image.new("RGB", SIZE[::-1], (1, 1, 1)).save(tmp_path / f"masks/{name}.png")
    data = Source(images, tmp_path / "masks", "softmax", colour_table=tmp_path / "table.txt")
    for names in (["sea", "boat"], ["class 0", "boat"], ["sea", "ship", "more"]):
        assert (data.open(names)[0][1] == 1).all()
    message = "the same place in --colour-table .*Received: '{}' at {} in .*table.txt and at {} of"
    for names, found in ((["boat", "sea"], ("boat", 1, 0)), (["none", "sea"], ("sea", 0, 1))):
        with pytest.raises(ValueError, match=message.format(*found)):
            data.open(names)
    # Of one class, 0 is what it is not.
    data = dataclasses.replace(data, activation="sigmoid")
    assert (data.open(["boat"])[0][1] == 1).all() and data.palette(1) == [(1, 1, 1)]
    (tmp_path / "table.txt").write_text("1 1 1 boat\nignored 0 0 0\n")
    with pytest.raises(ValueError, match="must hold two colours, .*Received: .* with boat. Corr"):
        data.open(["boat"])


def test_folders_beside_the_masks_of_one_class_are_no_classes(images, tmp_path):
    for folder in ("masks/new", "masks/old"):
        (tmp_path / folder).mkdir(parents=True)
    data = Source(images, tmp_path / "masks", "sigmoid")
    assert data.class_names() == ["new", "old"]
    Image.new("L", SIZE[::-1]).save(tmp_path / "masks/a.png")
    assert data.class_names() is None


def test_labelme(images, tmp_path):
    folder = tmp_path / "sheets"
    folder.mkdir()
    labelme_file(
        folder / "a.json",
        ("sea", None, [[2, 1], [13, 1], [13, 10], [2, 10]]),
        ("boat", "rectangle", [[8, 6], [4, 3]]),
        ("__ignore__", "rectangle", [[0, 0], [3, 12]]),
        ("_background_", "circle", [[10, 5], [10, 6]]),
    )
    data, names = labelme_dataset(folder)
    assert names == ["background", "boat", "sea"]
    expected = np.zeros(SIZE)
    expected[1:11, 2:14] = 2
    expected[3:7, 4:9] = 1
    expected[:, :4] = 255
    mask = data[0][1]
    np.testing.assert_array_equal(mask[5, 9:12], 0)  # the circle of radius 1
    np.testing.assert_array_equal(mask[4:7, 10], 0)
    around = np.ones(SIZE, bool)
    around[4:7, 9:12] = False
    np.testing.assert_array_equal(mask[around], expected[around])
    data, names = labelme_dataset(folder, ["sea", "boat"], activation="sigmoid", images=images)
    assert names == ["sea", "boat"] and data[0][1].shape == (*SIZE, 2)
    assert data[0][1][5, 6].tolist() == [1, 1]  # sea behind the boat
    # Class 255 is one of many there, and not what is ignored.
    many, _ = labelme_dataset(folder, [*"x" * 254, "sea", "boat"], activation="sigmoid")
    np.testing.assert_array_equal(np.moveaxis(many[0][1], -1, 0)[[0, 254, 255], 5, 8], [0, 1, 1])
    labelme_file(folder / "a.json", ("sea", None, [[2, 1]]), image="..\\images\\a.png")
    data, _ = labelme_dataset(folder)
    with pytest.raises(ValueError, match="The regions of an image must be .*a.png"):
        data[0]
    labelme_file(folder / "a.json", ("boat", "rectangle", [[8, 6], [4, 3]]))
    for names, shape, message in (
        (["sea"], None, "`class_names` must have every label. Received: 'boat' in .*a.json"),
        (None, ("sea", "line", [[0, 0], [1, 1]]), "Shapes must be polygons.* a line in .*a.json"),
    ):
        if shape:
            labelme_file(folder / "a.json", shape)
        with pytest.raises(ValueError, match=message):
            labelme_dataset(folder, names)
    (folder / "a.json").write_text("{}")
    with pytest.raises(ValueError, match="A JSON file must be Labelme's.*imagePath"):
        labelme_dataset(folder)
    with pytest.raises(ValueError, match="`folder` must hold JSON files of Labelme"):
        labelme_dataset(images)


def run(command, *arguments):
    command.main([str(word) for word in arguments], "test")


def common(tmp_path, channels=3):
    x = images = keras.Input((None, None, channels))
    stages = {}
    for stage, stride in (("stage4", 4), ("stage5", 2)):
        x = stages[stage] = keras.layers.Conv2D(4, 3, stride, padding="same")(x)
    keras.Model(images, stages).save(tmp_path / "backbone.keras")
    return [
        "--backbone", tmp_path / "backbone.keras", "--normalization", "imagenet", "--batch", 2,
        "--epochs", 1, "--head-channels", 4, "--frequencies", 2, "--size", 16, 24,
        "--output", tmp_path / "out",
    ]  # fmt: skip


def test_six_channels_by_the_command_line(rng, tmp_path, capsys):
    """16 bits: training, scores and prediction read the same values, with no further flag."""
    for name in ("images", "masks"):
        (tmp_path / name).mkdir()
    for i in range(4):
        mask = np.kron(rng.integers(0, 2, (2, 3)), np.ones((8, 8), int))
        pixels = 3000 * mask[..., None] + rng.integers(0, 500, (16, 24, 6)) + 40_000
        write_tiff(tmp_path / f"images/{i}.tif", pixels.astype("uint16"))
        colours = np.array([[10, 0, 0], [0, 20, 0]], "uint8")[mask]
        Image.fromarray(colours).save(tmp_path / f"masks/{i}.png")
    (tmp_path / "colours.csv").write_text("land,10,0,0\nsea,0,20,0\n")
    table = ["--colour-table", tmp_path / "colours.csv"]
    data = ["--images", tmp_path / "images", "--masks", tmp_path / "masks", *table]
    settings = common(tmp_path, channels=6)
    settings[settings.index("--normalization") + 1] = "auto"
    run(train, *data, "--num-classes", 2, "--channels", 6, *settings)
    file = tmp_path / "out/best.keras"
    model = keras.saving.load_model(file, compile=False)
    assert model.class_names == ("land", "sea") and model.image_shape == (None, None, 6)
    assert model.palette == ((10, 0, 0), (0, 20, 0))
    mean, std = model.normalization
    assert 40_000 < min(mean) < max(mean) < 44_000 and min(std) > 100
    run(evaluate, "--model", file, *data, "--output", tmp_path / "e", "--quiet")
    assert json.loads((tmp_path / "e/scores.json").read_text())["images"] == 4
    run(predict, "--model", file, tmp_path / "images/0.tif", "--output", tmp_path / "p")
    assert (tmp_path / "p/0_overlay.png").exists()
    assert "sea" in capsys.readouterr().out


def test_training_reads_what_prediction_will_read(rng, tmp_path, monkeypatch, capsys):
    for name in ("images", "masks"):
        (tmp_path / name).mkdir()
    for i in range(3):
        Image.fromarray(rng.integers(0, 65536, SIZE).astype("uint16")).save(
            tmp_path / f"images/{i}.png"
        )
        Image.fromarray(rng.integers(0, 2, SIZE).astype("uint8")).save(tmp_path / f"masks/{i}.png")
    # What an exporter left behind is no polygon.
    (tmp_path / "masks/dataset.json").write_text("{}")
    fitted = []

    def fit(model, batches, *_, **__):
        model.save(tmp_path / "model.keras")
        fitted.append((model, next(iter(batches(0, (0, 1))))[0]))

    monkeypatch.setattr("keras_fsa.training.fit", fit)
    monkeypatch.setattr(train, "_report", lambda *_: None)
    data = ["--images", tmp_path / "images", "--masks", tmp_path / "masks", "--num-classes", 2]
    settings = common(tmp_path, channels=1)
    settings[settings.index("--normalization") + 1] = "tf"
    run(train, *data, "--channels", 1, *settings)
    tuned = ["--size", 16, 24, "--batch", 2, "--epochs", 1, "--output", tmp_path / "tuned"]
    monkeypatch.chdir(tmp_path / "images")
    data[1] = "."
    run(train, *data, "--init", tmp_path / "model.keras", *tuned)
    for model, images in fitted:
        assert tuple(model.normalization) == (127.5, 127.5) and takes_stored_values(model)
        assert images.dtype == "uint16" and images.shape[-1] == 1 and images.max() > 999
    for flags, message in (
        (["--channels", 1, "--init", tmp_path / "model.keras", *tuned], "network is that of the f"),
        (["--channels", 3, *settings, "--normalization", "caffe"], "keep the order of the channel"),
    ):
        with pytest.raises(SystemExit):
            run(train, *data, *flags)
        assert message in capsys.readouterr().err


@pytest.mark.parametrize("kind", ["pairs", "coco", "labelme"])
def test_training_by_the_command_line(images, tmp_path, kind):
    settings = [*common(tmp_path), "--val-fraction", 0.3]
    if kind == "pairs":
        for name in ("a", "b"):
            mask = np.full(SIZE, 7, "uint8")
            mask[:5] = 9
            Image.fromarray(mask).save(tmp_path / f"{name}_mask.png")
        (tmp_path / "pairs.csv").write_text(
            "".join(f"images/{name}.png,{name}_mask.png\n" for name in "abab")
        )
        (tmp_path / "ids.csv").write_text("7,0\n9,1\n")
        data = ["--images", tmp_path / "pairs.csv", "--id-table", tmp_path / "ids.csv"]
        names = ("class 0", "class 1")
    elif kind == "coco":
        coco_file(tmp_path / "coco.json")
        data = ["--images", images, "--masks", tmp_path / "coco.json"]
        names = ("background", "sea", "boat")
    else:
        (tmp_path / "sheets").mkdir()
        for name in "ab":
            shape = ("sea", None, [[2, 1], [13, 1], [13, 10]])
            labelme_file(tmp_path / f"sheets/{name}.json", shape, image=f"x/{name}.png")
        data = ["--images", images, "--masks", tmp_path / "sheets"]
        names = ("background", "sea")
    settings[settings.index("--batch") + 1] = 1
    run(train, *data, "--num-classes", len(names), *settings)
    model = keras.saving.load_model(tmp_path / "out/best.keras", compile=False)
    assert model.class_names == names
    run(evaluate, "--model", tmp_path / "out/best.keras", *data, "--output", tmp_path / "e")
    assert list(json.loads((tmp_path / "e/scores.json").read_text())["classes"]) == list(names)


def test_a_trained_network_gets_the_names_that_its_new_data_has(images, tmp_path):
    common(tmp_path)
    backbone = keras.saving.load_model(tmp_path / "backbone.keras")
    named = keras_fsa.FsaNet(
        2, backbone, normalization="imagenet", frequencies=2, head_channels=4,
        class_names=["sea", "boat"], palette=[(0, 0, 9), (9, 0, 0)],
    )  # fmt: skip
    named.save(tmp_path / "model.keras")
    settings = train.Train(images, 2, init=tmp_path / "model.keras")
    for names, expected in (
        (["boat", "sea"], ("boat", "sea")),
        (["class 0", "class 1"], ("sea", "boat")),  # which nothing names
        (None, ("sea", "boat")),
    ):
        model = train.build_model(settings, names)
        assert (model.class_names, model.palette) == (expected, named.palette)
    model = train.build_model(settings, ["boat", "sea"], palette=[(8, 0, 0), (0, 0, 8)])
    assert model.palette == ((8, 0, 0), (0, 0, 8))


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--images", "images"), "`--masks` is for a folder of images"),
        (
            ("--images", "images", "--masks", "coco.json", "--id-table", "ids.csv"),
            "are for one mask of ids for each image",
        ),
        (("--images", "images", "--masks", "coco.json"), "`--num-classes` must be that of the f"),
        (
            ("--images", "images", "--masks", "coco.json", "--class-names", "a,b"),
            "The classes must be those of the files",
        ),
        (
            ("--images", "images", "--masks", "coco.json", "--channels", "3"),
            "Polygons are for RGB images",
        ),
    ],
)
def test_wrong_flags(images, tmp_path, monkeypatch, capsys, flags, message):
    monkeypatch.chdir(tmp_path)
    coco_file(tmp_path / "coco.json")
    (tmp_path / "ids.csv").write_text("1,0\n")
    count = 3 if "--id-table" in flags else 2
    with pytest.raises(SystemExit):
        run(train, *flags, "--num-classes", count, *common(tmp_path))
    assert message in capsys.readouterr().err
