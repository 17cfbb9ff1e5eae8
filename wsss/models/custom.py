"""Encoders that users write: 'package.module:Class' is imported by name, and its source code is recorded."""

import importlib
import sys
from pathlib import Path
from types import FunctionType, ModuleType
from typing import Protocol

from torch import nn

from wsss.core.checks import ConfigError
from wsss.core.files import digest_file, digest_json

_INSTALLED = ("site-packages", "dist-packages")
_OURS = Path(__file__).resolve().parents[1]


class EncoderClass(Protocol):
    """A custom encoder: a class of modules."""

    def __call__(self, channels: int) -> nn.Module:
        """Build it for images with this number of channels."""


def is_custom(backbone: str) -> bool:
    """Whether a backbone is a class of the user's, not one of a library."""
    return ":" in backbone


def custom_class(name: str) -> EncoderClass:
    """Import the class that 'package.module:Class' names.

    Raises:
        ConfigError: there is none, or it is no class of torch.nn.Module.
    """
    attribute = name.partition(":")[2]
    kind = getattr(_module(name), attribute, None)
    if kind is None:
        raise ConfigError(f"backbone '{name}' cannot be imported (there is no {attribute}): check its name.")
    if not (isinstance(kind, type) and issubclass(kind, nn.Module)):  # nothing else is called
        raise ConfigError(f"backbone '{name}' is no class of torch.nn.Module.")
    return kind


def _module(name: str) -> ModuleType:
    try:
        return importlib.import_module(name.partition(":")[0])
    except (ImportError, ValueError, SyntaxError) as error:
        raise ConfigError(f"backbone '{name}' cannot be imported ({error}): expected package.module:Class.") from error


def source_digest(name: str) -> str:
    """Return the digest of the source code of a custom encoder: its module, and what that imports from beside it."""
    module = _module(name)
    top = sys.modules[module.__name__.partition(".")[0]]
    home = Path(top.__file__ or module.__file__ or ".").resolve().parent
    return digest_json({str(path.relative_to(home)): digest_file(path) for path in _files_below(home, module)})


def _files_below(home: Path, module: ModuleType) -> list[Path]:
    """Return the files in a folder that a module, and those it uses from there, were loaded from."""
    found: set[Path] = set()
    parts = module.__name__.split(".")
    queue = [sys.modules.get(".".join(parts[:k])) for k in range(1, len(parts) + 1)]
    while queue:
        one = queue.pop()
        path = Path(getattr(one, "__file__", None) or "").resolve()
        if one is None or path in found or not _is_own(path, home):
            continue
        found.add(path)
        for value in list(vars(one).values()):
            if isinstance(value, ModuleType):
                queue.append(value)
            elif isinstance(value, type | FunctionType):
                queue.append(sys.modules.get(value.__module__))
    return sorted(found)


def _is_own(path: Path, home: Path) -> bool:
    """Whether a file is of the user's own code: below `home`, and neither of an installed library nor of wsss."""
    if not path.is_file() or not path.is_relative_to(home) or path.is_relative_to(_OURS):
        return False
    inside = path.relative_to(home).parts
    return not any(name in inside for name in _INSTALLED) and (home.name not in _INSTALLED or len(inside) == 1)
