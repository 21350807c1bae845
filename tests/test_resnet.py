import keras
import numpy as np
import pytest

from keras_fsa import FsaNet
from keras_fsa.backbones.resnet import resnet
from tests.helpers import array, run_python


def features(model, x):
    return {name: array(y) for name, y in model(x).items()}


@pytest.mark.parametrize(("name", "output_strides"), [("resnet18", (8, 16)), ("resnet50", (8,))])
def test_dilated_features_are_the_strided_ones_at_more_positions(rng, name, output_strides):
    x = rng.standard_normal((1, 33, 65, 3)).astype("float32")
    strided = resnet(name, output_stride=32)
    coarse = features(strided, x)
    for output_stride in output_strides:
        dilated = resnet(name, output_stride=output_stride)
        dilated.set_weights(strided.get_weights())
        fine = features(dilated, x)
        for stage, stride in (("stage4", 16), ("stage5", 32)):
            step = max(1, stride // output_stride)
            size = tuple(-(-n // min(stride, output_stride)) for n in (33, 65))
            assert fine[stage].shape[1:3] == size
            np.testing.assert_allclose(
                fine[stage][:, ::step, ::step],
                coarse[stage],
                atol=1e-5 * np.abs(coarse[stage]).max(),
            )


@pytest.mark.parametrize("size", [(64, 65), (66, 67)])
def test_padding_is_even_at_every_size(rng, size):
    """As PyTorch pads, and the networks that ImageNet weights come from: alike on both sides."""
    import torch
    from torch.nn import functional

    model = resnet("resnet18", output_stride=32)
    x = rng.standard_normal((1, *size, 3)).astype("float32")

    def convolve(z, name, padding):
        kernel = torch.tensor(array(model.get_layer(name).kernel)).permute(3, 2, 0, 1)
        return functional.conv2d(z, kernel, stride=2, padding=padding)

    def output(name):
        return array(keras.Model(model.input, model.get_layer(name).output)(x))

    z = convolve(torch.tensor(x).permute(0, 3, 1, 2), "conv1_conv", 3) / (1 + 1.001e-5) ** 0.5
    z = functional.max_pool2d(functional.relu(z), 3, 2, 1)
    y = output("pool1_pool")
    np.testing.assert_allclose(y, z.permute(0, 2, 3, 1), atol=1e-5)
    z = torch.tensor(output("v2_stack_0_block2_out")).permute(0, 3, 1, 2)
    z = convolve(z, "v2_stack_1_block1_1_conv", 1)
    np.testing.assert_allclose(output("v2_stack_1_block1_1_conv"), z.permute(0, 2, 3, 1), atol=1e-4)


def test_resnet101_builds_offline_at_output_stride_8():
    model = FsaNet(19)
    backbone = model.backbone
    assert backbone.count_params() == 42_605_504
    for height, width in ((769, 769), (512, 1024), (97, 131)):
        pictures = (1, height, width, 3)
        assert model.compute_output_shape(pictures) == (1, height, width, 19)
        shapes = backbone.compute_output_shape(pictures)
        eighth = (-(-height // 8), -(-width // 8))
        assert shapes["stage4"] == (1, *eighth, 1024)
        assert shapes["stage5"] == (1, *eighth, 2048)


def test_wrong_names_and_strides():
    with pytest.raises(ValueError, match=r"`backbone` must be one of 'resnet18', .*Received: back"):
        resnet("resnet99")
    with pytest.raises(ValueError, match=r"`output_stride` must be one of 8, 16, 32\. Received: "):
        resnet("resnet18", output_stride=4)


def test_missing_keras_cv():
    code = """
import sys
sys.modules["keras_cv"] = None
import keras_fsa
try:
    keras_fsa.FsaNet(3, backbone="resnet18")
except ImportError as error:
    print(error)
"""
    assert 'pip install "keras_fsa[tensorflow]"' in run_python(code)
