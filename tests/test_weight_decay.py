"""param_groups: which parameters decay, for every kind of module and every way of wrapping one."""

import copy
import itertools
import warnings

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations, parametrize, prune

import varigrad


def split(model, weight_decay=0.1, **arguments):
    """The names of those that decay and of those that do not."""
    groups = varigrad.param_groups(model, weight_decay, **arguments)
    names = {group["weight_decay"]: [name for name, _ in group["params"]] for group in groups}
    assert len(names) == len(groups)
    every = list(itertools.chain.from_iterable(group["params"] for group in groups))
    expected = dict(model.named_parameters())
    assert len(every) == len(expected)
    assert all(expected[name] is param for name, param in every)
    for group in groups:  # in the model's order
        assert [name for name, _ in group["params"]] == [n for n in expected if n in {m for m, _ in group["params"]}]
    return set(names.get(weight_decay, [])), set(names.get(0.0, []))


class Residual(nn.Module):
    """A module that holds parameters of its own."""

    def __init__(self):
        super().__init__()
        self.class_token = nn.Parameter(torch.zeros(1, 1, 8))
        self.position = nn.Parameter(torch.zeros(1, 5, 8))
        self.gamma = nn.Parameter(torch.ones(8))
        self.temperature = nn.Parameter(torch.ones(()))
        self.experts = nn.Parameter(torch.zeros(3, 8, 8))
        self.linear = nn.Linear(8, 8)


class MyNorm(nn.Module):
    """A norm layer whose scale is a matrix, and which has a linear layer inside."""

    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(4, 4))
        self.inner = nn.Linear(4, 4)


# ---------------------------------------------------------------- every type of module


@pytest.mark.parametrize(
    "module",
    [
        nn.Linear(3, 1),
        nn.Linear(1, 1),
        nn.Bilinear(1, 1, 1),
        *(conv(1, 1, 1) for conv in (nn.Conv1d, nn.Conv2d, nn.Conv3d)),
        *(conv(1, 1, 1) for conv in (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)),
        nn.RNN(2, 1, num_layers=2, bidirectional=True),
        nn.LSTM(2, 3, proj_size=1),
        nn.GRU(1, 1),
        *(cell(1, 1) for cell in (nn.RNNCell, nn.LSTMCell, nn.GRUCell)),
        nn.MultiheadAttention(1, 1),
        nn.MultiheadAttention(4, 2, kdim=3, vdim=5, add_bias_kv=True),
        nn.TransformerDecoderLayer(4, 2, 8).linear1,
        nn.LazyLinear(3),
        nn.LazyConv2d(3, 1),
    ],
    ids=lambda module: type(module).__name__,
)
def test_weights_decay_and_biases_do_not(module):
    decaying, others = split(module)
    names = [name for name, _ in module.named_parameters()]
    assert decaying == {name for name in names if "weight" in name}
    assert others == {name for name in names if "bias" in name}
    assert decaying


@pytest.mark.parametrize(
    "module",
    [
        *(norm(4) for norm in (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)),
        *(norm(4, affine=True) for norm in (nn.InstanceNorm1d, nn.InstanceNorm2d, nn.InstanceNorm3d)),
        nn.LayerNorm((4, 5)),
        nn.GroupNorm(2, 4),
        nn.RMSNorm((4, 5)),
        nn.Embedding(5, 4),
        nn.EmbeddingBag(5, 4),
        nn.PReLU(4),
        nn.LazyBatchNorm2d(),
        nn.LazyInstanceNorm2d(affine=True),
    ],
    ids=lambda module: type(module).__name__,
)
def test_norms_embeddings_and_slopes_do_not_decay(module):
    decaying, others = split(module)
    assert not decaying
    assert others == {name for name, _ in module.named_parameters()}


def test_no_module_of_torch_is_told_by_the_shape_of_a_weight():
    """Whatever torch.nn has, with all dimensions 1: were it told by shape, no weight would decay."""
    made = 0
    for name in dir(nn):
        kind = getattr(nn, name)
        if not (isinstance(kind, type) and issubclass(kind, nn.Module)) or "Lazy" in name:
            continue
        for arguments in ((1, 1, 1), (1, 1), (1,), ()):
            try:
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")
                    module = kind(*arguments)
            except Exception:
                continue
            if own := [attribute for attribute, _ in module.named_parameters(recurse=False)]:
                decaying, _ = split(module)
                still = {"Norm", "Embedding", "PReLU"}
                weights = set() if any(word in name for word in still) else {a for a in own if "weight" in a}
                assert decaying & set(own) == weights, name
                made += 1
            break
    assert made > 20


