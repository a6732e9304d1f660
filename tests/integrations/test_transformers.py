"""The Trainer of Hugging Face transformers with every optimizer."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import varigrad
from tests.battery.table import every_optimizer
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

transformers = pytest.importorskip("transformers")
pytest.importorskip("accelerate", reason="the Trainer needs accelerate")

transformers.logging.set_verbosity_error()


class Regression(nn.Module):
    """A plain module, as the Trainer takes it: `forward` returns the loss."""

    def __init__(self):
        super().__init__()
        self.network = network()

    def forward(self, inputs, labels):
        return {"loss": nn.functional.mse_loss(self.network(inputs), labels)}


def samples():
    inputs, targets = loader().dataset.tensors
    return [{"inputs": row, "labels": target} for row, target in zip(inputs, targets, strict=True)]


def language_model():
    """Embeddings, norms, weights and biases; the output layer shares its weight with the embedding."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        shape = {"vocab_size": 16, "n_positions": 8, "n_embd": 8, "n_layer": 1, "n_head": 2}
        return transformers.GPT2LMHeadModel(transformers.GPT2Config(**shape, bos_token_id=0, eos_token_id=0))


def sentences():
    tokens = torch.randint(0, 16, (20, 8), generator=torch.Generator().manual_seed(1))
    return [{"input_ids": row, "labels": row} for row in tokens]


def trainer(folder, model, data, optimizer=None, optimizers=(None, None), **arguments):
    defaults = {
        "use_cpu": True,
        "per_device_train_batch_size": 4,
        "weight_decay": 0.1,
        "save_strategy": "no",
        "report_to": "none",
        "logging_steps": 1,
        "disable_tqdm": True,
        "dataloader_pin_memory": False,
    }
    return transformers.Trainer(
        model,
        transformers.TrainingArguments(str(folder), **{**defaults, **arguments}),
        train_dataset=data,
        optimizers=optimizers,
        optimizer_cls_and_kwargs=optimizer,
    )


def losses(run):
    return [entry["loss"] for entry in run.state.log_history if "loss" in entry]


def decaying_or_not(model):
    named = list(model.named_parameters())
    return [
        {"params": [param for name, param in named if name.endswith("weight")], "weight_decay": 0.1},
        {"params": [param for name, param in named if name.endswith("bias")], "weight_decay": 0.0},
    ]


IN_ORDER = {"train_sampling_strategy": "sequential", "per_device_train_batch_size": 16, "num_train_epochs": 2}


@pytest.mark.parametrize("accumulate", [1, 2])
@every_contender
def test_a_class_and_its_arguments_equal_the_plain_loop(make, accumulate, tmp_path):
    steps = 2 * -(-BATCHES // accumulate)
    run = trainer(
        tmp_path,
        Regression(),
        samples(),
        (make, {"lr": 1e-2}),
        gradient_accumulation_steps=accumulate,
        max_grad_norm=0.05,
        **IN_ORDER,
    )
    run.train()
    model, optimizer = plain_loop(
        make,
        2,
        accumulate=accumulate,
        lone_counts_wholly=True,
        clip=0.05,
        groups=decaying_or_not,
        schedule=lambda o: torch.optim.lr_scheduler.LambdaLR(o, lambda step: (steps - step) / steps),
    )
    assert run.state.global_step == steps
    assert same(run.model.parameters(), model.parameters())
    assert_same_state(run.optimizer, optimizer)


@every_contender
def test_an_optimizer_with_its_scheduler_equals_the_plain_loop(make, tmp_path):
    model = Regression()
    optimizer = make(groups(model.network), lr=1e-2)
    run = trainer(
        tmp_path, model, samples(), optimizers=(optimizer, halving(optimizer)), max_grad_norm=0.05, **IN_ORDER
    )
    run.train()
    expected, reference = plain_loop(make, 2, clip=0.05)
    assert same(model.parameters(), expected.parameters())
    assert_same_state(optimizer, reference)


@every_optimizer
def test_norms_and_biases_do_not_decay(row, tmp_path):
    """Only the groups of the Trainer decide: where the gradient is zero, decay is all that moves a weight."""
    model = language_model()
    for param in model.parameters():
        param.register_hook(torch.zeros_like)
        nn.init.constant_(param, 1.0)
    run = trainer(
        tmp_path, model, sentences(), (row.optimizer, {"lr": 1e-2}), max_steps=3, lr_scheduler_type="constant"
    )
    run.train()
    for name, param in model.named_parameters():
        expected = 1.0 if name.endswith("bias") or ".ln_" in name else (1 - 1e-2 * 0.1) ** 3
        torch.testing.assert_close(param, torch.full_like(param, expected), msg=name)


def assert_resumes(make, folder, **arguments):
    """Asserts it with shuffling, dropout, accumulation and clipping, from a checkpoint in the middle of an epoch."""
    arguments |= {"num_train_epochs": 3, "gradient_accumulation_steps": 2, "max_grad_norm": 0.5}
    optimizer = (make, {"lr": 1e-2})
    saving = {"save_strategy": "steps", "save_steps": 5}
    whole = trainer(folder, language_model(), sentences(), optimizer, **saving, **arguments)
    whole.train()
    assert whole.state.global_step == 9
    again = trainer(folder / "again", language_model(), sentences(), optimizer, **arguments)
    again.train(resume_from_checkpoint=str(folder / "checkpoint-5"))
    assert losses(again) == losses(whole)
    assert same(again.model.parameters(), whole.model.parameters())
    assert_same_state(again.optimizer, whole.optimizer)
    assert {state["step"].item() for state in again.optimizer.state.values()} == {9}


@every_contender
def test_resuming_equals_not_having_stopped(make, tmp_path):
    assert_resumes(make, tmp_path)


@pytest.mark.parametrize("make", [varigrad.VSGD, varigrad.AdaBayesFP, varigrad.MSVAG])
def test_resuming_in_bfloat16_equals_not_having_stopped(make, tmp_path):
    assert_resumes(make, tmp_path, bf16=True)


def test_the_rate_of_the_training_arguments_is_not_that_of_the_optimizer(tmp_path):
    """Why the page on trainers says to write it twice: the Trainer hands over nothing but the given arguments."""
    run = trainer(tmp_path, Regression(), samples(), (varigrad.VSGD, {}), learning_rate=0.123)
    assert {group["lr"] for group in run.create_optimizer().param_groups} == {1e-2}
