"""The Lightning callback, and how it tells signal from noise."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

import varigrad
from tests.integrations.training import every_contender, groups, loader, network
from varigrad.integrations.accumulation import AccumulatedNoise

lightning = pytest.importorskip("lightning.pytorch")

from varigrad.integrations.lightning import GradientNoise  # noqa: E402


def measured(gradients, model=None):
    """What is found from gradients of shape (steps, passes, weights), given to one layer."""
    model = nn.ModuleDict({"layer": nn.Linear(gradients.shape[-1], 1, bias=False)}) if model is None else model
    weight = model["layer"].weight
    noise = AccumulatedNoise()
    for passes in gradients:
        weight.grad = None
        for gradient in passes:
            value = torch.as_tensor(gradient, dtype=weight.dtype)[None]
            weight.grad = value if weight.grad is None else weight.grad + value
            noise.add(model.named_parameters())
        noise.end_step()
    return {layer: ratio.item() for layer, ratio in noise.ratios().items()}


@pytest.mark.parametrize("passes", [2, 3, 7])
def test_the_estimates_are_those_of_the_textbook(passes):
    """Unbiased sample variance of the sum, in float64; signal: the square of the sum less that variance."""
    gradients = np.random.default_rng(passes).normal(0.7, 1.0, (4, passes, 5))
    variance = passes * gradients.var(axis=1, ddof=1)
    signal = gradients.sum(axis=1) ** 2 - variance
    expected = np.sqrt(signal.sum() / variance.sum())
    assert measured(gradients) == {"": pytest.approx(expected, rel=1e-5), "layer": pytest.approx(expected, rel=1e-5)}


@pytest.mark.parametrize(("signal", "deviation"), [(0.3, 1.0), (1.0, 1.0), (5.0, 1.0)])
def test_it_finds_the_true_ratio(signal, deviation):
    """Of a step's gradient, the sum over two passes: twice the mean, √2 times the standard deviation."""
    gradients = np.random.default_rng(0).normal(signal, deviation, (50, 2, 1000))
    assert measured(gradients)[""] == pytest.approx(2 * signal / (np.sqrt(2) * deviation), rel=0.02)


def test_nothing_but_noise_is_no_signal():
    gradients = np.random.default_rng(0).normal(0.0, 1.0, (50, 2, 1000))
    assert measured(gradients)[""] < 0.1


def test_small_noise_on_a_large_gradient_is_found():
    """Where a difference of squares would leave nothing in float32."""
    gradients = 1e4 + np.random.default_rng(0).normal(0.0, 1.0, (20, 2, 1000))
    assert measured(gradients)[""] == pytest.approx(np.sqrt(2) * 1e4, rel=0.02)


def test_steps_of_a_single_pass_do_not_count():
    noise = AccumulatedNoise()
    model = nn.Linear(3, 1)
    model.weight.grad = torch.ones(1, 3)
    for _ in range(3):
        noise.add(model.named_parameters())
        noise.end_step()
    assert noise.ratios() == {}


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_step_with_a_gradient_that_is_not_finite_does_not_count(bad):
    """Not for any layer: a gradient scaler skips it wholly."""
    torch.manual_seed(0)
    model = nn.ModuleDict({"a": nn.Linear(3, 2, bias=False), "b": nn.Linear(2, 2, bias=False)})
    found = []
    for steps in ((0, 1, 2), (0, 2)):
        noise = AccumulatedNoise()
        for step in steps:
            for number in (1, 2):
                for layer in model.values():
                    ramp = torch.arange(float(layer.weight.numel())).view_as(layer.weight)
                    layer.weight.grad = number * (ramp + step + number)
                if step == 1:
                    model["b"].weight.grad[0, 0] = bad
                noise.add(model.named_parameters())
            noise.end_step()
        found.append({name: ratio.item() for name, ratio in noise.ratios().items()})
    assert found[0] == found[1]
    assert all(np.isfinite(list(found[0].values())))


def test_a_layer_that_a_pass_does_not_reach_had_a_gradient_of_zero():
    gradients = np.random.default_rng(0).normal(1.0, 1.0, (1, 3, 4))
    for silent in ({0}, {1}, {2}, {0, 1}, {1, 2}):
        whole = gradients.copy()
        whole[0, list(silent)] = 0.0
        model = nn.ModuleDict({"layer": nn.Linear(4, 1, bias=False)})
        weight, noise = model["layer"].weight, AccumulatedNoise()
        for number in range(3):
            if number not in silent:
                value = torch.tensor(whole[:, number], dtype=torch.float32)
                weight.grad = value if weight.grad is None else weight.grad + value
            noise.add(model.named_parameters())
        noise.end_step()
        assert noise.ratios()["layer"].item() == pytest.approx(measured(whole)["layer"], rel=1e-5)


