"""The trained networks of a run, and the proof that none of them saw the images it predicts out of fold."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from wsss.core.checks import ConfigError, DataError, some
from wsss.core.device import Device
from wsss.core.files import digest_file, digest_json, read_lines
from wsss.core.run_facts import NETWORK, check_facts
from wsss.data.catalog import DataSet
from wsss.feature_classifier.features import FEATURES
from wsss.feature_classifier.store import FeatureClassifier, load_feature_classifier
from wsss.models.cam_net import CamNet, build_cam_net
from wsss.models.unet import Unet
from wsss.models.weights import load_weights, strip
from wsss.options.recipe import Recipe, recipe_from
from wsss.options.scoring import CropConfig
from wsss.runs.checkpoint import load_checkpoint
from wsss.runs.run_folder import RunFolder


@dataclass(frozen=True)
class MapNet:
    """One trained U-Net of class maps."""

    path: Path
    fold: int | None
    """The fold none of whose labels it saw; None if there is none."""
    net: Unet
    facts: dict[str, Any]
    """What its checkpoint says of it."""
    train_ids: frozenset[str]
    """The images whose labels have reached it, through its pseudo-masks and their teacher."""
    digest: str
    """Of its checkpoint file."""


@dataclass(frozen=True)
class SelfTrained:
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
    feature_classifier: FeatureClassifier | None = None
    """The feature classifier that was fitted on the same images; None if there is none."""
    self_trained: SelfTrained | None = None
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
    check_facts(facts, source, (*NETWORK, "train_ids"))
    recipe = recipe_from(facts["recipe"], str(source))
    net = build_cam_net(recipe, channels=len(facts["channels"]), classes=len(facts["classes"]), pretrained=False)
    load_weights(net, strip(tensors, "net."))
    if not folder.ids.exists():
        raise DataError(f"{folder.ids} is missing: it belongs to the run and proves what it was trained on.")
    ids = read_lines(folder.ids)
    if digest_json(ids) != facts["train_ids"]:
        raise DataError(f"{folder.ids} was changed: it is not the list {source} was trained on.")
    net = device.settle(net).eval()
    feature_classifier = _load_feature_classifier(folder, facts["train_ids"])
    self_trained = _load_self_trained(folder, recipe, facts, device)
    return Member(
        folder.path,
        facts["fold"],
        net,
        recipe,
        facts,
        frozenset(ids),
        digest_file(source),
        feature_classifier,
        self_trained,
    )


def _load_feature_classifier(folder: RunFolder, train_ids: str) -> FeatureClassifier | None:
    """Load the feature classifier beside a network, if there is one.

    Raises:
        DataError: it is damaged, or was fitted on other images than the network.
    """
    if not folder.feature_classifier.exists():
        return None
    found = load_feature_classifier(folder.feature_classifier, FEATURES)
    if found.meta["train_ids"] != train_ids:
        raise DataError(
            f"{folder.feature_classifier} was fitted on other images than the network beside it: remove it and "
            "run the same "
            "train command again."
        )
    return found


def _load_self_trained(folder: RunFolder, recipe: Recipe, facts: dict[str, Any], device: Device) -> SelfTrained | None:
    """Load the self-trained network beside a network, if there is one.

    Raises:
        DataError: it is damaged, or learnt from other images than the network.
    """
    if not folder.self_trained.exists():
        return None
    found, train_ids = load_self_trained(folder.self_trained, recipe, facts, device)
    if train_ids != facts["train_ids"]:
        raise DataError(
            f"{folder.self_trained} learnt from other images than the network beside it: remove it and run the "
            "same train "
            "command again."
        )
    return found


def load_self_trained(path: Path, recipe: Recipe, facts: dict[str, Any], device: Device) -> tuple[SelfTrained, str]:
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
    try:
        crops, train_ids = CropConfig(**meta["crops"]), str(meta["train_ids"])
    except (KeyError, TypeError) as error:
        raise DataError(f"{path} does not say how its network was trained ({error}): remove it, train again.") from None
    net = build_cam_net(recipe, channels=len(facts["channels"]), classes=len(facts["classes"]), pretrained=False)
    load_weights(net, strip(tensors, "net."))
    return SelfTrained(device.settle(net).eval(), crops, digest_file(path)), train_ids


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
