"""The networks are the papers': the number of parameters, what goes in and what comes out, the first weights."""

import itertools
import math

import pytest
import torch
from torch import nn

from varigrad.lab.models.char_lstm import CharLSTM
from varigrad.lab.models.convnet import convnet
from varigrad.lab.models.gpt import GPT
from varigrad.lab.models.initial import between_fans
from varigrad.lab.models.mlp import mlp
from varigrad.lab.models.small_resnet import PreactivationBlock, small_resnet
from varigrad.lab.models.vgg6 import vgg6
from varigrad.lab.tasks import TASKS

# As the papers have them, or counted from their authors' programs.
PARAMETERS = {
    "mnist-mlp": 245_482,
    "mnist-mlp4": 239_146,
    "mnist-logreg": 7_850,
    "mnist-convmixer": 2_266,
    "cifar100-convmixer-small": 34_084,
    "cifar10-vgg6": 46_126,
    "cifar10-resnet20": 269_722,
    "fashion-2c2d": 3_274_634,
    "mnist-2c2d": 3_274_634,
    "cifar10-3c3d": 895_210,
    "cifar100-wrn40-4": 8_972_340,
    "cifar10-resnet34": 21_282_122,
    "cifar100-resnet34": 21_328_292,
    "cifar10-densenet121": 6_956_298,
    "cifar100-densenet121": 7_048_548,
    "cifar100-vgg16": 14_774_436,
    "cifar100-convmixer": 617_316,
    "cifar100-resnext18": 11_086_756,
    "tiny-imagenet-vgg19": 20_137_992,
    "tiny-imagenet-convmixer": 643_016,
    "tiny-imagenet-resnext18": 11_189_256,
    "imagenet-resnet50": 25_557_032,
    "warpeace-lstm": 285_523,
    "warpeace-gpt": 812_160,
    "hilbert": 10,
    "ripples": 1,
    **{
        f"sqp-{spectrum}-{axes}-{noise}": 100
        for spectrum in ("mild", "ill")
        for axes in ("aligned", "rotated")
        for noise in ("0", "0.1", "4")
    },
}


def parameters(model: nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())


@pytest.mark.parametrize(("name", "count"), PARAMETERS.items())
def test_the_number_of_parameters_is_the_papers(name: str, count: int) -> None:
    with torch.device("meta"):  # nothing is drawn or stored
        assert parameters(TASKS[name].model()) == count


def test_every_task_is_counted() -> None:
    assert set(TASKS) - set(PARAMETERS) == {"digits", "cifar10-cnn"}  # counted below


@pytest.mark.parametrize(
    "name", [name for name in PARAMETERS if name.startswith(("mnist", "cifar", "tiny", "imagenet"))]
)
def test_images_give_a_score_for_every_class(name: str) -> None:
    channels = 1 if name.startswith("mnist") else 3
    size = {"mnist": 28, "tiny": 64, "imagenet": 224}.get(name.split("-")[0], 32)
    classes = {"cifar100": 100, "tiny": 200, "imagenet": 1000}.get(name.split("-")[0], 10)
    with torch.device("meta"):
        assert TASKS[name].model()(torch.zeros(2, channels, size, size)).shape == (2, classes)


def test_the_mlp_of_the_svgd_paper() -> None:
    model = TASKS["mnist-mlp"].model()
    kinds = [type(layer).__name__ for layer in model]
    assert kinds == ["Flatten", *["Linear", "BatchNorm1d", "ReLU"] * 4, "Linear"]
    assert all(layer.bias is not None for layer in model if isinstance(layer, nn.Linear))


def test_the_digits_mlp() -> None:
    assert parameters(TASKS["digits"].model()) == (64 * 64 + 64) + (64 * 32 + 32) + (32 * 10 + 10)
    assert mlp(64, 64, 32, 10)(torch.zeros(7, 1, 8, 8)).shape == (7, 10)


