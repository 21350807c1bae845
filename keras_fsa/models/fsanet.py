"""FsaNet: from an image to logits of its size."""

import importlib
from collections import OrderedDict
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_fsa import affinities
from keras_fsa._deprecation import warn
from keras_fsa.affinities import Affinity
from keras_fsa.arguments import (
    MOST,
    boolean,
    check_image_shape,
    floating_dtype,
    integer,
    interpreted,
    number,
    one_of,
    path_or_none,
)
from keras_fsa.backbones.features import build_backbone, feature_shapes
from keras_fsa.backbones.resnet import STAGES
from keras_fsa.classes import checked_names, checked_palette, choose_activation
from keras_fsa.compilation import announces_xla, warn_of_slow_xla
from keras_fsa.graphs import calls
from keras_fsa.losses import CrossEntropy
from keras_fsa.metrics import IGNORE_LABEL, mean_iou
from keras_fsa.models import exporting, quantizing
from keras_fsa.models.attention import build_attention, describe_attention, in_head, name_in_head
from keras_fsa.models.heads import (
    auxiliary_head,
    check_head,
    finer_stages,
    freeze,
    frozen_layers,
    fsa_head,
    seen_by_head,
)
from keras_fsa.models.masks import check_data, check_masks
from keras_fsa.models.objective import as_loss, loss_weight, only_loss, with_auxiliary
from keras_fsa.models.preprocessing import ImageNormalization, choose_normalization
from keras_fsa.models.presets import PRESETS, is_hub_preset, preset_arguments, preset_file
from keras_fsa.models.recovery import recovers
from keras_fsa.models.speed import neutral_twins, use_speed_paths
from keras_fsa.models.trained import adapted, in_float32, load_keras_file
from keras_fsa.portable import portable_config
from keras_fsa.resize import resize_bilinear
from keras_fsa.spectral import parse_frequencies, token_dtype
from keras_fsa.types import Frequencies, Path, Tensor


