"""The progress of a run, kept on disk so that a killed run can continue from there."""

import json
import pathlib
import time
import warnings
import zipfile
from typing import Any

import numpy as np

from keras_fsa.files import whole_file
from keras_fsa.types import Path


class Journal:
    """A folder that belongs to one run.

    Args:
        folder: the folder, or None for a run that keeps nothing.
        settings: what identifies the run: the folder of a run with other settings is refused.
        every: minimum number of seconds between two notes.

    Raises:
        ValueError: if the folder belongs to another run, or does not say to which.
    """

    def __init__(self, folder: Path | None, settings: dict, every: float = 1.0) -> None:
        self.folder = None if folder is None else pathlib.Path(folder)
        self.every, self.last = every, time.monotonic()
        if self.folder is None:
            return
        path = self.folder / "settings.json"
        settings = json.loads(json.dumps(settings))
        if path.exists():
            known = self._known(path)
            other = [
                name
                for name in sorted({*known, *settings})
                if known.get(name) != settings.get(name)
            ]
            if other:
                raise ValueError(
                    "`work_dir` must be empty, or that of the same run. Received: work_dir="
                    f"{str(folder)!r} of a run with another {', '.join(other)}. Name another "
                    "folder, or remove this one to start over."
                )
        else:
            if notes := sorted(self.folder.glob("*.npz")):
                raise ValueError(
                    "`work_dir` must be empty, or that of the same run. Received: work_dir="
                    f"{str(folder)!r} with {notes[0].name} and no settings.json to say of which "
                    "run. Name another folder, or remove this one to start over."
                )
            with whole_file(path) as unfinished:
                unfinished.write_text(json.dumps(settings, indent=1))

    def read(self, name: str) -> dict[str, np.ndarray] | None:
        """The note of that name, or None. A damaged one counts as none, with a warning."""
        path = None if self.folder is None else self.folder / f"{name}.npz"
        if path is None or not path.exists():
            return None
        try:
            # np.load compares checksums only of what it reads to its end.
            with zipfile.ZipFile(path) as archive:
                damaged = archive.testzip()
            if damaged is not None:
                raise ValueError(f"the checksum of {damaged} differs")
            with np.load(path) as file:
                return dict(file)
        # Readers of archives meet damage with errors of many kinds.
        except Exception as error:
            warnings.warn(
                f"{path} is damaged ({error}): the work that it was a note of is done again.",
                stacklevel=2,
            )
            return None

    def forget(self, name: str) -> None:
        """Remove the note of that name, if there is one."""
        if self.folder is not None:
            (self.folder / f"{name}.npz").unlink(missing_ok=True)

    def _known(self, path):
        try:
            known = json.loads(path.read_text())
        except ValueError:
            known = None
        if not isinstance(known, dict):
            raise ValueError(
                f"`work_dir` must hold whole files. Received: {path}, which is damaged. Remove the "
                "folder to start over."
            )
        return known

    def write(self, name: str, last: bool = True, **arrays: Any) -> bool:
        """Keep a note if one is `due`, or if it is the `last` of its name.

        Returns:
            Whether it was kept.
        """
        if self.folder is None or not (last or self.due()):
            return False
        with whole_file(self.folder / f"{name}.npz") as unfinished:
            np.savez(unfinished, **arrays)
        self.last = time.monotonic()
        return True

    def due(self) -> bool:
        """Whether `every` seconds have passed since the last note."""
        return self.folder is not None and time.monotonic() - self.last >= self.every
