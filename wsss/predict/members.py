"""The trained networks of a run, and the proof that none of them saw the images it predicts out of fold."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from wsss.cells.features import FEATURES
from wsss.cells.weak_store import Opinion, load_opinion
from wsss.core.checkpoint import load_checkpoint
from wsss.core.checks import ConfigError, DataError, some
from wsss.core.device import Device
from wsss.core.files import digest_file, digest_json
from wsss.core.recipe import Recipe, recipe_from
from wsss.core.run_folder import RunFolder
from wsss.core.score_config import ScoreConfig
from wsss.data.catalog import DataSet
from wsss.models.cam_net import CamNet, build_cam_net
from wsss.models.weights import load_weights, strip


@dataclass(frozen=True)
class Member:
    """One trained network of a run."""

    path: Path
    fold: int | None
    """The fold it never saw; None if it was trained on every image."""
    net: CamNet
    recipe: Recipe
    facts: dict[str, Any]
    """What its checkpoint says of it."""
    train_ids: frozenset[str]
    """The images it was trained on."""
    digest: str
    """Of its checkpoint file."""
    opinion: Opinion | None = None
    """The second opinion that was fitted on the same images; None if there is none."""


def find_folders(run: Path) -> list[RunFolder]:
    """Return the folders with trained weights in a run: its folds, or the run itself if it is one fold's.

    Raises:
        ConfigError: there is none.
    """
    if (run / "best.safetensors").exists():
        return [RunFolder(run)]
    found = sorted(path.parent for path in run.glob("*/best.safetensors"))
    if not found:
        raise ConfigError(f"{run} holds no trained weights (best.safetensors): train it first, or check --run.")
    return [RunFolder(path) for path in found]


def load_members(folder: RunFolder, device: Device, *, snapshots: bool = False) -> list[Member]:
    """Load the best network of a folder, or those at the end of each cosine cycle.

    Raises:
        ConfigError: snapshots are asked for, and there are none.
    """
    if not snapshots:
        return [load_member(folder, device)]
    found = folder.snapshots()
    if not found:
        raise ConfigError(f"{folder.path} holds no snapshots: train with --optim.schedule cosine --optim.cycles N.")
    return [load_member(folder, device, path) for path in found]


def load_member(folder: RunFolder, device: Device, weights: Path | None = None) -> Member:
    """Load one network with its record: the best of the folder, or the one in the file `weights`.

    Raises:
        DataError: a file is missing or damaged, or train_ids.txt is not the one of the checkpoint.
    """
    source = weights or folder.best
    tensors, facts = load_checkpoint(source)
    recipe = recipe_from(facts["recipe"], str(source))
    net = build_cam_net(recipe, channels=len(facts["channels"]), classes=len(facts["classes"]), pretrained=False)
    load_weights(net, strip(tensors, "net."))
    if not folder.ids.exists():
        raise DataError(f"{folder.ids} is missing: it belongs to the run and proves what it was trained on.")
    ids = folder.ids.read_text().splitlines()
    if digest_json(ids) != facts["train_ids"]:
        raise DataError(f"{folder.ids} was changed: it is not the list {source} was trained on.")
    net = net.to(device.place).eval()
    opinion = _load_opinion(folder, facts["train_ids"])
    return Member(folder.path, facts["fold"], net, recipe, facts, frozenset(ids), digest_file(source), opinion)


def _load_opinion(folder: RunFolder, train_ids: str) -> Opinion | None:
    """Load the second opinion beside a network, if there is one.

    Raises:
        DataError: it is damaged, or was fitted on other images than the network.
    """
    if not folder.opinion.exists():
        return None
    found = load_opinion(folder.opinion, FEATURES)
    if found.meta["train_ids"] != train_ids:
        raise DataError(
            f"{folder.opinion} was fitted on other images than the network beside it: remove it and run the same "
            "train command again."
        )
    return found


def check_opinions(members: list[Member], score: ScoreConfig) -> None:
    """Refuse networks of which some lack the second opinion that they, or others, should have.

    Raises:
        DataError: one is missing.
    """
    wanted = any(member.opinion or member.recipe.opinion.enabled for member in members)
    lacking = [str(member.path) for member in members if member.opinion is None]
    if score.opinion_share > 0 and wanted and lacking:
        raise DataError(
            f"{some(lacking)} has no second opinion (opinion.safetensors), which the run wants: run the same train "
            "command again with --opinion.enabled true to make it, or pass --score.opinion_share 0 to do without."
        )


def has_opinions(members: list[Member], score: ScoreConfig) -> bool:
    """Whether second opinions take part in the score."""
    return score.opinion_share > 0 and all(member.opinion is not None for member in members)


def check_fits(member: Member, data: DataSet) -> None:
    """Refuse a network made for other classes or channels than the data set's.

    Raises:
        DataError: they differ.
    """
    for name, own in (("classes", list(data.classes.names)), ("channels", list(data.channels))):
        if member.facts[name] != own:
            raise DataError(
                f"{member.path} was trained with {name} {some(member.facts[name])}; {data.folder} has {some(own)}."
            )


Plan = list[tuple[list[Member], list[int]]]
"""Which networks predict which images (indices in the data set)."""


def plan_all(members: list[Member], data: DataSet) -> Plan:
    """Every network predicts every image; their scores are averaged."""
    return [(members, [i for i in range(len(data)) if data.ok[i]])]


def plan_oof(members: list[Member], data: DataSet) -> Plan:
    """Each image is predicted by the network that held out its fold, or by all that did (snapshots).

    Raises:
        DataError: a fold has no network, the networks saw other folds or labels, or one saw an image it would predict.
    """
    folds = data.folds()
    by_fold: dict[int, list[Member]] = {}
    for member in members:
        if member.fold is not None:
            by_fold.setdefault(member.fold, []).append(member)
    plan: Plan = []
    for fold in sorted(set(folds[data.ok & (folds >= 0)].tolist())):
        if fold not in by_fold:
            raise DataError(f"no network of the run held out fold {fold}: train it with --fold {fold}, or --fold all.")
        own = [i for i in range(len(data)) if data.ok[i] and folds[i] == fold]
        for member in by_fold[fold]:
            _check_unseen(member, {data.ids[i] for i in own}, data)
        plan.append((by_fold[fold], own))
    return plan


def _check_unseen(member: Member, own: set[str], data: DataSet) -> None:
    if member.facts["data"] != data.folds_digest:
        raise DataError(
            f"{member.path} was trained on other labels or folds than {data.folder} has now: "
            "its predictions would not be out of fold. Train it again on these folds."
        )
    leaked = sorted(member.train_ids & own)
    if leaked:
        raise DataError(f"{member.path} was trained on {some(leaked)}, which it would predict out of fold.")
