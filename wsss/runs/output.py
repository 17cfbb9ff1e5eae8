"""One protocol for everything that a command writes: hold, compare, work aside, publish all files together.

A result is the content of a folder (`in_folder`), or a file together with its companions (`at_file`).
Its state is kept in the hidden folder `.wsss` there:

    NAME.json      what the result is: command, everything that was read, its files with their digests
    NAME.work/     what an unfinished run has made so far; `files/` will be the result
    NAME.commit    the result is complete and on its way to its place: the next process completes the move

So a kill at any moment leaves the old result, or the new one, or a commit that the next reader or writer completes
(`settle`); files of two runs never lie side by side. Readers call `settle` before they read.
The lock of a folder names its holder, and the kernel ends it with the holder's process.
"""

import errno
import fcntl
import json
import os
import shutil
import socket
import sys
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any, ClassVar, Self

from wsss.core import __version__
from wsss.core.checks import ConfigError, DataError, some
from wsss.core.console import say
from wsss.core.files import as_read, digest_file, disk_errors, read_json, read_record, remove_parts, sync, write_json
from wsss.core.reading import check_no_link, parse_json
from wsss.runs.inputs import Digests, Seen, differences, from_here, in_short, mark_of, place_of
from wsss.runs.journal import Journal
from wsss.runs.result_record import FOLDER, FORMAT, SEGMENT, STATE, check_commit, is_changed, record_of, remembered

LOCK = ".lock"
_NO_LOCKS = (errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS)
_handles: set[int] = set()


@contextmanager
def hold(folder: Path, *inside: str, lock: str = LOCK, clean: bool = True) -> Iterator[None]:
    """Keep other runs out of `folder` for the duration of the block, and remove what killed writers left there.

    The lock is an flock of `folder/.lock`: it ends with the process that holds it, however that ends, so none is ever
    stale. The file names its holder for others. On a disk without locks the run continues without
    one and prints a note.

    Args:
        folder: made if missing, and removed again if it is still empty in the end.
        inside: sub-folders that the run writes to.
        lock: name of the lock's file; runs that may work side by side have different ones.
        clean: whether to remove leftovers; False for a user's folder in which only one file is locked.

    Raises:
        ConfigError: another run holds it; the text names its process, host and start.
    """
    made = not folder.exists()
    folder.mkdir(parents=True, exist_ok=True)
    handle = _lock(folder, lock)
    try:
        if handle is not None and clean:
            for place in (folder, *(folder / name for name in inside)):
                remove_parts(place)
        yield
    finally:
        if handle is not None:
            (folder / lock).unlink(missing_ok=True)  # before it is let go: a new lock is then a new file
            _handles.discard(handle)
            os.close(handle)
        if made:
            with suppress(OSError):
                folder.rmdir()


def _lock(folder: Path, name: str) -> int | None:
    """Return the handle of the locked file, or None where there are no locks."""
    path = folder / name
    while True:
        check_no_link(path)
        handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK, 0o666)  # less the umask
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            holder = _holder(handle)
            os.close(handle)
            if error.errno in _NO_LOCKS:
                say(f"note: {folder} is on a disk without locks: start no second run into it.")
                return None
            if not isinstance(error, BlockingIOError):
                raise
            raise ConfigError(
                f"{folder} is in use by {holder}: wait until it is done, end it, or choose another folder."
            ) from None
        if _is_at(handle, path):
            break
        os.close(handle)  # its holder removed it between our open and our lock
    _handles.add(handle)
    entry = {"pid": os.getpid(), "host": socket.gethostname(), "since": f"{datetime.now():%Y-%m-%d %H:%M:%S}"}
    with disk_errors(path):
        os.ftruncate(handle, 0)
        os.pwrite(handle, json.dumps(entry | {"command": " ".join(sys.argv)[:500]}).encode(), 0)
    return handle


def _is_at(handle: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(handle), path.stat())
    except FileNotFoundError:
        return False


