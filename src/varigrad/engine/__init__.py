"""How a rule is run: the rule, its trace, the ways (loop, foreach, fused), and the optimizer class around them.

Read in this order, each file needing only the ones before it: `trace`, `rule` and `operations` (what a rule is),
`loop`, `plan` and `foreach`, `c` and `fused` (how it is run), `hyperparameters`, `checkpoint`, `batch_variance` and
`optimizer` (what surrounds it). Nothing here knows a particular optimizer.
"""
