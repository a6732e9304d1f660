"""What the variance inside a mini-batch costs: interleaved, median of ratios to a plain forward and backward pass.

    python benchmarks/gradient_variance.py [--rounds 25] [--threads 1] [--clock cpu] [--ranks] [--json FILE]

Each round times a forward and backward pass of every network without and with `gradient_variance(method="layers")` in
turn, so that a change of the machine's speed meets both. With `--ranks`: two processes under DistributedDataParallel,
without anything, with one more all-reduce of as many numbers, and with `method="ranks"`. The data are random. The floor
is a plain pass and what cannot be done without, written as barely as possible: for networks of matrices the product
Σ c_n² of each and one pass over it; for `ranks` the all-reduce, a copy of the worker's gradients and one pass. On a
machine that is busy with other work `--clock cpu` counts this process's processor time instead (use `--threads 1`).
"""

import argparse
import functools
import json
import os
import shlex
import statistics
import sys
import tempfile
import time
from pathlib import Path

import torch
import torch.distributed as dist
from memory import keep_freed_memory
from torch import nn

import varigrad
from varigrad.lab.machine import provenance
from varigrad.lab.models.convnet import convnet
from varigrad.lab.models.mlp import mlp


class Block(nn.Module):
    """A transformer encoder block between an embedding and a head."""

    def __init__(self, width=256, heads=4):
        super().__init__()
        self.embedding = nn.Embedding(1000, width)
        self.block = nn.TransformerEncoderLayer(width, heads, 4 * width, dropout=0.0, batch_first=True)
        self.head = nn.Linear(width, 10)

    def forward(self, ids):
        """Classifies sequences of symbols."""
        return self.head(self.block(self.embedding(ids)).mean(1))


NETWORKS = {
    "MLP 784-512-512-10, batch 128": (lambda: mlp(784, 512, 512, 10), lambda: torch.rand(128, 28, 28)),
    "MLP 784-1024-1024-10, batch 512": (lambda: mlp(784, 1024, 1024, 10), lambda: torch.rand(512, 28, 28)),
    "MLP 784-256-128-64-32-10, BN, batch 32": (
        lambda: mlp(784, 256, 128, 64, 32, 10, batch_norm=True),
        lambda: torch.rand(32, 28, 28),
    ),
    "ConvNet 24-48-96-192, BN, batch 64": (lambda: convnet(24, 48, 96, 192), lambda: torch.rand(64, 3, 32, 32)),
    "transformer block 256, 64 tokens, batch 16": (Block, lambda: torch.randint(1000, (16, 64))),
}

CLOCKS = {"wall": time.perf_counter, "cpu": time.process_time}


def passes(build, draw, wrap=lambda model: model):
    """Returns the model and a function that goes forward and backward once."""
    torch.manual_seed(0)
    model = wrap(build())
    inputs = draw()
    targets = torch.randint(10, (len(inputs),))

    def go():
        model.zero_grad()
        nn.functional.cross_entropy(model(inputs), targets).backward()

    return model, go


def ratios(functions, rounds, repeat, clock):
    """Times the functions in turn; returns milliseconds of the first and the others' ratios to it."""
    for function in functions:
        function()
    times = [[] for _ in functions]
    for _ in range(rounds):
        for column, function in zip(times, functions, strict=True):
            began = clock()
            for _ in range(repeat):
                function()
            column.append((clock() - began) * 1e3 / repeat)
    others = [[b / a for a, b in zip(times[0], column, strict=True)] for column in times[1:]]
    return statistics.median(times[0]), others


def line(network, arm, milliseconds, column):
    low, middle, high = statistics.quantiles(column, n=4)
    name = f"{arm}: {network}" if arm != "layers" else network
    print(f"{name:58} {milliseconds:9.2f} {middle:8.3f} {low:9.3f} {high:9.3f}", flush=True)
    return {"network": network, "arm": arm, "ms plain": milliseconds, "ratio": middle, "quartiles": [low, high]}


def keep(path, rows):
    """Writes the figures and where they come from."""
    if path is not None:
        origin = provenance(shlex.join(["python", *sys.argv]), torch.device("cpu"))
        path.write_text(json.dumps({"rows": rows, "provenance": origin}, indent=1) + "\n", "utf-8")


