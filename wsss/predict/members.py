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
from wsss.core.score_config import CropConfig, ScoreConfig
from wsss.data.catalog import DataSet
from wsss.models.cam_net import CamNet, build_cam_net
from wsss.models.weights import load_weights, strip
from wsss.predict.map_nets import MapNet


@dataclass(frozen=True)
class Student:
    """A self-trained network of single cells."""

    net: CamNet
    crops: CropConfig
    """How it wants cells to be cut out."""
    digest: str
    """Of its file."""


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
    student: Student | None = None
    """The self-trained network that learnt from cells of the same images; None if there is none."""
    unets: tuple[MapNet, ...] = ()
    """U-Nets whose class maps are scored beside its own."""


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
    """Load the best network of a folder, or those at the end of each cycle of its learning rate.

    Raises:
        ConfigError: snapshots are asked for, and there are none.
    """
    return [load_member(folder, device, path) for path in weights_of(folder, snapshots=snapshots)]


def weights_of(folder: RunFolder, *, snapshots: bool = False) -> list[Path]:
    """Return the file of the best weights of a folder, or those at the end of each cycle.

    Raises:
        ConfigError: snapshots are asked for, and there are none.
    """
    if not snapshots:
        return [folder.best]
    found = folder.snapshots()
    if not found:
        raise ConfigError(
            f"{folder.path} holds no snapshots: train with --optim.schedule cosine (or cyclic) --optim.cycles N."
        )
    return found


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
    student = _load_student(folder, recipe, facts, device)
    return Member(folder.path, facts["fold"], net, recipe, facts, frozenset(ids), digest_file(source), opinion, student)


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


def _load_student(folder: RunFolder, recipe: Recipe, facts: dict[str, Any], device: Device) -> Student | None:
    """Load the self-trained network beside a network, if there is one.

    Raises:
        DataError: it is damaged, or learnt from other images than the network.
    """
    if not folder.student.exists():
        return None
    found, train_ids = load_student(folder.student, recipe, facts, device)
    if train_ids != facts["train_ids"]:
        raise DataError(
            f"{folder.student} learnt from other images than the network beside it: remove it and run the same train "
            "command again."
        )
    return found


def load_student(path: Path, recipe: Recipe, facts: dict[str, Any], device: Device) -> tuple[Student, str]:
    """Load a self-trained network; return it with the digest of the IDs that it learnt from.

    Args:
        path: its file.
        recipe: of the network it began as.
        facts: what the checkpoint of that network says.
        device: where to compute.

    Raises:
        DataError: it is missing or damaged, or of another kind of network.
    """
    tensors, meta = load_checkpoint(path)
    net = build_cam_net(recipe, channels=len(facts["channels"]), classes=len(facts["classes"]), pretrained=False)
    load_weights(net, strip(tensors, "net."))
    return Student(net.to(device.place).eval(), CropConfig(**meta["crops"]), digest_file(path)), meta["train_ids"]


def check_opinions(members: list[Member], score: ScoreConfig) -> None:
    """Refuse networks of which some lack the second opinion, or self-trained network, that they or others should have.

    Raises:
        DataError: one is missing.
    """
    if score.opinion_share > 0 and score.student_share > 0:
        _check_students(members)
    wanted = any(member.opinion or member.recipe.opinion.enabled for member in members)
    lacking = [str(member.path) for member in members if member.opinion is None]
    if score.opinion_share > 0 and wanted and lacking:
        raise DataError(
            f"{some(lacking)} has no second opinion (opinion.safetensors), which the run wants: run the same train "
            "command again with --opinion.enabled true to make it, or pass --score.opinion_share 0 to do without."
        )


def _check_students(members: list[Member]) -> None:
    wanted = any(member.student or member.recipe.self_training.enabled for member in members)
    lacking = [str(member.path) for member in members if member.student is None]
    if wanted and lacking:
        raise DataError(
            f"{some(lacking)} has no self-trained network (student.safetensors), which the run wants: run the same "
            "train command again with --self_training.enabled true, or pass --score.student_share 0 to do without."
        )


def has_students(members: list[Member], score: ScoreConfig) -> bool:
    """Whether self-trained networks take part in the score."""
    used = has_opinions(members, score) and score.student_share > 0
    return used and all(member.student is not None for member in members)


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
    first = data.table["duplicate_of"].fillna(data.table["ID"])  # of each image's near-duplicates
    alike = data.table["ID"][first.isin(set(first[data.table["ID"].isin(own)]))]
    if twins := sorted(member.train_ids & set(alike)):
        raise DataError(
            f"{member.path} was trained on {some(twins)}, near-duplicates of images that it would predict out of fold."
        )
