"""A NoiseMonitor's figures against plain sums over the gradients that were seen; and that it harms no training."""

import json
import math
import warnings

import pytest
import torch
from torch import nn

import varigrad
from tests.contract.contenders import loss_of, network, same
from varigrad.record import NoiseRecord
from varigrad.writers import CSV, JSONLines, MLflow, TensorBoard, WandB, Writer


class Kept(Writer):
    def __init__(self):
        self.records, self.closed = [], 0

    def write(self, record):
        self.records.append(record)

    def close(self):
        self.closed += 1


def train(model, optimizer, steps, each=lambda step: None):
    for step in range(1, steps + 1):
        optimizer.zero_grad()
        loss_of(model, step).backward()
        each(step)
        optimizer.step()


def watched(steps=12, every=4, make=lambda params: varigrad.MSVAG(params, lr=0.01), **arguments):
    """A network trained with a monitor; its records, and the gradients and weights of every step."""
    model, kept, seen = network(), Kept(), {}
    optimizer = make(model.parameters())

    def note(step):
        seen[step] = [(p.grad.clone(), p.detach().clone()) for p in model.parameters()]

    with varigrad.NoiseMonitor(optimizer, model, every, writers=kept, **arguments) as monitor:
        train(model, optimizer, steps, note)
    seen[steps + 1] = [(None, p.detach().clone()) for p in model.parameters()]
    return kept.records, seen, model, optimizer, monitor


def test_signal_and_noise_are_those_of_two_successive_gradients():
    records, seen, *_ = watched()
    assert [record.step for record in records] == [4, 8, 12]
    assert {record.source for record in records} == {"pair"}
    for record in records:
        assert list(record.layers) == ["0", "2"]
        for layer, places in {"0": (0, 1), "2": (2, 3)}.items():
            pairs = [(seen[record.step - 1][i][0].double(), seen[record.step][i][0].double()) for i in places]
            row = record.layers[layer]
            assert row["signal"] == pytest.approx(sum((a * b).sum().item() for a, b in pairs), rel=1e-4)
            assert row["noise"] == pytest.approx(sum((a - b).square().sum().item() for a, b in pairs) / 2, rel=1e-4)
            assert row["weights"] == sum(a.numel() for a, _ in pairs)


def test_certainty_and_the_variances_believed_in_are_those_of_the_state():
    records, _, model, optimizer, _ = watched(8, make=lambda params: varigrad.VSGD(params, lr=0.01))
    for layer, params in {"0": model[0].parameters(), "2": model[2].parameters()}.items():
        beliefs = [optimizer.belief(param) for param in params]
        row = records[-1].layers[layer]
        sure = sum((b.mean.abs() > 2 * b.variance.sqrt()).sum().item() for b in beliefs)
        assert row["certain"] == pytest.approx(sure / row["weights"])
        assert row["systematic"] == pytest.approx(sum(b.systematic_variance.sum().item() for b in beliefs), rel=1e-5)
        assert row["observation"] == pytest.approx(sum(b.observation_variance.sum().item() for b in beliefs), rel=1e-5)


@pytest.mark.parametrize("lr", [0.03, 0.5])
def test_the_effective_learning_rate_is_the_rate_where_a_step_is_the_rate_times_a_gradient(lr):
    for make in (lambda params: torch.optim.SGD(params, lr=lr), lambda params: varigrad.MSGD(params, lr=lr)):
        records, *_ = watched(make=make)
        for record in records:
            for row in record.layers.values():
                assert row["effective_lr"] == pytest.approx(lr, rel=1e-3)


def test_of_an_optimizer_that_says_nothing_signal_and_noise_are_known():
    records, *_ = watched(make=lambda params: torch.optim.SGD(params, lr=0.1))
    assert all(math.isfinite(row["noise"]) for row in records[0].layers.values())
    for unknown in ("certain", "systematic", "observation", "gain"):
        assert math.isnan(records[0].layers["0"][unknown])