@announces_xla
@recovers
@keras.saving.register_keras_serializable(package="keras_fsa")
class FsaNet(keras.Model):
    """Semantic segmentation with frequency self-attention.

    An image passes through `normalize`, `backbone` and `head`, which contains the attention; the
    logits are resized to the image's height and width. In training, an `auxiliary_head` on stage 4
    contributes to the loss.

    Args:
        num_classes: number of classes, at most 255; the label 255 means "ignore this pixel".
        backbone: `"resnet18"`, `"resnet34"`, `"resnet50"`, `"resnet101"` or `"resnet152"`
            (KerasCV's); `"efficientnet_lite0"`, `"efficientnet_lite1"` or `"efficientnet_lite2"`; a
            ResNet of KerasCV, KerasHub or `keras.applications`, of which a copy is dilated; another
            KerasHub backbone with a feature pyramid; or a Keras model from an image to a dict of
            the feature maps `"stage4"` and `"stage5"`, and those named by `low_level`.
        image_shape: `(height, width, channels)` of an image. With None for height and width, the
            model takes images of any size.
        output_stride: ratio of the image's size to that of stage 5: 8, 16 or 32. Default: 8 for a
            named backbone or a ResNet; any other model keeps its own. If it is specified for
            another model, a copy of that model is dilated; if that is impossible, it is an error.
        attention: `"frequency"`, `"spatial"` (regular self-attention), None, or a layer with its
            own settings, from a map `(B, h, w, C)` to a map of the same shape.
        frequencies: frequencies of the frequency attention, see `FrequencySelfAttention`. A map has
            no more of them than positions: at output stride 8, 8 frequencies need 64 pixels.
        affinity: affinity of the attention. Default: `"dot_product"` for `"frequency"`,
            `"softmax"` for `"spatial"`.
        recurrence: how many times the attention is applied, with the same weights.
        head_channels: width of the head.
        dropout: share of channels dropped before the last convolution, in training.
        auxiliary_loss_weight: weight of the auxiliary head's loss; 0 for no auxiliary head.
        align_corners: how logits are resized to the image. Default: None: a position of the map
            lies over the same pixels at any size. True and False are PyTorch's conventions, which
            published networks use: see `keras_fsa.resize`.
        normalization: `"imagenet"`, `"caffe"`, `"tf"`, `"efficientnet_lite"`, `"ccnet"`, a pair
            `(mean, std)`, or None, see `ImageNormalization`. Default: what a named backbone and its
            weights expect; for a backbone that is a model, `"imagenet"`, with a warning, since it
            is not known what the model was trained on.
        backbone_weights: `"imagenet"`: for `"resnet50"`, `"resnet101"` and `"resnet152"` those of
            `keras.applications`, which Keras downloads once; for EfficientNet-Lites those of an
            installed package. Or a file: `.weights.h5` (from `model.backbone.save_weights`), `.h5`
            (a download of `keras.applications`), or PyTorch's, see `load_pytorch_weights`. If
            images do not have 3 channels, each channel gets the mean of ImageNet's first kernels.
            Default: random weights, or those that the model comes with.
        auxiliary_channels: width of the auxiliary head. Default: half of `head_channels`.
        auxiliary_use_bias: whether its first convolution has a bias.
        head: a functional model from stage 5 to logits, such as that of `fold_batch_norm`; with
            `low_level`, from a dict of all stages. Default: `keras_fsa.models.heads.fsa_head` with
            the settings above.
        low_level: `"stage3"`, `"stage2"` or `"stage1"`: a finer stage (of stride 8, 4 or 2) that
            the head joins before the logits, for thin objects and edges; or several of them, joined
            one after the other, from coarse to fine. See `keras_fsa.models.heads.fsa_head`.
            Default: None.
        activation: `"softmax"`: a pixel has one class; or `"sigmoid"`: it has any number of them,
            see `keras_fsa.classes`. The output is logits either way. Default: `"sigmoid"` for one
            class, which is a binary task, else `"softmax"`.
        class_names: a name for each class, or None. Plots, scores and commands use them.
        palette: RGB colours of the classes, `(num_classes, 3)` from 0 to 255, or None.
        num_heads: number of heads of the attention, see `FrequencySelfAttention`; the paper uses 1.
        **kwargs: of `keras.Model`: `name`, `dtype`, `trainable`.

    Call arguments:
        images: `(B, H, W, channels)`, RGB from 0 to 255, uint8 or floating.
        training: whether batch norm and dropout are in training mode.

    Output:
        Logits `(B, H, W, num_classes)`, float32. With `training=True` and an auxiliary head, a dict
        `{"logits": ..., "auxiliary": ...}` of two such maps; `fit` handles it, losses and metrics
        receive logits. A functional model around this one receives only the logits, so training it
        leaves the auxiliary head as it is: build without one, `auxiliary_loss_weight=0`.

    Raises:
        ValueError: for a wrong argument, a backbone that lacks part of the contract, or
            frequencies beyond the feature map if its size is known.
        ImportError: if the package of ImageNet weights is missing, with the pip command.
        ConnectionError: if a download fails; it says which file to put where.

    Example:
    >>> import numpy as np
    >>> model = keras_fsa.FsaNet(19, backbone="resnet18")
    >>> model.predict(np.zeros((1, 97, 131, 3), "uint8"), verbose=0).shape
    (1, 97, 131, 19)

    Source: Zhang, Panahi, Gao, arXiv:2211.15595.
    """

    def __init__(
        self,
        num_classes: int,
        backbone: str | keras.Model = "resnet101",
        image_shape: tuple[int | None, int | None, int] = (None, None, 3),
        output_stride: int | None = None,
        attention: str | keras.Layer | None = "frequency",
        frequencies: Frequencies = 8,
        affinity: str | Affinity | None = None,
        recurrence: int = 2,
        head_channels: int = 512,
        dropout: float = 0.1,
        auxiliary_loss_weight: float = 0.4,
        align_corners: bool | None = None,
        normalization: str | tuple | None = "auto",
        backbone_weights: Path | None = None,
        auxiliary_channels: int | None = None,
        auxiliary_use_bias: bool = False,
        head: keras.Model | None = None,
        low_level: str | Sequence[str] | None = None,
        activation: str | None = None,
        class_names: Sequence[str] | None = None,
        palette: Any = None,
        num_heads: int = 1,
        **kwargs: Any,
    ) -> None:
        super().__init__(**{"name": "fsanet", **kwargs, "autocast": False})
        floating_dtype(self.compute_dtype)
        integer("num_classes", num_classes)
        if num_classes > IGNORE_LABEL:
            raise ValueError(
                f"`num_classes` must be at most {IGNORE_LABEL}, the label of ignored pixels. "
                f"Received: num_classes={num_classes}. Merge classes."
            )
        check_image_shape(image_shape)
        one_of("output_stride", output_stride, (8, 16, 32, None))
        parse_frequencies(frequencies)
        integer("recurrence", recurrence, maximum=MOST)
        integer("num_heads", num_heads, maximum=MOST)
        integer("head_channels", head_channels, maximum=MOST)
        number("dropout", dropout, minimum=0, below=1)
        number("auxiliary_loss_weight", auxiliary_loss_weight, minimum=0)
        boolean("align_corners", align_corners, optional=True)
        path_or_none("backbone_weights", backbone_weights)
        integer("auxiliary_channels", auxiliary_channels, optional=True, maximum=MOST)
        boolean("auxiliary_use_bias", auxiliary_use_bias)
        finer = finer_stages(low_level)
        check_head(head, finer, num_classes)
        self.activation = choose_activation(activation, num_classes)
        self.class_names = checked_names(class_names, num_classes)
        self.palette = checked_palette(palette, num_classes)
        # Plain ints, also of NumPy's, for the JSON of exported files.
        self.num_classes = int(num_classes)
        self.image_shape = tuple(side if side is None else int(side) for side in image_shape)
        self.output_stride = output_stride
        self.frequencies = frequencies
        self.affinity = None if affinity is None else affinities.get(affinity)
        self.recurrence = recurrence
        self.num_heads = num_heads
        self.head_channels = head_channels
        self.dropout = dropout
        self.auxiliary_loss_weight = auxiliary_loss_weight
        self.align_corners = align_corners
        chosen = choose_normalization(normalization, backbone_weights, image_shape[-1], backbone)
        self.auxiliary_channels = auxiliary_channels or max(1, head_channels // 2)
        self.auxiliary_use_bias = auxiliary_use_bias
        self.low_level = finer[0] if len(finer) == 1 else finer or None

        policy = self.dtype_policy
        self.normalize = ImageNormalization(chosen, dtype=policy, name="normalize")
        self.normalization = self.normalize.normalization
        self.normalize.build((None, *self.image_shape))
        self.backbone = build_backbone(
            backbone, self.image_shape, output_stride, policy, backbone_weights, (*finer, *STAGES)
        )
        needed = (*finer, *(STAGES if auxiliary_loss_weight else ("stage5",)))
        shapes = feature_shapes(self.backbone, self.image_shape, needed)
        layer = build_attention(
            attention, frequencies, self.affinity, recurrence, num_heads, policy
        )
        self._given_head = head is not None
        self.head = head or fsa_head(
            shapes["stage5"],
            num_classes,
            layer,
            head_channels,
            dropout,
            policy,
            [(stage, shapes[stage]) for stage in finer],
            align_corners,
        )
        # A head that is given may compute in half precision.
        self._logits_dtype = token_dtype(self.head.output.dtype)
        self._attention_name = name_in_head(self.head, layer)
        # Behind the head, so that weights come in one order, whoever made the attention.
        self.attention = attention
        self.auxiliary_head = None
        if auxiliary_loss_weight:
            self.auxiliary_head = auxiliary_head(
                shapes["stage4"],
                num_classes,
                self.auxiliary_channels,
                dropout,
                policy,
                auxiliary_use_bias,
            )
        self.build((None, *self.image_shape))
        use_speed_paths(self)

    @classmethod
    def from_preset(cls, preset: Path | None = None, **arguments: Any) -> "FsaNet":
        """A trained network, or the network of a published setting with random weights.

        | `preset` | result |
        | --- | --- |
        | `"signal_harbor"` | the quickstart's network, trained, from this package |
        | a path: a `.keras` file, or a folder with `model.keras` | the trained network there |
        | a preset of KerasHub: its folder, `"hf://..."`, `"kaggle://..."` | see `keras_fsa.hub` |
        | a key of `keras_fsa.PRESETS`, such as `"ccnet_dot_r2_cityscapes"` | random weights |

        For a published setting, `keras_fsa.load_pytorch_weights` loads the authors' weights, or,
        into its `backbone`, the ImageNet weights that their training starts from.

        Args:
            preset: see the table.
            **arguments: arguments of `FsaNet` that override the preset's. A trained network accepts
                `num_classes` (changing it gives the last layers random weights), `dtype` and
                `name`; a KerasHub preset those of `keras_fsa.hub.load_fsanet`.

        Raises:
            ValueError: for an unknown name, listing the known ones; another argument for a trained
                network; and a file that is damaged or holds another kind of model. No code in a
                file is run.
            ImportError: if KerasHub is needed but missing, with the pip command.

        Example:
        >>> model = keras_fsa.FsaNet.from_preset("signal_harbor")
        >>> model.num_classes
        10
        """
        if preset is None and "name" in arguments:
            warn("The argument `name` of `FsaNet.from_preset`", "`preset`")
            preset = arguments.pop("name")
        if isinstance(preset, str) and preset in PRESETS:
            return cls(**preset_arguments(preset, **arguments))
        if is_hub_preset(preset):
            # Above this room, and not to be imported without need: KerasHub comes with it.
            return importlib.import_module("keras_fsa.hub").load_fsanet(preset, **arguments)
        path = preset_file(preset)
        if unknown := sorted(arguments.keys() - {"num_classes", "dtype", "name"}):
            raise ValueError(
                "A trained network has the settings of its file, but for `num_classes`, `dtype` "
                f"and `name`. Received: {unknown[0]}={arguments[unknown[0]]!r} for "
                f"preset={preset!r}. Leave it out, or build FsaNet(...) and train it."
            )
        model = load_keras_file(path, "preset")
        if not isinstance(model, cls):
            raise ValueError(
                f"`preset` must lead to an FsaNet. Received: {path} with a {type(model).__name__}. "
                "Open other models with keras.saving.load_model."
            )
        if not arguments:
            return model
        policy = arguments.pop("dtype", None) or model.dtype_policy.name
        policy = interpreted("dtype", policy, keras.dtype_policies.get).name
        return adapted(model, policy, **arguments)

    def attention_layer(self) -> keras.layers.Layer | None:
        """The attention layer in the head, built from a name or passed as a layer; None if none.

        Not a property: Keras saves the layers that a model's attributes and properties hold, under
        their names.
        """
        return self._attention_name and self.head.get_layer(self._attention_name)

    def attention_features(self, images: Tensor) -> Tensor:
        """The feature map that the attention layer receives, in inference.

            layer, features = model.attention_layer(), model.attention_features(images)
            attention = keras_fsa.attention_map.attention_at(layer, features[0], row, column)

        Args:
            images: as in a call of the model.

        Returns:
            `(B, h, w, head_channels)`, in the compute dtype of the model.
        """
        images = ops.convert_to_tensor(images)
        self._check_images(images.shape)
        features = self.backbone(self.normalize(images), training=False)["stage5"]
        stage5 = self.head.input["stage5"] if self.low_level else self.head.input
        before = keras.Model(stage5, self._before_attention())
        return before(features, training=False)

    def _before_attention(self):
        called = {call.operation.name: call for call in reversed(calls(self.head))}
        # By name where it is FsaNet's own head: there may be no attention, or one that is shared.
        if "before_relu" in called:
            return called["before_relu"].outputs[0]
        layer = self.attention_layer()
        if layer is None:
            raise ValueError(
                "This needs a head with attention. Received: "
                f"head={self.head.name!r} without. Leave `head` out for FsaNet's own."
            )
        return called[layer.name].input_tensors[0]

    def build(self, input_shape):
        self._check_images(input_shape)

    def call(self, images, training=None):
        if isinstance(images, (list, tuple, dict)):
            raise ValueError(
                "Images must be one array: batch, height, width, channels. Received: images in a "
                f"{type(images).__name__}. Stack those of one size, np.stack(images), and call the "
                "model for each of other sizes."
            )
        self._check_images(images.shape)
        features = self.backbone(self.normalize(images), training=training)
        height, width = ops.shape(images)[1:3]

        def at_image_size(logits):
            logits = ops.cast(logits, self._logits_dtype)
            return resize_bilinear(logits, height, width, self.align_corners)

        seen = seen_by_head(features, self.low_level)
        logits = at_image_size(self.head(seen, training=training))
        if not training or self.auxiliary_head is None:
            return logits
        auxiliary = self.auxiliary_head(features["stage4"], training=training)
        # In this order: a functional model around this one takes the first.
        return OrderedDict(logits=logits, auxiliary=at_image_size(auxiliary))

    def _check_images(self, shape):
        expected = (None, *self.image_shape)
        if len(shape) != 4 or any(
            want is not None and size is not None and size != want
            for size, want in zip(shape, expected, strict=True)
        ):
            raise ValueError(
                f"Images must have the shape {expected}: batch, height, width, channels. "
                f"Received: images of shape {tuple(shape)}. Convert the images, or build the model "
                "with another `image_shape`."
            )

    def compile(
        self, optimizer: Any = None, loss: Any = None, metrics: list | None = None, **kwargs: Any
    ) -> None:
        """Configure training, with defaults for whatever is left out.

        Args:
            optimizer: default `keras.optimizers.SGD(0.01, momentum=0.9)`. For the usual
                poly decay, pass it as the learning rate:
                `keras.optimizers.schedules.PolynomialDecay(0.01, steps, 1e-4, power=0.9)`.
            loss: a loss of masks and logits. Default: `keras_fsa.losses.CrossEntropy` of the
                model's activation, which ignores the label 255 and is NaN if a mask has an id that
                is no class. The same loss is applied to the auxiliary head's logits, with their
                weight.
            metrics: default: mean IoU that ignores the label 255. `[]` for none.
            **kwargs: of `keras.Model.compile`.

        Raises:
            ValueError: for several losses, anything that is not a loss, and a loss of this library
                whose activation differs from the model's.
        """
        if optimizer is None:
            optimizer = keras.optimizers.SGD(0.01, momentum=0.9)
        if loss is None:
            loss = CrossEntropy(activation=self.activation)
        loss = only_loss(loss, self.activation)
        if metrics is None:
            metrics = [mean_iou(self.num_classes, self.activation)]
        super().compile(optimizer=optimizer, loss=loss, metrics=metrics, **kwargs)
        if kwargs.get("jit_compile") is True:
            warn_of_slow_xla(self)
        self._auxiliary_loss = as_loss(loss)
        self._loss_weight = loss_weight(kwargs.get("loss_weights"))

    def get_compile_config(self):
        return portable_config(super().get_compile_config())

    def compile_from_config(self, config):
        # Version 0.1.0 wrote names that only torch knows.
        self.compile(**keras.saving.deserialize_keras_object(portable_config(config)))
        self.optimizer.build(self.trainable_variables)

    def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
        check_masks(y, x, self.num_classes, self.activation)
        if not isinstance(y_pred, dict):
            return super().compute_loss(x, y, y_pred, sample_weight, training)
        loss = super().compute_loss(x, y, y_pred["logits"], sample_weight, training)
        auxiliary = self._auxiliary_loss(y, y_pred["auxiliary"], sample_weight)
        return with_auxiliary(loss, auxiliary, self._loss_weight * self.auxiliary_loss_weight)

    def fit(self, x: Any = None, y: Any = None, *args: Any, **kwargs: Any) -> Any:
        """Train: see `keras.Model.fit`.

        Raises:
            ValueError: if the size of the masks is known to differ from that of the images; and for
                a `class_weight`, which Keras applies to images that have one class each.
        """
        check_data(x, y, kwargs.get("class_weight"), self.num_classes, self.activation)
        return super().fit(x, y, *args, **kwargs)

    def predict(self, x: Any, *args: Any, **kwargs: Any) -> np.ndarray:
        """Logits for NumPy images or a dataset of images: see `keras.Model.predict`.

        For no images, an array of shape `(0, H, W, channels)`, it returns logits of shape
        `(0, H, W, num_classes)`.
        """
        shape = getattr(x, "shape", None)
        if shape is not None and len(shape) == 4 and shape[0] == 0:
            self._check_images(shape)
            return np.zeros(self.compute_output_shape(shape), self._logits_dtype)
        return super().predict(x, *args, **kwargs)

    def compute_metrics(self, x, y, y_pred, sample_weight=None):
        check_masks(y, x, self.num_classes, self.activation)
        logits = y_pred["logits"] if isinstance(y_pred, dict) else y_pred
        return super().compute_metrics(x, y, logits, sample_weight)

    def export(
        self,
        filepath: Path,
        format: str = "tf_saved_model",
        verbose: bool | None = None,
        input_signature: list | None = None,
        output: str = "logits",
        input_dtype: str = "float32",
        calibration: Sequence | None = None,
        **kwargs: Any,
    ) -> None:
        """Export for inference to a file that runs without Keras.

        | format | file | written under |
        | --- | --- | --- |
        | `"tf_saved_model"` | a folder | TensorFlow, JAX |
        | `"onnx"` | `.onnx` | TensorFlow; JAX for one size of images |
        | `"litert"` | `.tflite` | TensorFlow |
        | `"openvino"` | `.xml` and `.bin` | TensorFlow |

        The file takes images `(B, H, W, channels)` from 0 to 255, of any size if `image_shape`
        leaves it open. An earlier file is replaced once the new one is complete.

        A SavedModel for 1 or 3 channels has a second signature, `serving_bytes`: it takes the bytes
        of PNG or JPEG files, strings `(B,)`, and returns classes. Grey images become RGB, an alpha
        channel is dropped, orientation tags are not read. All images of a call must have the same
        size: send images of different sizes one at a time.

        A SavedModel computes in the model's dtype policy. The other formats' runtimes do not
        support half and double precision, or most of it: these files compute in float32.

        A JSON file beside it (`.json` appended to its name; for a SavedModel, in its folder
        `assets.extra`) holds the activation, names and colours of the classes, for `load_exported`.

        Batch norms are folded into the convolutions, here by `keras_fsa.fold_batch_norm` for a
        SavedModel, else by the converter. To put windows, scales and mirroring into the file, see
        `keras_fsa.segmenter.Segmenter`.

        Args:
            filepath: destination.
            format: see the table.
            verbose: whether to print the destination. Default: True.
            input_signature: default: one image batch of `image_shape` and `input_dtype`.
            output: `"logits"`, float32 `(B, H, W, num_classes)`, or `"classes"`, the answer of
                `keras_fsa.classes` at the threshold 1/2: uint8, for the softmax the class of each
                pixel, `(B, H, W)`; 255 where the logits or the image hold NaN.
            input_dtype: `"float32"` or `"uint8"`.
            calibration: images `(H, W, channels)` from 0 to 255 like those to be served, for a file
                whose convolutions compute in int8, the rest in float32; only for `"onnx"`,
                `"litert"` and `"openvino"`. The file is a quarter of the size, and its classes
                differ at some pixels. See `keras_fsa.models.quantizing`.
            **kwargs: of `keras.Model.export`, for this format.

        Raises:
            ValueError: for an invalid argument, and if the backend cannot write the format, or
                would write a file that is wrong at other sizes. The message names a workaround.
            ImportError: if a package that the format needs is missing or too old, with the pip
                command.
        """
        images = exporting.image_spec(self, filepath, format, input_signature, output, input_dtype)
        batches = None
        if calibration is not None:
            batches = quantizing.calibration_batches(self, images, format, calibration)
        with exporting.written_at_once(filepath) as path:
            if format == "tf_saved_model":
                exporting.write_saved_model(path, self, images, output, **kwargs)
            else:
                model = in_float32(self)
                whole = exporting.with_classes(model, images) if output == "classes" else model
                if format == "litert" and batches is not None:
                    quantizing.write_litert(path, whole, images, batches)
                else:
                    settings = {"format": format, "input_signature": [images], **kwargs}
                    with neutral_twins(model):
                        # Past this method, where the model is an FsaNet.
                        keras.Model.export(whole, path, verbose=False, **settings)
                if format == "onnx" and batches is not None:
                    quantizing.quantize_onnx(path, batches)
                elif format == "openvino" and batches is not None:
                    quantizing.quantize_openvino(path, batches, self._attention_name)
            exporting.write_description(path, self)
        if verbose or verbose is None:
            print(f"Saved the model at {str(filepath)!r}.")
            if format == "openvino":
                print('Compile it with {"INFERENCE_PRECISION_HINT": "f32"}, see `load_exported`.')

    def compute_output_shape(self, input_shape):
        return (*input_shape[:3], self.num_classes)

    def compute_output_spec(self, images, training=None):
        # What a model around this one sees: the layer's compute dtype is not that of the logits.
        return keras.KerasTensor(self.compute_output_shape(images.shape), self._logits_dtype)

    def get_config(self):
        frozen = frozen_layers(self)
        return {
            **super().get_config(),
            "num_classes": self.num_classes,
            # The built backbone, not its name: a saved model loads without a download.
            "backbone": keras.saving.serialize_keras_object(self.backbone),
            "image_shape": self.image_shape,
            "output_stride": self.output_stride,
            "attention": describe_attention(
                self.attention, self.head if self._given_head else None
            ),
            "frequencies": self.frequencies,
            "affinity": self.affinity and affinities.serialize(self.affinity),
            "recurrence": self.recurrence,
            "head_channels": self.head_channels,
            "dropout": self.dropout,
            "auxiliary_loss_weight": self.auxiliary_loss_weight,
            "align_corners": self.align_corners,
            "normalization": self.normalization,
            "auxiliary_channels": self.auxiliary_channels,
            "auxiliary_use_bias": self.auxiliary_use_bias,
            "low_level": self.low_level,
            "activation": self.activation,
            "class_names": self.class_names,
            "palette": self.palette,
            "num_heads": self.num_heads,
            **({"frozen": frozen} if frozen else {}),
            **(
                {"head": keras.saving.serialize_keras_object(self.head)} if self._given_head else {}
            ),
        }

    @classmethod
    def from_config(cls, config, custom_objects=None):
        config = dict(config)
        # Early files have NumPy's arrays in a list, the normalization.
        for name in ("backbone", "attention", "affinity", "dtype", "head", "normalization"):
            if isinstance(config.get(name), (dict, list)) and not in_head(config[name]):
                config[name] = keras.saving.deserialize_keras_object(
                    config[name], custom_objects=custom_objects
                )
        if attention := in_head(config.get("attention")):
            config["attention"] = config["head"].get_layer(attention)
        # A file's backbone is dilated already; 0.1.0 recorded 8 for any that it took as it came.
        output_stride, frozen = config.pop("output_stride", None), config.pop("frozen", {})
        model = cls(**config)
        model.output_stride = output_stride
        freeze(model, frozen)
        return model
