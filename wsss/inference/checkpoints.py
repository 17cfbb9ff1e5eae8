"""Checkpoints: trained networks with their run records; which of them predicts which images, and the proof of it."""

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Generic, TypeVar

import numpy as np
from torch import Tensor

from wsss.core.checks import ConfigError, DataError, some
from wsss.core.files import digest_file, digest_json
from wsss.data.catalog import DataSet, folds_digest
from wsss.data.folds import coverage_folds
from wsss.data.masks import MaskSet, survey
from wsss.data.masks import folds_digest as mask_folds_digest
from wsss.feature_classifier.features import describe_features
from wsss.feature_classifier.store import FeatureClassifier, load_feature_classifier
from wsss.models.cam_net import CamNet, build_cam_net
from wsss.models.device import Device
from wsss.models.encoder import is_custom, source_digest
from wsss.models.unet import Unet, build_unet
from wsss.models.weights import load_weights, strip
from wsss.runs.record import RunRecord, check_unseen, fold_name, has_seen
from wsss.runs.run_folder import RunFolder, find_folders

Net = TypeVar("Net", CamNet, Unet)


@dataclass(frozen=True)
class Checkpoint(Generic[Net]):
    """A trained network, ready to be asked."""

    record: RunRecord
    net: Net

    @property
    def path(self) -> Path:
        """Folder of the fold's run."""
        return self.record.path

    @property
    def fold(self) -> int | None:
        """The fold it never saw; None if it was trained on every image."""
        return self.record.fold

    @property
    def recipe(self) -> Any:
        """What it was trained with: the recipe of its task."""
        return self.record.recipe

    @property
    def digest(self) -> str:
        """Of its checkpoint file."""
        return self.record.digest

    @property
    def records(self) -> tuple[RunRecord, ...]:
        """The records of all networks that its answers come from."""
        return (self.record,)


@dataclass(frozen=True)
class CamCheckpoint(Checkpoint[CamNet]):
    """A trained classifier with what scores cells beside it."""

    feature_classifier: FeatureClassifier | None = None
    """The feature classifier that was fitted on the same images; None if there is none."""
    unets: tuple[Checkpoint[Unet], ...] = ()
    """U-Nets whose class maps are scored beside its own."""
    network_share: np.ndarray | None = None
    """(K,) in [0, 1], the share of each class's scores that is the network's; None if that was not fitted."""

    @property
    def records(self) -> tuple[RunRecord, ...]:
        """The records of all networks that its answers come from."""
        return (self.record, *(unet.record for unet in self.unets))


def cam_checkpoint(
    record: RunRecord, tensors: dict[str, Tensor], where: Path, device: Device, fitted: FeatureClassifier | None
) -> CamCheckpoint:
    """Return a classifier with the weights `tensors`, from `where`, and the feature classifier fitted beside it.

    Raises:
        DataError: the weights are not of this network.
    """
    recipe: Any = record.recipe  # that of the task
    net = build_cam_net(recipe, channels=len(record.channels), classes=len(record.classes), pretrained=False)
    load_weights(net, tensors, where)
    share = None if fitted is None else fitted.network_share
    return CamCheckpoint(record, device.settle(net).eval(), fitted, network_share=share)


def _weights_of(run: Path, *, snapshots: bool) -> Iterator[tuple[RunFolder, Path]]:
    """Yield the folder and the file of the best weights of each fold of a run, or of those at the end of each cycle."""
    for folder in find_folders(run):
        paths = folder.snapshots() if snapshots else [folder.best]
        if not paths:
            raise ConfigError(
                f"{folder.path} holds no snapshots: train with --optim.schedule cosine (or cyclic) --optim.cycles N."
            )
        yield from ((folder, path) for path in paths)


def trained_since(provenance: Mapping[str, Any]) -> list[Path]:
    """Return the folders of networks that no longer hold the weights by which something was predicted.

    Args:
        provenance: of the predictions; folders that are gone do not count.
    """
    changed = []
    for member in provenance.get("members") or ():
        paths = [member.get("path"), *member.get("unet_paths", ())]
        for path, digest in zip(paths, [member.get("weights"), *member.get("unets", ())], strict=False):
            folder = RunFolder(Path(str(path)))
            there = [file for file in (folder.best, *folder.snapshots()) if file.is_file()]
            if there and digest and digest not in map(digest_file, there):
                changed.append(folder.path)
    return list(dict.fromkeys(changed))


def load_run(run: Path, device: Device, *, snapshots: bool = False) -> list[CamCheckpoint]:
    """Load the best classifier of each fold of a run, or those at the end of each cycle of its learning rate.

    Raises:
        ConfigError: there is no such run, or snapshots are asked for, and there are none.
        DataError: see `load_classifier`.
    """
    return [load_classifier(folder, device, path) for folder, path in _weights_of(run, snapshots=snapshots)]


