"""Tuning every optimizer with the same number of trials, and scoring what came of it.

In reading order: `space` (what is tried), `grids` (what the papers tried), `tune` (trials, winners and their
repetitions), `scores` (time to target, performance profiles, ratios to AdamW).
"""
