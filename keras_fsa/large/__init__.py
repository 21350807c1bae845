"""Images of any size: the attention of the whole image, tile by tile, in bounded memory."""

from keras_fsa.large.segmentation import halo, segment

__all__ = ["halo", "segment"]
