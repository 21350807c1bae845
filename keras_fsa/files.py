"""Files that are complete or not there."""

import contextlib
import os
import pathlib
from collections.abc import Iterator

from keras_fsa.types import Path


@contextlib.contextmanager
def whole_file(path: Path) -> Iterator[pathlib.Path]:
    """A name to write to, whose file takes the place of `path` when the block ends well.

    It lies beside `path` and has its ending, is flushed to the disk, then renamed over the old
    file, which file systems do at once or not at all. So a process that is killed, wherever, leaves
    either the old file or the new one.

    Args:
        path: the file; its folder is made.

    Raises:
        OSError: where it cannot be written. The old file then stands as it was.
    """
    path = pathlib.Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    # One temporary name: what a killed process left is overwritten, not gathered.
    temporary = path.with_name(f"{path.stem}.partial{path.suffix}")
    try:
        yield temporary
        with open(temporary, "rb+") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    with contextlib.suppress(OSError):  # Windows opens no folders
        folder = os.open(path.parent, os.O_RDONLY)
        os.fsync(folder)
        os.close(folder)
