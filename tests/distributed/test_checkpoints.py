"""Distributed checkpoints: training goes on as if it had not stopped, on as many ranks as there are then."""

from __future__ import annotations

import os
from collections.abc import Collection
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed.checkpoint as dcp
from torch import Tensor, distributed, nn
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_model_state_dict,
    get_optimizer_state_dict,
    get_state_dict,
    set_model_state_dict,
    set_optimizer_state_dict,
    set_state_dict,
)
from torch.distributed.tensor import DTensor, distribute_tensor

import varigrad

from .processes import launch
from .test_fsdp import groups, sharded
from .training import OPTIMIZERS, network, train

BFLOAT16 = torch.bfloat16
FLAT = StateDictOptions(flatten_optimizer_state_dict=True)
NESTED = StateDictOptions()

SETTINGS: dict[str, tuple[torch.dtype, dict[str, Any], StateDictOptions]] = {
    "float64": (torch.float64, {}, FLAT),
    "stochastic": (BFLOAT16, {}, NESTED),
    "kahan": (BFLOAT16, {"rounding": "kahan"}, FLAT),
    "bfloat16 state": (BFLOAT16, {"state_dtype": BFLOAT16}, NESTED),
}
CASES = [(make, name) for make in OPTIMIZERS for name in SETTINGS if make is not torch.optim.AdamW or name == "float64"]
Runs = dict[str, tuple[nn.Module, torch.optim.Optimizer]]


def feed(params: Any, step: int) -> None:
    """Gives each parameter its part of a gradient that depends on the step only, not on the number of ranks."""
    generator = torch.Generator().manual_seed(step)
    for param in params:
        grad = torch.randn(param.shape, generator=generator, dtype=torch.float64).to(param.dtype)
        if isinstance(param, DTensor):
            grad = distribute_tensor(grad, param.device_mesh, param.placements, src_data_rank=None)
        param.grad = grad


def advance(model: nn.Module, optimizer: torch.optim.Optimizer, steps: range) -> None:
    for step in steps:
        feed(model.parameters(), step)
        optimizer.step()
        optimizer.zero_grad()


def made(make: type[torch.optim.Optimizer], name: str, whole: bool = False) -> tuple[nn.Module, torch.optim.Optimizer]:
    """A network, in parts unless it is wanted whole, and its optimizer."""
    dtype, settings, _ = SETTINGS[name]
    model = network(dtype) if whole else sharded(network(dtype))
    return model, make(groups(model), lr=1e-2, **settings)


def contents(model: nn.Module, optimizer: torch.optim.Optimizer, options: StateDictOptions) -> dict[str, Any]:
    model_state, optimizer_state = get_state_dict(model, optimizer, options=options)
    return {"model": model_state, "optimizer": optimizer_state}


def save(folder: Path, runs: Runs) -> None:
    """Saves several runs in one checkpoint, which takes hardly longer than one of them."""
    dcp.save({key: contents(*run, options_of(key)) for key, run in runs.items()}, checkpoint_id=folder)


def load(folder: Path, runs: Runs, **arguments: Any) -> None:
    held = {key: contents(*run, options_of(key)) for key, run in runs.items()}
    dcp.load(held, checkpoint_id=folder, **arguments)
    for key, (model, optimizer) in runs.items():
        states = {"model_state_dict": held[key]["model"], "optim_state_dict": held[key]["optimizer"]}
        set_state_dict(model, optimizer, **states, options=options_of(key))


def options_of(key: str) -> StateDictOptions:
    return SETTINGS[key.partition(" ")[2]][2]


def all_made(whole: bool = False, names: Collection[str] = SETTINGS) -> Runs:
    return {f"{make.__name__} {name}": made(make, name, whole) for make, name in CASES if name in names}


def here(tensor: Tensor, like: Tensor) -> Tensor:
    """The part of a tensor, whole or not, that this rank has of another."""
    if not isinstance(like, DTensor):
        return tensor
    if not isinstance(tensor, DTensor):
        tensor = distribute_tensor(tensor, like.device_mesh, like.placements, src_data_rank=None)
    assert tensor.placements == like.placements
    return tensor.to_local()