def test_layers_are_kept_apart_and_added_up():
    torch.manual_seed(0)
    model = nn.ModuleDict({"a": nn.Linear(3, 2), "b": nn.Linear(2, 2)})
    samples = {name: torch.randn(4, *param.shape) for name, param in model.named_parameters()}
    noise = AccumulatedNoise()
    for number in range(4):
        for name, param in model.named_parameters():
            param.grad = samples[name][: number + 1].sum(0)
        noise.add(model.named_parameters())
    noise.end_step()
    found = {layer: ratio.item() for layer, ratio in noise.ratios().items()}
    sums = {}
    for name, values in samples.items():
        variance = 4 * values.double().var(0).sum()
        for layer in ("", name[0]):
            signal, spread = sums.get(layer, (0.0, 0.0))
            sums[layer] = (signal + values.double().sum(0).square().sum() - variance, spread + variance)
    assert found == {
        layer: pytest.approx(float((signal.clamp(min=0) / spread).sqrt()), rel=1e-5)
        for layer, (signal, spread) in sums.items()
    }


def test_a_complex_weight_is_two_real_ones():
    values = torch.randn(2, 3, 5, 2, generator=torch.Generator().manual_seed(0)) + 1.0
    ratios = []
    for dtype in (torch.float32, torch.complex64):
        weight = nn.Parameter(torch.zeros(5, 2) if dtype is torch.float32 else torch.zeros(5, dtype=dtype))
        noise = AccumulatedNoise()
        for passes in values:
            for number in range(1, 4):
                total = passes[:number].sum(0)
                weight.grad = total if dtype is torch.float32 else torch.view_as_complex(total)
                noise.add([("weight", weight)])
            noise.end_step()
        ratios.append(noise.ratios()[""].item())
    assert ratios[0] == ratios[1] > 0


def test_low_precision_gradients_are_summed_in_float32():
    gradients = np.full((1, 2, 70_000), 1.0)
    gradients[0, 1] = 3.0
    model = nn.ModuleDict({"layer": nn.Linear(70_000, 1, bias=False, dtype=torch.float16)})
    # G² = 16, Var = 2/1 (1 + 1) = 4: in float16 either sum would be infinite.
    assert measured(gradients, model)["layer"] == pytest.approx(np.sqrt(12 / 4))


# ---------------------------------------------------------------- in a Trainer


class Module(lightning.LightningModule):
    def __init__(self, make, batches=2, manual=False):
        super().__init__()
        self.network, self.make, self.batches = network(), make, batches
        self.automatic_optimization = not manual

    def training_step(self, batch, index):
        inputs, targets = batch
        loss = nn.functional.mse_loss(self.network(inputs), targets)
        if not self.automatic_optimization:
            self.manual_backward(loss)
            if (index + 1) % self.batches == 0:
                self.optimizers().step()
                self.optimizers().zero_grad()
        return loss

    def configure_optimizers(self):
        return self.make(groups(self.network), lr=1e-2)


class Notes(lightning.loggers.CSVLogger):
    """Keeps what is logged."""

    def __init__(self, folder):
        super().__init__(folder)
        self.notes = {}

    def log_metrics(self, metrics, step=None):
        self.notes[step] = metrics


def fit(module, folder, epochs=2, resume=None, accumulate=2, batches=4, **arguments):
    trainer = lightning.Trainer(
        accelerator="cpu",
        max_epochs=epochs,
        limit_train_batches=batches,
        accumulate_grad_batches=accumulate,
        enable_progress_bar=False,
        enable_model_summary=False,
        enable_checkpointing=False,
        default_root_dir=folder,
        **arguments,
    )
    trainer.fit(module, loader(), ckpt_path=resume, weights_only=None if resume is None else True)
    return trainer


pytestmark = pytest.mark.filterwarnings(
    "ignore::lightning.pytorch.utilities.warnings.PossibleUserWarning",
    "ignore:`isinstance.treespec, LeafSpec.` is deprecated",
)
LAYERS = {"signal_to_noise", "signal_to_noise/network.0", "signal_to_noise/network.2"}


def by_hand(batches):
    """The ratios at the initial weights for batches accumulated into one step."""
    model, samples = network(), []
    for inputs, targets in batches:
        loss = nn.functional.mse_loss(model(inputs), targets)
        samples.append([grad.double() for grad in torch.autograd.grad(loss, list(model.parameters()))])
    columns = [torch.stack(column) for column in zip(*samples, strict=True)]
    variance = torch.stack([len(samples) * column.var(0).sum() for column in columns])
    signal = torch.stack([column.sum(0).square().sum() for column in columns]) - variance
    pairs = {"": slice(None), "/network.0": slice(0, 2), "/network.2": slice(2, 4)}
    return {
        f"signal_to_noise{layer}": (signal[part].sum().clamp(min=0) / variance[part].sum()).sqrt().item()
        for layer, part in pairs.items()
    }


