"""param_groups: which parameters of a model decay, told by the type of module that holds them."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import Any

from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase  # of every BatchNorm and InstanceNorm
from torch.nn.modules.conv import _ConvNd
from torch.nn.parameter import UninitializedParameter
from torch.nn.utils.parametrize import ParametrizationList

from .engine.hyperparameters import Interval, Switch
from .matrices import inner_matrices

__all__ = ["param_groups"]

EXEMPT: tuple[type[nn.Module], ...] = (
    *(_NormBase, nn.LayerNorm, nn.GroupNorm, nn.RMSNorm, nn.LocalResponseNorm),
    *(nn.Embedding, nn.EmbeddingBag),
    nn.PReLU,
)
"""Modules none of whose parameters decays: norm layers, embeddings, and the slope of an activation."""

# The old weight_norm and spectral_norm, and pruning, store a weight under such a name.
SUFFIX = "(_g|_v|_orig)?"
RECURRENT = rf"_(ih|hh|hr)(_l\d+)?(_reverse)?{SUFFIX}"
WEIGHTS_AND_BIASES: tuple[tuple[tuple[type[nn.Module], ...], str, str], ...] = (
    ((nn.Linear, nn.Bilinear, _ConvNd), f"weight{SUFFIX}", f"bias{SUFFIX}"),
    ((nn.RNNBase, nn.RNNCellBase), f"weight{RECURRENT}", f"bias{RECURRENT}"),
    ((nn.MultiheadAttention,), f"(in|q|k|v)_proj_weight{SUFFIX}", f"(in_proj_bias|bias_k|bias_v){SUFFIX}"),
)
"""Modules whose weights decay and whose biases do not, with the names that they give to either."""


def param_groups(
    model: nn.Module,
    weight_decay: float,
    *,
    no_decay: Iterable[type[nn.Module] | Tensor] = (),
    matrices: bool = False,
) -> list[dict[str, Any]]:
    r"""Splits the parameters of a model into those that decay and those that do not.

    Weight decay is meant for what multiplies activations. Which parameters those are is told by the type of module that
    holds them, subclasses included:

        decay       the weights of Linear, Bilinear, Conv*, ConvTranspose*, RNN, LSTM, GRU, their cells, and
                    MultiheadAttention
        no decay    their biases; all parameters of BatchNorm*, SyncBatchNorm, InstanceNorm*, LayerNorm, GroupNorm,
                    RMSNorm, Embedding, EmbeddingBag and PReLU; whatever `no_decay` names
        by shape    all others, such as a bare `nn.Parameter` of a module of your own: it decays if it has at least two
                    dimensions larger than 1. A class token, a scale or a bias does not, the weight of a layer of your
                    own does, and so does a positional embedding, which you may want to name in `no_decay`

    A parameter that several modules share does not decay if one of them says so: the embedding that is also the output
    layer of a language model does not. Under a parametrization (weight_norm, spectral_norm, ...) and under pruning the
    tensors behind a weight are treated as that weight. Frozen parameters are taken in, too: an optimizer skips them,
    and neither changes nor decays them, until they get a gradient.

    Args:
        model: The model; compiled, wrapped for data parallelism, or with lazy modules, whose parameters have no shape
            yet, but not flattened (FSDP with `use_orig_params=False`). Call it before wrapping by FSDP.
        weight_decay: The decay of those that decay, in [0, ∞).
        no_decay: Further module types whose parameters, those of modules inside them included, do not decay; or
            parameters that do not.
        matrices: Whether the groups are for `AdaptiveMuon`: each of the two is split further, into the matrices inside
            the network and the rest, with `matrices` True and False.

    Returns:
        At most two parameter groups for any optimizer, or four with `matrices`: first those that decay, then the others
        with a `weight_decay` of 0; a group that would be empty is left out. Each holds (name, parameter) pairs in the
        order and with the names of `model.named_parameters()`, so that a state dict says which is which. Every
        parameter is in one group.

    Raises:
        TypeError: If an argument has the wrong type.
        ValueError: If `weight_decay` is out of range, the model has no parameters or flattened ones, it has nothing
            that `no_decay` names, or a parameter that would be told by its shape has none yet.

    Example:
        >>> import torch, varigrad
        >>> model = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.LayerNorm(8), torch.nn.Linear(8, 2))
        >>> groups = varigrad.param_groups(model, weight_decay=0.1)
        >>> [(group["weight_decay"], [name for name, _ in group["params"]]) for group in groups]
        [(0.1, ['0.weight', '2.weight']), (0.0, ['0.bias', '1.weight', '1.bias', '2.bias'])]
        >>> optimizer = varigrad.VSGD(groups, lr=1e-2)
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"param_groups's model must be a torch.nn.Module, not {type(model).__name__}")
    Interval().check("param_groups's weight_decay", weight_decay)
    Switch().check("param_groups's matrices", matrices)
    named: list[tuple[str, Tensor]] = list(model.named_parameters())
    if not named:
        raise ValueError("param_groups's model has no parameters")
    for name, param in named:
        if getattr(param, "_is_flat_param", False):
            raise ValueError(
                f"param_groups cannot tell what decays inside the flattened parameter {name}: group the parameters "
                "before wrapping the model, with use_orig_params=True, or use fully_shard"
            )
    exempt = {*_named_by(no_decay, model)}
    names = {id(param): name for name, param in named}
    for module, attribute, param in _held(model):
        if id(param) not in exempt and not _decays(module, attribute, param, names[id(param)]):
            exempt.add(id(param))
    decaying = [(name, param) for name, param in named if id(param) not in exempt]
    others = [(name, param) for name, param in named if id(param) in exempt]
    groups: list[dict[str, Any]] = [
        {"params": decaying, "weight_decay": weight_decay},
        {"params": others, "weight_decay": 0.0},
    ]
    if matrices:
        inner = {id(matrix) for matrix in inner_matrices(model)}
        groups = [
            {
                **group,
                "params": [pair for pair in group["params"] if (id(pair[1]) in inner) is inside],
                "matrices": inside,
            }
            for group in groups
            for inside in (True, False)
        ]
    return [group for group in groups if group["params"]]


