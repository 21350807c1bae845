"""What all commands share: flags from typed settings, their checks, recipes, and short errors."""

import dataclasses
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import pytest

from keras_fsa import commands
from keras_fsa.commands.command import command, parse
from keras_fsa.commands.recipe import parse as parse_recipe
from keras_fsa.settings import (
    Count,
    ExistingFile,
    OutputFolder,
    OutputPath,
    Real,
    Scale,
    check,
    read_recipe,
    write_recipe,
)
from keras_fsa.training import Recipe
from keras_fsa.training import recipe as recipes
from tests.helpers import run_python


@dataclass(frozen=True)
class Work:
    """Work on a file."""

    file: ExistingFile
    """What to work on."""
    batch: Count = 2
    rate: Annotated[float, Real(above=0, maximum=1)] = 0.5
    scales: tuple[Scale, ...] = (1.0,)
    size: tuple[Count, Count] | None = None
    mode: Literal["whole", "slide"] | None = "whole"
    align: bool | None = None
    output: OutputFolder = Path("out")
    target: OutputPath | None = None
    name: str | None = None

    def check(self):
        if self.mode == "slide" and self.size:
            raise ValueError("`size` is for --mode whole. Received: both.")


@pytest.fixture
def file(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "file"
    path.write_text("text")
    return str(path)


def test_flags(file):
    flags = "--size 3 5 --scales 0.5 1 --mode none --rate 1e-3".split()
    assert parse(Work, ["--file", file, *flags]) == Work(
        Path(file), size=(3, 5), scales=(0.5, 1.0), mode=None, rate=1e-3
    )
    for words, expected in (
        ([], None),
        (["--align"], True),
        (["--no-align"], False),
        (["--align", "none"], None),
        (["--align", "--batch", "3"], True),
    ):
        assert parse(Work, ["--file", file, *words]).align is expected
    default = Work(Path(file), size=(3, 5))
    assert parse(default, ["--size", "None", "--batch", "7"]) == Work(Path(file), batch=7)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ("--batch 0", "`--batch` must be a positive int. Received: batch=0"),
        ("--batch 9999999999", "`--batch` must be at most 2147483647. Received: 9999999999"),
        ("--batch 1.5", "error: .*--batch.*1.5"),
        (
            "--rate nan",
            "`--rate` must be a finite number .* Received: rate=nan",
        ),
        ("--rate 0", "`--rate` must be a finite number above 0"),
        ("--scales 1 inf", "`--scales` must be a finite number"),
        ("--scales", "`--scales` must be one or more. Received: none"),
        ("--size 3", "--size.*3"),
        ("--size 3 -5", "`--size` must be a positive int. Received: size=-5"),
        ("--mode all", "choice .all. for argument .--mode"),
        ("--bogus 3", "--bogus"),
        (
            "--file nothing",
            "`--file` must be a file that exists. Received: nothing, where",
        ),
        ("--file .", "`--file` must"),
        ("--output file", "`--output` must be a folder. Received: file, a file"),
        ("--output file/below", "`--output` must lie in a folder that can be written"),
        ("--target file/below", "`--target` must lie in a folder that can be written"),
        ("--name=", "`--name` must not be empty"),
        ("--mode slide --size 3 5", "`--size` is for --mode whole"),
        ("--recipe nothing", "`--recipe` must be .*training recorded. Received: nothing|A recipe"),
        ("--recipe", "`--recipe` needs a file"),
    ],
)
def test_wrong_flags_take_two_lines_before_any_work(file, capsys, flags, message):
    worked = []
    with pytest.raises(SystemExit) as stop:
        command(Work, worked.append, ["--file", file, *flags.split()], "work")
    assert stop.value.code == 2 and not worked
    said = capsys.readouterr().err

    assert re.search(message, said), said
    assert len(said.splitlines()) <= 2 and said.startswith("work: error: ")


def test_errors_of_the_work(file, capsys):
    def fail(settings):
        raise KeyError("\n".join(f"line {i}" for i in range(30)))

    with pytest.raises(SystemExit) as stop:
        command(Work, fail, ["--file", file], "work")
    said = capsys.readouterr().err
    assert stop.value.code == 2 and len(said.splitlines()) <= 5
    assert "work: error: KeyError: " in said and "--traceback" in said

    with pytest.raises(SystemExit) as stop:
        command(Work, fail, ["--file", file, "--traceback"], "work")
    assert stop.value.code == 2
    assert "in fail" in capsys.readouterr().err

    def stopped(settings):
        raise KeyboardInterrupt

    with pytest.raises(SystemExit) as stop:
        command(Work, stopped, ["--file", file], "work")
    assert stop.value.code == 130
    assert command(Work, lambda settings: settings.batch, ["--file", file]) == 2


