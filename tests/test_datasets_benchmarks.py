"""The benchmarks from archives in their true formats, which these tests write themselves."""

import io
import shutil
import tarfile
import zipfile
from types import SimpleNamespace

import numpy as np
import pytest
import scipy.io
import tensorflow_datasets as tfds
from PIL import Image

from keras_fsa.datasets import (
    ade20k,
    archives,
    builders,
    camvid,
    cityscapes,
    describe,
    load,
    registry,
    voc_aug,
)

pytestmark = pytest.mark.once

RNG = np.random.default_rng(5)


def encoded(pixels, mode=None, palette=None, ending="png"):
    image = Image.fromarray(pixels, mode) if mode else Image.fromarray(pixels)
    if palette is not None:
        image = image.convert("P") if image.mode != "P" else image
        image.putpalette(np.asarray(palette, "uint8").ravel().tolist())
    buffer = io.BytesIO()
    image.save(buffer, {"jpg": "jpeg"}.get(ending, ending))
    return buffer.getvalue()


def picture(*shape, ending="jpg"):
    return encoded(RNG.integers(0, 256, shape).astype("uint8"), ending=ending)


def write_zip(path, files):
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)


def write_tar(path, files, mode="w"):
    with tarfile.open(path, mode) as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))


def write_files(root, files):
    for name, content in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(content)


def by_name(*args, **kwargs):
    data = load(*args, **kwargs)
    return {data.name(i): pair for i, pair in enumerate(data)}


@pytest.fixture
def places(tmp_path):
    manual = tmp_path / "archives"
    manual.mkdir()
    return {"data_dir": tmp_path / "data", "manual_dir": manual}


# Cityscapes


@pytest.fixture
def cityscapes_files():
    """Two pictures of 2048x1024: all raw ids in one mask, a wrong id in the other."""
    ids = np.zeros((1024, 2048), "uint8")
    ids[:, : 35 * 40] = np.repeat([*range(34), 255], 40)
    wrong = np.full_like(ids, 7)
    wrong[3, 4] = 77
    image = Image.new("RGB", (2048, 1024), (9, 90, 200))
    buffer = io.BytesIO()
    image.save(buffer, "png")
    images, masks = {}, {}
    for split, city, mask in (
        ("train", "ulm", ids),
        ("val", "lindau", wrong),
        ("test", "bonn", wrong),
    ):
        name = f"{split}/{city}/{city}_000000_000019"
        images[f"leftImg8bit/{name}_leftImg8bit.png"] = buffer.getvalue()
        masks[f"gtFine/{name}_gtFine_labelIds.png"] = encoded(mask)
    return ids, images, masks


def test_cityscapes(places, cityscapes_files):
    ids, images, masks = cityscapes_files
    write_zip(places["manual_dir"] / "leftImg8bit_trainvaltest.zip", images)
    write_zip(places["manual_dir"] / "gtFine_trainvaltest.zip", masks)
    data = by_name("cityscapes", "train", **places)
    ((image, mask),) = data.values()
    assert list(data) == ["ulm_000000_000019"]
    assert image.shape == (1024, 2048, 3) and (image == (9, 90, 200)).all()
    # The table of cityscapesScripts, by hand.
    train_ids = {7: 0, 8: 1, 11: 2, 12: 3, 13: 4, 17: 5, 19: 6, 20: 7, 21: 8, 22: 9, 23: 10}
    train_ids |= {24: 11, 25: 12, 26: 13, 27: 14, 28: 15, 31: 16, 32: 17, 33: 18}
    expected = np.vectorize(lambda raw: train_ids.get(raw, 255))(ids[0])
    np.testing.assert_array_equal(mask, np.broadcast_to(expected, mask.shape))
    with pytest.raises(Exception, match=r"(?s)cityscapes, val: ids that are no label.*lindau.*77"):
        by_name("cityscapes", "val", **places)


def test_a_corrupt_zip_is_named_and_nothing_prepared(places, cityscapes_files):
    _, images, masks = cityscapes_files
    write_zip(places["manual_dir"] / "gtFine_trainvaltest.zip", masks)
    path = places["manual_dir"] / "leftImg8bit_trainvaltest.zip"
    write_zip(path, images)
    content = bytearray(path.read_bytes())
    content[500] ^= 255
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"must be whole.*leftImg8bit_trainvaltest\.zip.*CRC"):
        load("cityscapes", "train", **places)
    assert not list(places["data_dir"].glob("**/*.tfrecord*"))
    write_zip(path, images)
    assert len(load("cityscapes", "train", **places)) == 1


# ADE20K


