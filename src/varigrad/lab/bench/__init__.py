"""How long a step takes: every optimizer, every way, interleaved with torch's fused AdamW on the same tensors.

In the order of reading: `shapes` (what is stepped), `contenders` (who steps), `timing` (how it is measured), `record`
(the result as JSON) and `display` (as a table and as a picture).
"""
