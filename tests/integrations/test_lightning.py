"""Lightning's Trainer, its precisions and its callbacks with every optimizer."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest
import torch
from torch import nn

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

lightning = pytest.importorskip("lightning.pytorch")

pytestmark = pytest.mark.filterwarnings(
    "ignore::lightning.pytorch.utilities.warnings.PossibleUserWarning",
    "ignore:`isinstance.treespec, LeafSpec.` is deprecated",
    "ignore:SWA is currently only supported every epoch",
    "ignore:Be aware that when using `ckpt_path`",
)
logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)


class Automatic(lightning.LightningModule):
    def __init__(self, make, **settings):
        super().__init__()
        self.network = network()
        self.make, self.settings = make, settings
        self.values = []

    def training_step(self, batch, index):
        inputs, targets = batch
        loss = nn.functional.mse_loss(self.network(inputs), targets)
        self.log("loss", loss)
        self.values.append(loss.item())
        return loss

    def configure_optimizers(self):
        optimizer = self.make(groups(self.network), lr=1e-2, **self.settings)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": halving(optimizer), "interval": "step"}}


class Manual(Automatic):
    def __init__(self, make, **settings):
        super().__init__(make, **settings)
        self.automatic_optimization = False

    def training_step(self, batch, index):
        optimizer = self.optimizers()
        loss = super().training_step(batch, index)
        optimizer.zero_grad()
        self.manual_backward(loss)
        self.clip_gradients(optimizer, gradient_clip_val=0.05, gradient_clip_algorithm="norm")
        optimizer.step()
        self.lr_schedulers().step()


def trainer(epochs, folder=None, **arguments):
    quiet = {"enable_progress_bar": False, "enable_model_summary": False, "logger": False, "barebones": False}
    return lightning.Trainer(
        accelerator="cpu",
        max_epochs=epochs,
        **{**quiet, "enable_checkpointing": False, "default_root_dir": folder, **arguments},
    )


def fit(module, epochs, resume=None, **arguments):
    run = trainer(epochs, **arguments)
    run.fit(module, loader(), ckpt_path=resume, weights_only=None if resume is None else True)
    return run


@every_contender
def test_training_equals_the_plain_loop(make):
    module = Automatic(make)
    run = fit(module, 2)
    model, optimizer = plain_loop(make, 2)
    assert same(module.parameters(), model.parameters())
    assert_same_state(run.optimizers[0], optimizer)


@every_contender
def test_clipped_and_accumulated_gradients_equal_the_plain_loop(make):
    module = Automatic(make)
    run = fit(module, 2, accumulate_grad_batches=2, gradient_clip_val=0.05)
    model, optimizer = plain_loop(make, 2, accumulate=2, clip=0.05)
    assert same(module.parameters(), model.parameters())
    assert_same_state(run.optimizers[0], optimizer)
    assert run.global_step == 6


@every_contender
def test_manual_optimization_equals_the_plain_loop(make):
    module = Manual(make)
    run = fit(module, 2)
    model, optimizer = plain_loop(make, 2, clip=0.05)
    assert same(module.parameters(), model.parameters())
    assert_same_state(run.optimizers[0], optimizer)


def assert_resumes(kind, make, folder: Path, **arguments):
    """Asserts that stopping after two of four epochs and going on from the file changes no bit."""
    whole = kind(make)
    uninterrupted = fit(whole, 4, **arguments)
    first = fit(kind(make), 2, **arguments)
    first.save_checkpoint(folder / "half.ckpt")
    second = kind(make)
    resumed = fit(second, 4, resume=folder / "half.ckpt", **arguments)
    assert resumed.global_step == uninterrupted.global_step > first.global_step
    assert second.values == whole.values[len(whole.values) // 2 :]
    assert same(second.parameters(), whole.parameters())
    assert_same_state(resumed.optimizers[0], uninterrupted.optimizers[0])


@every_contender
def test_resuming_equals_not_having_stopped(make, tmp_path):
    assert_resumes(Automatic, make, tmp_path, gradient_clip_val=0.05, accumulate_grad_batches=2)


@every_contender
def test_resuming_manual_optimization_equals_not_having_stopped(make, tmp_path):
    assert_resumes(Manual, make, tmp_path)


class Double(Automatic):
    """Lightning loads a checkpoint before it converts the module: weights of float64 need a module of float64."""

    def __init__(self, make, **settings):
        super().__init__(make, **settings)
        self.network.double()


PRECISIONS = {"bf16-mixed": Automatic, "bf16-true": Automatic, "16-true": Automatic, "64-true": Double}


@pytest.mark.parametrize("precision", PRECISIONS)
@every_contender
def test_resuming_in_a_precision_equals_not_having_stopped(make, precision, tmp_path):
    assert_resumes(PRECISIONS[precision], make, tmp_path, precision=precision)


@pytest.mark.parametrize("precision", ["bf16-true", "16-true"])
@every_optimizer
def test_statistics_stay_float32_through_a_checkpoint_of_low_precision(row, precision, tmp_path):
    first = fit(Automatic(row.optimizer), 1, precision=precision)
    first.save_checkpoint(tmp_path / "one.ckpt")
    second = fit(Automatic(row.optimizer), 2, resume=tmp_path / "one.ckpt", precision=precision)
    for state in second.optimizers[0].state.values():
        assert state["step"] == 2 * BATCHES
        assert {value.dtype for value in state.values()} == {torch.float32}


# ---------------------------------------------------------------- float16 with a gradient scaler


class Overflowing(Automatic):
    """The loss of the second batch is too large for float16."""

    def training_step(self, batch, index):
        loss = super().training_step(batch, index)
        return loss * float("inf") if index == 1 else loss


@every_contender
def test_a_step_that_the_gradient_scaler_skips_changes_nothing(make):
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**10)
    mixed = lightning.plugins.MixedPrecision("16-mixed", "cpu", scaler=scaler)
    module = Overflowing(make)
    run = fit(module, 1, plugins=mixed, gradient_clip_val=0.05)
    for state in run.optimizers[0].state.values():
        assert state["step"] == BATCHES - 1
        assert all(value.isfinite().all() for value in state.values())
    assert scaler.get_scale() == 2.0**9


# ---------------------------------------------------------------- Lightning's own callbacks


class Trail(lightning.Callback):
    """Records the weights before every epoch and after every step."""

    def __init__(self):
        self.epochs, self.steps, self.rates = [], [], []

    @staticmethod
    def weights(module):
        return [param.detach().clone() for param in module.network.parameters()]

    def on_train_epoch_start(self, trainer, module):
        self.epochs.append(self.weights(module))

    def on_train_batch_end(self, trainer, module, *_):
        self.steps.append(self.weights(module))
        self.rates.append([group["lr"] for group in trainer.optimizers[0].param_groups])


@every_contender
def test_learning_rate_monitor_reads_rate_and_decay(make, tmp_path):
    monitor = lightning.callbacks.LearningRateMonitor("step", log_weight_decay=True)
    logger = lightning.loggers.CSVLogger(tmp_path)
    fit(Automatic(make), 1, logger=logger, callbacks=[monitor], log_every_n_steps=1)
    first, second = f"lr-{make.__name__}/pg1", f"lr-{make.__name__}/pg2"
    assert monitor.lrs == {
        first: pytest.approx([1e-2 / k for k in range(1, BATCHES + 1)]),
        second: pytest.approx([3e-3 / k for k in range(1, BATCHES + 1)]),
    }
    default = 0.01 if make is torch.optim.AdamW else 0.0
    assert monitor.last_weight_decay_values == {f"{first}-weight_decay": 0.1, f"{second}-weight_decay": default}
    logger.save()
    assert len(Path(logger.log_dir, "metrics.csv").read_text().splitlines()) > BATCHES


def defaults(make):
    return make([torch.zeros(1, requires_grad=True)]).defaults


@pytest.mark.filterwarnings("ignore:You have set log_momentum:RuntimeWarning")
@every_contender
def test_learning_rate_monitor_reads_the_momentum(make, tmp_path):
    monitor = lightning.callbacks.LearningRateMonitor("step", log_momentum=True)
    fit(Automatic(make), 1, logger=lightning.loggers.CSVLogger(tmp_path), callbacks=[monitor], log_every_n_steps=1)
    # What has a single beta has the group's `momentum` for schedulers to write to, which is True until then.
    momentum = 0.9 if "betas" in defaults(make) else int("beta" in defaults(make))
    assert set(monitor.last_momentum_values.values()) == {momentum}


@every_contender
def test_a_file_of_model_checkpoint_resumes(make, tmp_path):
    keep = lightning.callbacks.ModelCheckpoint(
        tmp_path, "{step}", monitor="loss", save_top_k=-1, every_n_train_steps=BATCHES
    )
    whole, second = Automatic(make), Automatic(make)
    uninterrupted = fit(whole, 3, callbacks=[keep], enable_checkpointing=True)
    resumed = fit(second, 3, resume=tmp_path / f"step={2 * BATCHES}.ckpt")
    assert len(second.values) == BATCHES
    assert same(second.parameters(), whole.parameters())
    assert_same_state(resumed.optimizers[0], uninterrupted.optimizers[0])


@every_contender
def test_stochastic_weight_averaging_averages_and_sets_the_rate(make):
    trail = Trail()
    average = lightning.callbacks.StochasticWeightAveraging([0.02, 0.03], swa_epoch_start=2, annealing_epochs=1)
    module = Automatic(make)
    run = fit(module, 4, callbacks=[trail, average])
    mean = [torch.stack(weights).double().mean(0) for weights in zip(*trail.epochs[1:], strict=True)]
    for param, expected in zip(module.network.parameters(), mean, strict=True):
        torch.testing.assert_close(param.detach().double(), expected, rtol=1e-6, atol=1e-7)
    assert [group["lr"] for group in run.optimizers[0].param_groups] == pytest.approx([0.02, 0.03])


@every_contender
def test_exponential_weight_averaging_follows_every_step_and_resumes(make, tmp_path):
    def averaging():
        return lightning.callbacks.EMAWeightAveraging(decay=0.75)

    trail, module = Trail(), Automatic(make)
    fit(module, 4, callbacks=[trail, averaging()])
    expected = [weights.double() for weights in trail.steps[0]]
    for weights in trail.steps[1:]:
        expected = [0.75 * old + 0.25 * new.double() for old, new in zip(expected, weights, strict=True)]
    for param, mean in zip(module.network.parameters(), expected, strict=True):
        torch.testing.assert_close(param.detach().double(), mean, rtol=1e-5, atol=1e-6)

    keep = lightning.callbacks.ModelCheckpoint(tmp_path, "{epoch}", save_top_k=-1)
    fit(Automatic(make), 4, callbacks=[averaging(), keep], enable_checkpointing=True)
    resumed = Automatic(make)
    fit(resumed, 4, resume=tmp_path / "epoch=1.ckpt", callbacks=[averaging()])
    assert len(resumed.values) == 2 * BATCHES
    assert same(resumed.parameters(), module.parameters())


@every_contender
def test_a_schedule_of_accumulation_counts_the_steps(make):
    schedule = lightning.callbacks.GradientAccumulationScheduler({0: 1, 1: 2, 2: 5})
    run = fit(Automatic(make), 3, callbacks=[schedule])
    assert {state["step"].item() for state in run.optimizers[0].state.values()} <= {5 + 3 + 1}
    assert run.global_step == 5 + 3 + 1


# ---------------------------------------------------------------- Fabric


@every_contender
def test_fabric_equals_the_plain_loop_and_resumes(make, tmp_path):
    fabric = pytest.importorskip("lightning.fabric").Fabric(accelerator="cpu", devices=1)

    def prepared():
        model = network()
        return fabric.setup(model, make(groups(model), lr=1e-2))

    def train(model, optimizer, scheduler):
        for inputs, targets in loader():
            fabric.backward(nn.functional.mse_loss(model(inputs), targets))
            fabric.clip_gradients(model, optimizer, max_norm=0.05)
            optimizer.step()
            scheduler.step()
            optimizer.zero_grad()

    model, optimizer = prepared()
    scheduler = halving(optimizer)
    train(model, optimizer, scheduler)
    fabric.save(tmp_path / "one", {"model": model, "optimizer": optimizer, "scheduler": scheduler})
    train(model, optimizer, scheduler)
    expected, reference = plain_loop(make, 2, clip=0.05)
    assert same(model.parameters(), expected.parameters())
    assert_same_state(optimizer, reference)

    model, optimizer = prepared()
    scheduler = halving(optimizer)
    fabric.load(tmp_path / "one", {"model": model, "optimizer": optimizer, "scheduler": scheduler})
    train(model, optimizer, scheduler)
    assert same(model.parameters(), expected.parameters())
    assert_same_state(optimizer, reference)