def test_inside_the_batch_the_noise_is_the_variance_that_is_found_there():
    """Against the gradients of single samples; the model is left as it was."""
    model, kept = network(), Kept()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    monitor = varigrad.NoiseMonitor(optimizer, model, 3, writers=kept, inside_batch=True)
    before = [module._forward_hooks.copy() for module in model]
    train(model, optimizer, 2)
    weights = [p.detach().clone() for p in model.parameters()]
    train(model, optimizer, 1)
    monitor.close()
    assert kept.records[0].source == "in-batch"
    assert [module._forward_hooks for module in model] == before
    assert not any(hasattr(p, "grad_variance") for p in model.parameters())
    twin = network()
    for param, weight in zip(twin.parameters(), weights, strict=True):
        param.data.copy_(weight)
    from tests.contract.contenders import batch

    inputs, targets = batch(1)
    rows = []
    for n in range(len(inputs)):
        loss = nn.functional.mse_loss(twin(inputs[n : n + 1]), targets[n : n + 1])
        grads = torch.autograd.grad(loss, list(twin.parameters()))
        rows.append(torch.cat([g.flatten() for g in grads]).double())
    samples = torch.stack(rows)
    noise = samples.var(0).sum().item() / len(samples)
    signal, found = kept.records[0].sums()
    assert found == pytest.approx(noise, rel=1e-4)
    assert signal == pytest.approx(samples.mean(0).square().sum().item() - noise, rel=1e-3)


def test_a_variance_that_is_there_anyway_is_used():
    model, kept = network(), Kept()
    optimizer = varigrad.VSGD(model.parameters(), lr=0.01, variance="batch")
    with varigrad.gradient_variance(model), varigrad.NoiseMonitor(optimizer, model, 2, writers=kept):
        train(model, optimizer, 4)
        assert all(hasattr(p, "grad_variance") for p in model.parameters())
    assert {record.source for record in kept.records} == {"in-batch"}


def test_what_was_clipped_is_not_compared_with_the_variance_before():
    model, kept = network(), Kept()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    monitor = varigrad.NoiseMonitor(optimizer, model, 2, writers=kept, inside_batch=True)
    with monitor, pytest.warns(UserWarning, match="skips what was clipped"):
        train(model, optimizer, 4, lambda step: nn.utils.clip_grad_norm_(model.parameters(), 1e-3))
    assert kept.records == []


@pytest.mark.parametrize("inside_batch", [False, True])
@pytest.mark.parametrize("kind", [varigrad.VSGD, torch.optim.SGD])
def test_the_scale_of_a_grad_scaler_is_taken_out(kind, inside_batch):
    """Whether the scaler divides before the step, as for SGD, or leaves it to the optimizer, as for ours."""
    found = []
    for scale in (1.0, 2.0**10):
        model, kept = network(), Kept()
        optimizer = kind(model.parameters(), lr=0.01)
        scaler = torch.amp.GradScaler("cpu", init_scale=scale)
        with varigrad.NoiseMonitor(optimizer, model, 2, writers=kept, inside_batch=inside_batch):
            for step in range(4):
                optimizer.zero_grad()
                scaler.scale(loss_of(model, step)).backward()
                scaler.step(optimizer)
                scaler.update()
        found.append([record.sums() for record in kept.records])
    if inside_batch:  # the gradient was divided after backward, its variance was not
        assert found[1] == []
    else:
        assert len(found[0]) == 2
        for one, other in zip(*found, strict=True):
            assert one == pytest.approx(other, rel=1e-4)


