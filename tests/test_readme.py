"""The code of README and docs runs: its Python to the end, its commands as far as is cheap."""

import argparse
import contextlib
import importlib.util
import io
import re
import runpy
import shlex
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from keras_fsa.commands import command
from tests.helpers import BACKEND

pytestmark = pytest.mark.once(engine="tensorflow")  # which exports

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
README = "\n".join(page.read_text() for page in PAGES)
BLOCKS = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
# What reads the file that a command wrote.
(SERVING,) = re.findall(r"```py\n(.*?)```", README, re.DOTALL)
# Of the blocks, and of the text what begins like a command.
LINES = [
    *"".join(re.findall(r"```bash\n(.*?)```", README, re.DOTALL)).splitlines(),
    *re.findall(r"`((?:python|examples/\w+\.py|pip) [^`]+)`", README),
]
COMMANDS = {command.strip() for line in LINES for command in line.split("  #")[0].split(" && ")}


@pytest.fixture(scope="module")
def ran(tmp_path_factory):
    """The folder in which all blocks of Python ran, one after the other, and what each printed."""
    folder = tmp_path_factory.mktemp("readme")
    printed = []
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        for block in BLOCKS:
            with contextlib.redirect_stdout(io.StringIO()) as out:
                exec(compile(block, "README.md", "exec"), {})
            printed.append(out.getvalue().splitlines())
    return folder, printed


def test_python(ran):
    assert ran[1] == [re.findall(r"print\(.*\)  # (.*)", block) for block in BLOCKS]


def start(words, monkeypatch):
    """Run `SCRIPT ...` or `-m MODULE ...` in this process."""
    module = words[0] == "-m"
    name, *arguments = words[module:]
    monkeypatch.setattr(sys, "argv", [name, *arguments])
    if module:
        name += ".__main__" * (importlib.util.find_spec(name).origin.endswith("__init__.py"))
        runpy.run_module(name, run_name="__main__")
    else:
        # Scripts of a folder may import each other.
        monkeypatch.syspath_prepend(str(ROOT / "examples"))
        runpy.run_path(str(ROOT / name), run_name="__main__")


@pytest.mark.parametrize("line", sorted(COMMANDS))
def test_commands_are_known(line, monkeypatch):
    """Scripts and modules exist, parsers take the flags, extras exist. No work is done."""
    program, *words = shlex.split(line)
    if program.endswith("pip"):
        extras = set(",".join(re.findall(r"(?:keras_fsa|\.)\[([\w,]+)\]", line)).split(",")) - {""}
        assert extras <= set(re.findall(r"(?m)^(\w+) = \[", (ROOT / "pyproject.toml").read_text()))
        return
    if program == "keras_fsa":
        words[:0] = ["-m", "keras_fsa"]
    if program.startswith("examples/"):
        words.insert(0, program)
    if words[0] == "-m" and words[1].split(".")[0] in ("venv", "tests"):
        # Without flags of their own.
        assert importlib.util.find_spec(words[1])
        return

    class Parsed(Exception):
        pass

    parse_args = argparse.ArgumentParser.parse_args

    def parse(parser, *arguments):
        for action in parser._actions:
            # Dots stand for the rest.
            action.required = action.required and "..." not in words
        parse_args(parser, *arguments)
        raise Parsed

    def done(settings):
        raise Parsed

    monkeypatch.setattr(argparse.ArgumentParser, "parse_args", parse)
    monkeypatch.setattr(command, "brief_errors", lambda *_: contextlib.nullcontext())
    monkeypatch.setattr(command, "check", done)
    # N stands for a number.
    flags = ["3" if word == "N" else word for word in words if word != "..."]
    with pytest.raises((Parsed, ValueError)) as stop:
        start(flags, monkeypatch)
    # Dots stand for the flags that are missing.
    rest = "..." in words and str(stop.value).startswith("Missing from")
    assert isinstance(stop.value, Parsed) or rest, stop.value


def test_commands_run(ran, monkeypatch, capsys):
    """What the README's own model is used for."""
    folder, _ = ran
    monkeypatch.chdir(folder)
    Path("folder").mkdir()
    image = np.random.default_rng(0).integers(0, 256, (64, 96, 3)).astype("uint8")
    for name in ("image.jpg", "folder/other.png"):
        Image.fromarray(image).save(name)
    # Windows, precisions and scenes take longer, and have tests of their own.
    commands = [shlex.split(command)[1:] for command in COMMANDS if "fsanet.keras" in command]
    longer = {"--window", "--int8", "examples/precision.py", "examples/segment_large.py", "segment"}
    commands = [words for words in commands if not longer & set(words)]
    assert len(commands) == 3, commands
    for words in commands:
        if "predict" in words[0]:
            start(words, monkeypatch)
        elif BACKEND == "tensorflow":
            start(words, monkeypatch)
            assert "Largest deviation" in capsys.readouterr().out
            served = {}
            exec(compile(SERVING, "README.md", "exec"), served)
            assert served["classes"].shape == (1, *image.shape[:2])
    outputs = folder / "outputs/predict"
    written = {str(path.relative_to(outputs)) for path in outputs.rglob("*.png")}
    drawn = {"image_overlay.png", "other_overlay.png", "image_attention.png"}
    assert written == drawn | {"masks/image.png", "masks/other.png"}
    assert (folder / "saved_model").exists() == (BACKEND == "tensorflow")


def test_there_are_blocks():
    assert len(BLOCKS) >= 2 and len(COMMANDS) >= 12


def test_links_lead_somewhere():
    for page in PAGES:
        prose = re.sub(r"```.*?```", "", page.read_text(), flags=re.DOTALL)
        for link in re.findall(r"\]\((?!http)([^)#]+)", prose):
            assert (page.parent / link).exists(), f"{page.name}: {link}"
