"""JSON, YAML, .npy arrays and the chunks of PNG from files of any origin: limits come first, errors are one line.

These formats are read here and nowhere else (`tests/test_layers.py` checks that).
"""

import io
import json
import math
import os
import re
import stat
import struct
import tokenize
import zlib
from pathlib import Path
from typing import IO, Any

import numpy as np
import yaml

from wsss.core.checks import DataError, UserError

MOST_YAML = 1 << 18
"""Bytes of the largest YAML file that is read."""
DEEPEST = 50
"""Lists and mappings within each other in a YAML file, at most."""
LONGEST_NUMBER = 1000
"""Characters of a number in YAML, at most: long ones take seconds to convert."""


class _Loader(getattr(yaml, "CSafeLoader", yaml.SafeLoader)):  # type: ignore[misc]
    """YAML in which 1e-4 is a number, as it is on the command line."""


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"^[-+]?(\d+\.?\d*|\.\d+)[eE][-+]?\d+$"), list("-+.0123456789")
)
_NUMBER = re.compile(r"[-+0-9_.:a-fA-FxoXO]+")
_HALF_CHARACTER = re.compile(r"\\u[dD][89a-fA-F]")


def check_regular(path: Path) -> None:
    """Refuse pipes, devices and sockets, which might block a reader forever.

    Raises:
        DataError: it is no ordinary file.
        OSError: it is not there.
    """
    if not stat.S_ISREG(path.stat().st_mode):
        raise DataError(f"{path} is no ordinary file (a folder, pipe or device): give a file.")


def check_no_link(path: Path) -> None:
    """Refuse a link where a file of ours is written in place: what it points to is not ours.

    Raises:
        DataError: it is a link.
    """
    if path.is_symlink():
        raise DataError(f"{path} is a link, which wsss never makes: put the file itself there, or remove the link.")


def parse_json(text: str | bytes, where: object) -> Any:
    """Read JSON; bytes in UTF-8, UTF-16 or UTF-32, with or without a byte order mark.

    Args:
        text: the JSON.
        where: the file it is from, for messages.

    Raises:
        DataError: it is no JSON, nested too deep, or holds numbers or characters that cannot be used.
    """
    try:
        text = text if isinstance(text, str) else text.decode(json.detect_encoding(text))
        value = json.loads(text)
        if _HALF_CHARACTER.search(text):
            json.dumps(value, ensure_ascii=False).encode()  # half of a pair of code units is no character
        return value
    except RecursionError:
        raise DataError(f"{where} nests its lists too deep: it is damaged, or made to do harm.") from None
    except ValueError as error:  # also of numbers with thousands of digits, and of bytes that are no UTF-8
        raise DataError(f"{where} is not JSON ({one_line(error)}): it is damaged, make it again.") from error


def parse_yaml(text: str, where: object, kind: type[UserError] = DataError) -> Any:
    """Read YAML without tags of Python and without anchors.

    Args:
        text: the YAML.
        where: the file it is from, for messages.
        kind: of the error.

    Raises:
        UserError: it is no YAML, too large, nested too deep, or uses anchors (which blow up a small file).
    """
    if len(text) > MOST_YAML:
        raise kind(f"{where} has {len(text)} characters, more than {MOST_YAML} are not read as YAML.")
    try:
        _check_events(text, where, kind)
        return yaml.load(text, Loader=_Loader)
    except UserError:
        raise
    except (yaml.YAMLError, ValueError, TypeError, LookupError, AttributeError, OverflowError) as error:
        # The constructors of PyYAML raise all of these for values that do not fit their tag.
        raise kind(f"{where} is not YAML ({one_line(error)}).") from error


def _check_events(text: str, where: object, kind: type[UserError]) -> None:
    depth = 0
    for event in yaml.parse(text, Loader=_Loader):
        if isinstance(event, yaml.AliasEvent):
            raise kind(f"{where} refers to an anchor (*{event.anchor}), which is not read: write the value out.")
        if isinstance(event, yaml.ScalarEvent):
            if len(event.value) > LONGEST_NUMBER and _NUMBER.fullmatch(event.value):
                raise kind(f"{where} has a number of {len(event.value)} characters: it is damaged.")
        elif isinstance(event, yaml.CollectionStartEvent):
            depth += 1
            if depth > DEEPEST:
                raise kind(f"{where} nests its lists more than {DEEPEST} deep: it is damaged, or made to do harm.")
        elif isinstance(event, yaml.CollectionEndEvent):
            depth -= 1


def read_yaml(path: Path, kind: type[UserError] = DataError) -> Any:
    """Read a YAML file as `parse_yaml` does.

    Raises:
        UserError: the file is missing or cannot be read, or see `parse_yaml`.
    """
    try:
        check_regular(path)
        if (size := path.stat().st_size) > MOST_YAML:
            raise kind(f"{path} has {size} bytes, more than {MOST_YAML} are not read as YAML.")
        text = path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise kind(f"{path} does not exist: check the path.") from None
    except OSError as error:
        raise kind(f"{path} cannot be read ({error.strerror}).") from None
    except DataError as error:
        raise kind(str(error)) from None
    except UnicodeDecodeError as error:
        raise kind(f"{path} is not UTF-8 text (byte {error.start}): save it as YAML in UTF-8.") from None
    return parse_yaml(text, path, kind)


def one_line(error: BaseException) -> str:
    """Return the text of an error on one line, at most 200 characters of it."""
    return (" ".join(str(error).split()) or type(error).__name__)[:200]


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


MOST_CHUNKS = 2**17
"""Of a PNG; writers make one for every 8 kB, or larger ones."""
PNG = b"\x89PNG\r\n\x1a\n"
MOST_TEXT = 2**20
"""Bytes of a text in a PNG when unpacked; the rest of a longer one is left out."""


def png_text(kind: bytes, content: bytes) -> bytes:
    """Return the text behind the keyword of a PNG's chunk tEXt, zTXt or iTXt, unpacked; b'' if it is broken.

    Source: PNG specification, third edition, 11.3.3.
    """
    _, _, text = content.partition(b"\0")
    packed = kind == b"zTXt"
    if kind == b"iTXt":
        packed = text[:1] == b"\1"
        text = text[2:].partition(b"\0")[2].partition(b"\0")[2]  # behind its language and its translated keyword
    elif packed:
        text = text[1:]
    try:
        return zlib.decompressobj().decompress(text, MOST_TEXT) if packed else text
    except zlib.error:
        return b""


def check_png(content: bytes, where: str) -> None:
    """Compare the CRC of every chunk of a PNG file; what follows its end does not count.

    Args:
        content: of the file.
        where: its name, for messages.

    Raises:
        DataError: a chunk is cut short or damaged, or the end is missing.

    Source: PNG specification, third edition, 5.3.
    """
    if content[:8] != PNG:
        raise DataError(f"{where} is no PNG file.")
    at, kind, view = 8, b"", memoryview(content)
    while kind != b"IEND":
        if at + 12 > len(content):
            raise DataError(f"{where} is cut short: its end is missing.")
        (length,) = struct.unpack_from(">I", content, at)
        kind, end = content[at + 4 : at + 8], at + 8 + length
        if end + 4 > len(content):
            raise DataError(f"{where} is cut short: its end is missing.")
        if zlib.crc32(view[at + 4 : end]) != struct.unpack_from(">I", content, end)[0]:
            raise DataError(f"{where} is damaged: the checksum of its part {kind!r} is another.")
        at = end + 4
