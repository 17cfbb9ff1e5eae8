"""Text, JSON, YAML, .npy arrays and archives from files of any origin: limits come first, errors are one line.

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
import warnings
import zipfile
import zlib
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
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
_YAML_FAULTS = (yaml.YAMLError, ValueError, TypeError, LookupError, AttributeError, OverflowError)
"""What PyYAML raises; all but the first for values that do not fit their tag."""
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


@contextmanager
def opening(path: Path, missing: str = "check the path") -> Iterator[None]:
    """Name the file that cannot be opened, as DataError; `missing` is the way out where it does not exist."""
    try:
        yield
    except FileNotFoundError:
        raise DataError(f"{path} does not exist: {missing}.") from None
    except OSError as error:
        raise DataError(f"{path} cannot be read ({error.strerror}).") from None


def check_no_link(path: Path) -> None:
    """Refuse a link where a file of ours is written in place: what it points to is not ours.

    Raises:
        DataError: it is a link.
    """
    if path.is_symlink():
        raise DataError(f"{path} is a link, which wsss never makes: put the file itself there, or remove the link.")


def check_length(path: Path, most: int | None, what: str) -> None:
    """Refuse a file that is no ordinary one, or too long to be what it should be, before any of it is read.

    Args:
        most: bytes that it may have; None for any number.
        what: what it should be, such as 'YAML', for the message.

    Raises:
        DataError: it is.
        OSError: it is not there.
    """
    check_regular(path)
    if most is not None and (size := path.stat().st_size) > most:
        raise DataError(f"{path} has {size} bytes, more than {most} are not read as {what}.")


def read_bytes(path: Path, most: int | None, what: str) -> bytes:
    """Return the content of a file that is no longer than it may be; see `check_length`."""
    check_length(path, most, what)
    return path.read_bytes()


BLOCK = 1 << 20
"""Bytes that are read at once."""
HOLE = bytes(8)
"""No text has eight zero bytes in a row, in any encoding; a file may have any number of them that take no room."""


def check_holes(content: bytes, where: object) -> None:
    """Refuse a part of a text that has zeros in it.

    Raises:
        DataError: it has.
    """
    if HOLE in content:
        raise DataError(f"{where} has zeros where text is expected: it is damaged, or no text.")


TEXTS = (".csv", ".tsv", ".txt", ".json", ".geojson", ".yaml", ".yml")
"""Endings of files that are texts."""


def check_ends(path: Path) -> None:
    """Refuse a file named as a text that begins or ends with zeros, before all of it is read for its digest.

    Raises:
        DataError: it does.
        OSError: it is not there.
    """
    if path.suffix.lower() not in TEXTS:
        return
    with path.open("rb") as stream:
        check_holes(stream.read(BLOCK), path)
        stream.seek(max(0, stream.seek(0, io.SEEK_END) - BLOCK))
        check_holes(stream.read(BLOCK), path)


class _TextFile(io.FileIO):
    """A file whose reading ends with an error at its first run of zeros; what stands before it can be read."""

    _at_hole = False

    def readinto(self, buffer: Any, /) -> int:
        count = 0 if self._at_hole else super().readinto(buffer) or 0
        content = bytes(memoryview(buffer)[:count])
        at = 0 if self._at_hole else content.find(HOLE)
        self._at_hole = at >= 0
        if at == 0:
            check_holes(HOLE, self.name)
        return at if at > 0 else count


def open_text(path: Path, most: int | None, what: str) -> io.BufferedReader:
    """Open a file of text, as bytes, whose length is within a limit; a run of zeros ends its reading with a DataError.

    Read it part by part: reading all at once leaves the zeros aside.

    Raises:
        DataError: see `check_length`.
    """
    check_length(path, most, what)
    return io.BufferedReader(_TextFile(path), BLOCK)


def read_text_file(path: Path, most: int, what: str) -> str:
    """Return a UTF-8 text, with or without a byte order mark.

    Raises:
        DataError: it is longer than `most` bytes, holds zeros, or is no UTF-8.
        OSError: it is not there.
    """
    try:
        with open_text(path, most, what) as stream:
            text = b"".join(iter(lambda: stream.read(BLOCK), b"")).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is not UTF-8 text (byte {error.start}): save it as {what} in UTF-8.") from None
    return text.replace("\r\n", "\n").replace("\r", "\n")


def parse_json(text: str | bytes, where: object) -> Any:
    """Read JSON; bytes in UTF-8, UTF-16 or UTF-32, with or without a byte order mark.

    Args:
        where: the file it is from, for messages.

    Raises:
        DataError: it is no JSON, nested too deep, gives a name twice, or holds numbers or characters that cannot be
            used.
    """
    try:
        text = text if isinstance(text, str) else text.decode(json.detect_encoding(text))
        value = json.loads(text, object_pairs_hook=lambda pairs: _once(pairs, where))
        if _HALF_CHARACTER.search(text):
            json.dumps(value, ensure_ascii=False).encode()  # half of a pair of code units is no character
        return value
    except DataError:
        raise
    except RecursionError:
        raise DataError(f"{where} nests its lists too deep: it is damaged, or made to do harm.") from None
    except ValueError as error:  # also of numbers with thousands of digits, and of bytes that are no UTF-8
        raise DataError(f"{where} is not JSON ({one_line(error)}): it is damaged, make it again.") from error


def _once(pairs: list[tuple[str, Any]], where: object) -> dict[str, Any]:
    """Return names and values as a dictionary; a name that comes twice would hide a value."""
    value = dict(pairs)
    if len(value) < len(pairs):
        twice = Counter(name for name, _ in pairs).most_common(1)[0][0]
        raise DataError(f"{where} gives {twice[:80]!r} twice: keep one.")
    return value


def parse_yaml(text: str, where: object, kind: type[UserError] = DataError) -> Any:
    """Read YAML without tags of Python, without anchors and without keys that come twice.

    Args:
        where: the file it is from, for messages.

    Raises:
        UserError: it is no YAML, too large, nested too deep, gives a key twice, or uses anchors (which blow up a small
            file); the line is named.
    """
    if len(text) > MOST_YAML:
        raise kind(f"{where} has {len(text)} characters, more than {MOST_YAML} are not read as YAML.")
    try:
        _check_events(text, where, kind)
        return yaml.load(text, Loader=_Loader)
    except UserError:
        raise
    except _YAML_FAULTS as error:
        line, fault = _fault(error, text)
        raise kind(
            f"{where}, line {line}, is not YAML ({fault}): expected 'name: value' or '- item' in each line, indented "
            "with blanks; put texts with special characters in quotes."
        ) from error


def _fault(error: Exception, text: str) -> tuple[int, str]:
    """Return the line, from 1, where a text is no YAML, and what is wrong there."""
    if isinstance(error, yaml.MarkedYAMLError):
        mark: Any = error.problem_mark or error.context_mark
        words = " ".join(str(part) for part in (error.context, error.problem) if part)
        return (mark.line if mark else 0) + 1, " ".join(words.split())[:200].replace("tag:yaml.org,2002:", "!!")
    if isinstance(error, yaml.reader.ReaderError):
        return text.count("\n", 0, error.position) + 1, "a character that no text has"
    loader = _Loader(text)
    nodes: list[Any] = [loader.get_single_node()]
    for node in nodes:  # grows
        try:
            if isinstance(node, yaml.ScalarNode):
                loader.construct_object(node)
            else:
                nodes += [part for pair in node.value for part in (pair if isinstance(pair, tuple) else [pair])]
        except _YAML_FAULTS:  # the one that made the error
            return node.start_mark.line + 1, f"'{node.value[:40]}' is no {node.tag.rpartition(':')[2]}"
    return 1, one_line(error)


def _check_events(text: str, where: object, kind: type[UserError]) -> None:
    lines: list[dict[str, int] | None] = []  # of the keys in each mapping that is open; None for a list
    at_key: list[bool] = []
    events: Iterator[Any] = yaml.parse(text, Loader=_Loader)
    for event in events:
        if isinstance(event, yaml.AliasEvent):
            raise kind(f"{where} refers to an anchor (*{event.anchor}), which is not read: write the value out.")
        if isinstance(event, yaml.CollectionEndEvent):
            lines.pop()
            at_key.pop()
            continue
        is_node, is_scalar = isinstance(event, yaml.NodeEvent), isinstance(event, yaml.ScalarEvent)
        if not is_node:
            continue
        line = event.start_mark.line + 1
        if lines and (keys := lines[-1]) is not None:
            if at_key[-1] and is_scalar:
                if (first := keys.setdefault(event.value, -line)) > 0:
                    raise kind(f"{where} gives '{event.value[:80]}' twice (lines {first} and {line}): keep one.")
                keys[event.value] = line
            at_key[-1] = not at_key[-1]
        if is_scalar:
            if len(event.value) > LONGEST_NUMBER and _NUMBER.fullmatch(event.value):
                raise kind(f"{where}, line {line}: a number of {len(event.value)} characters: it is damaged.")
            continue
        lines.append({} if isinstance(event, yaml.MappingStartEvent) else None)
        at_key.append(True)
        if len(lines) > DEEPEST:
            raise kind(f"{where} nests its lists more than {DEEPEST} deep: it is damaged, or made to do harm.")


def read_yaml(path: Path, kind: type[UserError] = DataError) -> Any:
    """Read a YAML file as `parse_yaml` does.

    Raises:
        UserError: the file is missing or cannot be read, or see `parse_yaml`.
    """
    try:
        with opening(path):
            text = read_text_file(path, MOST_YAML, "YAML")
    except DataError as error:
        raise kind(str(error)) from None
    return parse_yaml(text, path, kind)


def one_line(error: BaseException) -> str:
    """Return the text of an error on one line, at most 200 characters of it; a word alone with the error's name."""
    words, name = str(error).split(), type(error).__name__
    return (" ".join(words) if len(words) > 1 else ": ".join([name, *words]))[:200]


