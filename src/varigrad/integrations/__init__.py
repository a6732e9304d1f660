"""What a trainer needs beyond a `torch.optim.Optimizer`; each file needs the package that it is named after.

`lightning` has a callback, `timm` makes the optimizers known by name. Accelerate, Lightning Fabric and the Trainer of
transformers need nothing: `docs/trainers.md` shows them at work.
"""
