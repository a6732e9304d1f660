"""The Lightning callback, and what it reads from the state of an optimizer."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

import varigrad
from tests.contract.contenders import CONTENDERS
from tests.integrations.training import BATCHES, groups, loader, network

lightning = pytest.importorskip("lightning.pytorch")

from varigrad.integrations.lightning import SignalToNoise, signal_to_noise  # noqa: E402
from varigrad.integrations.moments import KNOWN  # noqa: E402

KNOWING = {kind.__name__: kind for kind in KNOWN}
AVERAGING = {name: kind for name, kind in KNOWING.items() if "VSGD" not in name}

every_knowing = pytest.mark.parametrize("make", KNOWING.values(), ids=KNOWING)
every_averaging = pytest.mark.parametrize("make", AVERAGING.values(), ids=AVERAGING)


def fed(make, signal, noise, steps, layers=1, **settings):
    """Layers whose weights have gradients of the given mean and standard deviation, whatever their values."""
    torch.manual_seed(0)
    model = nn.Sequential(*(nn.Linear(40, 50, bias=False) for _ in range(layers)))
    optimizer = make(model.parameters(), lr=1e-3, **settings)
    means = [signal * torch.randn(50, 40).sign() for _ in model]
    for _ in range(steps):
        for layer, mean in zip(model, means, strict=True):
            layer.weight.grad = mean + noise * torch.randn(50, 40)
        optimizer.step()
    return model, optimizer


@pytest.mark.parametrize(("signal", "noise"), [(0.1, 0.1), (0.05, 0.1), (0.03, 0.01)])
@every_knowing
def test_it_finds_the_true_ratio(make, signal, noise):
    model, optimizer = fed(make, signal, noise, 2000)
    ratio = signal_to_noise([optimizer], model)["signal_to_noise/0"].item()
    assert ratio == pytest.approx(signal / noise, rel=0.06)


@pytest.mark.parametrize("make", [varigrad.VSGD, varigrad.ConstantVSGD])
def test_a_filter_at_rest_is_read_by_its_gain(make):
    """The mean, which follows by the gain w, has the variance w/(2-w) of (v_g + v_o)(1 - w/2), the gradient's."""
    model, optimizer = fed(make, 0.1, 0.1, 50)
    state = {name: value.double().numpy() for name, value in optimizer.state[model[0].weight].items()}
    observation = state["observation_var"]
    systematic = state.get("systematic_var", observation / 30.0)
    gain = systematic / (systematic + observation)
    variance = (systematic + observation) * (1 - gain / 2)
    signal = state["mean"] ** 2 - gain / (2 - gain) * variance
    expected = np.sqrt(signal.sum() / variance.sum())
    assert signal_to_noise([optimizer], model)["signal_to_noise"].item() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("beta", [0.5, 0.9])
@every_averaging
def test_a_moving_average_of_nothing_but_noise_is_no_signal(make, beta):
    """Without the correction its variance would give a ratio of 0.58 and 0.23."""
    model, optimizer = fed(make, 0.0, 2.0, 100, beta=beta)
    assert signal_to_noise([optimizer], model)["signal_to_noise"].item() < 0.06


@pytest.mark.parametrize("ratio", [3.0, 30.0])
@pytest.mark.parametrize("make", [varigrad.VSGD, varigrad.ConstantVSGD])
def test_a_filtered_mean_of_nothing_but_noise_is_no_signal(make, ratio):
    model, optimizer = fed(make, 0.0, 2.0, 1000, variance_ratio=ratio)
    assert signal_to_noise([optimizer], model)["signal_to_noise"].item() < 0.06


@every_averaging
def test_the_averages_are_those_of_the_paper(make):
    """Eq. 4, 5, 21 and 22 of "Dissecting Adam" in float64, from the first step that shows a variance on."""
    beta, gradients = 0.8, np.random.default_rng(0).normal(2.0, 1.0, (6, 3))
    model = nn.Linear(3, 1, bias=False)
    optimizer = make(model.parameters(), lr=1e-3, beta=beta)
    m = v = np.zeros(3)
    for k, gradient in enumerate(gradients, 1):
        model.weight.grad = torch.tensor(gradient[None], dtype=torch.float32)
        optimizer.step()
        m, v = beta * m + (1 - beta) * gradient, beta * v + (1 - beta) * gradient**2
        found = signal_to_noise([optimizer], nn.Sequential(model))
        if k == 1:
            assert found == {}
            continue
        mean, square = m / (1 - beta**k), v / (1 - beta**k)
        rho = (1 - beta) * (1 + beta**k) / ((1 + beta) * (1 - beta**k))
        s = (square - mean**2) / (1 - rho)
        expected = np.sqrt(max((mean**2 - rho * s).sum(), 0.0) / s.sum())
        assert found["signal_to_noise/0"].item() == pytest.approx(expected, rel=1e-5)


def test_layers_are_kept_apart_and_added_up():
    model, optimizer = fed(varigrad.MSVAG, 1.0, 1.0, 20, layers=3)
    model[1].weight.grad = None
    model[2].register_parameter("bias", nn.Parameter(torch.zeros(2)))
    optimizer.add_param_group({"params": [model[2].bias], "beta": 0.5})
    for value in (1.0, 3.0, 2.0):
        model[2].bias.grad = torch.full((2,), value)
        optimizer.step()
    found = signal_to_noise([optimizer], model)
    assert found.keys() == {"signal_to_noise", *(f"signal_to_noise/{layer}" for layer in range(3))}
    alone = signal_to_noise([optimizer], nn.ModuleDict({"whole": model[2]}))
    assert alone["signal_to_noise"] == alone["signal_to_noise/whole"] == found["signal_to_noise/2"]


