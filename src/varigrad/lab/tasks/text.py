"""The next character of War and Peace."""

from __future__ import annotations

import functools

from varigrad.lab.kinds.text import NextSymbol
from varigrad.lab.models.char_lstm import CharLSTM
from varigrad.lab.models.gpt import GPT
from varigrad.lab.papers import dissecting_adam
from varigrad.lab.tasks.task import Task
from varigrad.lab.text_data import WAR_AND_PEACE

TASKS = (
    Task(
        "warpeace-lstm",
        "War and Peace by characters, two LSTM layers of 128",
        WAR_AND_PEACE,
        functools.partial(CharLSTM, WAR_AND_PEACE.symbols, rows=WAR_AND_PEACE.rows),
        batch_size=WAR_AND_PEACE.rows,
        steps=dissecting_adam.STEPS["P4"],
        seeds=3,
        target=0.55,
        evaluations=20,
        threads=1,
        kind=NextSymbol(50, consecutive=True),
    ),
    Task(
        "warpeace-gpt",
        "War and Peace by characters, GPT of 4 blocks of 128",
        WAR_AND_PEACE,
        functools.partial(GPT, WAR_AND_PEACE.symbols, context=64),
        batch_size=16,
        steps=2000,
        seeds=3,
        target=0.45,
        evaluations=10,
        kind=NextSymbol(64, consecutive=False),
    ),
)
