"""`keras_fsa check`: what it counts, what it finds, and its exit codes."""

import re

import numpy as np
import pytest
from PIL import Image

from keras_fsa import datasets
from keras_fsa.commands import check as command
from keras_fsa.datasets import __main__ as earlier
from keras_fsa.datasets import load, signal_harbor
from keras_fsa.datasets.check import balanced_weights, check, count_pixels
from keras_fsa.datasets.examples import Examples
from tests.test_classes import folders  # noqa: F401
from tests.test_own_data import coco_file, images, labelme_file  # noqa: F401

pytestmark = pytest.mark.once


def run(*arguments):
    """The exit code."""
    try:
        command.main([str(word) for word in arguments], "check")
    except SystemExit as stop:
        return stop.code
    return 0


@pytest.fixture
def folder(tmp_path):
    """Three pairs: half class 0, a quarter class 1, a quarter ignored."""
    ids = np.array([[0, 0, 1, 9]], "uint8")
    for name in ("images", "masks"):
        (tmp_path / name).mkdir()
        for number in range(3):
            Image.fromarray(ids).save(tmp_path / f"{name}/{number}.png")
    arguments = ["--images", tmp_path / "images", "--masks", tmp_path / "masks"]
    return tmp_path, [*arguments, "--num-classes", 2, "--ignore-label", 9]


def table(printed):
    return [line.split() for line in printed.splitlines()]


def test_a_good_folder(folder, capsys):
    root, arguments = folder
    assert run(*arguments) == 0
    lines = table(capsys.readouterr().out)
    assert lines[0] == [f"{root}/images:", *"3 examples of 1 x 4 pixels".split()]
    assert lines[1:] == [
        ["class", "share", "images", "weight"],
        ["class", "0", "50.0000%", "3", "0.75"],
        ["class", "1", "25.0000%", "3", "1.5"],
        ["ignored", "25.0000%"],
        ["0", "problems"],
    ]
    validation = ["--val-images", root / "images", "--val-masks", root / "masks"]
    names = [*arguments[:4], "--class-names", "sea,land,sky", "--ignore-label", 9]
    assert run(*names, *validation) == 0
    printed = capsys.readouterr().out
    assert printed.count("3 examples") == printed.count("Note: sky is in no mask.") == 2
    assert ["sky", "0.0000%", "0", "-"] in table(printed)


def test_all_problems_are_listed(folder, capsys):
    root, arguments = folder
    (root / "images/0.png").write_bytes(b"nothing")
    Image.fromarray(np.full((1, 4), 5, "uint8")).save(root / "masks/1.png")
    Image.fromarray(np.full((1, 4), 9, "uint8")).save(root / "masks/2.png")
    assert run(*arguments) == 1
    printed = capsys.readouterr().out
    for number, reason in ((0, "cannot identify"), (1, "ids beyond 0 to 1"), (2, "is ignored")):
        (line,) = [line for line in printed.splitlines() if f"images/{number}.png: " in line]
        assert "PROBLEM" in line and reason in line and len(line) < 300
    assert printed.endswith("3 problems\n")
    assert run(*arguments, "--fail-fast") == 1
    assert capsys.readouterr().out.endswith("1 problem\n")
    (root / "masks/2.png").unlink()
    assert run(*arguments) == 1
    assert "PROBLEM: Every image needs a mask of the same name" in capsys.readouterr().out


def test_sigmoid(folders, capsys):  # noqa: F811
    """Several classes at a pixel: each has its own share."""
    data = ["--images", folders / "images", "--activation", "sigmoid"]
    assert run(*data, "--masks", folders / "masks") == 0
    lines = table(capsys.readouterr().out)
    share = {}
    for name in ("road", "wet"):
        masks = [np.asarray(Image.open(path)) for path in (folders / "masks" / name).iterdir()]
        share[name] = f"{np.mean(np.stack(masks) == 1):.4%}"
    assert [line[:2] for line in lines[2:4]] == [[name, share[name]] for name in ("road", "wet")]
    # One pixel in an image, of one of the two classes.
    assert lines[4] == ["ignored", f"{1 / 2 / (16 * 24):.4%}"]
    data = ["--images", folders / "images", "--masks", folders / "binary"]
    assert run(*data, "--class-names", "road") == run(*data, "--num-classes", 1) == 0
    lines = table(capsys.readouterr().out)
    assert ["road", share["road"]] in [line[:2] for line in lines]
    assert ["class", "0", share["road"]] in [line[:3] for line in lines]