def test_a_complex_weight_is_two_real_ones():
    torch.manual_seed(0)
    gradients = torch.randn(20, 5, 2) + 1.0
    pairs, ratios = (nn.Parameter(torch.zeros(5, 2)), nn.Parameter(torch.zeros(5, dtype=torch.complex64))), []
    for param in pairs:
        optimizer = varigrad.VSGD([param])
        for gradient in gradients:
            param.grad = torch.view_as_complex(gradient) if param.is_complex() else gradient
            optimizer.step()
        ratios += signal_to_noise([optimizer], nn.ParameterDict({"weight": param})).values()
    assert len(set(map(float, ratios))) == 1


@pytest.mark.parametrize("make", [varigrad.VSGD, varigrad.MSVAG])
def test_the_variance_of_single_samples_is_not_taken_for_that_of_a_batch(make):
    model = nn.Linear(3, 1, bias=False)
    optimizer = make(model.parameters(), lr=1e-3, variance="batch")
    for _ in range(3):
        model.weight.grad = model.weight.grad_variance = torch.ones(1, 3)
        model.weight.grad_samples = 4
        optimizer.step()
    assert signal_to_noise([optimizer], model) == {}


# ---------------------------------------------------------------- in a Trainer


class Module(lightning.LightningModule):
    def __init__(self, make):
        super().__init__()
        self.network, self.make = network(), make

    def training_step(self, batch, index):
        inputs, targets = batch
        return nn.functional.mse_loss(self.network(inputs), targets)

    def configure_optimizers(self):
        return self.make(groups(self.network), lr=1e-2)


class Notes(lightning.loggers.CSVLogger):
    """Keeps what is logged."""

    def __init__(self, folder):
        super().__init__(folder)
        self.notes = {}

    def log_metrics(self, metrics, step=None):
        self.notes[step] = metrics


def fit(module, folder, epochs=2, resume=None, **arguments):
    trainer = lightning.Trainer(
        accelerator="cpu",
        max_epochs=epochs,
        enable_progress_bar=False,
        enable_model_summary=False,
        enable_checkpointing=False,
        default_root_dir=folder,
        **arguments,
    )
    trainer.fit(module, loader(), ckpt_path=resume, weights_only=None if resume is None else True)
    return trainer


quiet = pytest.mark.filterwarnings("ignore::lightning.pytorch.utilities.warnings.PossibleUserWarning")
LAYERS = {"signal_to_noise", "signal_to_noise/network.0", "signal_to_noise/network.2"}


@quiet
@every_knowing
def test_it_logs_every_layer_at_its_interval(make, tmp_path):
    logger, module = Notes(tmp_path), Module(make)
    trainer = fit(module, tmp_path, logger=logger, callbacks=[SignalToNoise(3)])
    assert list(logger.notes) == [3, 6, 9]
    assert all(metrics.keys() == LAYERS for metrics in logger.notes.values())
    assert trainer.callback_metrics.keys() >= LAYERS
    last = trainer.callback_metrics["signal_to_noise"].item()
    assert last == logger.notes[9]["signal_to_noise"] != logger.notes[6]["signal_to_noise"]


@quiet
def test_it_counts_optimizer_steps_and_reads_each_once(tmp_path):
    logger = Notes(tmp_path)
    fit(Module(varigrad.VSGD), tmp_path, logger=logger, callbacks=[SignalToNoise(2)], accumulate_grad_batches=2)
    assert list(logger.notes) == [2, 4, 6]


@quiet
def test_it_neither_changes_the_training_nor_starts_anew_on_resuming(tmp_path):
    without, logged, resumed = Module(varigrad.VSGD), Module(varigrad.VSGD), Module(varigrad.VSGD)
    fit(without, tmp_path, logger=False)
    half = fit(Module(varigrad.VSGD), tmp_path, epochs=1, logger=False)
    half.save_checkpoint(tmp_path / "half.ckpt")
    whole, later = Notes(tmp_path), Notes(tmp_path)
    fit(logged, tmp_path, logger=whole, callbacks=[SignalToNoise(4)])
    fit(resumed, tmp_path, logger=later, callbacks=[SignalToNoise(4)], resume=tmp_path / "half.ckpt")
    assert all(map(torch.equal, logged.parameters(), without.parameters()))
    assert list(whole.notes) == [4, 8]
    assert later.notes == {8: whole.notes[8]}
    assert BATCHES == 5


@quiet
@pytest.mark.parametrize("make", [kind for kind in CONTENDERS if kind not in KNOWN])
def test_an_optimizer_without_a_variance_is_refused_by_name(make, tmp_path):
    with pytest.raises(TypeError, match=f"which {make.__name__} does not keep: .*use one of VSGD, ConstantVSGD, SVAG"):
        fit(Module(make), tmp_path, logger=False, callbacks=[SignalToNoise()])


def test_a_sharded_model_is_refused():
    class Sharding:
        strategy = lightning.strategies.FSDPStrategy()
        optimizers = ()

    with pytest.raises(RuntimeError, match="FSDPStrategy shards them"):
        SignalToNoise().on_train_start(Sharding(), None)


@pytest.mark.parametrize(("steps", "error"), [(0, ValueError), (-1, ValueError), (1.5, TypeError), (True, TypeError)])
def test_a_bad_interval_is_refused(steps, error):
    with pytest.raises(error, match=f"every_n_steps must be .*not {steps}"):
        SignalToNoise(steps)