def test_a_layer_without_parameters_is_no_trouble():
    assert split(nn.Sequential(nn.LocalResponseNorm(2), nn.Linear(2, 2, bias=False))) == ({"1.weight"}, set())


def test_a_transformer():
    decaying, others = split(nn.TransformerEncoderLayer(4, 2, 8))
    weights = {"self_attn.in_proj_weight", "self_attn.out_proj.weight", "linear1.weight", "linear2.weight"}
    assert decaying == weights
    assert {"norm1.weight", "self_attn.in_proj_bias", "self_attn.out_proj.bias"} <= others


# ---------------------------------------------------------------- parameters of modules of one's own


def test_bare_parameters_are_told_by_their_shape():
    decaying, others = split(Residual())
    assert decaying == {"position", "experts", "linear.weight"}
    assert others == {"class_token", "gamma", "temperature", "linear.bias"}


def test_parameters_in_lists_and_dictionaries_are_told_by_their_shape():
    model = nn.Module()
    model.listed = nn.ParameterList([torch.zeros(2, 2), torch.zeros(2)])
    model.keyed = nn.ParameterDict({"weight": torch.zeros(2), "bias": torch.zeros(2, 2)})
    assert split(model) == ({"listed.0", "keyed.bias"}, {"listed.1", "keyed.weight"})


def test_what_a_subclass_adds_is_told_by_its_shape():
    class Adapted(nn.Linear):
        def __init__(self):
            super().__init__(3, 1)
            self.lora_a = nn.Parameter(torch.zeros(2, 3))
            self.weight_scale = nn.Parameter(torch.ones(3))

    assert split(Adapted()) == ({"weight", "lora_a"}, {"bias", "weight_scale"})


def test_further_types_are_taken_with_what_is_inside_them():
    model = nn.Sequential(nn.Linear(4, 4), MyNorm())
    assert split(model)[0] == {"0.weight", "1.scale", "1.inner.weight"}
    assert split(model, no_decay=(MyNorm,))[0] == {"0.weight"}
    assert split(model, no_decay=[nn.Linear])[0] == {"1.scale"}
    assert split(model, no_decay={nn.Module}) == (set(), {name for name, _ in model.named_parameters()})


def test_single_parameters_can_be_named():
    model = Residual()
    assert split(model, no_decay=[model.position])[0] == {"experts", "linear.weight"}


# ---------------------------------------------------------------- sharing, freezing, wrapping


@pytest.mark.parametrize("embedding_first", [True, False])
def test_an_embedding_that_is_also_the_output_layer_does_not_decay(embedding_first):
    embedding, head = nn.Embedding(7, 4), nn.Linear(4, 7, bias=False)
    head.weight = embedding.weight
    model = nn.Sequential(*(embedding, nn.Linear(4, 4), head)[:: 1 if embedding_first else -1])
    assert split(model) == ({"1.weight"}, {"0.weight", "1.bias"})


def test_a_weight_that_two_linear_layers_share_decays_once():
    one, two = nn.Linear(3, 3), nn.Linear(3, 3)
    two.weight = one.weight
    assert split(nn.Sequential(one, two, one)) == ({"0.weight"}, {"0.bias", "1.bias"})


def test_frozen_parameters_stay_in_their_group():
    model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    thawed = split(model)
    model[0].requires_grad_(False)
    assert split(model) == thawed
    optimizer = varigrad.VSGD(varigrad.param_groups(model, 0.5), lr=0.1)
    before = copy.deepcopy(model[0].state_dict())
    for step in range(2):
        model(torch.ones(1, 2)).sum().backward()
        optimizer.step()
        assert torch.equal(model[0].weight, before["weight"]) == (step == 0)
        model[0].requires_grad_(True)
        optimizer.zero_grad()


@pytest.mark.parametrize("norm", [parametrizations.weight_norm, parametrizations.spectral_norm])
def test_what_stands_behind_a_parametrized_weight_is_that_weight(norm):
    decaying, others = split(nn.Sequential(norm(nn.Linear(3, 1)), norm(nn.Conv2d(2, 2, 1))))
    assert others == {"0.bias", "1.bias"}
    assert all(".parametrizations.weight.original" in name for name in decaying)
    assert len(decaying) == (4 if norm is parametrizations.weight_norm else 2)


