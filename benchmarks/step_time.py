"""The time of one optimizer step against torch's fused AdamW: interleaved, median of ratios.

    python benchmarks/step_time.py [--elements 22800000] [--tensors 1] [--rounds 15]

Each round steps every optimizer in turn on tensors of its own with fixed gradients.
"""

import argparse
import statistics
import time

import torch

import varigrad


def parameters(elements, tensors):
    generator = torch.Generator().manual_seed(0)
    made = [torch.randn(elements // tensors, generator=generator).requires_grad_() for _ in range(tensors)]
    for param in made:
        param.grad = 1e-2 * torch.randn(param.shape, generator=generator)
    return made


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--elements", type=int, default=22_800_000)
    parser.add_argument("--tensors", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=15)
    arguments = parser.parse_args()
    builds = {"torch AdamW(fused=True)": lambda p: torch.optim.AdamW(p, fused=True)}
    builds["torch AdamW(foreach=True)"] = lambda p: torch.optim.AdamW(p, foreach=True)
    for name in varigrad.__all__:
        kind = getattr(varigrad, name)
        if isinstance(kind, type) and issubclass(kind, torch.optim.Optimizer):
            builds[name] = kind
    builds["VSGD(foreach=True)"] = lambda p: varigrad.VSGD(p, foreach=True)
    optimizers = {name: build(parameters(arguments.elements, arguments.tensors)) for name, build in builds.items()}
    milliseconds = {name: [] for name in optimizers}
    for optimizer in optimizers.values():
        optimizer.step()
    for _ in range(arguments.rounds):
        for name, optimizer in optimizers.items():
            began = time.perf_counter()
            optimizer.step()
            milliseconds[name].append((time.perf_counter() - began) * 1e3)
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads, {arguments.tensors} tensors,", end=" ")
    print(f"{arguments.elements} elements, {arguments.rounds} rounds")
    print(f"{'optimizer':26} {'ms per step':>12} {'ratio to fused AdamW: median':>30} {'min':>6} {'max':>6}")
    for name, values in milliseconds.items():
        ratios = [a / b for a, b in zip(values, milliseconds["torch AdamW(fused=True)"], strict=True)]
        figures = f"{statistics.median(ratios):30.3f} {min(ratios):6.3f} {max(ratios):6.3f}"
        print(f"{name:26} {statistics.median(values):12.3f} {figures}")


if __name__ == "__main__":
    main()