def ade_files():
    """A grey picture, an odd size, a palette mask, an ignored pixel."""
    ids = RNG.integers(1, 151, (37, 53)).astype("uint8")
    ids[0] = 0
    ids[1, :2] = 1, 150
    root = "ADEChallengeData2016"
    masks = {"training/ADE_train_00000001": ids, "training/ADE_train_00000002": ids[:20, :31]}
    masks["validation/ADE_val_00000001"] = ids[:, ::-1]
    files = {f"{root}/annotations/{name}.png": encoded(mask) for name, mask in masks.items()}
    for name, mask in masks.items():
        shape = mask.shape if name.endswith("2") else (*mask.shape, 3)
        files[f"{root}/images/{name}.jpg"] = picture(*shape)
    files[f"{root}/objectInfo150.txt"] = b"Idx\tRatio\tTrain\tVal\tStuff\tName\n"
    return ids, files


@pytest.mark.parametrize("unpacked", [False, True])
def test_ade20k(places, unpacked):
    ids, files = ade_files()
    if unpacked:
        write_files(places["manual_dir"], files)
    else:
        write_zip(places["manual_dir"] / "ADEChallengeData2016.zip", files)
    data = by_name("ade20k", "train", **places)
    assert sorted(data) == ["ADE_train_00000001", "ADE_train_00000002"]
    image, mask = data["ADE_train_00000001"]
    assert image.shape == (37, 53, 3)
    original = Image.open(
        io.BytesIO(files["ADEChallengeData2016/images/training/ADE_train_00000001.jpg"])
    )
    np.testing.assert_array_equal(image, original)
    np.testing.assert_array_equal(mask, np.where(ids == 0, 255, ids.astype(int) - 1))
    assert mask[1, 0] == 0 and mask[1, 1] == 149
    grey, mask = data["ADE_train_00000002"]
    assert grey.shape == (20, 31, 3) and mask.shape == (20, 31)
    assert (grey[..., 0] == grey[..., 1]).all() and grey.std() > 10
    assert len(load("ade20k", "val", **places)) == 1
    raw = tfds.load("ade20k", split="val", data_dir=places["data_dir"], as_supervised=True)
    ((_, mask),) = raw.as_numpy_iterator()
    np.testing.assert_array_equal(mask[..., 0], ids[:, ::-1])


def test_bad_files_of_ade20k_are_named_and_can_be_left_out(places):
    _, files = ade_files()
    root = "ADEChallengeData2016"
    bad = f"{root}/annotations/training/ADE_train_00000001.png"
    files[bad] = files[bad][:60]
    archive = places["manual_dir"] / "ADEChallengeData2016.zip"
    write_zip(archive, files)
    with pytest.raises(ValueError, match=r"must open.*ADE_train_00000001\.png.*skip_unreadable"):
        load("ade20k", "train", **places)
    assert not list(places["data_dir"].glob("ade20k/1.0.0"))
    with pytest.warns(UserWarning, match=r"Left out: .*ADE_train_00000001\.png"):
        data = by_name("ade20k", "train", **places, skip_unreadable=True)
    assert list(data) == ["ADE_train_00000002"]
    # What is prepared so is not taken for the whole by a run that does not ask for it.
    with pytest.raises(ValueError, match=r"ade20k, train, .*without 1 broken .*00000001\.png"):
        load("ade20k", "train", **places)
    assert len(load("ade20k", "train", **places, skip_unreadable=True)) == 1
    assert len(load("ade20k", "val", **places)) == 1  # complete


def test_a_split_without_examples_is_an_error(places):
    _, files = ade_files()
    for name in files:
        if "annotations/training" in name:
            files[name] = encoded(np.full((9, 9), 151, "uint8"))
    write_files(places["manual_dir"], files)
    with pytest.warns(UserWarning), pytest.raises(ValueError, match=r"2 pairs .* none can be used"):
        load("ade20k", "train", **places, skip_unreadable=True)
    files = {name: files[name] for name in files if "training" not in name}
    files["ADEChallengeData2016/images/training/readme.txt"] = b""
    files["ADEChallengeData2016/annotations/training/readme.txt"] = b""
    shutil.rmtree(places["manual_dir"] / "ADEChallengeData2016")
    write_files(places["manual_dir"], files)
    with pytest.raises(ValueError, match=r"`images` must hold files"):
        load("ade20k", "train", **places)


# VOCaug


def sbd_mat(ids):
    """A file of SBD: the struct GTcls with Boundaries, Segmentation and CategoriesPresent."""
    buffer = io.BytesIO()
    fields = {"Boundaries": np.zeros((20, 1), object), "Segmentation": ids}
    fields["CategoriesPresent"] = np.unique(ids[ids > 0]).astype("uint8")
    scipy.io.savemat(buffer, {"GTcls": fields}, do_compression=True)
    return buffer.getvalue()