def bare_layers(model, plain):
    """A plain pass, and the sum over the samples of the squared terms of each matrix; None where not all are known."""
    if any(isinstance(module, nn.Conv2d | nn.TransformerEncoderLayer) for module in model.modules()):
        return None
    seen, rooms = {}, {}
    linear = [module for module in model.modules() if isinstance(module, nn.Linear)]

    def forward(module, inputs, output):
        output.register_hook(lambda grad: seen.update({module: (inputs[0].detach(), grad)}))

    def squared(tensor, key):
        if key not in rooms:
            rooms[key] = torch.empty_like(tensor)
        return torch.mul(tensor, tensor, out=rooms[key])

    for module in linear:
        module.register_forward_hook(forward)
        rooms[module] = torch.empty_like(module.weight)

    @torch.no_grad()
    def go():
        with torch.enable_grad():
            plain()
        for module in linear:
            inputs, grad = seen[module]
            torch.mm(squared(grad, (module, 0)).t(), squared(inputs, (module, 1)), out=rooms[module])
            rooms[module].addcmul_(module.weight.grad, module.weight.grad, value=-1 / len(grad))

    return go


def layers(*timing):
    rows = []
    print(f"{'network':58} {'ms plain':>9} {'ratio':>8} {'quartiles':>19}")
    for name, (build, draw) in NETWORKS.items():
        _, plain = passes(build, draw)
        model, tapped = passes(build, draw)
        bare = bare_layers(*passes(build, draw))
        with varigrad.gradient_variance(model, method="layers"):
            milliseconds, columns = ratios((plain, tapped, *([bare] if bare else [])), *timing)
        rows += [
            line(name, arm, milliseconds, column) for arm, column in zip(("layers", "floor"), columns, strict=False)
        ]
    return rows


def bare_ranks(model, plain, buffer):
    """A pass, one more all-reduce, a copy of the worker's gradients and one pass over both."""
    params = list(model.parameters())
    owns = [torch.empty_like(param) for param in params]

    def copy(param, own):
        own.copy_(param.grad)

    for param, own in zip(params, owns, strict=True):
        param.register_post_accumulate_grad_hook(functools.partial(copy, own=own))
    parts = [part.view_as(param) for part, param in zip(buffer.split([p.numel() for p in params]), params, strict=True)]

    @torch.no_grad()
    def go():
        with torch.enable_grad():
            plain()
        for param, own, part in zip(params, owns, parts, strict=True):
            torch.sub(own, param.grad, out=part)
        dist.all_reduce(buffer)

    return go


def ranks(rank, path, kept, *timing):
    rows = []
    torch.set_num_threads(1)
    keep_freed_memory()
    dist.init_process_group("gloo", init_method=f"file://{path}", rank=rank, world_size=2)
    wrap = nn.parallel.DistributedDataParallel
    if rank == 0:
        print(f"{'network, 2 processes, ratio to DDP of':58} {'ms plain':>9} {'ratio':>8} {'quartiles':>19}")
    for name, (build, draw) in NETWORKS.items():
        _, plain = passes(build, draw, wrap)
        _, more = passes(build, draw, wrap)
        model, tapped = passes(build, draw, wrap)
        buffer = torch.zeros(sum(param.numel() for param in model.parameters()))

        def reducing(more=more, buffer=buffer):
            more()
            dist.all_reduce(buffer)

        bare = bare_ranks(*passes(build, draw, wrap), buffer)
        with varigrad.gradient_variance(model, method="ranks"):
            milliseconds, columns = ratios((plain, reducing, tapped, bare), *timing)
        if rank == 0:
            arms = ("one more all-reduce", "ranks", "floor")
            rows += [line(name, arm, milliseconds, column) for arm, column in zip(arms, columns, strict=True)]
    if rank == 0:
        keep(kept, rows)
    dist.destroy_process_group()


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=25)
    parser.add_argument("--repeat", type=int, default=4)
    parser.add_argument("--threads", type=int, default=None)
    parser.add_argument("--clock", choices=CLOCKS, default="wall")
    parser.add_argument("--ranks", action="store_true")
    parser.add_argument("--json", type=Path, help="where to keep the figures")
    arguments = parser.parse_args()
    timing = arguments.rounds, arguments.repeat, CLOCKS[arguments.clock]
    if arguments.ranks:
        with tempfile.TemporaryDirectory() as folder:
            path = os.path.join(folder, "store")  # noqa: PTH118
            torch.multiprocessing.spawn(ranks, (path, arguments.json, *timing), nprocs=2)
        return
    keep_freed_memory()
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads, {arguments.rounds} rounds")
    keep(arguments.json, layers(*timing))


if __name__ == "__main__":
    main()
