"""wsss: per-cell labels for microscopy from image-level labels."""

__version__ = "0.1.0"
