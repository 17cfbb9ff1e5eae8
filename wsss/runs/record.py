"""The run record: what is known of a trained network, including every image that reached it and how.

The record decides whether a network may predict held-out images (`check_unseen`). An image has reached a network if the
network was trained on it, if a network that it was made from was (`--init_from`, `--weights`, the teacher of a
refinement, the makers of its pseudo-masks, and theirs in turn), or if a near-duplicate of the image was. The feature
classifier of a run learns only from the images of its network.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from wsss.core.channels import Stains, default_roles, stains_of
from wsss.core.checks import DataError, some
from wsss.core.console import say
from wsss.core.files import as_read, digest_json
from wsss.core.labels import MOST_CLASSES
from wsss.options.recipe import Recipe, recipe_from
from wsss.options.renamed import OF_TRAINING, switched_on
from wsss.runs.inputs import DIGEST

FREE = ("versions", "score", "crops", "feature_classifier")
"""What may differ when a run goes on: it does not shape the weights."""
SINCE = {
    "pixels": "which pixels it learnt from",
    "cells": "which label maps it learnt from",
    "files": "which images and masks it learnt from",
    "pseudo_masks": "which pseudo-masks it learnt from",
    "starting_weights": "which weights it started from or was taught by",
    "encoder": "which source code its encoder was imported from",
}
"""Inputs that records of earlier versions lack, in words."""
OPTIONAL = {"roles", "bits", "least_object"}
"""Entries that records lack where there is nothing to say."""
NEWER = ("ancestors", "classes", "negative", "channels", "size", "least_object")
"""Entries that records of earlier versions may lack."""


@dataclass(frozen=True)
class Ancestor:
    """Images that reached a network, and the way they took."""

    chain: tuple[str, ...]
    """The steps back from the network, such as ('init_from runs/b/fold0', 'init_from runs/a/full'); () for its own
    training images."""
    images: frozenset[str]
    """IDs of the images that were learnt from at the end of the chain."""

    def through(self, step: str) -> "Ancestor":
        """Return it as an ancestor of what was made from this one by a further step."""
        return replace(self, chain=(step, *self.chain))


Lineage = tuple[Ancestor, ...]
"""All that a network goes back to, its own training images first."""


def inherit(lineage: Lineage | None, step: str) -> Lineage | None:
    """Return what a network takes over from another one by a step; None where that is unknown."""
    return None if lineage is None else tuple(ancestor.through(step) for ancestor in lineage)


def join(*parts: Lineage | None) -> Lineage | None:
    """Return several lineages as one; None where one of them is unknown."""
    known = [part for part in parts if part is not None]
    return tuple(ancestor for part in known for ancestor in part) if len(known) == len(parts) else None


def lineage_json(lineage: Lineage | None) -> list[dict[str, Any]] | None:
    """Return a lineage as JSON; `lineage_from` reads it."""
    if lineage is None:
        return None
    return [{"chain": list(ancestor.chain), "images": sorted(ancestor.images)} for ancestor in lineage]


def lineage_from(values: Sequence[Mapping[str, Any]] | None) -> Lineage | None:
    """Read what `lineage_json` made."""
    if values is None:
        return None
    return tuple(Ancestor(tuple(entry["chain"]), frozenset(entry["images"])) for entry in values)


@dataclass(frozen=True)
class RunRecord:
    """How a network came to be. Its checkpoints carry it; train_ids.txt and ancestors.json hold the image lists."""

    recipe: Recipe
    """That of its task."""
    fold: int | None
    """The held-out part, none of whose images reached the network; None where nothing was held out."""
    data: str
    """Digest of IDs, labels and folds."""
    train_ids: tuple[str, ...]
    """The images whose pixels or labels it was trained on; with pseudo-masks also those that their network learnt."""
    channels: tuple[str, ...]
    classes: tuple[str, ...] = ()
    """Names of the outputs' classes; none for masks."""
    negative: int | None = None
    """The class of cells without signal."""
    size: int = 0
    """Edge of a stored image in px; 0 where images keep their sizes."""
    ancestors: Lineage | None = ()
    """What came through other networks; None where a version that did not record it made the network."""
    augment: Any = None
    """The steps of its augmentation."""
    inputs: dict[str, str] = field(default_factory=dict)
    """Digests of what else shaped the weights, by name: pseudo, the record of pseudo-masks, or one of SINCE."""
    roles: tuple[str, ...] = ()
    """What each channel shows, where it is not what its name says."""
    bits: int | None = None
    """Of the images it was trained on; None for 8, or several."""
    least_object: int = 0
    """Size in px that almost all objects reach which it learnt from; 0 for masks without objects, or unknown."""
    versions: dict[str, str] = field(default_factory=dict)
    """Of wsss and of the libraries that made it."""
    path: Path = Path()
    """Folder of the fold's run."""
    digest: str = ""
    """Of the checkpoint file it was read from."""

    @property
    def name(self) -> str:
        """The folder of the fold within a run."""
        return fold_name(self.fold)

    @cached_property
    def stains(self) -> tuple[Stains, ...]:
        """What the channels show, as features of cells need it."""
        return stains_of(self.channels, self.roles or default_roles(self.channels))

    @property
    def lineage(self) -> Lineage | None:
        """All images that reached the network; None where that is not known."""
        return join((Ancestor((), frozenset(self.train_ids)),), self.ancestors)

    def check_fits(self, task: str, classes: Sequence[str], channels: Sequence[str], where: Path) -> None:
        """Refuse a network made for another task, other classes or other channels than the data's.

        Raises:
            DataError: they differ.
        """
        self.check_task(task)
        for name, trained, now in (("classes", self.classes, classes), ("channels", self.channels, channels)):
            if tuple(trained) != tuple(now):
                raise DataError(f"{self.path} was trained with {name} {some(trained)}; {where} has {some(now)}.")

    def check_task(self, task: str) -> None:
        """Refuse a network of another task.

        Raises:
            DataError: it is.
        """
        if self.recipe.task != task:
            raise DataError(f"{self.path} was trained for the task '{self.recipe.task}', expected {task}.")

    def meta(self) -> dict[str, Any]:
        """Return the metadata of the network's checkpoints, as JSON; lists of images by their digests."""
        images: dict[str, Any] = {"roles": list(self.roles)} if self.roles else {}
        images |= {} if self.bits is None else {"bits": self.bits}
        images |= {"least_object": self.least_object} if self.least_object else {}
        return as_read(
            {
                "recipe": asdict(self.recipe),
                "augment": self.augment,
                "classes": list(self.classes),
                "negative": self.negative,
                "channels": list(self.channels),
                "size": self.size,
                "fold": self.fold,
                "data": self.data,
                "train_ids": digest_json(list(self.train_ids)),
                "ancestors": digest_json(lineage_json(self.ancestors)),
                "versions": self.versions,
                **images,
                **self.inputs,
            }
        )