@pytest.fixture
def voc():
    """VOC's train has a (also in SBD) and b, val has v (also in SBD); c and d are in SBD only."""
    ids = {name: RNG.integers(0, 21, (11, 17)).astype("uint8") for name in "abcdv"}
    ids["b"] = ids["b"][:, :13]
    root = "VOCdevkit/VOC2012"
    files = {
        f"{root}/ImageSets/Segmentation/train.txt": b"a\nb\n",
        f"{root}/ImageSets/Segmentation/val.txt": b"v\n",
        f"{root}/ImageSets/Segmentation/trainval.txt": b"a\nb\nv\n",
    }
    for name in "abcv":
        files[f"{root}/JPEGImages/{name}.jpg"] = picture(*ids[name].shape, 3)
    for name in "abv":
        ids[name][0] = 255
        files[f"{root}/SegmentationClass/{name}.png"] = encoded(
            ids[name], "P", palette=voc_aug._voc_palette(256)
        )
    sbd = {"benchmark_RELEASE/dataset/train.txt": b"c\nv\n"}
    for name in "acdv":
        mask = np.zeros((11, 17), "uint8") if name in "av" else ids[name]
        sbd[f"benchmark_RELEASE/dataset/cls/{name}.mat"] = sbd_mat(mask)
        sbd[f"benchmark_RELEASE/dataset/img/{name}.jpg"] = picture(11, 17, 3)
    return ids, files, sbd


def check_voc(places, ids, train_aug):
    for split, names in (("train_aug", train_aug), ("train", "ab"), ("val", "v")):
        data = by_name("voc_aug", split, **places)
        assert sorted(data) == sorted(names)
        for name, (image, mask) in data.items():
            assert image.shape == (*mask.shape, 3)
            np.testing.assert_array_equal(mask, ids[name])


def test_voc_aug_from_archives(places, voc):
    ids, files, sbd = voc
    write_tar(places["manual_dir"] / "VOCtrainval_11-May-2012.tar", files)
    write_tar(places["manual_dir"] / "benchmark.tgz", sbd, "w:gz")
    check_voc(places, ids, "abcd")


def test_voc_aug_from_folders(places, voc):
    ids, files, sbd = voc
    write_files(places["manual_dir"], files | sbd)
    check_voc(places, ids, "abcd")


@pytest.mark.parametrize(
    "folder", ["SegmentationClassAug", "VOCdevkit/VOC2012/SegmentationClassAug"]
)
def test_voc_aug_from_the_joined_folder(places, voc, folder):
    ids, files, _ = voc
    joined = {f"{folder}/{name}.png": encoded(ids[name]) for name in "acv"}
    write_files(places["manual_dir"], files | joined)
    check_voc(places, ids, "abc")


# What all have in common


def test_descriptions():
    for name, classes, splits in (
        ("cityscapes", 19, {"train": 2975, "val": 500}),
        ("ade20k", 150, {"train": 20210, "val": 2000}),
        ("voc_aug", 21, {"train_aug": 10582, "train": 1464, "val": 1449}),
        ("signal_harbor", 10, {"train": 640, "test": 160}),
    ):
        description = describe(name)
        assert (description.name, description.ignore_label) == (name, 255)
        assert len(set(description.class_names)) in (classes, classes - 2 * (classes == 150))
        assert len(description.class_names) == classes
        assert description.palette.shape == (classes, 3) and description.palette.dtype == np.uint8
        assert len(np.unique(description.palette, axis=0)) > 0.98 * classes
        assert description.splits == splits
    voc = describe("voc_aug")
    assert voc.palette[[0, 1, 15, 20]].tolist() == [
        [0, 0, 0],
        [128, 0, 0],
        [192, 128, 128],
        [0, 64, 128],
    ]
    ade = describe("ade20k")
    assert (ade.class_names[0], ade.class_names[149]) == ("wall", "flag")
    assert ade.palette[[0, 2, 149]].tolist() == [[120, 120, 120], [6, 230, 230], [92, 0, 255]]


def test_wrong_names():
    with pytest.raises(ValueError, match=r"`name` must be one of 'cityscapes'.*name='coco'"):
        describe("coco")
    with pytest.raises(ValueError, match=r"`split` must be one of 'train', 'val'.*split='test'"):
        load("cityscapes", "test")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("cityscapes", r"leftImg8bit_trainvaltest\.zip \(from https.*without gtFine.*Put it into"),
        ("ade20k", r"2016\.zip \(from http://data\.csail.*Put it into .*archives, .*download=True"),
        ("voc_aug", r"VOCtrainval_11-May-2012\.tar .*benchmark\.tgz .*download=True"),
    ],
)
def test_missing_archives(places, name, message):
    with pytest.raises(FileNotFoundError, match=f"(?s)must be there.*{message}"):
        load(name, "val", **places)
    assert not places["data_dir"].exists()
    if name == "cityscapes":
        with pytest.raises(FileNotFoundError, match="must be there"):
            load(name, "val", **places, download=True)


