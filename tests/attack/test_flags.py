"""Each flag of each command is given nonsense: exit code 2 and at most five lines, or it is right.

The table is made from the settings themselves, so a new flag is attacked from its first day.
"""

import contextlib
import dataclasses
import io
import runpy
import sys
import typing
import zlib
from pathlib import Path

import keras
import numpy as np
import pytest
from keras import layers
from PIL import Image
from tyro.conf import Positional

import keras_fsa
from keras_fsa.commands import (
    benchmark,
    command,
    demo,
    evaluate,
    export,
    predict,
    segment,
    train,
)
from keras_fsa.commands import check as look_through
from keras_fsa.settings import check
from keras_fsa.training import Recipe
from tests.attack.test_faults import model
from tests.helpers import BACKEND

pytestmark = pytest.mark.once(engine="tensorflow")  # which exports

EXAMPLES = Path(__file__).parents[2] / "examples"
# A training of one step.
TINY = ["--num-classes", "3", "--size", "32", "32", "--batch", "1", "--epochs", "1"]
VALUES = ("nothing/there", "text", "nan", "inf", "0", "-1", "", "1e30", str(10**18), "notes.txt")


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with a model, an image and its mask, and files that are no such thing."""
    place = tmp_path_factory.mktemp("attack")
    rng = np.random.default_rng(0)
    for name, shape in (("images", (17, 23, 3)), ("masks", (17, 23))):
        (place / name).mkdir()
        for number in range(2):
            array = rng.integers(0, 3, shape).astype("uint8")
            Image.fromarray(array).save(place / name / f"{number}.png")
    images = keras.Input((None, None, 3))
    backbone = keras.Model(images, {"stage5": layers.Conv2D(4, 3, 4, padding="same")(images)})
    for name, attention in (("model", "frequency"), ("plain", None)):
        keras_fsa.FsaNet(
            3, backbone, attention=attention, frequencies=2, head_channels=4,
            auxiliary_loss_weight=0,
        ).save(place / f"{name}.keras")  # fmt: skip
    keras.Sequential([keras.Input((3,)), layers.Dense(2)]).save(place / "other.keras")
    whole = (place / "model.keras").read_bytes()
    (place / "cut.keras").write_bytes(whole[: len(whole) // 2])
    (place / "empty.keras").write_bytes(b"")
    (place / "text.keras").write_text("no archive")
    (place / "notes.txt").write_text("no image")
    return place


def small_model(*_):
    """What a training of random flags trains, in place of large backbones."""
    return model()


def script(name):
    """A script of examples, as a dict of its names."""
    return runpy.run_path(str(EXAMPLES / f"{name}.py"))


def attacked():
    """`(name, settings, work, arguments that are right)` of each command."""
    file = ["--model", "model.keras"]
    pairs = ["--images", "images", "--masks", "masks"]
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(EXAMPLES))
        precision, ablate = script("precision"), script("ablate_frequencies")
        understand, quickstart = script("understand_fsa"), script("quickstart")
    return {
        "predict": (predict.Predict, predict.predict, ["images", *file]),
        "evaluate": (evaluate.Evaluate, evaluate.evaluate, [*file, *pairs, "--quiet"]),
        "segment": (
            segment.Segment,
            segment.segment,
            [*file, "--input", "images/0.png", "--output", "classes.npy"],
        ),
        # torch cannot write a SavedModel: its flags are checked, no more.
        "export": (
            export.Export,
            None if BACKEND == "torch" else export.export,
            [*file, "--output", "served"],
        ),
        "train": (train.Train, train.train, [*pairs, *TINY]),
        "check": (look_through.Check, look_through.check, [*pairs, "--num-classes", "3"]),
        "benchmark": (
            benchmark.Benchmark,
            benchmark.benchmark,
            [*file, "--size", "17", "23", "--runs", "1"],
        ),
        "demo": (demo.Demo, None, []),
        "precision": (precision["Precision"], None, ["images", *file]),
        "ablate": (ablate["Ablate"], None, [*file, *pairs]),
        "understand": (understand["Understand"], None, []),
        "quickstart": (quickstart["Quickstart"], None, []),
        "recipe": (Recipe("signal_harbor"), None, []),
    }


COMMANDS = attacked()
# What a command writes, where it is no folder.
OUTPUTS = {"segment": "out.npy"}


def outcome(settings, work, arguments):
    """`(exit code, lines of standard error)`; 0 where the command did its work."""
    errors = io.StringIO()
    with contextlib.redirect_stderr(errors), contextlib.redirect_stdout(io.StringIO()):
        try:
            command.command(settings, work or check, arguments, "attacked")
        except SystemExit as stop:
            return stop.code, errors.getvalue().splitlines()
    return 0, []


def cases(settings):
    """`(flag, value)` for all flags but those without a value and those before the flags."""
    hints = typing.get_type_hints(
        settings if isinstance(settings, type) else type(settings), include_extras=True
    )
    for item in dataclasses.fields(settings):
        positional = Positional in getattr(hints[item.name], "__metadata__", ())
        if hints[item.name] is not bool and not positional:
            for value in VALUES:
                yield command.flag(item.name), value


@pytest.mark.parametrize("name", COMMANDS)
def test_each_flag(name, place, monkeypatch, tmp_path):
    settings, work, right = COMMANDS[name]
    monkeypatch.chdir(place)
    if name == "train":
        monkeypatch.setattr(train, "build_model", small_model)
    tried, badly = 0, []
    assert outcome(settings, work, right) == (0, [])
    for flag, value in cases(settings):
        arguments = [*right, f"{flag}={value}"]
        if "output" not in flag and any(i.name == "output" for i in dataclasses.fields(settings)):
            arguments += ["--output", str(tmp_path / OUTPUTS.get(name, "out"))]
        code, lines = outcome(settings, work, arguments)
        tried += 1
        # 1 is an answer of `check`: there is a problem.
        if code not in ((0, 1, 2) if name == "check" else (0, 2)) or len(lines) > 5:
            badly.append((flag, value, code, lines[:6]))
        # These are never right.
        if value in ("nan", "inf", "") and code == 0 and not is_right(settings, flag, value):
            badly.append((flag, value, "was taken"))
    print(f"{name}: tried {tried}, badly {len(badly)}")
    assert not badly and tried >= 30


def is_right(settings, flag, value):
    """Whether any word will do, a name of a file that is to be written, say, or this one."""
    kind = settings if isinstance(settings, type) else type(settings)
    hint = str(typing.get_type_hints(kind)[flag.removeprefix("--").replace("-", "_")])
    return "str" in hint or "Path" in hint or repr(value) in hint


@pytest.mark.parametrize(
    "model", ["cut.keras", "empty.keras", "text.keras", "other.keras", "notes.txt", "images"]
)
@pytest.mark.parametrize("name", ["predict", "evaluate", "segment", "export"])
def test_models_that_are_none(name, model, place, monkeypatch, tmp_path):
    settings, _, right = COMMANDS[name]
    work = getattr(sys.modules[f"keras_fsa.commands.{name}"], name)
    monkeypatch.chdir(place)
    output = tmp_path / OUTPUTS.get(name, "out")
    arguments = [*right, "--model", model, "--output", str(output)]
    code, lines = outcome(settings, work, arguments)
    assert code == 2 and len(lines) <= 2 and "--model" in lines[0], lines
    assert not output.exists()


def test_a_model_without_attention(place, monkeypatch):
    monkeypatch.chdir(place)
    monkeypatch.syspath_prepend(str(EXAMPLES))
    names = script("ablate_frequencies")
    arguments = ["--model", "plain.keras", "--images", "images", "--masks", "masks"]
    code, lines = outcome(names["Ablate"], names["ablate"], arguments)
    assert code == 2 and "FrequencySelfAttention" in lines[0]


def test_an_image_of_too_many_pixels(place, monkeypatch, tmp_path):
    monkeypatch.chdir(place)
    # Its header says so; nothing is decoded.
    image = bytearray((place / "images/0.png").read_bytes())
    image[16:24] = (60_000).to_bytes(4, "big") * 2
    image[29:33] = zlib.crc32(image[12:29]).to_bytes(4, "big")
    (tmp_path / "large.png").write_bytes(image)
    arguments = [str(tmp_path / "large.png"), "--model", "model.keras", "--output", str(tmp_path)]
    code, lines = outcome(predict.Predict, predict.predict, arguments)
    assert code == 2 and len(lines) <= 2 and "--max-pixels" in lines[0]