def test_help(file, capsys):
    with pytest.raises(SystemExit) as stop:
        command(Work, print, ["--help"], "work", "What it is for.")
    out = capsys.readouterr().out
    assert not stop.value.code
    assert "What it is for." in out and "What to work on." in out and "--traceback" in out


def test_recipes_go_to_a_file_and_back(file, tmp_path, capsys):
    path = tmp_path / "recipe.json"
    settings = Work(Path(file), size=(3, 5), scales=(0.5, 2.0), align=True, name="a")
    write_recipe(settings, path)
    assert read_recipe(Work, path) == settings
    assert parse(Work, ["--recipe", str(path), "--batch", "5"]) == dataclasses.replace(
        settings, batch=5
    )
    for text, message in (
        ("{", "must be a file that a training recorded"),
        ("[]", "no object at the top"),
        ('{"colour": 1}', "settings of this command. Received: .*'colour'"),
        ('{"batch": 3}', "lacks settings"),
    ):
        path.write_text(text)
        with pytest.raises(ValueError, match=message):
            read_recipe(Work, path)
    path.write_text(f'{{"file": "{file}", "batch": "three"}}')
    with pytest.raises(ValueError, match="`batch` must be a positive int. Received: batch='three'"):
        check(read_recipe(Work, path))


def test_flags_override_a_recipe(capsys):
    recipe = Recipe("tiny", output="out", crop=(849, 849), weights="imagenet")
    weighted = parse_recipe(recipe, "help", ["--class-weights", "1", "0.5", "2", "3"])
    assert weighted == dataclasses.replace(recipe, class_weights=(1.0, 0.5, 2.0, 3.0))
    assert parse_recipe(weighted, "help", ["--class-weights", "none"]) == recipe
    flags = "--crop 65 33 --scales 1 1 --weights none --batch 2 --align-corners --base-size 64 128"
    found = parse_recipe(recipe, "help", flags.split())
    assert found == dataclasses.replace(
        recipe,
        crop=(65, 33),
        scales=(1.0, 1.0),
        weights=None,
        batch=2,
        align_corners=True,
        base_size=(64, 128),
    )
    assert parse_recipe(recipe, "help", []) == recipe
    old = parse_recipe(recipe, "help", ["--validation-pictures", "3"])
    assert old.validation_images == 3
    assert (
        "--validation-pictures is deprecated. Use --validation-images." in capsys.readouterr().err
    )


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ("--loss hinge", "invalid choice 'hinge'"),
        ("--batch 0", "`batch` must be a positive int. Received: batch=0"),
        ("--learning-rate nan", "`learning_rate` must be a finite number .* Received: .*=nan"),
        ("--crop 1", "--crop.*Expected 2 values"),
        ("--preset nothing", "`preset` must be one of .* Received: preset='nothing'"),
        ("--validate-every 7", "multiple of `checkpoint_every`. Received: validate_every=7"),
    ],
)
def test_wrong_recipes(flags, message):
    with pytest.raises(ValueError, match=message):
        parse_recipe(Recipe("tiny", output="out"), "help", flags.split())


def test_what_must_stay():
    recipe = Recipe("tiny", output="out")
    names = {item.name for item in dataclasses.fields(Recipe)}
    assert set(recipes.MAY_CHANGE) < names
    assert recipe.what_must_stay().keys() == names - set(recipes.MAY_CHANGE) | {"pipeline"}


def test_earlier_names_of_settings():
    with pytest.warns(DeprecationWarning, match="drawn_images"):
        recipe = Recipe("tiny", drawn_pictures=3, validation_images=5)
    assert (recipe.drawn_images, recipe.drawn_pictures, recipe.validation_pictures) == (3, 3, 5)


def test_one_command_for_all(capsys):
    commands.main([])
    out = capsys.readouterr().out
    assert all(name in out for name in commands.COMMANDS)
    with pytest.raises(SystemExit) as stop:
        commands.main(["brew"])
    assert stop.value.code == 2 and "Received: brew" in capsys.readouterr().err


def test_console():
    done = subprocess.run([sys.executable, "-m", "keras_fsa"], capture_output=True, text=True)
    assert done.returncode == 0 and "predict" in done.stdout


def test_importing_the_library_imports_no_command_line():
    code = "import sys, keras_fsa; print('tyro' in sys.modules)"
    assert run_python(code).split("\n")[-2] == "False"
