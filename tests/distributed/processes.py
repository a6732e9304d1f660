"""Several processes on one machine that exchange tensors over gloo, as the ranks of a training run do.

They are forked from a server that has imported torch already, because importing it takes most of a short test.
"""

from __future__ import annotations

import multiprocessing
import os
import pickle
import tempfile
import time
import traceback
from collections.abc import Callable
from datetime import timedelta
from functools import cache
from multiprocessing.connection import Connection, wait
from multiprocessing.context import ForkServerContext
from pathlib import Path
from typing import Any

__all__ = ["launch"]

PATIENCE = 120.0
"""Seconds after which ranks that have not answered are given up."""


def launch(check: Callable[..., Any], ranks: int, *arguments: Any) -> list[Any]:
    """Calls `check(*arguments)` on every rank of a process group of its own, and waits for all of them.

    Args:
        check: A function at the top level of a module.
        ranks: How many processes.
        arguments: What it is called with.

    Returns:
        What it returned, rank by rank; None where it returned nothing.

    Raises:
        AssertionError: If a rank raised, with its traceback, or ended otherwise, or did not end.
    """
    with tempfile.TemporaryDirectory() as folder:
        links = [_context().Pipe(duplex=False) for _ in range(ranks)]
        processes = [
            _context().Process(target=_rank, args=(sender, check, arguments, rank, ranks, Path(folder) / "store"))
            for rank, (_, sender) in enumerate(links)
        ]
        try:
            for process, (_, sender) in zip(processes, links, strict=True):
                process.start()
                sender.close()
            return _answers([receiver for receiver, _ in links], time.monotonic() + PATIENCE)
        finally:
            for process in processes:
                if process.pid is not None:
                    process.kill()
                    process.join()


def _answers(receivers: list[Connection], deadline: float) -> list[Any]:
    """Waits for what each rank has to say; once one is in trouble, the others are not waited for any longer."""
    answers: dict[int, Any] = {}
    troubles: dict[int, str] = {}
    while len(answers) + len(troubles) < len(receivers):
        waiting = [receiver for rank, receiver in enumerate(receivers) if rank not in {*answers, *troubles}]
        # The others are heard shortly: the first to complain may be the one whose partner has gone.
        seconds = 0.5 if troubles else max(0.0, deadline - time.monotonic())
        ready = wait(waiting, timeout=seconds)
        if not ready:
            break
        for receiver in ready:
            rank = receivers.index(receiver)
            try:
                answer, trouble = pickle.loads(receiver.recv_bytes())
            except EOFError:
                answer, trouble = None, "it ended without an answer"
            if trouble:
                troubles[rank] = f"rank {rank} of {len(receivers)}: {trouble}"
            else:
                answers[rank] = answer
    if troubles:
        raise AssertionError("\n".join(troubles.values()))
    if missing := set(range(len(receivers))) - answers.keys():
        raise AssertionError(f"ranks {sorted(missing)} have not ended after {PATIENCE:g} seconds")
    return [answers[rank] for rank in range(len(receivers))]


@cache
def _context() -> ForkServerContext:
    context = multiprocessing.get_context("forkserver")
    # Forked: it must not have started threads of its own.
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    context.set_forkserver_preload(["tests.distributed.preloaded"])
    return context


def _rank(
    sender: Connection, check: Callable[..., Any], arguments: tuple[Any, ...], rank: int, ranks: int, store: Path
) -> None:
    import torch
    from torch import distributed

    torch.set_num_threads(1)
    try:
        distributed.init_process_group(
            "gloo", init_method=store.as_uri(), rank=rank, world_size=ranks, timeout=timedelta(seconds=PATIENCE)
        )
        answer = check(*arguments)
        distributed.barrier()
    except BaseException:
        sender.send_bytes(pickle.dumps((None, traceback.format_exc())))
    else:
        # Before anything is torn down: torch's own threads sometimes abort a process that is about to end.
        sender.send_bytes(pickle.dumps((answer, "")))
