"""FsaNet among KerasHub's tasks: presets in folders and on model hubs, KerasHub's own calls.

    import keras_fsa
    import keras_hub

    task = keras_hub.models.ImageSegmenter.from_preset("./my_fsanet")  # or "hf://...", "kaggle://..."
    logits = task.predict(images)
    task.save_to_preset("./another", trained_on="CamVid", figures={"mean IoU, validation": 0.71})

`from_fsanet` and `to_fsanet` convert in either direction. If both packages are imported, in either
order, KerasHub finds these classes, see `keras_fsa.registration`. Needs
`pip install "keras_fsa[hub]"`.
"""

from keras_fsa.hub.backbone import FsaNetBackbone
from keras_fsa.hub.conversion import from_fsanet, load_fsanet, to_fsanet
from keras_fsa.hub.preprocessing import FsaNetImageConverter, FsaNetImageSegmenterPreprocessor
from keras_fsa.hub.segmenter import FsaNetImageSegmenter
from keras_fsa.hub.upload import upload_preset

__all__ = [
    "FsaNetBackbone",
    "FsaNetImageConverter",
    "FsaNetImageSegmenter",
    "FsaNetImageSegmenterPreprocessor",
    "from_fsanet",
    "load_fsanet",
    "to_fsanet",
    "upload_preset",
]
