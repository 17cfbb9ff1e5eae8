"""A prediction in parts: which batches of a plan a shard makes, and the journals of all shards read as one."""

import re
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Self

from wsss.core.checks import DataError, some
from wsss.inference.checkpoints import Plan
from wsss.inference.sources import batches_of
from wsss.options.infer import Shard
from wsss.runs.journal import Journal


def take(shard: Shard, plan: Plan, batch: int) -> Plan:
    """Keep this shard's batches of a plan.

    Shards are whole batches, dealt out in turn. So every image is in the batch that one process would put it in, and
    the scores are the same to the last bit.
    """
    out: Plan = []
    place = 0  # of the batch among all of the plan, so that small folds do not all fall to the first shards
    for checkpoints, indices in plan:
        batches = batches_of(indices, batch)
        mine = [cut for k, cut in enumerate(batches, place) if k % shard.count == shard.number - 1]
        out.append((checkpoints, [index for cut in mine for index in cut]))
        place += len(batches)
    return [(checkpoints, indices) for checkpoints, indices in out if indices]


class ShardJournals:
    """The journals of all shards in a folder, read as one.

    Args:
        folder: where the shards wrote.
        read: what they must have worked on.
        marks: the keys they must have done, every one once, each with what it must have been made from.

    Raises:
        DataError: there are none, they are of several cuts, or of another prediction; a key is missing, comes twice, or
            was made from something else.
    """

    def __init__(self, folder: Path, read: object, marks: Mapping[str, str]) -> None:
        shards = _find(folder)
        with ExitStack() as stack:
            self._place: dict[str, Journal] = {}
            for shard in shards:
                journal = stack.enter_context(Journal(folder / shard.journal, read, way_out="or run the shards again"))
                self._add(journal)
            _check_whole(folder, shards, self._place, list(marks))
            self._check_fresh(marks)
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

    def _check_fresh(self, marks: Mapping[str, str]) -> None:
        entries = {name: entry[0] for name in marks if (entry := self.get(name)) is not None}
        if stale := [name for name, record in entries.items() if record.get("mark", "") != marks[name]]:
            raise DataError(
                f"pixels or label maps of {some(stale, 3)} have changed since its shard was made: run the shards again."
            )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
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