def test_a_parametrized_bias_norm_or_slope_does_not_decay():
    class Matrix(nn.Module):
        def forward(self, square):
            return square.sum(0)

        def right_inverse(self, vector):
            return torch.stack([vector, torch.zeros_like(vector)])

    linear = nn.Linear(3, 2)
    parametrize.register_parametrization(linear, "bias", Matrix())
    others = [nn.LayerNorm(4), nn.RMSNorm(4), nn.GroupNorm(2, 4), nn.BatchNorm1d(4), nn.PReLU(4)]
    for module in others:
        parametrize.register_parametrization(module, "weight", Matrix())
        assert module.parametrizations.weight.original.dim() == 2
    assert split(nn.Sequential(linear, *others))[0] == {"0.weight"}


def test_the_parameters_of_a_parametrization_are_its_own():
    class Scaled(nn.Module):
        def __init__(self):
            super().__init__()
            self.scale = nn.Parameter(torch.ones(2, 2))

        def forward(self, weight):
            return weight @ self.scale

    linear = nn.Linear(2, 3)
    parametrize.register_parametrization(linear, "weight", Scaled())
    assert split(linear)[0] == {"parametrizations.weight.0.scale", "parametrizations.weight.original"}


@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_the_older_norms_and_pruning_are_known():
    old = nn.utils.weight_norm(nn.Linear(3, 1))
    spectral = nn.utils.spectral_norm(nn.Linear(1, 3))
    pruned = nn.LSTM(1, 1)
    prune.l1_unstructured(pruned, "weight_hh_l0", 1)
    prune.l1_unstructured(pruned, "bias_hh_l0", 1)
    decaying, _ = split(nn.Sequential(old, spectral, pruned))
    assert decaying == {"0.weight_g", "0.weight_v", "1.weight_orig", "2.weight_ih_l0", "2.weight_hh_l0_orig"}


def network():
    return nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3), nn.Sequential(nn.Linear(3, 1)))


def test_a_compiled_model_is_split_as_the_model():
    decaying, others = split(torch.compile(network()))
    assert (decaying, others) == tuple({f"_orig_mod.{name}" for name in names} for names in split(network()))


def test_a_wrapped_model_is_split_as_the_model():
    """As DistributedDataParallel and DataParallel wrap it."""
    decaying, others = split(nn.DataParallel(network()))
    assert (decaying, others) == tuple({f"module.{name}" for name in names} for names in split(network()))


def test_an_averaged_model_is_split_as_the_model():
    decaying, _ = split(torch.optim.swa_utils.AveragedModel(network()))
    assert decaying == {"module.0.weight", "module.2.0.weight"}


def test_a_lazy_model_can_be_split_before_it_has_shapes():
    model = nn.Sequential(nn.LazyLinear(3), nn.LazyBatchNorm1d(), nn.LazyLinear(1))
    before = split(model)
    optimizer = varigrad.VSGD(varigrad.param_groups(model, 0.1), lr=0.1)
    model(torch.randn(4, 2)).sum().backward()
    assert split(model) == before == ({"0.weight", "2.weight"}, {"0.bias", "1.weight", "1.bias", "2.bias"})
    optimizer.step()
    assert len(optimizer.state) == 6


def test_a_quantization_aware_model_is_split_as_the_model():
    model = network().train()
    model.qconfig = torch.ao.quantization.get_default_qat_qconfig("fbgemm")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        prepared = torch.ao.quantization.prepare_qat(model)
    assert type(prepared[0]) is not nn.Linear
    assert split(prepared) == split(network())


# ---------------------------------------------------------------- what optimizers make of it


@pytest.mark.parametrize("kind", [varigrad.VSGD, varigrad.MSVAG, torch.optim.AdamW, torch.optim.SGD])
def test_any_optimizer_takes_the_groups_and_remembers_the_names(kind):
    optimizer = kind(varigrad.param_groups(network(), 0.1), lr=1e-2)
    saved = optimizer.state_dict()["param_groups"]
    assert [group["weight_decay"] for group in saved] == [0.1, 0.0]
    assert [group["param_names"] for group in saved] == [
        ["0.weight", "2.0.weight"],
        ["0.bias", "1.weight", "1.bias", "2.0.bias"],
    ]
    other = kind(varigrad.param_groups(network(), 0.5), lr=1e-2)
    other.load_state_dict(optimizer.state_dict())
    assert other.param_groups[0]["weight_decay"] == 0.1


