"""What backends around other packages share: a package that is missing is asked for in one line."""

import importlib
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType

import numpy as np

from wsss.core.checks import ConfigError
from wsss.segmenters import CellMaps
from wsss.segmenters.pairing import pair_nuclei


def need(module: str, backend: str, install: str) -> ModuleType:
    """Import the module that a backend needs.

    Raises:
        ConfigError: it, or something it needs itself, is not installed.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise ConfigError(f"--backend {backend} cannot import {error.name or module}: {install}") from error


@contextmanager
def fetching(backend: str) -> Iterator[None]:
    """Turn a failed download of weights into one line that tells the way out."""
    try:
        yield
    except OSError as error:  # those of urllib and requests are OSErrors too
        text = " ".join(str(error).split())[:200]
        raise ConfigError(
            f"--backend {backend} could not fetch or read its weights ({text}): "
            "fetch them where there is a network, then pass --weights FILE."
        ) from error


def paired(cells: np.ndarray, nuclei: np.ndarray) -> CellMaps:
    """Give nuclei that were found apart, with ids of their own, the ids of their cells."""
    return CellMaps(*pair_nuclei(cells.astype(np.int32), nuclei.astype(np.int32)))
