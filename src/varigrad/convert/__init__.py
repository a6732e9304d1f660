"""convert_state: the saved state of torch's AdamW as that of an optimizer here, so that a running job can move over.

Read in this order: `adam` (what AdamW's state says of a gradient), `targets` (what each optimizer here makes of that),
`state` (whole state dicts).
"""

from varigrad.convert.state import convert_state

__all__ = ["convert_state"]