def fold_name(fold: int | None) -> str:
    """Return the sub-folder of a fold's run; None is the run that holds nothing out."""
    return "full" if fold is None else f"fold{fold}"


def record_from(
    meta: Mapping[str, Any], where: Path, train_ids: Sequence[str], ancestors: Lineage | None, digest: str
) -> RunRecord:
    """Build a record from the metadata of a checkpoint and the lists in its folder.

    Args:
        meta: what `RunRecord.meta` gave; those of version 0.1.0 do too.
        where: folder of the fold's run.
        train_ids: content of train_ids.txt.
        ancestors: content of ancestors.json.

    Raises:
        DataError: the recipe has an option this version does not know, or an entry is none that we write.
    """
    check_network_record(meta, where, ("versions", *({"channels", "roles", "least_object"} & meta.keys())))
    return RunRecord(
        recipe=recipe_from(meta["recipe"], str(where)),
        fold=meta["fold"],
        data=meta.get("data", ""),
        train_ids=tuple(train_ids),
        channels=tuple(meta.get("channels", ())),
        classes=tuple(meta.get("classes", ())),
        negative=meta.get("negative"),
        size=meta.get("size", 0),
        ancestors=ancestors,
        augment=meta.get("augment"),
        inputs={name: meta[name] for name in ("pseudo", *SINCE) if name in meta},
        roles=tuple(meta.get("roles", ())),
        bits=meta.get("bits"),
        least_object=meta.get("least_object", 0),
        versions=meta["versions"],
        path=where,
        digest=digest,
    )


