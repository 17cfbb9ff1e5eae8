"""wsss: per-cell labels for microscopy from image-level labels."""

from typing import TYPE_CHECKING, Any

from wsss.core import __version__

if TYPE_CHECKING:
    from wsss.inference.one_image import load

__all__ = ["__version__", "load"]


def __getattr__(name: str) -> Any:
    """Import `load` on first use, so that `import wsss` stays fast."""
    if name == "load":
        from wsss.inference.one_image import load

        return load
    raise AttributeError(f"module 'wsss' has no attribute {name!r}")
