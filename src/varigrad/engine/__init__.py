"""How a rule is run: the rule, its trace, the ways (loop, foreach, fused), and the optimizer class around them.

Read in this order, each file needing only the ones before it: `trace`, `rule` and `operations` (what a rule is),
`loop`, `plan` and `foreach` (how it is run on tensors), `rounding` and `storage` (how tensors are kept), `compiled`,
`c`, `library`, `threads` and `fused` (how it is compiled for a CPU), `triton_source`, `triton_storage` and
`triton_way` (and for a GPU), `ways` (which of them runs it), `loss_scale`, `per_tensor` and `bucket` (one step of
several parameters), `hyperparameters`, `groups`, `keywords`, `state`, `checkpoint`, `batch_variance`, `belief` and
`optimizer` (what surrounds it). Nothing here knows a particular optimizer.

What looks into a model's layers stands beside that: `calls`, `parametrised`, `interception`, `nodes`,
`taps`; and what is compiled for it, `batch`.
"""
