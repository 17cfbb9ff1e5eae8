"""The bottom layer: class lists, options, files, checks. Imports nothing else of wsss, and no torch at import."""

__version__ = "0.2.0"
"""As in pyproject.toml."""
