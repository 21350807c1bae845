"""Files and folders that are complete or not there, whoever else writes and whatever is killed."""

import os
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest

from keras_fsa import files
from keras_fsa.files import locked_folder, read_steadily, whole_file, whole_folder
from tests.helpers import run_python

pytestmark = pytest.mark.once


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_a_file_that_fails_leaves_the_old_one(tmp_path):
    path = tmp_path / "file"
    path.write_text("old")
    with pytest.raises(RuntimeError), whole_file(path) as temporary:
        temporary.write_text("half")
        raise RuntimeError
    assert path.read_text() == "old" and names(tmp_path) == ["file"]
    with whole_file(path) as temporary:
        temporary.write_text("new")
    assert path.read_text() == "new" and names(tmp_path) == ["file"]


def test_names_may_be_as_long_as_the_system_allows(tmp_path):
    path = tmp_path / ("ü" * 125 + ".txt")
    for text in ("old", "new"):
        with whole_file(path) as temporary:
            temporary.write_text(text)
    assert path.read_text() == "new" and names(tmp_path) == [path.name]


WRITER = """
import sys
import numpy as np
from keras_fsa.files import whole_file
for i in range(12):
    with whole_file(sys.argv[1]) as path, open(path, "wb") as file:
        np.savez(file, a=np.full(9_999, i), b=np.full(9_999, i))
"""


def test_two_writers_of_one_file(tmp_path):
    path = tmp_path / "file.npz"
    command = [sys.executable, "-c", WRITER, str(path)]
    writers = [subprocess.Popen(command) for _ in range(2)]
    reads = 0
    while any(writer.poll() is None for writer in writers):
        if path.exists():
            with np.load(path) as file:
                np.testing.assert_array_equal(file["a"], file["b"])
            reads += 1
    assert [writer.returncode for writer in writers] == [0, 0] and reads > 0
    assert names(tmp_path) == ["file.npz"]


def test_what_killed_writers_left_is_removed(tmp_path):
    path = tmp_path / "model.keras"
    code = f"""
import os, signal
from keras_fsa.files import whole_file, whole_folder
with whole_file({str(path)!r}) as file, whole_folder({str(path)!r} + "s") as folder:
    file.write_text("half")
    (folder / "part").write_text("half")
    os.kill(os.getpid(), signal.SIGKILL)
"""
    with pytest.raises(AssertionError):
        run_python(code)
    left = names(tmp_path)
    assert len(left) == 2 and all(".partial-" in name for name in left)
    other = tmp_path / f"other.partial-{left[0].split('partial-')[1]}"
    other.write_text("")
    with whole_file(path) as mine:
        with whole_file(path) as again:  # a living writer's file stays
            again.write_text("again")
        assert path.read_text() == "again"
        mine.write_text("new")
    with whole_folder(tmp_path / "model.kerass") as folder:
        (folder / "part").write_text("whole")
    assert path.read_text() == "new"
    # What belongs to another name is not this one's to remove.
    assert names(tmp_path) == ["model.keras", "model.kerass", other.name]


@pytest.mark.parametrize("exchange", [True, False])
def test_a_folder_is_replaced_whole(tmp_path, monkeypatch, exchange):
    if not exchange:  # as where the system has no such operation
        monkeypatch.setattr(files, "_exchange", lambda one, two: False)
    path = tmp_path / "model"
    for text in ("old", "new"):
        with whole_folder(path) as folder:
            (folder / "deep").mkdir()
            (folder / "deep" / text).write_text(text)
        assert names(path / "deep") == [text] and names(tmp_path) == ["model"]
    with pytest.raises(RuntimeError), whole_folder(path) as folder:
        (folder / "half").write_text("half")
        raise RuntimeError
    assert names(path / "deep") == ["new"] and names(tmp_path) == ["model"]
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match="file"), whole_folder(tmp_path / "file") as folder:
        (folder / "a").write_text("")
    assert names(tmp_path) == ["file", "model"]


@pytest.mark.parametrize("exchange", [True, False])
def test_a_reader_sees_one_version(tmp_path, monkeypatch, exchange):
    if not exchange:
        monkeypatch.setattr(files, "_exchange", lambda one, two: False)
    path, done = tmp_path / "model", threading.Event()

    def write(version):
        with whole_folder(path) as folder:
            for name in "abc":
                (folder / name).write_text(str(version))

    def read(folder):
        return {(Path(folder) / name).read_text() for name in "abc"}

    def replace():
        for version in range(1, 60):
            write(version)
        done.set()

    write(0)
    thread = threading.Thread(target=replace)
    thread.start()
    seen = set()
    while not done.is_set():
        versions = read_steadily(path, read, tries=1000)
        assert len(versions) == 1
        seen |= versions
    thread.join()
    assert len(seen) > 1


def test_reading_what_is_not_there_or_never_stays(tmp_path):
    with pytest.raises(FileNotFoundError):
        read_steadily(tmp_path / "none", os.listdir)
    path = tmp_path / "model"

    def read(folder):
        with whole_folder(folder) as new:
            (new / "a").write_text("")

    path.mkdir()
    with pytest.raises(OSError, match="must stay in place .* replaced during each of 3 reads"):
        read_steadily(path, read, tries=3)
    with pytest.raises(ZeroDivisionError):
        read_steadily(path, lambda folder: 1 / 0)


def test_a_locked_folder_names_its_process(tmp_path):
    folder = tmp_path / "run"
    code = f"""
from keras_fsa.files import locked_folder
with locked_folder({str(folder)!r}):
    pass
"""
    with locked_folder(folder):
        with pytest.raises(AssertionError, match=rf"in use by process {os.getpid()} on .*Choose"):
            run_python(code)
        with pytest.raises(ValueError, match="`output` must be a folder that no other process"):
            with locked_folder(folder):
                pass
    killed = code.replace("pass", "import os; os.kill(os.getpid(), 9)")
    with pytest.raises(AssertionError):
        run_python(killed)
    with locked_folder(folder):  # the system dropped the lock of the killed process
        pass
