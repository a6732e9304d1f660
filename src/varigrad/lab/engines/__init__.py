"""Engines: what carries out the runs of a grid, in this process, in workers on this machine, or on a Ray cluster.

In reading order: `jobs` (what is to be done, and what is told of it), `execute` (one run through a store), `queue`
(what is still to do), `here`, `worker` and `processes`, `cluster`.
"""