def load_predicting(run: Path, device: Device, provenance: Mapping[str, Any]) -> list[CamCheckpoint]:
    """Load the classifiers of a run that predicted something: the best of its folds, or snapshots.

    Args:
        run: its folder, wherever that is now.
        device: where they are to compute.
        provenance: of the predictions; if it names no weights, as that of version 0.1.0, the best are loaded.

    Raises:
        ConfigError: there is no such run.
        DataError: it does not hold these networks, or see `load_classifier`.
    """
    wanted = {str(member["weights"]) for member in provenance.get("members") or () if member.get("weights")}
    if not wanted:
        return load_run(run, device)
    files = {
        digest_file(path): (folder, path)
        for folder in find_folders(run)
        for path in (*folder.snapshots(), folder.best)
        if path.is_file()
    }
    if not wanted <= files.keys():
        raise DataError(
            f"{run} does not hold the networks that predicted: it was trained again since, or is another run. Pass "
            "theirs as --run, or predict again (python -m wsss.infer)."
        )
    return [load_classifier(folder, device, path) for digest, (folder, path) in files.items() if digest in wanted]


def load_classifier(folder: RunFolder, device: Device, weights: Path | None = None) -> CamCheckpoint:
    """Load one classifier: the best of the folder, or the one in the file `weights`.

    Raises:
        DataError: a file is missing or damaged, or is of another task.
    """
    record, tensors = folder.read(weights)
    record.check_task("classify")
    fitted = _load_feature_classifier(folder, record)
    return cam_checkpoint(record, strip(tensors, "net."), record.path, device, fitted)


def load_unets(
    run: Path, device: Device, task: str, encoder: str = "", *, snapshots: bool = False
) -> list[Checkpoint[Unet]]:
    """Load the best U-Net of each fold of a run, or those at the end of each cycle; see `load_run` and `load_unet`."""
    return [load_unet(folder, device, task, encoder, path) for folder, path in _weights_of(run, snapshots=snapshots)]


def load_unet(
    folder: RunFolder, device: Device, task: str, encoder: str = "", weights: Path | None = None
) -> Checkpoint[Unet]:
    """Load one U-Net.

    Args:
        device: where it is to compute.
        task: masks or maps.
        encoder: the custom encoder that may be imported, see `models.encoder`; '' for none.
        weights: a file of the run; the best weights if left out.

    Raises:
        ConfigError: it needs another custom encoder than the one named, or none.
        DataError: a file is missing or damaged, is of another task, or the code of its encoder has changed.
    """
    record, tensors = folder.read(weights)
    record.check_task(task)
    _check_encoder(record, encoder)
    recipe: Any = record.recipe  # that of the task
    masks = task == "masks"
    channels = recipe.masks.channels if masks else len(record.channels)
    outputs = recipe.masks.outputs if masks else len(record.classes)
    net = build_unet(recipe, channels=channels, outputs=outputs, pretrained=False)
    load_weights(net, strip(tensors, "net."), record.path)
    return Checkpoint(record, device.settle(net).eval())


def _check_encoder(record: RunRecord, trusted: str) -> None:
    """Refuse to import an encoder that the user has not named, or whose code is not that of the training."""
    name, custom = record.recipe.backbone, is_custom(record.recipe.backbone)
    if trusted and name != trusted:
        raise ConfigError(f"--encoder is {trusted}, but {record.path} was trained with the backbone {name}.")
    if custom and not trusted:
        raise ConfigError(
            f"{record.path} needs the encoder {name}, Python code that would be run from this folder or an installed "
            f"package: if you trust it, pass --encoder {name}."
        )
    if custom and record.inputs.get("encoder", "") not in ("", source_digest(name)):
        raise DataError(
            f"the source code of the encoder {name} has changed since {record.path} was trained: restore it, or train "
            "again."
        )


def _load_feature_classifier(folder: RunFolder, record: RunRecord) -> FeatureClassifier | None:
    """Load the feature classifier beside a network, if there is one."""
    if not folder.feature_classifier.exists():
        return None
    fitted = load_feature_classifier(folder.feature_classifier, tuple(describe_features(record.stains)))
    if fitted.meta["train_ids"] != digest_json(list(record.train_ids)):
        raise DataError(
            f"{folder.feature_classifier} was fitted on other images than the network beside it: remove it and run "
            "the same train command again."
        )
    return fitted


def check_fits(checkpoints: Sequence[CamCheckpoint], data: DataSet) -> None:
    """Refuse networks made for other classes or channels than the data set's.

    Raises:
        DataError: they differ.
    """
    for checkpoint in checkpoints:
        checkpoint.record.check_fits("classify", data.classes.names, data.channels, data.folder)


