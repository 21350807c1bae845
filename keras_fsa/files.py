"""Files and folders that are complete or absent, and folders that only one process writes to."""

import contextlib
import ctypes
import os
import pathlib
import re
import secrets
import shutil
import socket
import time
from collections.abc import Callable, Iterator
from typing import TypeVar

from keras_fsa.arguments import optional_import
from keras_fsa.types import Path

T = TypeVar("T")

LOCK = ".lock"
"""The file that `locked_folder` locks; beside it `.lock.owner` names the process."""


@contextlib.contextmanager
def whole_file(path: Path) -> Iterator[pathlib.Path]:
    """A name to write to; the file written there replaces `path` when the block succeeds.

    The temporary file lies beside `path` and has its suffix. It is flushed to disk, then renamed
    over the old file, which file systems do atomically. A process that is killed at any point
    therefore leaves the old file or the new one. The temporary name is unique, so several processes
    may write one path: the last to finish wins. Files left behind by killed processes on this
    machine are removed.

    Args:
        path: the file; its folder is created.

    Raises:
        OSError: if it cannot be written. The old file is then unchanged.
    """
    path = pathlib.Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    _remove_stale(path, path.suffix)
    temporary = path.with_name(f"{_temporary_stem(path)}{path.suffix}")
    try:
        yield temporary
        with open(temporary, "rb+") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    _flush_folder(path.parent)


@contextlib.contextmanager
def whole_folder(path: Path) -> Iterator[pathlib.Path]:
    """An empty folder to fill, which replaces `path` when the block succeeds.

    The folders are exchanged in one operation where the file system can (Linux), else by two
    renames. No folder is ever half filled, but a reader that opens several files while the folder
    is replaced may see files of both: `read_steadily` reads one version.

    Args:
        path: the folder; its parent is created. Whatever an earlier folder holds is removed, so
            check first that it is of the expected kind.

    Raises:
        OSError: if it cannot be written. The old folder is then unchanged.
    """
    path = pathlib.Path(path).resolve()
    # Afterwards the temporary folder is the old one.
    with temporary_folder(path) as temporary:
        yield temporary
        flush(temporary)
        replace(temporary, path)
    _flush_folder(path.parent)


@contextlib.contextmanager
def temporary_folder(path: Path) -> Iterator[pathlib.Path]:
    """An empty folder beside `path`, for what will be moved there. It is removed afterwards.

    Folders left behind by killed processes on this machine are removed, too.

    Args:
        path: the destination; its parent is created.

    Raises:
        OSError: if the folder cannot be made.
    """
    path = pathlib.Path(path).resolve()
    path.parent.mkdir(parents=True, exist_ok=True)
    _remove_stale(path, suffix="")
    # Without a suffix, which exporters may look for in a path.
    temporary = path.with_name(_temporary_stem(path))
    temporary.mkdir()
    try:
        yield temporary
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def flush(folder: Path) -> None:
    """Have the system write the files in a folder to disk."""
    for file in pathlib.Path(folder).rglob("*"):
        if file.is_file():
            with open(file, "rb+") as opened:
                os.fsync(opened.fileno())


def read_steadily(path: Path, read: Callable[[Path], T], tries: int = 5) -> T:
    """`read(path)` from a single version of a folder that others may replace meanwhile.

    The folder is read again if it was replaced while it was read: `whole_folder` never changes a
    folder in place.

    Args:
        path: the folder.
        read: a function of the path.
        tries: maximum number of times to read.

    Raises:
        OSError: if the folder was replaced during each of the tries.
        Exception: whatever `read` raises for a folder that did not change.
    """
    for _ in range(tries):
        before = _identity(path)
        try:
            result = read(path)
        except Exception:
            # Two renames leave a moment without a folder.
            time.sleep(0.01)
            if before is not None and _identity(path) == before:
                raise
            if before is None and _identity(path) is None:
                raise
            continue
        if _identity(path) == before:
            return result
    raise OSError(
        f"A folder must stay in place while it is read. Received: {path}, which was replaced "
        f"during each of {tries} reads. Try again when nothing writes to it."
    )


