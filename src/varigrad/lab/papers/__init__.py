"""The papers whose methods the library has, as data: every table and every figure, one file for each paper."""
