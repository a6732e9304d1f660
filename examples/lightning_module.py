"""Trains a Lightning module with VSGD and prints how much of each layer's gradient is signal."""

import logging

import lightning.pytorch as lightning
import torch
from sklearn.datasets import load_digits
from torch.utils.data import DataLoader, TensorDataset

import varigrad
from varigrad.integrations.lightning import GradientNoise


class Digits(lightning.LightningModule):
    def __init__(self):
        super().__init__()
        self.hidden = torch.nn.Linear(64, 64)
        self.output = torch.nn.Linear(64, 10)

    def forward(self, inputs):
        return self.output(self.hidden(inputs).relu())

    def training_step(self, batch, index):
        inputs, targets = batch
        return torch.nn.functional.cross_entropy(self(inputs), targets)

    def test_step(self, batch, index):
        inputs, targets = batch
        self.log("accuracy", (self(inputs).argmax(1) == targets).float().mean())

    def configure_optimizers(self):
        optimizer = varigrad.VSGD(self.parameters(), lr=1e-2)  # was: torch.optim.AdamW(self.parameters(), lr=1e-2)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, self.trainer.estimated_stepping_batches)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
lightning.seed_everything(0, verbose=False)
digits = load_digits()
data = TensorDataset(torch.tensor(digits.data, dtype=torch.float32) / 16, torch.tensor(digits.target))
trainer = lightning.Trainer(
    max_epochs=10,
    accelerator="cpu",
    accumulate_grad_batches=2,  # what the two have in common is signal
    callbacks=[GradientNoise(every_n_steps=235)],
    logger=False,
    enable_checkpointing=False,
    enable_progress_bar=False,
    enable_model_summary=False,
)
module = Digits()
trainer.fit(module, DataLoader(torch.utils.data.Subset(data, range(1500)), batch_size=16, shuffle=True))
for name, ratio in trainer.callback_metrics.items():
    print(f"{name}: {ratio:.2f}")
trainer.test(module, DataLoader(torch.utils.data.Subset(data, range(1500, len(data))), batch_size=300), verbose=False)
print(f"accuracy on digits it has not seen: {trainer.callback_metrics['accuracy']:.1%}")
