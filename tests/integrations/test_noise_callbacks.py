"""The monitor inside Lightning's and transformers' trainers: it sees every step, and training is what it was."""

from __future__ import annotations

import logging

import pytest
import torch
from torch import nn

import varigrad
from tests.integrations.training import BATCHES, groups, loader, network, same
from varigrad.lab.noise.records import read

EPOCHS = 4
LOOKS = list(range(5, BATCHES * EPOCHS + 1, 5))


def samples():
    inputs, targets = loader().dataset.tensors
    return [{"inputs": row, "labels": target} for row, target in zip(inputs, targets, strict=True)]


@pytest.mark.filterwarnings(
    "ignore::lightning.pytorch.utilities.warnings.PossibleUserWarning",
    "ignore:`isinstance.treespec, LeafSpec.` is deprecated",
)
def test_lightning(tmp_path):
    lightning = pytest.importorskip("lightning.pytorch")
    from varigrad.integrations.lightning import NoiseMonitorCallback

    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)

    class Module(lightning.LightningModule):
        def __init__(self):
            super().__init__()
            self.network = network()

        def training_step(self, batch, index):
            inputs, targets = batch
            return nn.functional.mse_loss(self.network(inputs), targets)

        def configure_optimizers(self):
            return varigrad.VSGD(groups(self.network), lr=1e-2)

    class Logged(lightning.loggers.logger.DummyLogger):
        def __init__(self):
            super().__init__()
            self.metrics = {}

        def log_metrics(self, metrics, step=None):
            self.metrics.setdefault(step, {}).update(metrics)

    def fit(*callbacks, logger=False):
        module = Module()
        trainer = lightning.Trainer(
            max_epochs=EPOCHS,
            accelerator="cpu",
            devices=1,
            logger=logger,
            callbacks=list(callbacks),
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
        )
        trainer.fit(module, loader())
        return module

    logged = Logged()
    callback = NoiseMonitorCallback(every=5, batch_size=16, folder=tmp_path)
    watched = fit(callback, logger=logged)
    records = read(tmp_path)
    assert [record.step for record in records] == LOOKS
    assert list(records[0].layers) == ["network.0", "network.2"]
    assert {step for step, metrics in logged.metrics.items() if "noise/snr" in metrics} == set(LOOKS)
    assert same(watched.parameters(), fit().parameters())
    assert callback.monitor._hooks == []


def test_transformers(tmp_path):
    transformers = pytest.importorskip("transformers")
    pytest.importorskip("accelerate", reason="the Trainer needs accelerate")
    from varigrad.integrations.transformers import NoiseMonitorCallback

    class Regression(nn.Module):
        def __init__(self):
            super().__init__()
            self.network = network()

        def forward(self, inputs, labels):
            return {"loss": nn.functional.mse_loss(self.network(inputs), labels)}

    def fit(*callbacks):
        model = Regression()
        arguments = transformers.TrainingArguments(
            str(tmp_path),
            use_cpu=True,
            per_device_train_batch_size=8,
            gradient_accumulation_steps=2,
            num_train_epochs=EPOCHS,
            save_strategy="no",
            report_to="none",
            disable_tqdm=True,
            dataloader_pin_memory=False,
        )
        optimizer = varigrad.VSGD(model.parameters(), lr=1e-2)
        transformers.Trainer(
            model,
            arguments,
            train_dataset=samples(),
            optimizers=(optimizer, None),
            callbacks=list(callbacks),
        ).train()
        return model

    watched = fit(NoiseMonitorCallback(every=5))
    records = read(tmp_path)
    assert [record.step for record in records] == LOOKS
    assert {record.batch_size for record in records} == {16.0}
    assert list(records[0].layers) == ["network.0", "network.2"]
    assert same(watched.parameters(), fit().parameters())
    assert torch.isfinite(next(watched.parameters())).all()