def nearly(one: Tensor, other: Tensor) -> bool:
    return torch.allclose(one, other, rtol=1e-12, atol=1e-14)


def assert_same(
    one: tuple[nn.Module, torch.optim.Optimizer], other: tuple[nn.Module, torch.optim.Optimizer], what: object
) -> None:
    """Asserts that parameters, states and settings are equal, to the bit and in their types."""
    # Its statistics are sums of numbers, which in float64 depend on their order in the last digit.
    same = nearly if what == "AdaptiveMuon float64" else torch.equal
    for (name, mine), yours in zip(one[0].named_parameters(), other[0].parameters(), strict=True):
        assert same(here(mine.detach(), yours), here(yours.detach(), yours)), (what, name)
        states = one[1].state[mine], other[1].state[yours]
        assert states[0].keys() == states[1].keys(), (what, name)
        for key in states[0]:
            a, b = (here(state[key], states[1][key]) for state in states)
            assert a.dtype is b.dtype, (what, name, key)
            assert same(a, b), (what, name, key)
    for mine, yours in zip(one[1].param_groups, other[1].param_groups, strict=True):
        settings = [{key: value for key, value in group.items() if key != "params"} for group in (mine, yours)]
        assert settings[0] == settings[1], (what, settings)
        assert [type(settings[0][key]) for key in settings[0]] == [type(settings[1][key]) for key in settings[0]], what


# ---------------------------------------------------------------- saved on two ranks, loaded on any number


def check_saving(folder: Path) -> None:
    runs = all_made()
    for run in runs.values():
        advance(*run, range(3))
    save(folder, runs)


def check_loading(folder: Path, names: Collection[str]) -> None:
    runs = all_made(distributed.get_world_size() == 1, names)
    load(folder, runs)
    for (key, resumed), unbroken in zip(runs.items(), all_made(True, names).values(), strict=True):
        advance(*resumed, range(3, 6))
        advance(*unbroken, range(6))
        assert_same(unbroken, resumed, key)


def test_training_goes_on_to_the_bit_on_another_number_of_ranks(tmp_path):
    """Every optimizer, with the settings, the dtypes and the places that it had; also what is rounded at random."""
    launch(check_saving, 2, tmp_path)
    # Four processes are slow on two cores: they load what has the most to go wrong.
    for ranks, names in ((2, list(SETTINGS)), (1, list(SETTINGS)), (4, ["bfloat16 state"])):
        launch(check_loading, ranks, tmp_path, names)


# ---------------------------------------------------------------- no gradient yet


def check_fresh(folder: Path) -> None:
    saved, resumed = all_made(), all_made()
    save(folder, saved)
    load(folder, resumed)
    for key, never_saved in all_made(whole=True).items():
        if key.startswith("AdamW"):
            continue  # keeps the step of zeros that torch takes before it saves
        for one in (saved[key], resumed[key], never_saved):
            advance(*one, range(3))
        assert_same(never_saved, saved[key], key)
        assert_same(never_saved, resumed[key], key)


@pytest.mark.filterwarnings("error")
def test_an_optimizer_that_has_not_stepped_can_be_saved(tmp_path):
    launch(check_fresh, 2, tmp_path)


def check_late(folder: Path) -> None:
    for name in SETTINGS:
        # Whoever asks for the state before the first step has all of it saved, also what has had no gradient.
        for asked_first, arguments in (
            (True, {}),
            (False, {"planner": dcp.DefaultLoadPlanner(allow_partial_load=True)}),
        ):
            saved, unbroken, resumed = (made(varigrad.VSGD, name) for _ in range(3))
            if asked_first:
                get_optimizer_state_dict(*saved)
            for model, optimizer in (saved, unbroken):
                for step in range(2):
                    feed(list(model.parameters())[:2], step)
                    optimizer.step()
                    optimizer.zero_grad()
            save(folder / name / str(asked_first), {f"VSGD {name}": saved})
            load(folder / name / str(asked_first), {f"VSGD {name}": resumed}, **arguments)
            for run in (unbroken, resumed):
                advance(*run, range(2, 4))
            assert_same(unbroken, resumed, (name, asked_first))


