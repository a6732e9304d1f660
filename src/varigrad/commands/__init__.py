"""Commands of `varigrad` that have a file of their own; `varigrad.cli` puts them together."""
