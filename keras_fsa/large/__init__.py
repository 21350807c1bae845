"""Images of any size: attention over the whole image, tile by tile, in bounded memory."""

from keras_fsa.large.images import open_image, overview, save_classes
from keras_fsa.large.segmentation import halo, segment

__all__ = ["halo", "open_image", "overview", "save_classes", "segment"]