def bits_note(records: Sequence[RunRecord], data: DataSet) -> str:
    """Return a note where the images are scaled by other bits than those of the training; '' if not."""
    learnt = {record.bits for record in records} - {None, data.bits}
    if not learnt or data.bits is None:
        return ""
    return (
        f"the networks learnt from images of {some(sorted(map(str, learnt)))} bits, those of {data.folder} use "
        f"{data.bits}: equally bright images have other numbers now. Prepare them with the same --bits."
    )


def pair(checkpoints: list[CamCheckpoint], unets: list[Checkpoint[Unet]], *, oof: bool) -> list[CamCheckpoint]:
    """Give each classifier the U-Nets of class maps that held out the same fold; else those that held out none.

    Raises:
        ConfigError: there is none for a classifier.
        DataError: it is for other classes, channels or sizes; or, out of fold, for other folds.
    """
    paired = []
    for checkpoint in checkpoints:
        same = [unet for unet in unets if unet.fold == checkpoint.fold] or [u for u in unets if u.fold is None]
        if not same:
            raise ConfigError(
                f"no U-Net held out fold {checkpoint.fold}, as {checkpoint.path} did: train it with that --fold."
            )
        for unet in same:
            _check_same_data(unet.record, checkpoint.record, oof=oof)
        paired.append(replace(checkpoint, unets=tuple(same)))
    return paired


def _check_same_data(unet: RunRecord, record: RunRecord, *, oof: bool) -> None:
    for name in ("classes", "channels", "size", *(["data"] if oof else [])):
        if getattr(unet, name) != getattr(record, name):
            raise DataError(f"{unet.path} and {record.path} were trained on other {name}: choose runs of one data set.")


Plan = list[tuple[list[CamCheckpoint], list[int]]]
"""Which classifiers predict which images (indices in the data set)."""
MaskPlan = list[tuple[list[Checkpoint[Unet]], list[int]]]
"""Which mask networks predict which images."""
AnyCheckpoint = TypeVar("AnyCheckpoint", CamCheckpoint, Checkpoint[Unet])


def images_of(plan: Plan) -> list[int]:
    """Return the images that a plan predicts."""
    return [index for _, indices in plan for index in indices]


def networks_of(plan: Plan) -> list[CamCheckpoint]:
    """Return the networks that a plan predicts with, part by part."""
    return [checkpoint for checkpoints, _ in plan for checkpoint in checkpoints]


def plan_all(checkpoints: list[CamCheckpoint], data: DataSet) -> Plan:
    """Every network predicts every image; their scores are averaged."""
    return [(checkpoints, [i for i in range(len(data)) if data.ok[i]])]


def plan_oof(checkpoints: list[CamCheckpoint], data: DataSet) -> Plan:
    """Each image is predicted by the network that held out its fold, or by all that did (snapshots).

    An image without a fold, having no labels, and one that came with a source after the training, is predicted by the
    networks of all folds. The network's share, fitted on the images it held out, is taken from those of other folds.

    Raises:
        DataError: a fold has no network, the networks saw other folds or labels, or one saw an image it would predict.
    """
    digest, later = came_later(checkpoints, data)
    folds = np.where(data.ok, data.folds(), -1)
    folds[later] = -1
    plan = _plan_folds(checkpoints, folds, data.ids, digest, data.twins, data.folder)
    rest = np.flatnonzero(data.ok & (folds < 0)).tolist()
    late = _plan_of_no_fold([checkpoint for unseeing, _ in plan for checkpoint in unseeing], data, rest)
    return [*((_with_share_of_others(unseeing, checkpoints), indices) for unseeing, indices in plan), *late]


def _with_share_of_others(predicting: list[CamCheckpoint], checkpoints: Sequence[CamCheckpoint]) -> list[CamCheckpoint]:
    fold = predicting[0].fold
    others = [c.network_share for c in checkpoints if c.fold != fold and c.network_share is not None]
    share = np.mean(others, axis=0) if others else None
    return [replace(checkpoint, network_share=share) for checkpoint in predicting]


def came_later(checkpoints: Sequence[CamCheckpoint], data: DataSet) -> tuple[str, list[int]]:
    """Return the digest of the folds that the networks know, and the images with labels that were added since.

    Adding a source keeps the folds of what is there. Networks that were trained before know the folds of these images,
    which are those that they were trained on, all networks together. Where these are not as they were, the digest is
    that of the folds as they are now, which the networks do not know.
    """
    folds, now = data.manifest["folds"], data.folds_digest
    if not folds or all(checkpoint.record.data == now for checkpoint in checkpoints):
        return now, []
    known = {ID for checkpoint in checkpoints for ID in checkpoint.record.train_ids}
    is_known = data.table["ID"].isin(known).to_numpy()
    digest = folds_digest(data.table[is_known], folds["n"], folds["seed"])
    if any(checkpoint.record.data != digest for checkpoint in checkpoints):
        return now, []
    return digest, np.flatnonzero(~is_known & (data.folds() >= 0)).tolist()


