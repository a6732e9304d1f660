"""Experiments that compare optimizers fairly: data, models, tasks, training, comparison and reports.

The lab is an extra (`pip install 'varigrad[lab]'`); nothing in the optimizers depends on it.
"""
