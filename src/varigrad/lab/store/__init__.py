"""The run store: a folder in which every run is kept once, whole, and resumable after any end.

In reading order: `specification` (what a run is, and the key it is kept under), `record` (a finished run as JSON),
`kept` (a run's checkpoints), `lease` (who works on a run), `folder` (the store itself), `pack` (runs in one file,
for another machine).
"""