@pytest.mark.parametrize("inside_batch", [False, True])
def test_a_scale_that_is_left_to_the_optimizer_is_taken_out(inside_batch):
    """As a GradScaler leaves it: in two attributes of the optimizer, for the time of the step."""
    found = []
    for scale in (None, 1024.0):
        model, kept = network(), Kept()
        optimizer = varigrad.VSGD(model.parameters(), lr=0.01)
        with varigrad.NoiseMonitor(optimizer, model, 2, writers=kept, inside_batch=inside_batch):
            for step in range(4):
                optimizer.zero_grad()
                (loss_of(model, step) * (scale or 1.0)).backward()
                if scale:
                    optimizer.grad_scale, optimizer.found_inf = torch.tensor(scale), torch.zeros(())
                optimizer.step()
        found.append([record.sums() for record in kept.records])
    assert len(found[0]) == 2
    for one, other in zip(*found, strict=True):
        assert one == pytest.approx(other, rel=1e-4)


@pytest.mark.parametrize("inside_batch", [False, True])
@pytest.mark.parametrize("kind", [varigrad.VSGD, varigrad.MSVAG, torch.optim.AdamW])
def test_training_is_the_same_with_and_without(kind, inside_batch):
    models = [network(), network()]
    for model in models:
        optimizer = kind(model.parameters(), lr=0.01)
        if model is models[0]:
            varigrad.NoiseMonitor(optimizer, model, 3, inside_batch=inside_batch)
        train(model, optimizer, 10)
    if inside_batch:  # the sum over samples is rounded in another order
        pairs = zip(models[0].parameters(), models[1].parameters(), strict=True)
        assert all(torch.allclose(a, b, atol=1e-6) for a, b in pairs)
    else:
        assert same(models[0].parameters(), models[1].parameters())


def test_between_two_looks_nothing_is_kept_or_computed(monkeypatch):
    model = network()
    optimizer = varigrad.VSGD(model.parameters(), lr=0.01)
    monitor = varigrad.NoiseMonitor(optimizer, model, 5)
    calls = []
    for name in ("_begin", "_measure", "_named", "_drain"):
        monkeypatch.setattr(monitor, name, lambda *_, name=name, **__: calls.append(name) or [])
    train(model, optimizer, 3)
    assert calls == []
    assert monitor._before == monitor._earlier == {}
    train(model, optimizer, 2)
    assert calls == ["_begin", "_named", "_measure", "_drain"]


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_the_host_waits_for_the_device_neither_between_looks_nor_in_them():
    model = network().cuda()
    optimizer = varigrad.VSGD(model.parameters(), lr=0.01)
    with varigrad.NoiseMonitor(optimizer, model, 2) as monitor:
        for step in range(6):
            for param in model.parameters():
                param.grad = torch.full_like(param, 0.1 + step)
            if step == 2:
                torch.cuda.set_sync_debug_mode("error")
            optimizer.step()
        torch.cuda.set_sync_debug_mode("default")
    assert monitor.latest.step == 6


def test_at_rest_the_noise_scale_is_the_true_one():
    """Averaged over 200 looks, for gradients of known mean and variance."""
    generator = torch.Generator().manual_seed(0)
    model, kept = nn.Linear(40, 25, bias=False), Kept()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    with varigrad.NoiseMonitor(optimizer, model, 2, batch_size=32, writers=kept):
        for _ in range(400):
            model.weight.grad = 0.2 + torch.randn(25, 40, generator=generator)
            optimizer.step()
    signal, noise = (sum(column) / 200 for column in zip(*(record.sums() for record in kept.records), strict=True))
    assert 32 * noise / signal == pytest.approx(32 / 0.04, rel=0.05)


def test_steps_that_overshoot_show_a_negative_signal():
    """On a parabola beyond its stable rate successive gradients have opposite signs."""
    weight = nn.Linear(1, 1, bias=False)
    optimizer = torch.optim.SGD(weight.parameters(), lr=1.5)
    with varigrad.NoiseMonitor(optimizer, weight, 2) as monitor:
        for _ in range(2):
            weight.weight.grad = weight.weight.detach().clone()
            optimizer.step()
    assert monitor.latest.layers["weight"]["signal"] < 0


# ---------------------------------------------------------------- what goes wrong


class Broken(Writer):
    def __init__(self):
        self.tried = 0

    def write(self, record):
        self.tried += 1
        raise OSError(28, "No space left on device")


