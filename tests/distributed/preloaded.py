"""What the server that ranks are forked from has imported."""

import torch._dynamo
import torch.distributed.checkpoint.state_dict
import torch.distributed.fsdp
import torch.distributed.optim
import torch.distributed.tensor.parallel
import torch.nn.parallel

import tests.contract.contenders
import tests.engine.toy_rules

__all__ = ["tests", "torch"]
