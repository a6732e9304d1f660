"""How a rule is run: the rule itself, its trace, the ways (loop, foreach), and the optimizer class that uses them.

Read in this order, each file needing only the ones before it: `operations`, `trace`, `rule`, `loop`, `foreach`,
`hyperparameters`, `optimizer`. Nothing here knows a particular optimizer.
"""