def unrecorded(recipe: Mapping[str, Any]) -> bool:
    """Whether a recipe of version 0.1.0 names other networks, whose images that version did not record."""
    of_run = Path(str(recipe.get("weights", ""))).name.startswith(("best.", "last.", "snapshot"))
    named = recipe.get("init_from") or recipe.get("drs", {}).get("refine_from")
    return bool(named or of_run or recipe.get("task") == "maps")


def check_same_run(before: dict[str, Any], now: dict[str, Any]) -> None:
    """Refuse to go on with another recipe, other data, or another fold.

    Args:
        before: the metadata of the run's checkpoint.
        now: that of the run as requested.

    Raises:
        DataError: the first thing that differs, with both values.
    """
    for name, value in switched_on(before.get("recipe", {})):
        if name in OF_TRAINING:
            raise DataError(
                f"the run was begun with {name} {value}, which is gone, so it cannot go on. Choose another --run "
                "folder, or pass --resume never to start over."
            )
    # Options that are newer than the run had their defaults.
    recipe = as_read(asdict(recipe_from(before.get("recipe", {}), "the checkpoint")))
    if "starting_weights" in before and before["starting_weights"] == now.get("starting_weights"):
        _rename_starts(recipe, now["recipe"])
    before = {**before, "recipe": recipe}
    for name in (*now, *(OPTIONAL - now.keys())):
        if name in SINCE and name not in before:
            say(f"note: the run is of an earlier version and does not say {SINCE[name]}: they may have changed since.")
        if name in FREE or (name in (*NEWER, *SINCE) and name not in before):
            continue
        old, new = (_weight_shaping(record.get(name)) for record in (before, now))
        if old != new:
            is_code = name == "encoder"
            how = f"the source code of {now['recipe']['backbone']} has changed" if is_code else _difference(old, new)
            raise DataError(
                f"the run was begun with another {name}: {how}. Choose another "
                "--run folder, go back to the first value, or pass --resume never to start over."
            )


def _rename_starts(old: dict[str, Any], new: dict[str, Any]) -> None:
    """Let an old recipe name the files that it started from, which are the same, by the paths of the new one."""
    pairs = [(old, new, "init_from"), (old.get("drs") or {}, new.get("drs") or {}, "refine_from")]
    if not {old.get("weights"), new.get("weights")} & {"hub", "package", "none"}:
        pairs.append((old, new, "weights"))
    for ours, theirs, name in pairs:
        if ours.get(name) and theirs.get(name) and Path(theirs[name]).exists():
            ours[name] = theirs[name]


def same_weights(one: dict[str, Any], other: dict[str, Any]) -> bool:
    """Whether two recipes differ in nothing that shapes weights."""
    return _weight_shaping(as_read(one)) == _weight_shaping(as_read(other))


def _weight_shaping(value: object) -> object:
    return {k: v for k, v in value.items() if k not in FREE} if isinstance(value, dict) else value


def _difference(old: object, new: object) -> str:
    if isinstance(old, dict) and isinstance(new, dict):
        for key in new:
            if old.get(key) != new[key]:
                return f"{key} was {_difference(old.get(key), new[key])}"
    if isinstance(new, str) and DIGEST.fullmatch(new):
        return "what was read has changed"
    return f"{old}, now {new}"


MOST_CHANNELS = 64
MOST_EDGE = 16384