def _holder(handle: int) -> str:
    """Return who holds a lock, from its file."""
    for _ in range(5):
        try:
            entry = parse_json(os.pread(handle, 4096, 0), LOCK)
            return f"process {entry['pid']} on {entry['host']} since {entry['since']} ({entry['command']})"
        except (ValueError, KeyError, TypeError):
            time.sleep(0.1)  # it has the lock, but has not written its entry yet
    return "another process"


def _let_go() -> None:
    """Close the copies of the handles that a forked child got: they would keep the lock after its holder's death."""
    while _handles:
        os.close(_handles.pop())


os.register_at_fork(after_in_child=_let_go)


WAIT_S = 30
"""How long a reader waits for another process to complete the publishing of a result."""

Gather = Callable[[Digests], Mapping[str, Any]]
"""Returns everything that a result is made from: options, contents of files, versions. It is called before the work
and again after it, so that a change in between is noticed."""

Marks = Callable[[Digests], Mapping[str, str]]
"""Returns image -> digest of what the image's part of a result is made from."""


@dataclass
class Output:
    """One result, held by this process.

    Attributes:
        folder: where its files lie.
        name: FOLDER, or the name of its first file.
        command: the stage that makes it.
    """

    way_out: ClassVar[str] = "choose another --out, or pass --overwrite true"
    """The options by which a user chooses another place or replaces what is there, for messages."""
    folder: Path
    name: str
    command: str
    gather: Gather | None = None
    marks: Marks | None = None
    read: dict[str, Any] = field(default_factory=dict)
    items: dict[str, str] = field(default_factory=dict)
    seen: Seen = field(default_factory=dict)
    overwrite: bool = False
    keeps_work: bool = False

    @property
    def shown(self) -> Path:
        """The result as messages name it."""
        return self.folder if self.name in (FOLDER, SEGMENT) else self.folder / self.name

    @property
    def work(self) -> Path:
        """Folder of what an unfinished run has made."""
        return self.folder / STATE / f"{self.name}.work"

    @property
    def home(self) -> Path:
        """Folder of the result's files until they are published."""
        return self.work / "files"

    def path(self, name: str | Path) -> Path:
        """Return where to write the result's file `name` (relative to its folder) until it is published."""
        path = self.home / name
        path.parent.mkdir(parents=True, exist_ok=True)
        return path

    def begin(
        self,
        gather: Gather,
        *,
        overwrite: bool = False,
        subject: Collection[str] | None = None,
        marks: Marks | None = None,
        legacy: Collection[str] = (),
        always: bool = False,
        touch: bool = True,
    ) -> bool:
        """Compare what is there with what is to be made; return whether there is work to do.

        Args:
            gather: returns what the result is made from.
            overwrite: replace another result, and files that are not ours.
            subject: names (as `differences` gives them, or their beginnings) whose values make it another result;
                where only others differ, the result is out of date and made again. None: every one does.
            marks: returns image -> digest of what its part of the result is made from, for stages that can redo single
                images.
            legacy: files that show a result of an earlier version, without a record.
            always: there is always work: what is there is checked piece by piece.
            touch: False leaves all files as they are: for a part of the work that another process merges.

        Raises:
            ConfigError: there is another result, or one that was changed by hand.
        """
        record = self._gather(gather, marks)
        self.overwrite = overwrite
        if not overwrite and not self._is_due(record, subject, legacy, always):
            return False
        if not touch:
            return True
        if overwrite or not (self.work / "journal.sqlite").exists():
            self.forget()
        else:
            self._carry()
        if self.seen:
            write_json(self.work / "seen.json", {"seen": self.seen})
        return True

    def _gather(self, gather: Gather, marks: Marks | None) -> dict[str, Any] | None:
        """Find out what the result is made from, and return the record of the one that is there."""
        record = record_of(self.folder, self.name)
        digests = Digests(remembered(self.work / "seen.json") | (record or {}).get("seen", {}))
        self.gather, self.marks = gather, marks
        self.read = as_read(dict(gather(digests)))
        self.items = dict(marks(digests)) if marks is not None else {}
        self.seen = digests.seen
        return record

    def _is_due(
        self,
        record: dict[str, Any] | None,
        subject: Collection[str] | None,
        legacy: Collection[str],
        always: bool,
    ) -> bool:
        """Return whether the result that is there is to be made again; refuse one that is another."""
        if record is None:
            if old := [name for name in legacy if (self.folder / name).exists()]:
                raise ConfigError(
                    f"{self.folder / old[0]} is of an earlier version, or not of wsss: what it was made from is not "
                    f"known. {self.way_out[:1].upper()}{self.way_out[1:]}."
                )
            return True
        if record["command"] != self.command:
            raise ConfigError(f"{self.shown} holds a result of {record['command']}: {self.way_out}.")
        if record["items"] and set(record["failed"]) >= set(record["items"]):
            return True  # a try in which every image failed is no result to keep
        differing = differences(from_here(record["read"], self.read, record.get("place"), self.folder), self.read)
        if self.marks is not None:  # else they are handed on from what was read, and stand for nothing new
            differing |= self._items_differing(record["items"], record["failed"])
        others = {
            name: text
            for name, text in differing.items()
            if subject is None or any(name == prefix or name.startswith(f"{prefix}.") for prefix in subject)
        }
        if others:
            raise ConfigError(f"{self.shown} holds another result ({in_short(others)}): {self.way_out}.")
        return always or self._is_out_of_date(record, differing)

    def _is_out_of_date(self, record: dict[str, Any], differing: Mapping[str, str]) -> bool:
        """Return whether a result is to be made again, and say why; refuse one that was changed by hand."""
        missing, changed = self._state(record)
        if changed:
            other = self._owner(str(changed[0].relative_to(self.folder)))
            how = f"{other} now" if other.startswith("belongs") else "was changed by hand since it was written"
            raise ConfigError(f"{some(changed)} {how}: {self.way_out}.")
        if differing:
            say(f"{self.shown} is out of date ({in_short(differing)}): it is made again.")
            return True
        if missing:
            say(f"{some(missing)} is gone: {self.shown} is made again.")
            return True
        if record["failed"]:
            say(f"{some(record['failed'], 3)} of {self.shown} failed before: tried again.")
            return True
        say(f"{self.shown} holds this result already: nothing to do.")
        return False

    def _items_differing(self, before: Mapping[str, str], failed: Collection[str] = ()) -> dict[str, str]:
        now = self.items
        known = dict.fromkeys([*now, *before])
        names = [name for name in known if before.get(name) != now.get(name) and name not in failed]
        words = {"items": f"pixels or label maps of {some(names, 3)} have changed"}
        return words if names else {}

    def _state(self, record: dict[str, Any]) -> tuple[list[Path], list[Path]]:
        """Return the files of a result that are missing, and those that were changed."""
        missing, changed = [], []
        for name, (mark, digest) in record["files"].items():
            path = self.folder / name
            if not os.path.lexists(path):
                missing.append(path)
            elif not path.is_file() or is_changed(path, mark, digest):
                changed.append(path)
        return missing, changed

    def journal(self) -> Journal:
        """Open the journal of this work, which goes on after a kill.

        Raises:
            ConfigError: it was begun with other inputs or options, and has finished images.
        """
        self.keeps_work = True
        self.work.mkdir(parents=True, exist_ok=True)
        return Journal(self.work / "journal.sqlite", self.read, where=self.shown, way_out=self.way_out)

    def fresh(self, journal: Journal) -> set[str]:
        """Return the items of a journal that are done: not failed, and made from what is there now."""
        return {
            name
            for name, record, _ in journal.items()
            if not record.get("failed") and record.get("mark", "") == self.items.get(name, "")
        }

    def publish(self, *, failed: Collection[str] = (), items: Mapping[str, str] | None = None) -> None:
        """Put all files written under `path` in their places, and remove those of the result before.

        Args:
            failed: images without a result, which the same command then tries again.
            items: what each image was made from, if that is known from the work or from its sources.

        Raises:
            DataError: something that was read has changed meanwhile.
            ConfigError: a file that is not of this result is in the way.
        """
        assert self.gather is not None, "begin comes first"
        digests = Digests(self.seen)
        changed = differences(self.read, as_read(dict(self.gather(digests))))
        if self.marks is not None:
            before, self.items = self.items if items is None else items, dict(self.marks(digests))
            changed |= self._items_differing(before)
        elif items is not None:
            self.items = dict(items)
        if changed:
            raise DataError(
                f"{in_short(changed)} while it was read: start the same command again; {self.shown} is as before."
            )
        home = self.home
        names = sorted(str(path.relative_to(home)) for path in home.rglob("*") if path.is_file())
        before = (record_of(self.folder, self.name) or {"files": {}})["files"]
        self._check_free(names, before)
        record = {
            "format": FORMAT,
            "command": self.command,
            "version": __version__,
            "place": place_of(self.folder),
            "read": self.read,
            "items": self.items,
            "failed": sorted(failed),
            "seen": digests.seen,
            "files": {name: ["", digest_file(home / name)] for name in names},
        }
        for name in names:
            sync(home / name)
        write_json(self._commit, {"remove": sorted(before), "record": record, "keep": bool(failed and self.keeps_work)})
        self.complete()

    def _check_free(self, names: list[str], before: Mapping[str, Any]) -> None:
        """Refuse to replace files, or links wherever they lead, that are not of the result before; folders ever."""
        for name in names:
            above = [self.folder / place for place in Path(name).parents if os.path.lexists(self.folder / place)]
            if (self.folder / name).is_dir() or not all(place.is_dir() for place in above):
                path = next((place for place in above if not place.is_dir()), self.folder / name)
                kinds = "a file, expected a folder" if path in above else "a folder, expected a file"
                raise ConfigError(f"{path} is {kinds}: move it away, or choose another place.")
        strange = [name for name in names if name not in before and os.path.lexists(self.folder / name)]
        if strange and not self.overwrite:
            whose, way_out = self._owner(strange[0]), self.way_out
            if strange[0] != self.name and self.shown != self.folder:  # a companion of the file that --out names
                way_out = way_out.replace("another --out", "an --out in another folder")
            raise ConfigError(f"{self.folder / strange[0]} {whose} and would be replaced: {way_out}.")

    def _owner(self, name: str) -> str:
        """Return in words whose a file is."""
        for path in (self.folder / STATE).glob("*.json"):
            if path.stem != self.name and name in (record_of(self.folder, path.stem) or {"files": {}})["files"]:
                return f"belongs to {'the result there' if path.stem == FOLDER else path.stem}"
        return "is not of this result"

    @property
    def _commit(self) -> Path:
        return self.folder / STATE / f"{self.name}.commit"

    def complete(self) -> None:
        """Complete the publishing of a result that is on its way, if there is one."""
        if not self._commit.exists():
            return
        way_out = f"remove {self.folder / STATE}, and make the result again with --overwrite true"
        try:
            read_json(self._commit)
        except DataError:
            raise DataError(
                f"{self._commit} is damaged, by which the result in {self.folder} was getting to its place: {way_out}."
            ) from None
        commit = read_record(self._commit, "record", "remove", "keep", again=way_out)
        check_commit(commit, self._commit)
        record, home = commit["record"], self.home
        for place in (self.work, *self.work.rglob("*")):
            check_no_link(place)
        for name in commit["remove"]:
            if name not in record["files"] or (home / name).exists():  # else it is the new one already
                (self.folder / name).unlink(missing_ok=True)
        for name in record["files"]:
            if (home / name).exists():
                _move(home / name, self.folder / name)
        for place in {(self.folder / name).parent for name in record["files"]}:
            if place.is_dir():
                sync(place)
        _remove_empty(self.folder, commit["remove"])
        for name, entry in record["files"].items():
            entry[0] = mark_of(self.folder / name) if (self.folder / name).exists() else ""
        write_json(self.folder / STATE / f"{self.name}.json", record)
        self._commit.unlink()
        if commit["keep"]:
            shutil.rmtree(home, ignore_errors=True)
        else:
            shutil.rmtree(self.work, ignore_errors=True)

    def _carry(self) -> None:
        """Copy the files of a result into the work folder if some of its images are tried again."""
        record = record_of(self.folder, self.name)
        for name in record["files"] if record is not None and record["failed"] else ():
            target = self.path(name)
            if target.exists() or not (self.folder / name).is_file():
                continue
            try:
                os.link(self.folder / name, target)
            except OSError:  # a disk without links, or another one
                shutil.copy2(self.folder / name, target)

    def forget(self) -> None:
        """Remove what an unfinished run has made so far."""
        shutil.rmtree(self.work, ignore_errors=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        if not self.keeps_work and not self._commit.exists():
            shutil.rmtree(self.work, ignore_errors=True)
        with suppress(OSError):
            (self.folder / STATE).rmdir()  # if it is empty


@contextmanager
def in_folder(folder: Path, command: str, *inside: str, name: str = FOLDER) -> Iterator[Output]:
    """Hold a folder that a command writes its result into; what a killed run left there is completed or removed.

    Args:
        folder: made if missing.
        command: the stage.
        inside: sub-folders that the command writes into by itself.
        name: SEGMENT for the label maps, which a data set holds in addition to its own result.

    Raises:
        ConfigError: it is a file, or another command holds it.
    """
    if folder.exists() and not folder.is_dir():
        raise ConfigError(f"{folder} is a file, expected a folder: choose another --out.")
    with _held(Output(folder, name, command), hold(folder, *inside)) as output:
        yield output


@contextmanager
def at_file(path: Path, command: str) -> Iterator[Output]:
    """Hold a file that a command writes, together with its companions; see `in_folder`."""
    if path.is_dir():
        raise ConfigError(f"{path} is a folder, expected a file: choose another --out.")
    folder = path.parent
    with _held(Output(folder, path.name, command), hold(folder, lock=_lock_of(path.name), clean=False)) as output:
        yield output


@contextmanager
def _held(output: Output, held: AbstractContextManager[None]) -> Iterator[Output]:
    with held, output:
        for place in (output.folder / STATE, output.work, *output.work.rglob("*")):
            check_no_link(place)
        if (output.folder / STATE).is_dir():
            remove_parts(output.folder / STATE, f"{output.name}.")
        output.complete()
        yield output


def _lock_of(name: str) -> str:
    return LOCK if name in (FOLDER, SEGMENT) else f".{name}.lock"


def settle(folder: Path) -> None:
    """Complete results of a folder whose publishing was cut short, before they are read.

    Raises:
        DataError: they cannot be completed: the disk is read-only, or another process takes too long.
    """
    end = time.monotonic() + WAIT_S
    for commit in (folder / STATE).glob("*.commit"):
        while commit.exists():
            try:
                with hold(folder, lock=_lock_of(commit.stem), clean=False):
                    Output(folder, commit.stem, "").complete()
            except ConfigError as error:  # its writer is at it
                if time.monotonic() > end:
                    raise DataError(f"{folder} is being written: {error}") from error
                time.sleep(0.05)
            except OSError as error:
                if error.errno not in (errno.EROFS, errno.EACCES, errno.EPERM):
                    raise
                raise DataError(
                    f"{folder} holds a result that was cut short in being published ({error.strerror}): start the "
                    "command that writes it again, where it may be written."
                ) from error


def _move(source: Path, target: Path) -> None:
    """Rename a file; where a folder on the way is a link to another disk, copy it there first."""
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        source.replace(target)
    except OSError as error:
        if error.errno != errno.EXDEV:
            raise
        copy = target.with_name(f".{target.name}.moved.part")
        shutil.copyfile(source, copy)
        sync(copy)
        copy.replace(target)
        source.unlink()


def _remove_empty(folder: Path, names: Collection[str]) -> None:
    """Remove the sub-folders that the removal of files has left empty."""
    for place in sorted({(folder / name).parent for name in names}, key=lambda path: -len(path.parts)):
        if place != folder:
            with suppress(OSError):
                place.rmdir()
