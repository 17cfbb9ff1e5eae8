"""The reader of .npy arrays: within what they promise, and never of pickled objects."""

import io
import math
import os
import tokenize
from pathlib import Path
from typing import IO, Any

import numpy as np

from wsss.core.checks import DataError
from wsss.core.reading import check_regular, one_line

_HEADER_FAULTS = (
    ValueError,
    LookupError,
    TypeError,
    AttributeError,
    SyntaxError,
    tokenize.TokenError,
    RecursionError,
    MemoryError,
    EOFError,
    OverflowError,
)
"""What numpy raises for .npy headers, which are Python literals: all that Python's parser does."""


def check_npy(stream: IO[bytes], size: int, where: object) -> tuple[tuple[int, ...], np.dtype[Any]]:
    """Read the header of an .npy array, and compare what it promises with what is there.

    Args:
        stream: at the beginning of the array; left where its numbers begin.
        size: bytes of the whole array, header included.
        where: its file, for messages.

    Returns:
        Shape and type of the array.

    Raises:
        DataError: no such header, an array of Python objects, or one larger than its file.
    """
    readers = {1: np.lib.format.read_array_header_1_0, 2: np.lib.format.read_array_header_2_0}
    begin = stream.tell()
    try:
        shape, _, dtype = readers[np.lib.format.read_magic(stream)[0]](stream)
    except _HEADER_FAULTS as error:
        raise DataError(f"{where} is no .npy array, or damaged ({one_line(error)}).") from error
    if dtype.hasobject:
        raise DataError(f"{where} holds pickled Python objects, which are never loaded: save numbers.")
    if any(n < 0 for n in shape) or math.prod(shape) * dtype.itemsize > size - (stream.tell() - begin):
        promised = " x ".join(map(str, shape))
        raise DataError(f"{where} is damaged: it promises {promised} values of {dtype}, more than it holds.")
    return shape, dtype


def read_npy(path: Path, again: str, *, mapped: bool = False) -> np.ndarray:
    """Read an .npy file, or map it; nothing is unpickled.

    Args:
        path: the file.
        again: the way out if it is damaged, as a sentence.
        mapped: map it read-only instead of reading it.

    Raises:
        DataError: it is missing or damaged.
    """
    try:
        check_regular(path)
        with path.open("rb") as stream:
            check_npy(stream, os.fstat(stream.fileno()).st_size, path)
        array: np.ndarray = np.load(path, mmap_mode="r" if mapped else None, allow_pickle=False)
        return array
    except FileNotFoundError:
        raise DataError(f"{path} is missing. {again}") from None
    except DataError as error:
        raise DataError(f"{error} {again}") from None
    except (OSError, ValueError, EOFError) as error:
        raise DataError(f"{path} is damaged ({one_line(error)}). {again}") from error


def parse_npy(content: bytes, where: object) -> np.ndarray:
    """Read an .npy array from memory; nothing is unpickled.

    Raises:
        DataError: it is damaged.
    """
    check_npy(io.BytesIO(content), len(content), where)
    array: np.ndarray = np.load(io.BytesIO(content), allow_pickle=False)
    return array
