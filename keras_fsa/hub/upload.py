"""Uploading a preset with its model card."""

import os
import shutil

from keras_fsa.arguments import optional_import
from keras_fsa.hub.card import CARD, README
from keras_fsa.types import Path

keras_hub = optional_import("keras_hub", "hub")

HUGGING_FACE = "hf://"


def upload_preset(uri: str, preset: Path) -> None:
    """`keras_hub.upload_preset` that keeps the model card.

    If the hub has no card yet, KerasHub's own function replaces `README.md` with a generated card,
    and then deletes it. Here the card is uploaded first, so that the hub has one.

    Args:
        uri: `"hf://user/model"` or `"kaggle://user/model/framework/variation"`.
        preset: the folder that `save_to_preset` wrote.

    Raises:
        FileNotFoundError: if there is no such folder, or no card in it.
        ValueError: for another uri.
    """
    card, readme = (os.path.join(preset, name) for name in (CARD, README))
    if not os.path.isfile(card):
        raise FileNotFoundError(
            f"`preset` must be a preset's folder with a {CARD}. Received: preset={str(preset)!r}. "
            "Write it by FsaNetImageSegmenter.save_to_preset."
        )
    shutil.copyfile(card, readme)
    if uri.startswith(HUGGING_FACE):
        hugging_face = optional_import("huggingface_hub", "hub")
        name = uri.removeprefix(HUGGING_FACE)
        repository = hugging_face.create_repo(repo_id=name, exist_ok=True).repo_id
        if not hugging_face.file_exists(repo_id=repository, filename=README):
            hugging_face.upload_file(
                path_or_fileobj=readme, path_in_repo=README, repo_id=repository
            )
    keras_hub.upload_preset(uri, os.fspath(preset))