def check_network_record(
    record: Mapping[str, Any], where: object, needed: tuple[str, ...] = ("recipe", "fold")
) -> None:
    """Refuse the metadata of a network that lacks an entry, or has one of the wrong type or out of range.

    Args:
        record: the metadata.
        needed: entries that it must have.

    Raises:
        DataError: an entry is missing or wrong; it is named.
    """
    for name in needed:
        if name not in record:
            raise DataError(f"{where} does not say its network's {name}: it is damaged or of another version.")
        wanted, good = _KINDS[name]
        if not good(record[name]):
            raise DataError(f"{where} gives '{str(record[name])[:80]}' as its network's {name}, expected {wanted}.")
    if "negative" in needed and (record["negative"] or 0) >= len(record["classes"]):
        raise DataError(
            f"{where} gives {record['negative']} as its negative class, of {len(record['classes'])} classes."
        )


def _names(most: int) -> Any:
    return lambda value: (
        isinstance(value, list)
        and 0 < len(value) <= most
        and all(isinstance(name, str) and len(name) <= 1000 for name in value)
        and len(set(value)) == len(value)
    )


def _whole(low: int, high: int) -> Any:
    return lambda value: isinstance(value, int) and not isinstance(value, bool) and low <= value <= high


_KINDS: dict[str, tuple[str, Any]] = {
    "recipe": ("its options", lambda value: isinstance(value, dict)),
    "fold": ("a number or none", lambda value: value is None or _whole(0, 1000)(value)),
    "classes": (f"1 to {MOST_CLASSES} different names", _names(MOST_CLASSES)),
    "channels": (f"1 to {MOST_CHANNELS} different names", _names(MOST_CHANNELS)),
    "roles": (
        "a list of names",
        lambda value: isinstance(value, list) and all(isinstance(name, str) for name in value),
    ),
    "negative": ("the number of a class or none", lambda value: value is None or _whole(0, MOST_CLASSES - 1)(value)),
    "size": (f"8 to {MOST_EDGE} pixels", _whole(8, MOST_EDGE)),
    "least_object": ("a number of pixels", _whole(0, MOST_EDGE**2)),
    "train_ids": ("a digest", lambda value: isinstance(value, str)),
    "versions": ("names and versions", lambda value: isinstance(value, dict) and "wsss" in value),
}

NETWORK = ("recipe", "fold", "classes", "negative", "channels", "size", "versions")
"""What the record of a classifier must say."""


def check_unseen(
    path: Path,
    lineage: Lineage | None,
    held_out: Collection[str],
    role: str,
    advice: str,
    twins: Mapping[str, str] | None = None,
) -> None:
    """Refuse a network that held-out images have reached.

    Args:
        path: of the network, or of the pseudo-masks, for the message.
        lineage: all that reached it; None if it is not known.
        held_out: IDs of the images that it must not have seen.
        role: what these images are, such as 'images that it would predict out of fold'.
        advice: what to do, a sentence.
        twins: ID -> field, the same for near-duplicates; images without any may be left out.

    Raises:
        DataError: an image, or a near-duplicate of one, reached it, or that is not known; images and way are named.
    """
    if not held_out:
        return
    if lineage is None:
        raise DataError(
            f"{path} was made from other networks by version 0.1.0, which did not record their images: whether it "
            f"knows {role} cannot be proven. Train it again, and what it starts from. {advice}"
        )
    twins, wanted = twins or {}, frozenset(held_out)
    fields = {twins[name] for name in wanted if name in twins}
    alike = frozenset(name for name, field in twins.items() if field in fields) - wanted
    for images, relation in ((wanted, ""), (alike, "near-duplicates of ")):
        for ancestor in lineage:
            if seen := sorted(ancestor.images & images):
                raise DataError(f"{path} was trained on {some(seen)}{_way(path, ancestor)}: {relation}{role}. {advice}")


def has_seen(record: RunRecord, images: Collection[str]) -> bool:
    """Whether any of these images has reached a network, as far as that is known; it counts as seen if it is not."""
    wanted, lineage = frozenset(images), record.lineage
    return lineage is None or any(ancestor.images & wanted for ancestor in lineage)


def _way(path: Path, ancestor: Ancestor) -> str:
    return f" (through {' <- '.join([str(path), *ancestor.chain])})" if ancestor.chain else ""