@contextlib.contextmanager
def locked_folder(path: Path, name: str = "output") -> Iterator[None]:
    """Lock a folder against other processes that lock it in the same way.

    The operating system releases the lock when the process ends, however it ends.

    Args:
        path: the folder, which is created.
        name: the argument that named it, for the error.

    Raises:
        ValueError: if another process, or another block of this one, holds the folder. It names
            the process and its machine.
        ImportError: if filelock is missing, with the pip command.
    """
    filelock = optional_import("filelock", "tools")
    path = pathlib.Path(path)
    path.mkdir(parents=True, exist_ok=True)
    owner = path / f"{LOCK}.owner"
    lock = filelock.FileLock(path / LOCK)
    try:
        lock.acquire(timeout=0)
    except filelock.Timeout:
        # The holder may be about to write its name.
        holder = owner.read_text() if owner.exists() else "another process"
        raise ValueError(
            f"`{name}` must be a folder that no other process writes to. Received: "
            f"{name}={str(path)!r}, in use by {holder}. Choose another folder, or stop that "
            "process."
        ) from None
    try:
        with whole_file(owner) as temporary:
            temporary.write_text(f"process {os.getpid()} on {socket.gethostname()}")
        yield
    finally:
        owner.unlink(missing_ok=True)
        lock.release()


def _temporary_stem(path):
    return f"{_beginning(path)}.partial-{_host()}-{os.getpid()}-{secrets.token_hex(4)}"


def _beginning(path):
    """The beginning of the name: a long one in full would leave no room for the suffix."""
    return path.stem[:32]


def _host():
    return re.sub(r"[^A-Za-z0-9]", "", socket.gethostname())[:32] or "host"


def _remove_stale(path, suffix):
    """Remove temporary files or folders for `path` whose process has ended."""
    beginning, ending = re.escape(_beginning(path)), re.escape(suffix)
    pattern = re.compile(rf"{beginning}\.partial-{_host()}-(\d+)-\w+{ending}")
    for other in path.parent.iterdir():
        match = pattern.fullmatch(other.name)
        if match and not _is_alive(int(match[1])):
            if other.is_dir():
                shutil.rmtree(other, ignore_errors=True)
            else:
                other.unlink(missing_ok=True)


def _is_alive(process):
    if os.name == "nt":  # signal 0 would end it there
        return True
    try:
        os.kill(process, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except OSError:
        return True
    return True


def replace(new: pathlib.Path, path: pathlib.Path) -> None:
    """Move the file or folder `new` to `path`. A folder already there ends up at `new` instead.

    A file replaces another atomically on every system. Two folders are exchanged in one operation
    where the file system can (Linux), else by two renames.
    """
    while True:
        try:
            # Overwrites a file or an empty folder, and nothing else.
            os.replace(new, path)
            return
        except OSError:
            if not path.is_dir():
                raise
        if _exchange(new, path):
            return
        old = path.with_name(f"{_temporary_stem(path)}{path.suffix}")
        try:
            os.rename(path, old)
        except FileNotFoundError:  # another process was faster
            continue
        os.rename(new, path)
        os.rename(old, new)
        return


def _exchange(one, two):
    """Exchange two folders in one operation; False where the system cannot."""
    try:
        rename = ctypes.CDLL(None, use_errno=True).renameat2
    except (AttributeError, OSError, TypeError):
        return False
    here, exchange = -100, 2  # AT_FDCWD, RENAME_EXCHANGE
    return rename(here, os.fsencode(one), here, os.fsencode(two), exchange) == 0


def _identity(path):
    try:
        found = os.stat(path)
    except OSError:
        return None
    return found.st_dev, found.st_ino, found.st_mtime_ns


def _flush_folder(path):
    with contextlib.suppress(OSError):  # Windows opens no folders
        folder = os.open(path, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
