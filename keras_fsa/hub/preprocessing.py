"""Preprocessing layers for KerasHub that resize images and masks to one size."""

from typing import Any

import keras

from keras_fsa.arguments import boolean, optional_import, positive_ints
from keras_fsa.hub.backbone import FsaNetBackbone
from keras_fsa.metrics import IGNORE_LABEL

keras_hub = optional_import("keras_hub", "hub")
ImageConverter: Any = keras_hub.layers.ImageConverter
ImageSegmenterPreprocessor: Any = keras_hub.models.ImageSegmenterPreprocessor


@keras.saving.register_keras_serializable(package="keras_fsa")
class FsaNetImageConverter(ImageConverter):
    """Resizes images to one size if requested; FsaNet itself takes images of any size.

    Nothing is cropped unless requested, and values are not scaled: the network normalises.

    Args:
        image_size: `(height, width)`, or None to leave images as they are.
        crop_to_aspect_ratio: whether to crop to the aspect ratio of `image_size`, rather than
            change that of the image.
        pad_to_aspect_ratio: whether to pad to that ratio instead: images with zeros, masks with the
            label 255, which is ignored.
        **kwargs: of `keras_hub.layers.ImageConverter`, such as `interpolation`.

    Raises:
        ValueError: for a wrong argument.
    """

    backbone_cls = FsaNetBackbone

    def __init__(
        self,
        image_size: tuple[int, int] | None = None,
        crop_to_aspect_ratio: bool = False,
        pad_to_aspect_ratio: bool = False,
        **kwargs: Any,
    ) -> None:
        positive_ints("image_size", image_size, 2, optional=True)
        boolean("crop_to_aspect_ratio", crop_to_aspect_ratio)
        boolean("pad_to_aspect_ratio", pad_to_aspect_ratio)
        ratio = {
            "crop_to_aspect_ratio": crop_to_aspect_ratio,
            "pad_to_aspect_ratio": pad_to_aspect_ratio,
        }
        # In half precision, images of 0 to 255 would lose grey levels.
        kwargs = {"dtype": "float32", **kwargs}
        super().__init__(image_size=image_size, **ratio, **kwargs)
        # Whole numbers would be rounded, and cannot be padded under TensorFlow.
        self.to_float = keras.layers.Rescaling(1.0, dtype="float32", name="to_float")
        self.mask_resizing = keras.layers.Resizing(
            None,
            None,
            interpolation="nearest",
            fill_value=IGNORE_LABEL,
            data_format="channels_last",
            dtype="float32",
            name="mask_resizing",
            **ratio,
        )

    def call(self, inputs):
        if self.image_size is not None and hasattr(inputs, "dtype"):
            inputs = self.to_float(inputs)
        return super().call(inputs)

    def resize_masks(self, masks: Any, channels: bool | None = None) -> Any:
        """Masks resized to the size that their images get, without mixing labels.

        Args:
            masks: `(B, H, W)` or `(B, H, W, C)`, or for one mask `(H, W)` or `(H, W, C)`: integer
                classes, where C is 1; or 0 and 1 for each of C classes.
            channels: whether the masks have the axis C. Default: they do if the last axis is of
                length 1.

        Returns:
            Masks of the same rank by the nearest neighbour, float32; unchanged if images are not
            resized.
        """
        if self.image_size is None:
            return masks
        self.mask_resizing.height, self.mask_resizing.width = self.image_size
        masks = self.to_float(masks)
        if masks.shape[-1] == 1 if channels is None else channels:
            return self.mask_resizing(masks)
        return self.mask_resizing(masks[..., None])[..., 0]


@keras.saving.register_keras_serializable(package="keras_fsa")
class FsaNetImageSegmenterPreprocessor(ImageSegmenterPreprocessor):
    """Images and masks in the form that `FsaNetImageSegmenter` takes.

    Args:
        image_converter: resizes images to one size. None leaves images as they are.
        resize_output_mask: whether masks are resized with their images, see
            `FsaNetImageConverter.resize_masks`. If not, they must have the new size already.
        **kwargs: of `keras_hub.models.ImageSegmenterPreprocessor`.

    Call arguments:
        x: images, `(B, H, W, channels)` or one of `(H, W, channels)`, from 0 to 255.
        y: masks or None, `(B, H, W)`, `(B, H, W, C)`, or for one image `(H, W)` or `(H, W, C)`:
            integer classes, where C is 1, or 0 and 1 for each of C classes. The label 255 means
            "ignore this pixel".
        sample_weight: passed on unchanged.

    Raises:
        ValueError: for a wrong argument.
    """

    backbone_cls = FsaNetBackbone
    image_converter_cls = FsaNetImageConverter

    def __init__(
        self,
        image_converter: FsaNetImageConverter | None = None,
        resize_output_mask: bool = True,
        **kwargs: Any,
    ) -> None:
        boolean("resize_output_mask", resize_output_mask)
        if image_converter is not None and not isinstance(image_converter, FsaNetImageConverter):
            raise ValueError(
                "`image_converter` must be an FsaNetImageConverter or None. Received: "
                f"image_converter={image_converter!r}. Write FsaNetImageConverter((height, width))."
            )
        super().__init__(image_converter, resize_output_mask, **kwargs)

    def call(self, x, y=None, sample_weight=None):
        if y is not None and self.image_converter and self.resize_output_mask:
            y = self.image_converter.resize_masks(y, len(y.shape) == len(x.shape))
        return keras.utils.pack_x_y_sample_weight(super().call(x), y, sample_weight)

    def get_config(self):
        return {**super().get_config(), "resize_output_mask": self.resize_output_mask}
