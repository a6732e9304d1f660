"""method="ranks": two and three processes on one machine, each its own samples."""

import contextlib
import traceback

import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

import varigrad
from tests import reference
from tests.distributed.processes import launch

from .models import error, variance_of_mean

pytestmark = pytest.mark.skipif(not dist.is_available() or not dist.is_gloo_available(), reason="needs gloo")


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(5, 4), nn.Tanh(), nn.Linear(4, 1), nn.Linear(1, 2)).double()


def batch(rank, number=0):
    generator = torch.Generator().manual_seed(100 * number + rank)
    return torch.randn(6, 5, dtype=torch.float64, generator=generator)


def own_gradients(model, workers, batches=(0,), used=lambda rank: slice(None)):
    """What every worker's gradient is by itself, summed over its batches: by name, (workers, *shape)."""
    names, params = zip(*model.named_parameters(), strict=True)
    rows = []
    for rank in range(workers):
        loss = sum(model[used(rank)](batch(rank, number)).square().mean() for number in batches)
        grads = torch.autograd.grad(loss, params, allow_unused=True)
        rows.append([torch.zeros_like(p) if g is None else g for g, p in zip(grads, params, strict=True)])
    return {name: torch.stack(column) for name, column in zip(names, zip(*rows, strict=True), strict=True)}


def check(model, samples, workers):
    for name, param in model.named_parameters():
        assert error(param.grad, samples[name].mean(0)) <= 1e-12, name
        assert error(param.grad_variance, variance_of_mean(samples[name])) <= 1e-12, name
        assert param.grad_samples == workers


def is_the_variance_over_the_workers(rank, workers):
    model = network()
    parallel = DistributedDataParallel(model)
    samples = own_gradients(model, workers)
    handle = varigrad.gradient_variance(parallel)
    assert handle.method == "ranks"
    for _ in range(2):
        parallel(batch(rank)).square().mean().backward()
        check(model, samples, workers)
        model.zero_grad()
    handle.remove()
    parallel(batch(rank)).square().mean().backward()
    assert not hasattr(model[0].weight, "grad_variance")


def leaves_what_is_kept_alone(rank, workers):
    model = network()
    parallel = DistributedDataParallel(model)
    with varigrad.gradient_variance(parallel, method="ranks"):
        for keep in (lambda p: p.grad_variance, lambda p: p.grad_variance[0], lambda p: None):
            parallel(batch(rank)).square().mean().backward()
            kept = keep(model[0].weight)
            before = None if kept is None else kept.clone()
            model.zero_grad()
            parallel(batch(rank, 1)).square().mean().backward()
            check(model, own_gradients(model, workers, (1,)), workers)
            assert kept is None or torch.equal(kept, before)
            model.zero_grad()


def adds_up_passes_that_are_not_reduced(rank, workers):
    model = network()
    parallel = DistributedDataParallel(model)
    samples = own_gradients(model, workers, (0, 1, 2))
    with varigrad.gradient_variance(parallel, method="ranks"):
        for _ in range(2):
            for number in (0, 1):
                with parallel.no_sync():
                    parallel(batch(rank, number)).square().mean().backward()
                assert not hasattr(model[0].weight, "grad_variance")
            torch.autograd.grad(model(batch(rank)).sum(), list(model.parameters()))  # is none of them
            parallel(batch(rank, 2)).square().mean().backward()
            check(model, samples, workers)
            model.zero_grad()


def counts_an_unused_parameter_as_zero(rank, workers):
    class Choosing(nn.Sequential):
        def forward(self, x):
            return nn.Sequential.forward(self[used(rank)], x)

    def used(rank):
        return slice(0, 3) if rank == 0 else slice(None)

    model = Choosing(*network())
    samples = own_gradients(network(), workers, used=used)
    parallel = DistributedDataParallel(model, find_unused_parameters=True)
    with varigrad.gradient_variance(parallel, method="ranks"):
        parallel(batch(rank)).square().mean().backward()
        check(model, samples, workers)


