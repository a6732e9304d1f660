"""Every layer that can be tapped, in every way it is built and called: what the tests of taps run over."""

import re
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor, nn


class Attention(nn.Module):
    """An attention that gives its output alone; one input stands for query, key and value, two for key and value."""

    def __init__(self, need_weights: bool, **arguments) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(8, 2, **arguments)
        self.need_weights = need_weights

    def forward(self, *inputs: Tensor) -> Tensor:
        query, key, value = inputs[0], inputs[min(1, len(inputs) - 1)], inputs[-1]
        return self.attention(query, key, value, need_weights=self.need_weights)[0]


def _linears() -> Iterator[tuple[str, nn.Module, list[Tensor]]]:
    yield "linear", nn.Linear(5, 7), [torch.randn(4, 5)]
    yield "linear-nobias", nn.Linear(5, 7, bias=False), [torch.randn(4, 5)]
    yield "linear-3d", nn.Linear(5, 7), [torch.randn(4, 3, 5)]
    yield "linear-3d-nobias", nn.Linear(5, 7, bias=False), [torch.randn(4, 3, 5)]
    yield "linear-4d", nn.Linear(5, 7), [torch.randn(4, 2, 3, 5)]
    yield "linear-strided", nn.Linear(5, 7), [torch.randn(4, 5, 3).transpose(1, 2)]
    yield "linear-strided-nobias", nn.Linear(5, 7, bias=False), [torch.randn(4, 5, 3).transpose(1, 2)]
    yield "linear-one-sample", nn.Linear(5, 7), [torch.randn(5)]


def _convolutions() -> Iterator[tuple[str, nn.Module, list[Tensor]]]:
    kinds = ((nn.Conv1d, nn.ConvTranspose1d), (nn.Conv2d, nn.ConvTranspose2d), (nn.Conv3d, nn.ConvTranspose3d))
    for dims, (conv, transposed) in enumerate(kinds, 1):
        space = (9, 8, 7)[:dims]
        x, one = torch.randn(2, 4, *space), torch.randn(4, *space)
        name, back = f"conv{dims}d", f"convtranspose{dims}d"
        yield name, conv(4, 6, 3), [x]
        yield f"{name}-all", conv(4, 6, 3, stride=2, padding=1, dilation=2, groups=2), [x]
        yield f"{name}-depthwise-nobias", conv(4, 8, 3, groups=4, bias=False), [x]
        yield f"{name}-same", conv(4, 6, 3, padding="same", bias=False), [x]
        yield f"{name}-same-even", conv(4, 6, 4, padding="same"), [x]
        yield f"{name}-valid", conv(4, 6, 3, padding="valid"), [x]
        yield f"{name}-circular", conv(4, 6, 3, padding=1, padding_mode="circular"), [x]
        yield f"{name}-replicate", conv(4, 6, 3, padding=1, padding_mode="replicate"), [x]
        yield f"{name}-one-sample", conv(4, 6, 3), [one]
        yield back, transposed(4, 6, 3), [x]
        yield f"{back}-all", transposed(4, 6, 3, stride=2, padding=1, output_padding=1, groups=2), [x]
        yield f"{back}-one-sample", transposed(4, 6, 3, bias=False), [one]
    yield "conv2d-reflect", nn.Conv2d(4, 6, 3, padding=1, padding_mode="reflect"), [torch.randn(2, 4, 6, 6)]
    inplace = nn.Sequential(nn.Conv2d(4, 6, 3), nn.ReLU(inplace=True), nn.Conv2d(6, 2, 3)).to(
        memory_format=torch.channels_last
    )
    yield "conv2d-channels-last-inplace-relu", inplace, [torch.randn(2, 4, 6, 6)]


def _embeddings() -> Iterator[tuple[str, nn.Module, list[Tensor]]]:
    words = torch.tensor([[1, 10, 3], [1, 1, 0]])
    yield "embedding", nn.Embedding(11, 4), [words]
    yield "embedding-padding", nn.Embedding(11, 4, padding_idx=-1), [words]
    yield "embedding-frequency", nn.Embedding(11, 4, scale_grad_by_freq=True), [words]
    yield "embedding-max-norm", nn.Embedding(11, 4, max_norm=0.5), [words]
    yield "embedding-one-word", nn.Embedding(11, 4), [torch.tensor(3)]


