"""Wrappers that keep something of their own in the optimizer's state, as timm's Lookahead does."""

import copy

import torch

from tests.contract.contenders import every_contender, parameters, run, twins


@every_contender
def test_what_a_wrapper_adds_to_the_state_is_loaded(make):
    params = parameters()
    optimizer = make(params, lr=1e-2)
    run(optimizer, params, range(2))
    for param in params:
        optimizer.state[param]["slow"] = param.detach().clone()
    again = twins(params)
    resumed = make(again, lr=1e-2)
    resumed.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    for param, twin in zip(params, again, strict=True):
        assert torch.equal(resumed.state[twin]["slow"], optimizer.state[param]["slow"])
