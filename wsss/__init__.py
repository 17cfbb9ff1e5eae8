"""wsss: per-cell labels for microscopy from image-level labels."""

from typing import TYPE_CHECKING, Any

from wsss.core.version import __version__

if TYPE_CHECKING:
    from wsss.api import load

__all__ = ["__version__", "load"]


def __getattr__(name: str) -> Any:
    """Import what notebooks use when it is first asked for: `import wsss` itself stays quick."""
    if name == "load":
        from wsss.api import load

        return load
    raise AttributeError(f"module 'wsss' has no attribute {name!r}")