def test_a_parameter_may_have_its_first_gradient_after_the_checkpoint(tmp_path):
    launch(check_late, 2, tmp_path)


# ---------------------------------------------------------------- whole state dicts


def check_whole_state_dicts(folder: Path) -> None:
    gather = StateDictOptions(full_state_dict=True, cpu_offload=True)
    spread = StateDictOptions(full_state_dict=True, broadcast_from_rank0=True)
    first = distributed.get_rank() == 0
    for make, name in CASES:
        if make in (varigrad.SSD, torch.optim.AdamW):
            continue  # torch cannot deal out a state that is nothing but the step, and leaves AdamW's pair a list
        unbroken, resumed = made(make, name), made(make, name)
        advance(*unbroken, range(3))
        held = contents(*unbroken, gather)
        if first:
            torch.save(held, folder / "whole.pt")
            held = torch.load(folder / "whole.pt", weights_only=True)
            states = held["optimizer"]["state"].values()
            assert not any(isinstance(value, DTensor) for state in states for value in state.values())
        # One after the other: set_state_dict takes an empty dictionary for the wish to leave the model as it is.
        set_model_state_dict(resumed[0], held["model"] if first else {}, options=spread)
        set_optimizer_state_dict(*resumed, held["optimizer"] if first else {}, options=spread)
        for one in (unbroken, resumed):
            advance(*one, range(3, 6))
        assert_same(unbroken, resumed, (make, name))


def test_a_whole_state_dict_is_gathered_and_dealt_out_again(tmp_path):
    launch(check_whole_state_dicts, 2, tmp_path)


# ---------------------------------------------------------------- around a training run


def check_async(folder: Path) -> None:
    for make, name in CASES[:4]:
        unbroken, resumed = made(make, name), made(make, name)
        advance(*unbroken, range(3))
        key = f"{make.__name__} {name}"
        saving = dcp.async_save({key: contents(*unbroken, options_of(key))}, checkpoint_id=folder / name)
        advance(*unbroken, range(3, 6))  # meanwhile
        saving.result()
        load(folder / name, {key: resumed})
        advance(*resumed, range(3, 6))
        assert_same(unbroken, resumed, (make, name))


def test_what_is_saved_in_the_background_is_the_state_of_that_moment(tmp_path):
    launch(check_async, 2, tmp_path)


def trained(model: nn.Module, optimizer: torch.optim.Optimizer, steps: range) -> None:
    train(model, optimizer, steps, shared=True, dtype=BFLOAT16)


def check_killed(folder: Path) -> None:
    model, optimizer = made(varigrad.VSGD, "bfloat16 state")
    trained(model, optimizer, range(3))
    save(folder, {"VSGD bfloat16 state": (model, optimizer)})
    trained(model, optimizer, range(3, 4))
    if distributed.get_rank() == 1:
        os._exit(9)
    trained(model, optimizer, range(4, 5))


def check_started_anew(folder: Path) -> None:
    resumed, unbroken = made(varigrad.VSGD, "bfloat16 state"), made(varigrad.VSGD, "bfloat16 state")
    load(folder, {"VSGD bfloat16 state": resumed})
    trained(*resumed, range(3, 6))
    trained(*unbroken, range(6))
    assert_same(unbroken, resumed, "started anew")


def test_ranks_that_were_killed_go_on_from_their_checkpoint_to_the_bit(tmp_path):
    with pytest.raises(AssertionError, match="rank 1 of 2: it ended without an answer"):
        launch(check_killed, 2, tmp_path)
    launch(check_started_anew, 2, tmp_path)


def check_refusal() -> None:
    model, optimizer = made(varigrad.VSGD, "float64")
    advance(model, optimizer, range(1))
    held = get_optimizer_state_dict(model, optimizer)
    other = varigrad.MSVAG(groups(model), lr=1e-2)
    message = ""
    try:
        set_optimizer_state_dict(model, other, optim_state_dict=held)
    except ValueError as error:
        message = str(error)
    assert "the state dict is not MSVAG's" in message, message
    assert get_model_state_dict(model)


def test_the_state_of_another_optimizer_is_refused():
    launch(check_refusal, 2)