HEADER_FAULTS = (
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

    Returns:
        Shape and type of the array.

    Raises:
        DataError: no such header, an array of Python objects, or one larger than its file.
    """
    readers = {1: np.lib.format.read_array_header_1_0, 2: np.lib.format.read_array_header_2_0}
    begin = stream.tell()
    try:
        shape, _, dtype = readers[np.lib.format.read_magic(stream)[0]](stream)
    except HEADER_FAULTS as error:
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


ZIP_FAULTS = (
    OSError,
    ValueError,
    LookupError,
    EOFError,
    RuntimeError,  # NotImplementedError, of unknown ways to pack, is one
    zipfile.BadZipFile,
    zlib.error,
    struct.error,
)
"""What reading a damaged archive raises."""
MOST_LISTED = 1 << 24
"""Bytes of the list of files in an archive, at most."""


class _Archive(io.BufferedReader):
    """A file that gives no more than MOST_LISTED bytes at once while `is_listing`."""

    is_listing = True

    def read(self, size: int | None = -1, /) -> bytes:
        if self.is_listing and size is not None and size > MOST_LISTED:
            raise zipfile.BadZipFile(f"its list of files would have {size} bytes")
        return super().read(size)


@contextmanager
def open_zip(path: Path) -> Iterator[zipfile.ZipFile]:
    """Open a zip archive; its list of files, which is read at once, must not be longer than that of any real one.

    Raises:
        zipfile.BadZipFile: it is none, or damaged.
    """
    check_regular(path)
    with _Archive(io.FileIO(path)) as stream, zipfile.ZipFile(stream) as archive:
        stream.is_listing = False
        yield archive


@contextmanager
def named(where: str, wanted: str = "") -> Iterator[None]:
    """Turn any exception of a decoder into a DataError that names the file, and what it cannot be read as.

    Decoders fail with every kind of exception on damaged input (struct, zlib, index, memory, ... errors). Around a
    decoder's call, and only there, all of them mean that the file cannot be read.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    except (DataError, FileNotFoundError):
        raise
    except Exception as error:
        read = f"read as {wanted}" if wanted else "read"
        raise DataError(f"{where} cannot be {read} ({one_line(error)}): make it again.") from error
