import numpy as np
import pytest
from PIL import Image

from keras_fsa.datasets import __main__ as command
from keras_fsa.datasets import load, signal_harbor


@pytest.fixture
def folder(tmp_path):
    """Three pairs: half class 0, a quarter class 1, a quarter ignored."""
    ids = np.array([[0, 0, 1, 9]], "uint8")
    for name in ("images", "masks"):
        (tmp_path / name).mkdir()
        for number in range(3):
            Image.fromarray(ids).save(tmp_path / f"{name}/{number}.png")
    arguments = ["check", "--images", f"{tmp_path}/images", "--masks", f"{tmp_path}/masks"]
    return tmp_path, [*arguments, "--num-classes", "2", "--ignore-label", "9"]


def test_a_good_folder(folder, capsys):
    _, arguments = folder
    assert command.main(arguments) == 0
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert lines[0][-2:] == ["3", "examples"]
    assert lines[1:] == [
        ["class", "0", "50.0000%"],
        ["class", "1", "25.0000%"],
        ["ignored", "25.0000%"],
        ["0", "problem(s)"],
    ]


def test_all_problems_are_listed(folder, capsys):
    root, arguments = folder
    (root / "images/0.png").write_bytes(b"nothing")
    Image.fromarray(np.full((1, 4), 5, "uint8")).save(root / "masks/1.png")
    Image.fromarray(np.full((1, 4), 9, "uint8")).save(root / "masks/2.png")
    assert command.main(arguments) == 1
    printed = capsys.readouterr().out
    for number, reason in ((0, "cannot identify"), (1, "ids beyond 0 to 1"), (2, "is ignored")):
        (line,) = [line for line in printed.splitlines() if f"images/{number}.png: " in line]
        assert "PROBLEM" in line and reason in line
    assert printed.endswith("3 problem(s)\n")
    assert command.main([*arguments, "--fail-fast"]) == 1
    assert capsys.readouterr().out.endswith("1 problem(s)\n")


def test_the_published_number_of_examples(tmp_path, monkeypatch, capsys):
    arguments = ["check", "signal_harbor", "--data-dir", str(tmp_path), "--split", "test"]
    monkeypatch.setattr(signal_harbor, "SPLITS", {"train": 3, "test": 2})
    assert command.main(arguments) == 0
    printed = capsys.readouterr().out
    assert "signal_harbor, test: 2 examples" in printed and "outbound" in printed
    monkeypatch.setattr(command, "load", lambda *args: load("signal_harbor", "test").take(1))
    assert command.main(arguments) == 1
    assert "PROBLEM: 1 examples, where 2 are published" in capsys.readouterr().out


def test_what_cannot_be_loaded_is_a_problem(tmp_path, capsys):
    assert command.main(["check", "ade20k", "--data-dir", str(tmp_path)]) == 1
    printed = capsys.readouterr().out
    assert printed.count("PROBLEM: The archives of a dataset must be there") == 2


@pytest.mark.parametrize("arguments", [[], ["ade20k", "--images", "a", "--masks", "b"]])
def test_a_name_or_folders(arguments, capsys):
    if arguments:
        arguments = [*arguments, "--num-classes", "2"]
    with pytest.raises(SystemExit):
        command.main(["check", *arguments])
    assert "give a name, or all of --images" in capsys.readouterr().err
