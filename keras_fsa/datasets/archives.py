"""The archives that datasets come in: where they are, what they hold, room on the disk."""

import os
import shutil
import tarfile
import zipfile
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath, PureWindowsPath
from types import ModuleType
from typing import Any

from keras_fsa.arguments import optional_import


def import_tfds() -> ModuleType:
    """TensorFlow Datasets, or an `ImportError` with the pip command."""
    # TFDS asks for neither of the first two: its builders need importlib_resources; where
    # TensorFlow is missing, importing TFDS succeeds but leaves it without its contents.
    for package in ("importlib_resources", "tensorflow"):
        optional_import(package, "datasets")
    return optional_import("tensorflow_datasets", "datasets")


@dataclass(frozen=True)
class Source:
    """Files that a dataset is made of.

    Attributes:
        files: names of archives or unpacked folders in the folder for files given by hand, of
            which any one is enough; the first that is there is taken.
        url: where to get it.
        by_hand: whether it cannot be downloaded without logging in.
    """

    files: tuple
    url: str
    by_hand: bool = False

    def find(self, manual_dir: str | os.PathLike) -> Path | None:
        """The path of the first of the files that is there, or None."""
        paths = (Path(manual_dir) / name for name in self.files)
        return next((path for path in paths if path.exists()), None)

    def unpack(self, dl_manager: Any) -> Path:
        """The folder that the files are in, after unpacking or downloading them if need be."""
        try:
            path = self.find(dl_manager.manual_dir)
        except AssertionError:  # how TFDS says that its folder is missing or empty
            path = None
        if path is None:
            root = dl_manager.download_and_extract(self.url)
        else:
            if path.is_file():
                check_names(path)
            root = path if path.is_dir() else dl_manager.extract(path)
        return Path(os.fspath(root))


def check_names(archive: Path) -> None:
    """Raise a `ValueError` if a name in a zip or tar archive would leave the folder it goes to.

    A damaged archive passes: unpacking says what is wrong with it.
    """
    names = []
    try:
        if zipfile.is_zipfile(archive):
            with zipfile.ZipFile(archive) as file:
                names = file.namelist()
        elif tarfile.is_tarfile(archive):
            with tarfile.open(archive) as file:
                names = file.getnames()
    except (OSError, EOFError, tarfile.TarError, zipfile.BadZipFile, zlib.error):
        return
    for name in names:
        posix, windows = PurePosixPath(name), PureWindowsPath(name)
        if posix.is_absolute() or windows.anchor or ".." in (*posix.parts, *windows.parts):
            raise ValueError(
                "The names in an archive must stay below the folder it is unpacked into. Received: "
                f"{archive}, which holds {name!r}. Get a copy from the dataset's own site."
            )


def below(root: Path, content: str) -> Path:
    """The folder, `root` or at most two levels below it, that holds the relative path `content`."""
    for pattern in (content, f"*/{content}", f"*/*/{content}"):
        for found in sorted(root.glob(pattern)):
            return found.parents[content.count("/")]
    raise FileNotFoundError(
        f"The folder or archive must hold {content}. Received: {root}, which does not. Get a "
        "complete copy of the original."
    )


def instructions(sources: Sequence[Source]) -> str:
    """What TFDS says of files given by hand."""
    return "\n".join(
        f"Put {' or '.join(source.files)} (from {source.url}) here, or let TFDS download it."
        for source in sources
    )


def require_files(sources: Sequence[Source], manual_dir: Path, download: bool) -> None:
    """Raise a `FileNotFoundError` that says where to get what is not there, and where to put it.

    With `download`, only what cannot be downloaded must be there.
    """
    missing = [
        f"{' or '.join(source.files)} (from {source.url})"
        for source in sources
        if source.find(manual_dir) is None and (source.by_hand or not download)
    ]
    if missing:
        fix = f"Put it into {manual_dir}, or name its folder with `manual_dir`"
        if not any(source.by_hand for source in sources):
            fix += ", or pass download=True"
        raise FileNotFoundError(
            "The archives of a dataset must be there before it can be prepared. Received: "
            f"manual_dir={manual_dir}, without {' and without '.join(missing)}. {fix}."
        )


def require_space(
    sources: Sequence[Source], manual_dir: Path, data_dir: Path, url_infos: dict
) -> None:
    """Raise an `OSError` unless the disk has room to download, unpack and prepare.

    Images hardly compress, so each of the three steps takes about the size of the archive.
    """
    need = 0
    for source in sources:
        path = source.find(manual_dir)
        if path is None:
            need += 3 * int(url_infos[source.url].size)
        elif path.is_dir():
            need += sum(file.stat().st_size for file in path.rglob("*") if file.is_file())
        else:
            need += 2 * path.stat().st_size
    place = Path(data_dir).absolute()
    while not place.exists():
        place = place.parent
    free = shutil.disk_usage(place).free
    if free < need:
        raise OSError(
            f"Preparing this dataset takes about {need / 1e9:.1f} GB of disk. Received: "
            f"data_dir={data_dir}, with {free / 1e9:.1f} GB free. Make room, or pass a data_dir on "
            "another disk."
        )