def serves_buckets_that_are_the_gradients(rank, workers):
    model = network()
    samples = own_gradients(model, workers)
    parallel = DistributedDataParallel(model, gradient_as_bucket_view=True, bucket_cap_mb=1e-5)
    with varigrad.gradient_variance(parallel, method="ranks"):
        for _ in range(3):
            parallel(batch(rank)).square().mean().backward()
            check(model, samples, workers)
            model.zero_grad(set_to_none=False)


def trains_as_the_reference_does(rank, workers):
    for build, oracle in (
        (varigrad.VSGD, reference.vsgd_per_sample),
        (varigrad.MSVAG, reference.msvag_minibatch),
    ):
        model = network()
        start = {name: p.detach().clone() for name, p in model.named_parameters()}
        parallel = DistributedDataParallel(model)
        optimizer = build(model.parameters(), lr=1e-2, variance="batch")
        history = {name: [] for name in start}
        with varigrad.gradient_variance(parallel):
            for number in range(4):
                for name, grads in own_gradients(_copy(model), workers, (number,)).items():
                    history[name].append(grads.numpy())
                optimizer.zero_grad()
                parallel(batch(rank, number)).square().mean().backward()
                optimizer.step()
        for name, param in model.named_parameters():
            expected = torch.from_numpy(oracle(start[name].numpy(), history[name], 1e-2)[-1])
            assert error(param.detach() - start[name], expected - start[name]) <= 1e-9, name


def is_unbiased(rank, workers):
    """Gradients of variance 1/6 each, so that their mean has 1/(6 W); four standard errors."""
    generator = torch.Generator().manual_seed(rank)
    model = DistributedDataParallel(nn.Linear(500, 1, bias=False, dtype=torch.float64))
    found = []
    with varigrad.gradient_variance(model):
        for _ in range(20):
            model.zero_grad()
            model(0.7 + torch.randn(6, 500, dtype=torch.float64, generator=generator)).mean().backward()
            found.append(model.module.weight.grad_variance.mean())
    tolerance = 4 * (2 / (workers - 1) / (20 * 500)) ** 0.5
    assert abs(torch.stack(found).mean() * 6 * workers - 1) <= tolerance


def refuses_other_methods_and_what_is_inside(rank, workers):
    model = DistributedDataParallel(network())
    for method in ("layers", "vmap", "microbatch"):
        with pytest.raises(TypeError, match="DistributedDataParallel"):
            varigrad.gradient_variance(model, method=method)
    optimizer = varigrad.VSGD(model.parameters(), variance="batch")
    varigrad.gradient_variance(model.module, method="layers")
    model(batch(rank)).square().mean().backward()
    with pytest.raises(RuntimeError, match="its gradient has been changed since backward"):
        optimizer.step()


def refuses_a_single_worker(rank, workers):
    group = [dist.new_group([index]) for index in range(workers)][rank]
    model = DistributedDataParallel(network(), process_group=group)
    with pytest.raises(ValueError, match="at least 2 workers, and this process group has 1"):
        varigrad.gradient_variance(model)


def _copy(model):
    copy = network()
    copy.load_state_dict(model.state_dict())
    return copy


TESTS = (
    is_the_variance_over_the_workers,
    leaves_what_is_kept_alone,
    adds_up_passes_that_are_not_reduced,
    counts_an_unused_parameter_as_zero,
    serves_buckets_that_are_the_gradients,
    trains_as_the_reference_does,
    is_unbiased,
    refuses_other_methods_and_what_is_inside,
    refuses_a_single_worker,
)


def complaints():
    """Runs all of the above on this rank, and returns by name what went wrong."""
    found = {}
    for test in TESTS:
        try:
            test(dist.get_rank(), dist.get_world_size())
        except BaseException:
            found[test.__name__] = traceback.format_exc()
        with contextlib.suppress(RuntimeError):  # the other may have gone away
            dist.barrier()
    return found


@pytest.fixture(scope="module", params=[2, 3])
def found(request):
    """Processes are dear: one set of them runs all tests, which then look at what was found."""
    return launch(complaints, request.param)


@pytest.mark.parametrize("test", TESTS, ids=lambda test: test.__name__)
def test_on_several_workers_it(test, found):
    for rank, complaint in enumerate(found):
        assert test.__name__ not in complaint, f"rank {rank}: {complaint[test.__name__]}"