def _named_by(no_decay: Iterable[type[nn.Module] | Tensor], model: nn.Module) -> Iterator[int]:
    """Yields the identities of the parameters that `no_decay` names."""
    expected = "an iterable of types of module and parameters of the model"
    if not isinstance(no_decay, Iterable) or isinstance(no_decay, (str, Tensor, nn.Module)):
        raise TypeError(f"param_groups's no_decay = {no_decay!r} is not accepted: it must be {expected}")
    every = {id(param) for param in model.parameters()}
    for item in no_decay:
        if isinstance(item, Tensor):
            if id(item) not in every:
                raise ValueError(
                    f"param_groups's no_decay has a tensor of shape {tuple(item.shape)} that is no parameter of the "
                    "model"
                )
            yield id(item)
        elif isinstance(item, type) and issubclass(item, nn.Module):
            modules = [module for module in model.modules() if isinstance(module, item)]
            if not modules:
                raise ValueError(f"param_groups's no_decay names {item.__name__}, but the model has no module of it")
            yield from (id(param) for module in modules for param in module.parameters())
        else:
            raise TypeError(f"param_groups's no_decay holds {item!r}, which is not accepted: it must be {expected}")


def _held(model: nn.Module) -> Iterator[tuple[nn.Module, str, Tensor]]:
    """Yields every parameter with each module that holds it and the name that it has there."""
    for module in model.modules():
        if isinstance(module, ParametrizationList):
            continue
        for name, param in module.named_parameters(recurse=False, remove_duplicate=False):
            yield module, name, param
        for name, originals in getattr(module, "parametrizations", {}).items():
            for _, param in originals.named_parameters(recurse=False, remove_duplicate=False):
                yield module, name, param


def _decays(module: nn.Module, attribute: str, param: Tensor, name: str) -> bool:
    """Whether a parameter decays, as far as one of the modules that hold it is concerned."""
    if isinstance(module, EXEMPT):
        return False
    for kinds, weight, bias in WEIGHTS_AND_BIASES:
        if isinstance(module, kinds):
            if re.fullmatch(weight, attribute):
                return True
            if re.fullmatch(bias, attribute):
                return False
    if isinstance(param, UninitializedParameter):
        raise ValueError(
            f"the parameter {name} has no shape yet, by which param_groups would tell whether it decays: run the model "
            "once before, or name it in no_decay"
        )
    return sum(size > 1 for size in param.shape) >= 2
