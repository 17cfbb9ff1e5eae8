"""Synthetic fields of view with known per-cell labels, drawn by code: data of the demo and of tests."""

from wsss.data.synthetic.fields import Field, Look, draw_field, write_fields

__all__ = ["Field", "Look", "draw_field", "write_fields"]