@pytest.mark.parametrize("kind", ["pairs", "coco", "labelme", "colours"])
def test_forms_of_data(images, tmp_path, capsys, kind):  # noqa: F811
    data = ["--images", images]
    if kind == "pairs":
        mask = np.where(np.arange(17) < 5, 7, 9) * np.ones((13, 1))
        Image.fromarray(mask.astype("uint8")).save(tmp_path / "mask.png")
        (tmp_path / "pairs.csv").write_text("images/a.png,mask.png\nimages/b.png,mask.png\n")
        (tmp_path / "ids.csv").write_text("7,0\n9,1\n")
        data = ["--images", tmp_path / "pairs.csv", "--id-table", tmp_path / "ids.csv"]
        data += ["--num-classes", 2]
        expected = [["class", "0", f"{5 / 17:.4%}", "2"], ["class", "1", f"{12 / 17:.4%}", "2"]]
    elif kind == "coco":
        big, small, _crowd = coco_file(tmp_path / "coco.json")
        data += ["--masks", tmp_path / "coco.json"]
        share = (big & ~small).sum() / (2 * 13 * 17)
        expected = [["sea", f"{share:.4%}", "1"], ["boat", f"{small.mean() / 2:.4%}", "1"]]
    elif kind == "labelme":
        (tmp_path / "sheets").mkdir()
        shape = ("sea", "rectangle", [[0, 0], [16, 5]])
        labelme_file(tmp_path / "sheets/a.json", shape, image="a.png")
        data += ["--masks", tmp_path / "sheets"]
        expected = [["background", f"{7 / 13:.4%}", "1"], ["sea", f"{6 / 13:.4%}", "1"]]
    else:
        colours = np.zeros((13, 17, 3), "uint8")
        colours[:4] = 1, 2, 3
        (tmp_path / "masks").mkdir()
        for name in "ab":
            Image.fromarray(colours).save(tmp_path / f"masks/{name}.png")
        (tmp_path / "table.txt").write_text("sea 1 2 3\nland 0 0 0\n")
        data += ["--masks", tmp_path / "masks", "--colour-table", tmp_path / "table.txt"]
        expected = [["sea", f"{4 / 13:.4%}", "2"], ["land", f"{9 / 13:.4%}", "2"]]
    assert run(*data) == 0
    lines = table(capsys.readouterr().out)
    for line in expected:
        assert line in [found[: len(line)] for found in lines]


def test_channels(rng, tmp_path, capsys):
    for name in ("images", "masks"):
        (tmp_path / name).mkdir()
    np.save(tmp_path / "images/a.npy", rng.random((13, 17, 5)))
    Image.fromarray(np.zeros((13, 17), "uint8")).save(tmp_path / "masks/a.png")
    data = ["--images", tmp_path / "images", "--masks", tmp_path / "masks", "--num-classes", 2]
    assert run(*data, "--channels", 5) == 0
    assert run(*data, "--channels", 6) == 1
    assert run(*data, "--channels", 5, "--max-pixels", 220) == 1
    found = capsys.readouterr().out
    assert "has 5 channels, and 6 are wanted" in found and "and 220 are allowed" in found


def test_the_published_number_of_examples(tmp_path, monkeypatch, capsys):
    arguments = ["--dataset", "signal_harbor", "--split", "test"]
    monkeypatch.setattr(signal_harbor, "SPLITS", {"train": 3, "test": 2})
    assert run(*arguments) == 0
    printed = capsys.readouterr().out
    assert "signal_harbor, test: 2 examples" in printed and "outbound" in printed
    given = []
    monkeypatch.setattr(datasets, "load", lambda *a: given.append(a) or load(*a[:2]).take(1))
    places = ["--data-dir", tmp_path / "data", "--manual-dir", tmp_path]
    assert run(*arguments, *places, "--download", "--skip-unreadable") == 1
    assert given == [("signal_harbor", "test", tmp_path / "data", True, tmp_path, True)]
    assert "PROBLEM: 1 examples, where 2 are published" in capsys.readouterr().out