@every_contender
def test_it_measures_with_every_optimizer(make, tmp_path):
    """The first figure is for the initial weights, before clipping; the training is as without the callback."""
    logger, module, without = Notes(tmp_path), Module(make), Module(make)
    trainer = fit(module, tmp_path, logger=logger, callbacks=[GradientNoise(1)], gradient_clip_val=0.01)
    fit(without, tmp_path, logger=False, gradient_clip_val=0.01)
    assert all(map(torch.equal, module.parameters(), without.parameters()))
    assert list(logger.notes) == [0, 1, 2, 3]
    first, second, *_ = loader()
    assert logger.notes[0] == pytest.approx(by_hand([first, second]), rel=1e-4, abs=1e-4)
    assert {name: trainer.callback_metrics[name].item() for name in LAYERS} == logger.notes[3]


def test_manual_optimization_is_measured(tmp_path):
    logger, automatic = Notes(tmp_path), Notes(tmp_path)
    # Lightning divides the loss by the number of batches, which does not matter to a ratio, nor to a sign.
    fit(Module(varigrad.SSD, manual=True), tmp_path, accumulate=1, logger=logger, callbacks=[GradientNoise(2)])
    fit(Module(varigrad.SSD), tmp_path, logger=automatic, callbacks=[GradientNoise(2)])
    assert logger.notes.keys() == {1, 3}
    for step, metrics in automatic.notes.items():
        assert logger.notes[step] == pytest.approx(metrics, rel=1e-4)


def test_a_scaled_loss_is_measured(tmp_path):
    """As with float16: the gradients are the scaler's until they are unscaled."""
    plain, scaled = Notes(tmp_path), Notes(tmp_path)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**10)
    mixed = lightning.plugins.MixedPrecision("16-mixed", "cpu", scaler=scaler)
    fit(Module(varigrad.VSGD), tmp_path, logger=plain, callbacks=[GradientNoise(2)])
    fit(Module(varigrad.VSGD), tmp_path, logger=scaled, callbacks=[GradientNoise(2)], plugins=mixed)
    for step, metrics in plain.notes.items():
        assert scaled.notes[step] == pytest.approx(metrics, rel=0.1, abs=0.1)


def test_a_resumed_run_logs_at_the_same_steps(tmp_path):
    fit(Module(varigrad.VSGD), tmp_path, epochs=1, logger=False).save_checkpoint(tmp_path / "half.ckpt")
    whole, later = Notes(tmp_path), Notes(tmp_path)
    fit(Module(varigrad.VSGD), tmp_path, epochs=3, logger=whole, callbacks=[GradientNoise(2)])
    fit(
        Module(varigrad.VSGD),
        tmp_path,
        epochs=3,
        logger=later,
        callbacks=[GradientNoise(2)],
        resume=tmp_path / "half.ckpt",
    )
    assert list(whole.notes) == [1, 3, 5]
    assert later.notes == {step: whole.notes[step] for step in (3, 5)}


def test_without_accumulation_it_says_what_to_do(tmp_path):
    with pytest.raises(RuntimeError, match=r"accumulate_grad_batches is 1: set .*=2.* and halve the batch size"):
        fit(Module(varigrad.VSGD), tmp_path, accumulate=1, logger=False, callbacks=[GradientNoise()])


def test_a_schedule_that_will_accumulate_is_enough_and_what_cannot_be_measured_is_told(tmp_path):
    schedule = lightning.callbacks.GradientAccumulationScheduler({0: 1, 1: 2})
    logger = Notes(tmp_path)
    with pytest.warns(UserWarning, match="none of the last 4 steps accumulated two batches"):
        fit(
            Module(varigrad.VSGD),
            tmp_path,
            epochs=3,
            accumulate=1,
            logger=logger,
            callbacks=[schedule, GradientNoise(4)],
        )
    assert logger.notes.keys() == {7}
    assert logger.notes[7].keys() == LAYERS


@pytest.mark.parametrize(("strategy", "count"), [("DDPStrategy", 1), ("FSDPStrategy", 1), ("SingleDeviceStrategy", 2)])
def test_what_it_would_measure_wrongly_is_refused(strategy, count):
    trainer = SimpleNamespace(strategy=getattr(lightning.strategies, strategy)(), optimizers=[None] * count)
    with pytest.raises(RuntimeError, match=f"not with {strategy} and {count} optimizers: remove the callback"):
        GradientNoise().on_train_start(trainer, None)


@pytest.mark.parametrize(("steps", "error"), [(0, ValueError), (-1, ValueError), (1.5, TypeError), (True, TypeError)])
def test_a_bad_interval_is_refused(steps, error):
    with pytest.raises(error, match=f"every_n_steps must be .*not {steps}"):
        GradientNoise(steps)
