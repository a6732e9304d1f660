"""Accelerate's loop with every optimizer."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from tests.integrations.training import (
    BATCHES,
    assert_same_state,
    every_contender,
    groups,
    halving,
    loader,
    network,
    plain_loop,
    same,
)

accelerate = pytest.importorskip("accelerate")


@pytest.fixture(autouse=True)
def fresh():
    """Accelerate keeps its settings in singletons."""
    accelerate.state.AcceleratorState._reset_state(reset_partial_state=True)
    accelerate.state.GradientState._reset_state()
    yield
    accelerate.state.AcceleratorState._reset_state(reset_partial_state=True)
    accelerate.state.GradientState._reset_state()


def prepared(make, **arguments):
    accelerator = accelerate.Accelerator(cpu=True, **arguments)
    model = network()
    optimizer = make(groups(model), lr=1e-2)
    return accelerator, accelerator.prepare(model, optimizer, halving(optimizer), loader())


def train(accelerator, model, optimizer, scheduler, batches, epochs, clip=None):
    values = []
    for _ in range(epochs):
        for inputs, targets in batches:
            with accelerator.accumulate(model):
                loss = nn.functional.mse_loss(model(inputs), targets)
                values.append(loss.item())
                accelerator.backward(loss)
                if clip is not None and accelerator.sync_gradients:
                    assert accelerator.clip_grad_norm_(model.parameters(), clip) > clip
                optimizer.step()
                scheduler.step()
                optimizer.zero_grad()
    return values


@pytest.mark.parametrize("accumulate", [1, 2])
@every_contender
def test_training_equals_the_plain_loop(make, accumulate):
    accelerator, parts = prepared(make, gradient_accumulation_steps=accumulate)
    train(accelerator, *parts, epochs=2, clip=0.05)
    model, optimizer = plain_loop(make, 2, accumulate=accumulate, clip=0.05)
    assert same(parts[0].parameters(), model.parameters())
    assert_same_state(parts[1], optimizer)


@pytest.mark.parametrize("precision", ["no", "bf16"])
@every_contender
def test_resuming_equals_not_having_stopped(make, precision, tmp_path):
    accelerator, parts = prepared(make, gradient_accumulation_steps=2, mixed_precision=precision)
    train(accelerator, *parts, epochs=2)
    accelerator.save_state(tmp_path)
    later = train(accelerator, *parts, epochs=2)

    accelerator, again = prepared(make, gradient_accumulation_steps=2, mixed_precision=precision)
    accelerator.load_state(tmp_path)
    assert train(accelerator, *again, epochs=2) == later
    assert same(again[0].parameters(), parts[0].parameters())
    assert_same_state(again[1], parts[1])
    assert {state["step"].item() for state in again[1].state.values()} == {12}


@every_contender
def test_an_optimizer_that_has_stepped_is_prepared_unchanged(make):
    """Preparing loads the optimizer's own state into itself, moved to the device."""
    model, optimizer = plain_loop(make, 1)
    before = copy.deepcopy(optimizer)
    accelerator = accelerate.Accelerator(cpu=True)
    _, wrapped = accelerator.prepare(model, optimizer)
    assert_same_state(wrapped, before)
    assert wrapped.optimizer is optimizer
    assert wrapped.defaults == before.defaults


@every_contender
def test_step_hooks_run_where_a_step_is_taken(make):
    accelerator, parts = prepared(make, gradient_accumulation_steps=2)
    calls = []
    parts[1].optimizer.register_step_pre_hook(lambda *_: calls.append("before"))
    parts[1].optimizer.register_step_post_hook(lambda *_: calls.append("after"))
    train(accelerator, *parts, epochs=1)
    assert calls == ["before", "after"] * 3


@every_contender
def test_a_step_that_the_gradient_scaler_skips_changes_nothing(make):
    """Accelerate replaces `step` by a function of its own while the scaler steps."""
    model = network()
    optimizer = make(groups(model), lr=1e-2)
    accelerate.Accelerator(cpu=True)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**10)
    wrapped = accelerate.optimizer.AcceleratedOptimizer(optimizer, scaler=scaler)
    skipped = []
    for number, (inputs, targets) in enumerate(loader()):
        loss = nn.functional.mse_loss(model(inputs), targets)
        scaler.scale(loss * float("inf") if number == 1 else loss).backward()
        wrapped.step()
        wrapped.zero_grad()
        skipped.append(wrapped.step_was_skipped)
    assert skipped == [number == 1 for number in range(BATCHES)]
    for state in optimizer.state.values():
        assert state["step"] == BATCHES - 1
        assert all(value.isfinite().all() for value in state.values())
