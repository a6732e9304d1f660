"""What a trainer needs beyond a `torch.optim.Optimizer`; each file needs the package that it is named after.

`lightning` and `transformers` have callbacks that watch a run, `timm` makes the optimizers known by name. To train with
Accelerate, Lightning Fabric and the Trainer of transformers nothing is needed: `docs/trainers.md` shows them at work.
"""