def _plan_of_no_fold(checkpoints: Sequence[CamCheckpoint], data: DataSet, images: Sequence[int]) -> Plan:
    """Plan images without a fold: all networks that none of their near-duplicates and none of their group reached."""
    ids, group = data.table["ID"], data.manifest["folds"].get("group")
    first = data.table["duplicate_of"].fillna(ids)
    alike = ids.groupby(first).agg(set)
    of_group: Any = ids.groupby(data.table[group]).agg(set) if group else {}
    plan: dict[tuple[int, ...], list[int]] = {}
    for i in images:
        near = alike[first[i]]
        if group and data.table[group][i]:
            near = near | of_group[data.table[group][i]]
        unseen = tuple(
            k for k, checkpoint in enumerate(checkpoints) if not any(has_seen(r, near) for r in checkpoint.records)
        )
        plan.setdefault(unseen, []).append(i)
    return [([checkpoints[k] for k in unseen], indices) for unseen, indices in plan.items() if unseen]


def count_seen(plan: Plan, data: DataSet) -> int:
    """Return how many images, or near-duplicates of them, have reached a network that is to predict them."""
    seen: set[int] = set()
    for checkpoints, indices in plan:
        lineages = (record.lineage or () for checkpoint in checkpoints for record in checkpoint.records)
        reached = {name for lineage in lineages for ancestor in lineage for name in ancestor.images}
        fields = {data.twins[name] for name in reached & data.twins.keys()}
        seen |= {i for i in indices if data.ids[i] in reached or data.twins.get(data.ids[i]) in fields}
    return len(seen)


def plan_masks(checkpoints: list[Checkpoint[Unet]], masks: MaskSet, *, oof: bool) -> MaskPlan:
    """Let all networks predict every image; or, out of fold, each image the one (its snapshots) that held it out.

    Raises:
        DataError: out of fold, a fold has no network, or a network saw other folds or an image it would predict.
    """
    if not oof:
        return [(checkpoints, list(range(len(masks))))]
    recipe = checkpoints[0].recipe
    folds = coverage_folds(survey(masks).coverage, recipe.masks.folds, recipe.seed, masks.groups)
    return _plan_folds(checkpoints, folds, masks.ids, mask_folds_digest(masks.ids, folds), masks.twins, masks.folder)


def _plan_folds(
    checkpoints: Sequence[AnyCheckpoint],
    folds: np.ndarray,
    ids: Sequence[str],
    digest: str,
    twins: Mapping[str, str],
    where: Path,
) -> list[tuple[list[AnyCheckpoint], list[int]]]:
    """Let each fold, (N,) int with -1 for none, be predicted by the networks that held it out."""
    plan = []
    for fold in sorted(set(folds[folds >= 0].tolist())):
        unseeing = [checkpoint for checkpoint in checkpoints if checkpoint.fold == fold]
        if not unseeing:
            raise DataError(f"no network of the run held out fold {fold}: train it with --fold {fold}, or --fold all.")
        indices = np.flatnonzero(folds == fold).tolist()
        for record in (record for checkpoint in unseeing for record in checkpoint.records):
            _check_out_of_fold(record, [ids[i] for i in indices], digest, twins, where)
        plan.append((unseeing, indices))
    return plan


def _check_out_of_fold(
    record: RunRecord, predicted: Collection[str], digest: str, twins: Mapping[str, str], where: Path
) -> None:
    if record.data != digest:
        raise DataError(
            f"{record.path} was trained on other labels or folds than {where} has now: its predictions would not be "
            "out of fold. Train it again on these folds."
        )
    advice = f"Train {fold_name(record.fold)} again from networks that never saw them, or leave --oof out."
    check_unseen(record.path, record.lineage, predicted, "images that it would predict out of fold", advice, twins)


def check_alike(checkpoints: list[CamCheckpoint], where: str) -> None:
    """Refuse networks that do not speak of the same classes, channels and size.

    Raises:
        DataError: they differ, or are made for another task than cell labels.
    """
    for checkpoint in checkpoints:
        if checkpoint.recipe.task != "classify":
            raise DataError(f"{checkpoint.path} was trained for {checkpoint.recipe.task}: it gives no labels of cells.")
        for what in ("classes", "negative", "channels", "size"):
            fact, first = getattr(checkpoint.record, what), getattr(checkpoints[0].record, what)
            if fact != first:
                shown = some(fact) if isinstance(fact, tuple) else fact
                raise DataError(f"{where}: {checkpoint.path} has other {what} ({shown}) than {checkpoints[0].path}.")