def _attentions() -> Iterator[tuple[str, nn.Module, list[Tensor]]]:
    long, short = torch.randn(5, 3, 8), torch.randn(4, 3, 8)
    for weights in (True, False):
        end = "-weights" if weights else ""
        yield f"attention{end}", Attention(weights), [long]
        yield f"attention-batch-first{end}", Attention(weights, batch_first=True), [long]
        yield f"attention-encoder-decoder{end}", Attention(weights), [long, short]
        yield f"attention-query-key-value{end}", Attention(weights), [long, short, torch.randn(4, 3, 8)]
        yield f"attention-one-sample{end}", Attention(weights), [torch.randn(5, 8)]
        dims = Attention(weights, kdim=6, vdim=4, bias=False)
        yield f"attention-other-dims{end}", dims, [long, torch.randn(4, 3, 6), torch.randn(4, 3, 4)]
        yield f"attention-extra-biases{end}", Attention(weights, add_bias_kv=True, add_zero_attn=True), [long]
    batch = torch.randn(3, 5, 8)
    yield "encoder", nn.TransformerEncoderLayer(8, 2, 16, dropout=0.0, batch_first=True), [batch]
    yield "encoder-norm-first", nn.TransformerEncoderLayer(8, 2, 16, dropout=0.0, norm_first=True), [batch]
    transformer = nn.Transformer(8, 2, 1, 1, 16, dropout=0.0, batch_first=True)
    yield "transformer", transformer, [batch, torch.randn(3, 4, 8)]


def _norms() -> Iterator[tuple[str, nn.Module, list[Tensor]]]:
    images = torch.randn(4, 6, 3, 3)
    yield "layernorm", nn.LayerNorm(5), [torch.randn(4, 5)]
    yield "layernorm-2d", nn.LayerNorm((3, 5)), [torch.randn(4, 3, 5)]
    yield "layernorm-nobias-one-sample", nn.LayerNorm(5, bias=False), [torch.randn(5)]
    yield "rmsnorm", nn.RMSNorm(5), [torch.randn(4, 3, 5)]
    yield "groupnorm", nn.GroupNorm(2, 6), [images]
    yield "batchnorm1d", nn.BatchNorm1d(5), [torch.randn(4, 5)]
    yield "batchnorm1d-3d", nn.BatchNorm1d(5), [torch.randn(4, 5, 3)]
    yield "batchnorm2d", nn.BatchNorm2d(6), [images]
    yield "batchnorm2d-eval", nn.BatchNorm2d(6).eval(), [images]
    yield "batchnorm2d-no-statistics", nn.BatchNorm2d(6, track_running_stats=False), [images]
    yield "instancenorm2d", nn.InstanceNorm2d(6, affine=True), [images]
    yield "instancenorm2d-statistics", nn.InstanceNorm2d(6, affine=True, track_running_stats=True), [images]
    yield "instancenorm1d-one-sample", nn.InstanceNorm1d(4, affine=True), [torch.randn(4, 3)]


def _cases(*kinds) -> list:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return [pytest.param(model, inputs, id=name) for kind in kinds for name, model, inputs in kind()]


WEIGHTED = _cases(_linears, _convolutions, _embeddings, _attentions)
NORMS = _cases(_norms)

# Those in which one sample is a slice of the input, and what a sample does is its own affair.
_OTHERWISE = re.compile("one-|frequency|encoder-norm-first|attention(?!-batch)")
every_layer_with_samples_first = pytest.mark.parametrize(
    ("model", "inputs"), [case for case in WEIGHTED if not _OTHERWISE.search(case.id)]
)
every_layer = pytest.mark.parametrize(("model", "inputs"), [*WEIGHTED, *NORMS])


def gradients(model: nn.Module, inputs: list[Tensor]) -> dict[str, Tensor]:
    """The output, and the gradients of some loss by all inputs and parameters, by name."""
    model.zero_grad()
    leaves = [x.detach().clone().requires_grad_(x.is_floating_point()) for x in inputs]
    output = model(*leaves)
    direction = torch.randn(output.shape, dtype=output.dtype, generator=torch.Generator().manual_seed(1))
    (output * direction).sum().backward()
    found = {"output": output.detach()}
    found |= {f"input {i}": x.grad for i, x in enumerate(leaves) if x.grad is not None}
    return found | {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