def test_a_writer_that_cannot_write_is_told_of_once_and_training_goes_on():
    model, broken, kept = network(), Broken(), Kept()
    optimizer = varigrad.VSGD(model.parameters(), lr=0.01)
    monitor = varigrad.NoiseMonitor(optimizer, model, 2, writers=[broken, kept])
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        train(model, optimizer, 10)
        monitor.close()
    assert [str(one.message).split(":")[0] for one in told] == ["NoiseMonitor's Broken cannot write and is given up"]
    assert "No space left" in str(told[0].message)
    assert broken.tried == 1
    assert len(kept.records) == 5


def test_a_folder_that_cannot_be_made_is_told_of_once(tmp_path):
    (tmp_path / "file").write_text("in the way")
    model = network()
    optimizer = varigrad.VSGD(model.parameters(), lr=0.01)
    given_up = pytest.warns(UserWarning, match="JSONLines cannot write and is given up")
    with varigrad.NoiseMonitor(optimizer, model, 2, writers=tmp_path / "file"), given_up as told:
        train(model, optimizer, 6)
    assert len(told) == 1
    assert optimizer.state[model[0].weight]["step"] == 6


def test_a_look_that_fails_is_told_of_once_and_training_goes_on(monkeypatch):
    from varigrad import monitor as module

    def fail(*_):
        raise RuntimeError("made up")

    monkeypatch.setattr(module, "belief_of", fail)
    model = network()
    optimizer = varigrad.VSGD(model.parameters(), lr=0.01)
    with varigrad.NoiseMonitor(optimizer, model, 2), pytest.warns(UserWarning, match="made up") as told:
        train(model, optimizer, 6)
    assert len(told) == 1
    assert optimizer.state[model[0].weight]["step"] == 6


def test_without_gradients_in_the_step_it_says_so():
    model = network()
    optimizer = varigrad.VSGD(model.parameters(), lr=0.01)
    varigrad.step_in_backward(model, optimizer)
    with varigrad.NoiseMonitor(optimizer, model, 2), pytest.warns(UserWarning, match="finds no gradients") as told:
        train(model, optimizer, 6)
    assert len(told) == 1


def test_a_model_that_cannot_be_looked_into_is_compared_step_by_step():
    class Own(nn.Module):
        def __init__(self):
            super().__init__()
            self.scale = nn.Parameter(torch.ones(3))

    model, kept = Own(), Kept()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with varigrad.NoiseMonitor(optimizer, model, 2, writers=kept, inside_batch=True):
        for step in range(4):
            optimizer.zero_grad()
            (model.scale * torch.randn(3)).sum().backward()
            if step == 3:  # two passes make this step: they are two samples
                (model.scale * torch.randn(3)).sum().backward()
            optimizer.step()
    assert [record.source for record in kept.records] == ["pair", "in-batch"]
    assert list(kept.records[-1].layers) == ["scale"]


def test_parameters_that_come_and_go_are_left_out_while_they_are_away():
    model, kept = network(), Kept()
    optimizer = varigrad.MSVAG(model.parameters(), lr=0.01)
    with varigrad.NoiseMonitor(optimizer, model, 2, writers=kept):
        for step in range(4):
            optimizer.zero_grad()
            loss_of(model, step).backward()
            if step == 2:
                model[0].weight.grad = model[0].bias.grad = None
            optimizer.step()
    assert [list(record.layers) for record in kept.records] == [["0", "2"], ["2"]]


def test_once_closed_it_is_off():
    records, _, model, optimizer, monitor = watched(4)
    monitor.close()
    train(model, optimizer, 8)
    assert len(records) == 1


