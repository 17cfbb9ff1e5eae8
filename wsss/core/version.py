"""The version of wsss, as in pyproject.toml."""

__version__ = "0.2.0"
