"""What the builders of data sets share: archives, pairs of files, room on the disk."""

import os
import shutil
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from keras_fsa.arguments import optional_import
from keras_fsa.datasets.folder import read_pair


def import_tfds() -> ModuleType:
    """TensorFlow Datasets, or an `ImportError` with the pip command."""
    # TFDS asks for neither of the first two: its builders need importlib_resources; where
    # TensorFlow is missing, importing TFDS succeeds but leaves it without its contents.
    for package in ("importlib_resources", "tensorflow"):
        optional_import(package, "examples")
    return optional_import("tensorflow_datasets", "examples")


@dataclass(frozen=True)
class Source:
    """Files that a data set is made of.

    Attributes:
        files: Names of archives or unpacked folders in the folder for files given by hand, of
            which any one is enough; the first that is there is taken.
        url: Where to get it.
        by_hand: Whether it cannot be downloaded without logging in.
    """

    files: tuple
    url: str
    by_hand: bool = False

    def find(self, manual_dir: str | os.PathLike) -> Path | None:
        """The path of the first of the files that is there, or `None`."""
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
            root = path if path.is_dir() else dl_manager.extract(path)
        return Path(os.fspath(root))


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
    """Raises a `FileNotFoundError` that says where to get what is not there, and where to put it.

    With `download`, only what cannot be downloaded must be there.
    """
    missing = [
        f"{' or '.join(source.files)} (from {source.url})"
        for source in sources
        if source.find(manual_dir) is None and (source.by_hand or not download)
    ]
    if missing:
        fix = f"Put it into {manual_dir}, or name its folder with manual_dir"
        if not any(source.by_hand for source in sources):
            fix += ", or pass download=True"
        raise FileNotFoundError(
            "The archives of a data set must be there before it can be prepared. Received: "
            f"manual_dir={manual_dir}, without {' and without '.join(missing)}. {fix}."
        )


def require_space(
    sources: Sequence[Source], manual_dir: Path, data_dir: Path, url_infos: dict
) -> None:
    """Raises an `OSError` unless the disk has room to download, unpack and prepare.

    Pictures hardly compress, so each of the three steps takes about the size of the archive.
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
            f"Preparing this data set takes about {need / 1e9:.1f} GB of disk. Received: "
            f"data_dir={data_dir}, with {free / 1e9:.1f} GB free. Make room, or pass a data_dir on "
            "another disk."
        )


def read_examples(
    pairs: list, num_classes: int, left_out: list | None = None, ids_of: Callable | None = None
) -> Iterator:
    """Yields the TFDS examples of pairs of files, each file decoded once and checked.

    Args:
        pairs: List of `(image_path, mask_path)`.
        num_classes: The ids of the masks are 0 to this number - 1, and 255.
        left_out: List that gets what is wrong with bad pairs, which are then left out with a
            warning; `None` makes the first an error.
        ids_of: Function from the path of a mask to its ids, as `read_pair` takes it.

    Raises:
        ValueError: For the first bad pair, or if no pair is good.
    """
    count = 0
    for image_path, mask_path in pairs:
        image, mask, unchanged, problems = read_pair(
            image_path, mask_path, num_classes, 255, ids_of
        )
        if problems and left_out is None:
            raise ValueError(
                "Pictures and masks must open, be of equal size, and the masks hold ids from 0 to "
                f"{num_classes - 1} or 255. Received: {'; '.join(problems)}. Get a fresh copy of "
                "these files, or leave them out with skip_unreadable=True."
            )
        if problems:
            left_out.append("; ".join(problems))
            warnings.warn(f"Left out: {'; '.join(problems)}", stacklevel=2)
            continue
        count += 1
        name = Path(image_path).stem
        yield (
            name,
            {
                # The bytes of the file, where no conversion was needed.
                "image": os.fspath(image_path) if unchanged else np.asarray(image),
                "mask": np.asarray(mask)[..., None],
                "name": name,
            },
        )
    if not count:
        raise ValueError(
            f"A split must have an example. Received: {len(pairs)} pairs of files, of which none "
            "can be used. Check that the archives are complete."
        )


def pairs_info(builder: Any, description: str, homepage: str) -> Any:
    """`tfds.core.DatasetInfo` of examples as `read_examples` yields them."""
    tfds = import_tfds()
    return tfds.core.DatasetInfo(
        builder=builder,
        description=description,
        homepage=homepage,
        features=tfds.features.FeaturesDict(
            {
                "image": tfds.features.Image(shape=(None, None, 3), encoding_format="png"),
                "mask": tfds.features.Image(
                    shape=(None, None, 1), encoding_format="png", use_colormap=True
                ),
                "name": tfds.features.Text(),
            }
        ),
        supervised_keys=("image", "mask"),
        metadata=tfds.core.MetadataDict(),
    )


def left_out_list(builder: Any, split: str, skip_unreadable: bool) -> list | None:
    """`left_out` of `read_examples` for a split, kept with the prepared data; or `None`."""
    if not skip_unreadable:
        return None
    return builder.info.metadata.setdefault("left_out", {}).setdefault(split, [])
