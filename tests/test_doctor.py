"""`keras_fsa doctor`: what it finds, and that no process of it holds two engines."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from keras_fsa.commands import doctor
from tests.helpers import BACKEND

pytestmark = pytest.mark.once


@pytest.fixture
def probed(monkeypatch):
    """Answers in place of the engines' own processes, and the code that was to run there."""
    codes = []
    answers = {}

    def probe(code, timeout):
        codes.append(code)
        return next((answer for word, answer in answers.items() if word in code), ["CPU"])

    monkeypatch.setattr(doctor, "probe", probe)
    monkeypatch.setattr(doctor, "nvidia_gpus", list)
    return codes, answers


def report(capsys, *arguments):
    doctor.main(arguments)
    return capsys.readouterr().out


def test_this_environment(probed, monkeypatch, capsys):
    monkeypatch.setenv("KERAS_BACKEND", BACKEND)
    out = report(capsys)
    assert f"Keras' engine: {BACKEND} (by KERAS_BACKEND)" in out
    assert out.count(" CPU\n") == 3 and "lacks" not in out


@pytest.mark.parametrize("engine", ["numpy", "openvino"])
def test_engines_that_predict_only(probed, monkeypatch, capsys, engine):
    monkeypatch.setenv("KERAS_BACKEND", engine)
    advice = f"Keras' engine {engine} predicts, and does not train. export KERAS_BACKEND=tensorflow"
    assert advice in report(capsys)


def test_openvino_is_not_there(probed, monkeypatch, capsys):
    monkeypatch.setenv("KERAS_BACKEND", "openvino")
    there = doctor.version
    monkeypatch.setattr(
        doctor, "version", lambda name: None if name in ("openvino", "torch") else there(name)
    )
    with pytest.raises(SystemExit):
        doctor.main([])
    out = capsys.readouterr().out
    assert "openvino does not work. export KERAS_BACKEND=tensorflow   or   pip install" in out
    assert 'install "keras_fsa[torch]"' in out


def test_one_engine_in_each_process(probed, monkeypatch, capsys):
    monkeypatch.setenv("KERAS_BACKEND", BACKEND)
    report(capsys)
    assert len(probed[0]) >= 3
    for code in probed[0]:
        assert sum(f"import {engine}" in code for engine in doctor.ENGINES) == 1


def test_what_is_wrong_comes_with_the_command_that_mends_it(probed, monkeypatch, capsys):
    monkeypatch.setenv("KERAS_BACKEND", "jax")
    there = doctor.version
    gone = {"jax", "tyro", "onnxruntime", "opencv-python-headless"}
    monkeypatch.setattr(doctor, "version", lambda name: None if name in gone else there(name))
    with pytest.raises(SystemExit) as stop:
        doctor.main([])
    out = capsys.readouterr().out
    assert stop.value.code == 1
    assert "jax         not installed" in out
    assert "jax does not work. export KERAS_BACKEND=tensorflow" in out
    assert 'pip install "keras_fsa[jax]"' in out
    assert 'lacks tyro: pip install "keras_fsa[tools]"' in out
    assert 'lacks opencv-python-headless: pip install "keras_fsa[tools]"' in out
    assert 'lacks onnxruntime: pip install "keras_fsa[export]"' in out


def test_gpus_that_an_engine_does_not_see(probed, monkeypatch, capsys):
    monkeypatch.setenv("KERAS_BACKEND", BACKEND)
    monkeypatch.setattr(doctor, "nvidia_gpus", lambda: ["NVIDIA H100"])
    probed[1]["import torch"] = ["CPU", "NVIDIA H100"]
    out = report(capsys)
    assert 'tensorflow sees no GPU, though there is one (NVIDIA H100). pip install "tensor' in out
    assert 'pip install "jax[cuda13]"' in out and "torch sees no GPU" not in out


def test_triton_behind_tensorflow(probed, monkeypatch, capsys):
    monkeypatch.setenv("KERAS_BACKEND", BACKEND)
    there = doctor.version
    versions = {"triton": "3.9.0"}
    monkeypatch.setattr(doctor, "version", lambda name: versions.get(name) or there(name))
    probed[1]["triton"] = "does not import: LLVM ERROR"
    assert "then triton 3.9.0 in one process aborts it" in report(capsys)
    probed[1]["triton"] = []
    assert "aborts" not in report(capsys)


def test_any_build_of_a_package(monkeypatch):
    there = {"opencv-contrib-python": "5.0", "tensorflow-cpu": "2.21"}

    def installed(name):
        if name not in there:
            raise doctor.importlib.metadata.PackageNotFoundError
        return there[name]

    monkeypatch.setattr(doctor.importlib.metadata, "version", installed)
    found = map(doctor.version, ("opencv-python-headless", "tensorflow", "torch"))
    assert list(found) == ["5.0", "2.21", None]


def test_which_engine(monkeypatch, tmp_path):
    monkeypatch.delenv("KERAS_BACKEND", raising=False)
    monkeypatch.setenv("KERAS_HOME", str(tmp_path))
    assert doctor.chosen_engine()[0] == "tensorflow"
    (tmp_path / "keras.json").write_text(json.dumps({"backend": "jax"}))
    assert doctor.chosen_engine() == ("jax", f"by {tmp_path}/keras.json")


def test_processes():
    assert doctor.probe("import json; print(json.dumps(['a']))", 20) == ["a"]
    assert "did not start within 0.2 seconds" in doctor.probe("import time; time.sleep(9)", 0.2)
    assert doctor.probe("import nothing_of_that_name", 20).startswith("does not import: Module")
    assert doctor.probe("import os; os.abort()", 20) == "does not import: exit code -6"


@pytest.mark.parametrize("timeout", ["0", "nan", "inf", "-1", "a"])
def test_wrong_flags(timeout, capsys):
    with pytest.raises(SystemExit) as stop:
        doctor.main(["--timeout", timeout])
    assert stop.value.code == 2 and len(capsys.readouterr().err.splitlines()) <= 5


def test_it_needs_nothing_but_python():
    code = (
        "import runpy, sys; runpy.run_path(sys.argv[1]); "
        "print([m for m in ('numpy', 'keras', 'keras_fsa') if m in sys.modules])"
    )
    # -I: no environment variables, no packages of the current folder.
    command = [sys.executable, "-I", "-c", code, str(Path(doctor.__file__))]
    assert subprocess.run(command, capture_output=True, text=True).stdout == "[]\n"