def test_downloads_have_checksums():
    for builder, module in ((builders.Ade20k, ade20k), (builders.VocAug, voc_aug)):
        for source in module.SOURCES:
            info = builder.url_infos[source.url]
            assert info.size > 9e8 and len(info.checksum) == 64


def test_a_full_disk(places, monkeypatch):
    _, files = ade_files()
    archive = places["manual_dir"] / "ADEChallengeData2016.zip"
    write_zip(archive, files)
    size = archive.stat().st_size
    monkeypatch.setattr(archives.shutil, "disk_usage", lambda path: SimpleNamespace(free=size))
    with pytest.raises(OSError, match=r"takes about .* GB of disk.*data_dir=.*GB free"):
        load("ade20k", "train", **places)
    with pytest.raises(OSError, match=r"takes about 2\.9 GB"):
        load("ade20k", "train", places["data_dir"], True, places["data_dir"])


def test_an_incomplete_folder(places):
    (places["manual_dir"] / "ADEChallengeData2016/images").mkdir(parents=True)
    with pytest.raises(FileNotFoundError, match=r"must hold images/training.*complete copy"):
        load("ade20k", "train", **places)


def test_truncated_records(places):
    _, files = ade_files()
    write_zip(places["manual_dir"] / "ADEChallengeData2016.zip", files)
    load("ade20k", "train", **places)
    (path,) = places["data_dir"].glob("ade20k/*/*train*tfrecord*")
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(ValueError, match="must be whole.*prepare the dataset again"):
        load("ade20k", "train", **places)


def test_records_keep_the_order_of_tfds(places):
    _, files = ade_files()
    write_zip(places["manual_dir"] / "ADEChallengeData2016.zip", files)
    data = load("ade20k", "train", **places)
    assert len(data) == 2
    expected = tfds.load("ade20k", split="train", data_dir=places["data_dir"])
    names = [example["name"].decode() for example in expected.as_numpy_iterator()]
    assert [data.name(i) for i in range(2)] == names
    assert registry.NAMES == ("cityscapes", "ade20k", "voc_aug", "camvid", "signal_harbor")
    assert len({*cityscapes.RAW_IDS, *cityscapes.IGNORED_IDS}) == 35


@pytest.mark.parametrize("name", ["../outside.png", "a/../../outside.png", "/outside.png"])
@pytest.mark.parametrize("kind", ["zip", "tar", "tgz"])
def test_names_in_archives_stay_in_their_folder(places, kind, name):
    path = places["manual_dir"] / f"archive.{kind}"
    for bad in (False, True):
        files = {"images/a.png": b"a"} | ({name: b"b"} if bad else {})
        if kind == "zip":
            write_zip(path, files)
        else:
            write_tar(path, files, "w:gz" if kind == "tgz" else "w")
        if bad:
            with pytest.raises(ValueError, match=rf"must stay below.*archive\.{kind}.*outside"):
                archives.check_names(path)
        else:
            archives.check_names(path)


def test_an_archive_with_a_bad_name_is_not_unpacked(places):
    _, files = ade_files()
    write_zip(places["manual_dir"] / "ADEChallengeData2016.zip", files | {"../evil.png": b"x"})
    with pytest.raises(ValueError, match=r"must stay below.*evil\.png"):
        load("ade20k", "train", **places)
    assert not list(places["data_dir"].glob("**/*.jpg"))


# CamVid


@pytest.mark.parametrize(
    ("images", "masks", "ending", "inside"),
    [("train", "trainannot", "png", "CamVid/"), ("images/train", "masks/train", "jpg", "")],
)
def test_camvid(tmp_path, images, masks, ending, inside):
    mask = np.tile(np.arange(12, dtype="uint8"), (7, 2))
    picture_file = encoded(np.full((7, 24, 3), 130, "uint8"), ending=ending)
    write_files(
        tmp_path,
        {
            f"{inside}{images}/0001TP_1.{ending}": picture_file,
            f"{inside}{masks}/0001TP_1.png": encoded(mask),
        },
    )
    ((image, ids),) = load("camvid", "train", data_dir=tmp_path)
    assert image.shape == (7, 24, 3) and (abs(image.astype(int) - 130) < 3).all()
    np.testing.assert_array_equal(ids, np.where(mask == camvid.IGNORED_ID, 255, mask))


@pytest.mark.parametrize("data_dir", [None, "empty"])
def test_camvid_that_is_not_there(tmp_path, data_dir):
    with pytest.raises(FileNotFoundError, match=r"(?s)`data_dir`.*valannot.*Received.*SegNet"):
        load("camvid", "val", data_dir=data_dir and tmp_path)
