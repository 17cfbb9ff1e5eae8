"""One prediction cut into shards for a scheduler: each is a process of its own, and a merge puts them together.

Shards are whole batches, dealt out in turn. So every image is in the batch that one process would put it in, and the
numbers are the same to the last bit.
"""

import re
from collections.abc import Iterable
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from wsss.core.checks import DataError, some
from wsss.inference.checkpoints import Plan
from wsss.options.infer import Shard
from wsss.runs.journal import Journal


def take(shard: Shard, plan: Plan, batch: int) -> Plan:
    """Keep this shard's batches of a plan; they stay the batches that the whole plan is cut into."""
    out: Plan = []
    place = 0  # of the batch among all of the plan, so that small folds do not all fall to the first shards
    for members, indices in plan:
        batches = [indices[b : b + batch] for b in range(0, len(indices), batch)]
        mine = [cut for k, cut in enumerate(batches, place) if k % shard.count == shard.number - 1]
        out.append((members, [index for cut in mine for index in cut]))
        place += len(batches)
    return [(members, indices) for members, indices in out if indices]


class ShardJournals:
    """The journals of all shards in a folder, read as one.

    Args:
        folder: where the shards wrote.
        read: what they must have worked on.
        wanted: the keys they must have done, every one once.

    Raises:
        DataError: there are none, they are of several cuts, or of another prediction; a key is missing, or comes twice.
    """

    def __init__(self, folder: Path, read: object, wanted: Iterable[str]) -> None:
        shards = _find(folder)
        with ExitStack() as stack:
            self._place: dict[str, Journal] = {}
            for shard in shards:
                journal = stack.enter_context(Journal(folder / shard.journal, read, way_out="or run the shards again"))
                self._add(journal)
            _check_whole(folder, shards, self._place, list(wanted))
            self._stack = stack.pop_all()
        self.paths = [folder / shard.journal for shard in shards]

    def _add(self, journal: Journal) -> None:
        for key in sorted(journal.keys()):
            if key in self._place:
                raise DataError(
                    f"{key} is in {self._place[key].path} and in {journal.path}: one of the files is a copy, or was "
                    "made with another --shard. Remove it, and run its shard again."
                )
            self._place[key] = journal

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()

    def get(self, key: str) -> tuple[dict[str, Any], bytes] | None:
        """Return (record, payload) of `key`, or None if no shard was to do it."""
        return self._place[key].get(key) if key in self._place else None


def _find(folder: Path) -> list[Shard]:
    """Return the shards that wrote into a folder, by number."""
    names = (re.fullmatch(r"shard-(\d+)-of-(\d+)\.sqlite", path.name) for path in folder.glob("shard-*.sqlite"))
    shards = sorted((Shard(int(name[1]), int(name[2])) for name in names if name), key=lambda shard: shard.number)
    if not shards:
        raise DataError(f"{folder} holds no shards: run infer with --shard 1/n ... n/n into it first.")
    counts = sorted({shard.count for shard in shards})
    if len(counts) > 1:
        raise DataError(f"{folder} holds shards of {some(counts)}: keep those of one n, and remove the others.")
    return shards


def _check_whole(folder: Path, shards: list[Shard], done: dict[str, Journal], wanted: list[str]) -> None:
    missing = [key for key in wanted if key not in done]
    if missing:
        count = shards[0].count
        unseen = sorted(set(range(1, count + 1)) - {shard.number for shard in shards})
        lacking = f" There is no file of shard {some([f'{k}/{count}' for k in unseen])}." if unseen else ""
        raise DataError(
            f"{folder} lacks {len(missing)} of {len(wanted)} images ({some(missing)}).{lacking} "
            "Run the unfinished shards again; what they have done is kept."
        )
    extra = sorted(set(done) - set(wanted))
    if extra:
        raise DataError(f"{folder} holds {some(extra)}, which are not to be predicted: the shards are of other images.")