def test_the_convnet() -> None:
    widths = [3, 24, 48, 96, 192]
    convolutions = sum(9 * inputs * outputs for inputs, outputs in itertools.pairwise(widths))
    assert parameters(TASKS["cifar10-cnn"].model()) == convolutions + 2 * sum(widths[1:]) + 192 * 10 + 10
    assert convnet(4, 8, classes=3)(torch.zeros(2, 3, 32, 32)).shape == (2, 3)


def test_pooling_halves_and_rounds_up() -> None:
    """Areas of 3x3 with stride 2, TensorFlow's borders: 28, 14, 7 and 28, 14, 6, 3 as the lines' sizes need it."""
    shapes = []
    model = TASKS["cifar10-3c3d"].model()
    x = torch.zeros(1, 3, 32, 32)
    for layer in model:
        x = layer(x)
        if isinstance(layer, nn.MaxPool2d):
            shapes.append(x.shape[-1])
    assert shapes == [14, 6, 3]
    assert [layer(torch.zeros(1, 16, 32, 32)).shape[-1] for layer in vgg6() if isinstance(layer, nn.MaxPool2d)] == [
        16,
        16,
    ]


def test_the_first_weights_of_the_svgd_networks() -> None:
    """Standard deviation √(2/(in + out)) before the cut at two of them, which leaves 0.8796 of it; biases 0."""
    torch.manual_seed(0)
    layer = nn.Linear(400, 300)
    between_fans(nn.Sequential(layer))
    std = math.sqrt(2 / 700)
    assert layer.weight.abs().max() <= 2 * std
    assert layer.weight.std().item() == pytest.approx(0.8796 * std, rel=0.01)
    assert not layer.bias.any()
    convolution = next(layer for layer in small_resnet(1).modules() if isinstance(layer, nn.Conv2d))
    assert convolution.weight.abs().max() > 2 * math.sqrt(2 / (9 * 19))  # the kernel's size does not count


def test_a_shortcut_pools_and_pads_with_zeros() -> None:
    block = PreactivationBlock(2, 4)
    nn.init.zeros_(block.second.weight)
    x = torch.randn(1, 2, 4, 4)
    shortcut = block(x)
    assert shortcut.shape == (1, 4, 2, 2)
    assert torch.equal(shortcut[:, 1:3], nn.functional.avg_pool2d(x, 2))
    assert not shortcut[:, [0, 3]].any()


def test_the_lstm_goes_on_where_it_was() -> None:
    model = CharLSTM(7, rows=3, width=8).eval()
    text = torch.randint(7, (3, 12))
    with torch.no_grad():
        whole = model(text)
        model.forget()
        parts = torch.cat([model(text[:, :5]), model(text[:, 5:])], dim=1)
    assert torch.allclose(whole, parts, atol=1e-6)
    with torch.no_grad():
        again = model(text)
    assert not torch.allclose(whole, again, atol=1e-6)
    other = CharLSTM(7, rows=3, width=8).eval()
    other.load_state_dict(model.state_dict())
    with torch.no_grad():
        assert torch.equal(other(text), model(text))  # what it remembers is saved with it


def test_the_lstm_goes_on_under_autocast() -> None:
    torch.manual_seed(0)
    model = CharLSTM(11, rows=3, width=8)
    symbols = torch.randint(11, (3, 5))
    with torch.autocast("cpu", torch.bfloat16):
        first, second = model(symbols), model(symbols)
    assert not torch.equal(first, second)
    assert model.hidden.dtype is model.cell.dtype is torch.float32


def test_the_transformer_does_not_see_what_comes() -> None:
    model = GPT(7, context=10, width=8, heads=2, depth=2)
    text = torch.randint(7, (2, 10))
    changed = text.clone()
    changed[:, 6:] = (changed[:, 6:] + 1) % 7
    one, other = model(text), model(changed)
    assert torch.allclose(one[:, :6], other[:, :6], atol=1e-6)
    assert not torch.allclose(one[:, 6:], other[:, 6:], atol=1e-6)