def test_a_decay_of_zero_keeps_the_groups_apart():
    groups = varigrad.param_groups(network(), 0)
    assert [len(group["params"]) for group in groups] == [2, 4]


def test_a_group_that_would_be_empty_is_left_out():
    assert len(varigrad.param_groups(nn.Linear(2, 2, bias=False), 0.1)) == 1
    assert varigrad.param_groups(nn.LayerNorm(2), 0.1)[0]["weight_decay"] == 0.0
    varigrad.VSGD(varigrad.param_groups(nn.LayerNorm(2), 0.1))


# ---------------------------------------------------------------- what is refused


@pytest.mark.parametrize(
    ("model", "arguments", "error", "message"),
    [
        (network().parameters(), {}, TypeError, "model must be a torch.nn.Module, not generator"),
        (nn.ReLU(), {}, ValueError, "model has no parameters"),
        (network(), {"weight_decay": -0.1}, ValueError, "weight_decay = -0.1 is not accepted"),
        (network(), {"weight_decay": float("nan")}, ValueError, "weight_decay = nan is not accepted"),
        (network(), {"weight_decay": "0.1"}, TypeError, "weight_decay = '0.1' is not accepted"),
        (network(), {"no_decay": MyNorm}, TypeError, "no_decay = .*MyNorm.* is not accepted: it must be an iterable"),
        (network(), {"no_decay": "bias"}, TypeError, "no_decay = 'bias' is not accepted"),
        (network(), {"no_decay": ["bias"]}, TypeError, "no_decay holds 'bias'"),
        (network(), {"no_decay": [int]}, TypeError, "no_decay holds <class 'int'>"),
        (network(), {"no_decay": [MyNorm]}, ValueError, "no_decay names MyNorm, but the model has no module of it"),
        (network(), {"no_decay": [torch.zeros(2, 3)]}, ValueError, r"shape \(2, 3\) that is no parameter of the model"),
    ],
)
def test_a_wrong_argument_is_refused(model, arguments, error, message):
    with pytest.raises(error, match=message):
        varigrad.param_groups(model, **{"weight_decay": 0.1, **arguments})


def test_a_bare_parameter_without_a_shape_is_refused_unless_it_is_named():
    model = nn.Module()
    model.lazy = nn.UninitializedParameter()
    with pytest.raises(ValueError, match="the parameter lazy has no shape yet"):
        varigrad.param_groups(model, 0.1)
    assert split(model, no_decay=[model.lazy]) == (set(), {"lazy"})


def test_a_flattened_parameter_is_refused():
    """FSDP makes one of all parameters of a module unless use_orig_params=True."""
    flat_param = pytest.importorskip("torch.distributed.fsdp._flat_param")
    model = nn.Module()
    model._flat_param = flat_param.FlatParameter(torch.zeros(10))
    with pytest.raises(ValueError, match="flattened parameter _flat_param"):
        varigrad.param_groups(model, 0.1)


# ---------------------------------------------------------------- matrices


def test_matrices_are_told_from_the_rest_in_either_group():
    model = nn.Sequential(nn.Embedding(9, 4), nn.Linear(4, 6), nn.LayerNorm(6), nn.Linear(6, 4), nn.Linear(4, 9))
    groups = varigrad.param_groups(model, 0.1, no_decay=[model[3].weight], matrices=True)
    assert [(group["weight_decay"], group["matrices"], [name for name, _ in group["params"]]) for group in groups] == [
        (0.1, True, ["1.weight"]),
        (0.1, False, ["4.weight"]),
        (0.0, True, ["3.weight"]),
        (0.0, False, ["0.weight", "1.bias", "2.weight", "2.bias", "3.bias", "4.bias"]),
    ]
    assert len(varigrad.AdaptiveMuon(groups).param_groups) == 4
    with pytest.raises(TypeError, match="param_groups's matrices = 1 is not accepted"):
        varigrad.param_groups(model, 0.1, matrices=1)