def test_what_cannot_be_loaded_is_a_problem(tmp_path, capsys):
    assert run("--dataset", "ade20k", "--data-dir", tmp_path) == 1
    printed = capsys.readouterr().out
    assert printed.count("PROBLEM: The archives of a dataset must be there") == 2
    assert "name its folder with `--manual-dir`" in printed


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ([], "Give --images or --dataset, one of them"),
        (["--dataset", "ade20k", "--images", "here"], "Give --images or --dataset, one of them"),
        (["--dataset", "ade20k", "--masks", "here"], "`--masks` does not go with `--dataset`"),
        (["--images", "here", "--download"], "`--download` does not go with `--images`"),
        (
            ["--images", "here", "--masks", "here", "--val-masks", "here"],
            "--val-masks needs the --val-im",
        ),
        (["--images", "here", "--masks", "here"], "`--num-classes` must be given for masks of ids"),
        (["--images", "here", "--num-classes", "2"], "`--masks` is for a folder of images"),
        (
            [
                "--images",
                "here",
                "--masks",
                "here",
                "--num-classes",
                "1",
                "--activation",
                "softmax",
            ],
            "`--activation` must be 'sigmoid' for one class",
        ),
    ],
)
def test_wrong_flags(flags, message, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "here").mkdir()
    assert run(*flags) == 2
    assert re.search(message, capsys.readouterr().err)


def test_the_earlier_door(folder, monkeypatch, capsys):
    _, arguments = folder
    words = [str(word) for word in arguments]
    earlier.main(["check", *words])
    both = capsys.readouterr()
    assert "0 problems" in both.out
    assert "python -m keras_fsa.datasets is deprecated. Use keras_fsa check." in both.err
    monkeypatch.setattr(signal_harbor, "SPLITS", {"train": 1, "val": 1, "test": 1})
    earlier.main("check --fail-fast signal_harbor --split val --split test".split())
    out = capsys.readouterr().out
    assert "harbor, val: 1 examples" in out and "harbor, test: 1 examples" in out
    assert "harbor, train" not in out
    with pytest.raises(SystemExit) as stop:
        earlier.main(["check", *words[:-1], "3"])
    assert stop.value.code == 1


def test_counts(rng):
    """Against counts one by one, at sizes that differ."""
    masks = [rng.choice([0, 1, 2, 255], size) for size in ((5, 7), (3, 11))]
    masks[1][masks[1] == 2] = 1
    found = check(Examples(2, lambda i: (None, masks[i].astype("uint8"))), 4)
    for c in range(4):
        assert found.pixels[c] == sum((mask == c).sum() for mask in masks)
        having = [mask for mask in masks if (mask == c).any()]
        assert found.images[c] == len(having)
        assert found.around[c] == sum((mask != 255).sum() for mask in having)
    assert set(found.counted) == {sum((mask != 255).sum() for mask in masks)}
    assert (found.total, found.sizes) == (68, {(5, 7): 1, (3, 11): 1})
    frequency = [found.pixels[c] / found.around[c] for c in range(3)]
    expected = [np.median(frequency) / f for f in frequency]
    # Four digits are kept.
    np.testing.assert_allclose(balanced_weights(found), [*expected, 1], rtol=5e-4)
    mask = rng.choice([0, 1, 255], (5, 7, 3)).astype("uint8")
    pixels, counted = count_pixels(mask, 3, "sigmoid")
    np.testing.assert_array_equal(pixels, (mask == 1).sum((0, 1)))
    np.testing.assert_array_equal(counted, (mask != 255).sum((0, 1)))
    for activation, value in (("softmax", 3), ("sigmoid", 2)):
        mask[0, 0] = value
        with pytest.raises(ValueError, match=f"ids beyond 0 to {value - 1}: {value}"):
            count_pixels(mask if activation == "sigmoid" else mask[..., 0], 3, activation)
