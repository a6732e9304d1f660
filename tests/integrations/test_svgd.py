"""SVGD in the trainers: it is made from the model, and its r must come back with a checkpoint."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
from torch import nn

import varigrad
from tests.integrations.training import BATCHES, halving, loader, network, same

lightning = pytest.importorskip("lightning.pytorch")
transformers = pytest.importorskip("transformers")
accelerate = pytest.importorskip("accelerate")

EPOCHS = 3


def plain(epochs: int = EPOCHS) -> tuple[nn.Module, varigrad.SVGD]:
    """What every trainer must come to."""
    model = network()
    optimizer = varigrad.SVGD(model, lr=1e-2)
    scheduler = halving(optimizer)
    for _ in range(epochs):
        for inputs, targets in loader():
            nn.functional.mse_loss(model(inputs), targets).backward()
            optimizer.step()
            scheduler.step()
            optimizer.zero_grad()
    return model, optimizer


def assert_as_plain(model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    expected, reference = plain()
    assert same(model.parameters(), expected.parameters())
    found, wanted = optimizer.state_dict()["virtual_gradients"], reference.state_dict()["virtual_gradients"]
    mine, yours = ([r for calls in each["squares"].values() for r in calls.values()] for each in (found, wanted))
    assert same(mine, yours)
    assert len(mine) == 2


class Module(lightning.LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.network = network()

    def training_step(self, batch, index):
        return nn.functional.mse_loss(self.network(batch[0]), batch[1])

    def configure_optimizers(self):
        optimizer = varigrad.SVGD(self.network, lr=1e-2)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": halving(optimizer), "interval": "step"}}


@pytest.mark.filterwarnings("ignore::lightning.pytorch.utilities.warnings.PossibleUserWarning")
@pytest.mark.filterwarnings("ignore:`isinstance.treespec, LeafSpec.` is deprecated")
def test_lightning_resumes_to_the_bit(tmp_path: Path) -> None:
    quiet = {"enable_progress_bar": False, "enable_model_summary": False, "logger": False}
    for epochs, resume in ((2, None), (EPOCHS, tmp_path / "two.ckpt")):
        module = Module()
        trainer = lightning.Trainer(accelerator="cpu", max_epochs=epochs, enable_checkpointing=False, **quiet)
        trainer.fit(module, loader(), ckpt_path=resume, weights_only=None if resume is None else True)
        trainer.save_checkpoint(tmp_path / "two.ckpt")
    assert_as_plain(module, trainer.optimizers[0])


class Regression(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.network = network()

    def forward(self, inputs, labels):
        return {"loss": nn.functional.mse_loss(self.network(inputs), labels)}


def test_transformers_resumes_to_the_bit(tmp_path: Path) -> None:
    inputs, targets = loader().dataset.tensors
    samples = [{"inputs": row, "labels": target} for row, target in zip(inputs, targets, strict=True)]
    for resume in (None, str(tmp_path / f"checkpoint-{2 * BATCHES}")):
        model = Regression()
        optimizer = varigrad.SVGD(model.network, lr=1e-2)
        arguments = transformers.TrainingArguments(
            str(tmp_path),
            use_cpu=True,
            per_device_train_batch_size=16,
            num_train_epochs=EPOCHS,
            train_sampling_strategy="sequential",
            max_grad_norm=0.0,
            save_strategy="epoch",
            report_to="none",
            disable_tqdm=True,
            dataloader_pin_memory=False,
        )
        optimizers = (optimizer, halving(optimizer))
        trainer = transformers.Trainer(model, arguments, train_dataset=samples, optimizers=optimizers)
        trainer.train(resume_from_checkpoint=resume)
        assert_as_plain(model, optimizer)


def test_accelerate_resumes_to_the_bit(tmp_path: Path) -> None:
    for epochs in (2, 1):
        accelerate.state.AcceleratorState._reset_state(reset_partial_state=True)
        accelerate.state.GradientState._reset_state()
        accelerator = accelerate.Accelerator(cpu=True)
        model = network()
        optimizer = varigrad.SVGD(model, lr=1e-2)
        parts = accelerator.prepare(model, optimizer, halving(optimizer), loader())
        if epochs == 1:
            accelerator.load_state(tmp_path)
        for _ in range(epochs):
            for inputs, targets in parts[3]:
                accelerator.backward(nn.functional.mse_loss(parts[0](inputs), targets))
                parts[1].step()
                parts[2].step()
                parts[1].zero_grad()
        accelerator.save_state(tmp_path)
    assert_as_plain(model, optimizer)


def test_a_state_dict_that_was_gathered_without_r_is_refused() -> None:
    _, optimizer = plain(1)
    gathered = {
        name: copy.deepcopy(part) for name, part in optimizer.state_dict().items() if name != "virtual_gradients"
    }
    with pytest.raises(ValueError, match=r"it has no virtual_gradients.*SVGD\.state_dict\(\) returns, in each process"):
        optimizer.load_state_dict(gathered)