def test_bad_arguments_are_refused():
    model = network()
    optimizer = varigrad.VSGD(model.parameters())
    for wrong in ({"every": 1}, {"every": 0}, {"batch_size": 0}, {"batch_size": math.nan}, {"start": -1}):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            varigrad.NoiseMonitor(optimizer, model, **wrong)
    for wrong in ({"every": 2.5}, {"every": True}, {"batch_size": "8"}, {"start": None}, {"inside_batch": 1}):
        with pytest.raises(TypeError, match=next(iter(wrong))):
            varigrad.NoiseMonitor(optimizer, model, **wrong)
    with pytest.raises(TypeError, match="optimizer must be"):
        varigrad.NoiseMonitor(model, model)
    with pytest.raises(TypeError, match="model must be"):
        varigrad.NoiseMonitor(optimizer, optimizer)


# ---------------------------------------------------------------- where the figures go

ROW = {"weights": 10, "signal": 1.0, "noise": 4.0, "certain": 0.5, "effective_lr": 0.1, "gain": 0.2}
RECORD = NoiseRecord(100, "pair", "VSGD", 32.0, {"a.b": {**ROW, "systematic": math.nan, "observation": 4.0}})


def test_json_lines_are_strict_and_whole_also_after_a_killed_run(tmp_path):
    writer = JSONLines(tmp_path / "deep" / "run")
    writer.write(RECORD)
    line = json.loads(writer.path.read_text(), parse_constant=pytest.fail)
    assert line["step"] == 100
    assert line["layers"]["a.b"] == {**ROW, "systematic": None, "observation": 4.0}
    writer.close()
    with writer.path.open("a") as file:
        file.write('{"step": 200, "lay')
    writer.write(RECORD)  # resumed
    assert [bool(line.endswith("}")) for line in writer.path.read_text().splitlines()] == [True, False, True]
    writer.close()


def test_csv_has_a_row_for_every_layer(tmp_path):
    writer = CSV(tmp_path / "noise.csv")
    writer.write(RECORD)
    writer.write(RECORD)
    writer.close()
    header, first, second = (tmp_path / "noise.csv").read_text().splitlines()
    row = dict(zip(header.split(","), first.split(","), strict=True))
    assert (row["step"], row["layer"], row["snr"], row["noise_scale"]) == ("100", "a.b", "0.5", "128.0")
    assert first == second


def test_tensorboard_gets_scalars(tmp_path):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    writer = TensorBoard(tmp_path)
    writer.write(RECORD)
    writer.close()
    events = EventAccumulator(str(tmp_path)).Reload()
    assert {"noise/snr/a.b", "noise/noise_scale", "noise/certain/a.b"} <= set(events.Tags()["scalars"])
    assert "noise/systematic/a.b" not in events.Tags()["scalars"]  # unknown
    (event,) = events.Scalars("noise/noise_scale/a.b")
    assert (event.step, event.value) == (100, 128.0)


class Fake:
    def __init__(self):
        self.calls = []

    def log(self, values):
        self.calls.append((values.pop("noise/step"), values))

    def log_metrics(self, values, step):
        self.calls.append((step, values))


@pytest.mark.parametrize("writer", [WandB, MLflow])
def test_backends_get_the_same_scalars(writer):
    fake = Fake()
    writer(fake).write(RECORD)
    ((step, values),) = fake.calls
    assert step == 100
    assert values["noise/snr"] == 0.5
    assert "noise/systematic/a.b" not in values


@pytest.mark.parametrize(("writer", "package"), [(WandB, "wandb"), (MLflow, "mlflow")])
def test_a_backend_that_is_not_installed_is_named(writer, package, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, package, None)
    with pytest.raises(ImportError, match=f"needs {package}: pip install {package}"):
        writer()


def test_a_record_sums_up():
    assert (RECORD.snr("a.b"), RECORD.noise_scale("a.b"), RECORD.sums()) == (0.5, 128.0, (1.0, 4.0))
    nothing = NoiseRecord(1, "pair", "SGD", None, {"a": {"weights": 1, "signal": 0.0, "noise": 0.0}})
    assert math.isnan(nothing.snr())
    noise = NoiseRecord(1, "pair", "SGD", None, {"a": {"weights": 1, "signal": -1.0, "noise": 2.0}})
    assert (noise.snr(), noise.noise_scale()) == (0.0, math.inf)
