"""The networks the tasks train."""
