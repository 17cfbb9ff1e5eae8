"""The trained networks of a run, and the proof that none of them saw the images it predicts out of fold."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from wsss.core.checkpoint import load_checkpoint
from wsss.core.checks import ConfigError, DataError, some
from wsss.core.device import Device
from wsss.core.files import digest_file, digest_json
from wsss.core.recipe import Recipe, recipe_from
from wsss.core.run_folder import RunFolder
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


def load_member(folder: RunFolder, device: Device) -> Member:
    """Load one network with its record.

    Raises:
        DataError: a file is missing or damaged, or train_ids.txt is not the one of the checkpoint.
    """
    tensors, facts = load_checkpoint(folder.best)
    recipe = recipe_from(facts["recipe"], str(folder.best))
    net = build_cam_net(recipe, channels=len(facts["channels"]), classes=len(facts["classes"]), pretrained=False)
    load_weights(net, strip(tensors, "net."))
    if not folder.ids.exists():
        raise DataError(f"{folder.ids} is missing: it belongs to the run and proves what it was trained on.")
    ids = folder.ids.read_text().splitlines()
    if digest_json(ids) != facts["train_ids"]:
        raise DataError(f"{folder.ids} was changed: it is not the list {folder.best} was trained on.")
    net = net.to(device.place).eval()
    return Member(folder.path, facts["fold"], net, recipe, facts, frozenset(ids), digest_file(folder.best))


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
    """Each image is predicted by the one network that held out its fold.

    Raises:
        DataError: a fold has no network, the networks saw other folds or labels, or one saw an image it would predict.
    """
    folds = data.folds()
    by_fold = {member.fold: member for member in members if member.fold is not None}
    plan: Plan = []
    for fold in sorted(set(folds[data.ok & (folds >= 0)].tolist())):
        member = by_fold.get(fold)
        if member is None:
            raise DataError(f"no network of the run held out fold {fold}: train it with --fold {fold}, or --fold all.")
        if member.facts["data"] != data.folds_digest:
            raise DataError(
                f"{member.path} was trained on other labels or folds than {data.folder} has now: "
                "its predictions would not be out of fold. Train it again on these folds."
            )
        own = [i for i in range(len(data)) if data.ok[i] and folds[i] == fold]
        leaked = sorted(member.train_ids & {data.ids[i] for i in own})
        if leaked:
            raise DataError(f"{member.path} was trained on {some(leaked)}, which it would predict out of fold.")
        plan.append(([member], own))
    return plan
