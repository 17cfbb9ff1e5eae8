"""Self-training of a fold: a network of single cells, taught by the soft labels of the fold's own training cells.

Why no label of a held-out image can reach it. Let T be the training images of a fold and H the held-out ones. A common
way of self-training takes out-of-fold scores as soft labels; but the networks that score T out of fold have, all but
one, seen H, so a network taught by them knows labels of H. Here everything is a function of T alone:

- the teacher is the feature classifier of this very fold. It sorts out which label each cell of T bears by learners
  that did not see the cell's image, in inner folds inside T (`cells.weak.fit_weak`);
- soft labels outside an image's own labels (and Negative) are zero, and those labels are of images in T;
- the weights begin as those of the fold's network after its last epoch, not its best one, which the validation loss
  on H chose. (With `optim.schedule plateau` or `optim.early_stop` that loss steers its training nevertheless.)
- in further rounds two networks, each trained on one half of T, label the other half anew; then one learns from all.

H is looked at by none of these steps. A test changes a label in H and finds the network unchanged, bit by bit.
"""

import hashlib
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import torch
from sklearn.model_selection import GroupKFold

from wsss.cells.confident import choose_cells
from wsss.cells.instances import cell_crops
from wsss.core.checks import DataError
from wsss.core.device import Device
from wsss.core.files import digest_file, digest_json, write_json
from wsss.data.catalog import DataSet
from wsss.data.cell_maps import read_cells
from wsss.feature_classifier.fit import candidates, renew
from wsss.feature_classifier.soft_labels import SoftLabels, load_soft_labels
from wsss.models.cam_net import CamNet, build_cam_net, crop_probs
from wsss.models.weights import load_weights
from wsss.options.recipe import ClassifyRecipe
from wsss.options.scoring import CropConfig
from wsss.runs.checkpoint import load_checkpoint, previous, save_checkpoint
from wsss.runs.run_folder import RunFolder
from wsss.training.self_training_network import Lesson, train_self_trained

SUMMARY = "self_trained.json"
HALVES = 2


@dataclass(frozen=True)
class _Pool:
    """The cells that take part."""

    image: np.ndarray
    """(N,) number of each cell's image in the data set."""
    crops: np.ndarray
    """(N, 4, s, s) uint8."""
    soft: np.ndarray
    """(N, K) float32, the teacher's soft labels."""


def self_trained_crops(recipe: ClassifyRecipe) -> CropConfig:
    """Return how cells are cut out for the network of single cells."""
    mode = "fit" if recipe.crops.mode == "none" else recipe.crops.mode
    return replace(recipe.crops, mode=mode, size=recipe.self_training.size)


def ensure_self_trained(
    folder: RunFolder, data: DataSet, train: np.ndarray, recipe: ClassifyRecipe, net: CamNet, device: Device
) -> bool:
    """Train the network of single cells of a fold unless the folder holds it already; return whether it was trained.

    Args:
        folder: of the fold's run, with its feature classifier; receives self_trained.safetensors and
            self_trained.json. What the rounds before the last one found is kept in self_trained.partial.safetensors
            until the end.
        data: the data set, with segmented cells.
        train: numbers of the images to learn from: no other is looked at.
        recipe: its self_training, crops, feature_classifier and seed.
        net: the fold's network after its last epoch.
        device: where to compute.

    Raises:
        DataError: the soft labels are missing or of other images, or no cell is confident enough.
    """
    facts = _facts(folder, data, train, recipe, net)
    if folder.self_trained.exists() and load_checkpoint(folder.self_trained)[1]["identity"] == digest_json(facts):
        return False
    pool = _read_pool(load_soft_labels(folder.soft_labels), data, train, recipe)
    start = build_cam_net(recipe, channels=len(data.channels), classes=len(data.classes), pretrained=False)
    load_weights(start, net.state_dict())  # without batch norms that wait for other processes
    rounds = _Rounds(folder, data, recipe, start, device, digest_json(facts))
    self_trained, soft, history = rounds.run(pool)
    meta = {**facts, "identity": digest_json(facts), "crops": asdict(self_trained_crops(recipe)), "history": history}
    tensors = {f"net.{name}": tensor for name, tensor in self_trained.state_dict().items()}
    save_checkpoint(folder.self_trained, tensors, meta)
    previous(folder.self_trained).unlink(missing_ok=True)
    write_json(folder.path / SUMMARY, _summary(pool, soft, meta, data, recipe))
    rounds.forget()
    return True


def _facts(folder: RunFolder, data: DataSet, train: np.ndarray, recipe: ClassifyRecipe, net: CamNet) -> dict[str, Any]:
    """Return what the network is made of: the same facts, the same network."""
    sha = hashlib.sha256()
    for name, tensor in sorted(net.state_dict().items()):
        sha.update(name.encode() + tensor.detach().cpu().contiguous().numpy().tobytes())
    return {
        "train_ids": digest_json([data.ids[i] for i in train]),
        "options": asdict(recipe.self_training),
        "cut": asdict(self_trained_crops(recipe)),
        "weak": asdict(recipe.feature_classifier.weak),
        "seed": recipe.seed,
        "teacher": digest_file(folder.soft_labels),
        "start": sha.hexdigest()[:16],
    }


def _read_pool(labels: SoftLabels, data: DataSet, train: np.ndarray, recipe: ClassifyRecipe) -> _Pool:
    """Choose cells by the teacher's confidence, and cut them out.

    In one round, only confident cells are ever looked at; in more, cells may become confident.
    """
    config = recipe.self_training
    number = {data.ids[i]: int(i) for i in train}
    if not set(labels.image_ids) <= set(number):
        raise DataError(
            "the soft labels are of other images than the network's: remove feature_classifier.json and train again."
        )
    rows = choose_cells(labels.soft, config.confidence if config.rounds == 1 else 0, config.cells, recipe.seed)
    if not len(rows):
        raise _no_cell(config.confidence)
    image = np.array([number[name] for name in labels.image_ids[rows]])
    cut = self_trained_crops(recipe)
    crops = np.zeros((len(rows), len(data.channels), cut.size, cut.size), np.uint8)
    for index in np.unique(image):
        own = np.flatnonzero(image == index)
        label_map = data.geometry(int(index)).labels_to_store(read_cells(data, int(index)))
        place = dict(zip(labels.cell_ids[rows[own]].tolist(), own.tolist(), strict=True))
        for ids, found in cell_crops(np.array(data.image(int(index))), label_map, cut):
            for cell, crop in zip(ids.tolist(), found, strict=True):
                if cell in place:
                    crops[place[cell]] = crop
    return _Pool(image, crops, labels.soft[rows])


def _no_cell(confidence: float) -> DataError:
    return DataError(
        f"no cell has a soft label of {confidence:g} or more: lower self_training.confidence, or leave "
        "self_training.enabled out."
    )


class _Rounds:
    """The rounds of one fold's self-training; the soft labels after each are kept on disk."""

    def __init__(
        self, folder: RunFolder, data: DataSet, recipe: ClassifyRecipe, net: CamNet, device: Device, identity: str
    ) -> None:
        self.data, self.recipe, self.net, self.device, self.identity = data, recipe, net, device, identity
        self.path = folder.path / "self_trained.partial.safetensors"

    def run(self, pool: _Pool) -> tuple[CamNet, np.ndarray, list[dict[str, Any]]]:
        """Go through the rounds; return the network, the soft labels it learnt and a record a round."""
        soft, history = self._begun(pool)
        for turn in range(len(history), self.recipe.self_training.rounds - 1):
            soft, row = self._relabel(pool, soft, turn)
            history.append(row)
            self._keep(soft, history)
        turn = self.recipe.self_training.rounds - 1
        self_trained, losses, count = self._learn(pool, soft, np.arange(len(soft)), turn, f"self-training {turn + 1}")
        return self_trained, soft, [*history, {"cells": count, "loss": losses}]

    def _relabel(self, pool: _Pool, soft: np.ndarray, turn: int) -> tuple[np.ndarray, dict[str, Any]]:
        """Let each half of the images be labelled by a network that learnt from the other half."""
        found = np.zeros_like(pool.soft)
        losses, counts = [], []
        for half, (seen, unseen) in enumerate(GroupKFold(HALVES).split(soft, groups=pool.image)):
            title = f"self-training {turn + 1}, half {half + 1}"
            self_trained, loss, count = self._learn(pool, soft, seen, turn, title)
            found[unseen] = crop_probs(self_trained, _in_batches(pool.crops[unseen]), self.device, "softmax")
            losses.append(loss)
            counts.append(count)
        possible = self._possible(pool)
        new = renew(
            np.stack([pool.soft, found]).astype(np.float64), possible, soft, self.recipe.feature_classifier.weak
        )
        change = float(np.abs(new - soft).sum(axis=1).mean() / 2)
        return new.astype(np.float32), {"cells": counts, "loss": losses, "change": round(change, 6)}

    def _possible(self, pool: _Pool) -> np.ndarray:
        """Return (N, K), not 0 where the cell's image allows the class."""
        weak = self.recipe.feature_classifier.weak
        return candidates(pool.image, self.data.labels, self.data.classes.negative, weak.negative_share)

    def _learn(
        self, pool: _Pool, soft: np.ndarray, rows: np.ndarray, turn: int, title: str
    ) -> tuple[CamNet, list[float], int]:
        """Train on the confident cells among `rows`."""
        config, seed = self.recipe.self_training, self.recipe.seed + turn
        chosen = rows[choose_cells(soft[rows], config.confidence, config.cells, seed)]
        if not len(chosen):
            raise _no_cell(config.confidence)
        lesson = Lesson(pool.crops[chosen], soft[chosen], self.data.classes.negative)
        self_trained, losses = train_self_trained(self.net, lesson, config, seed, self.device, title)
        return self_trained, [round(loss, 6) for loss in losses], len(chosen)

    def _begun(self, pool: _Pool) -> tuple[np.ndarray, list[dict[str, Any]]]:
        """Return where a killed run stopped, or the teacher's soft labels."""
        if self.path.exists():
            tensors, meta = load_checkpoint(self.path)
            if meta["identity"] == self.identity:
                return tensors["soft"].numpy(), meta["history"]
        return pool.soft, []

    def _keep(self, soft: np.ndarray, history: list[dict[str, Any]]) -> None:
        save_checkpoint(self.path, {"soft": torch.from_numpy(soft)}, {"identity": self.identity, "history": history})

    def forget(self) -> None:
        """Remove what the rounds kept."""
        for path in (self.path, previous(self.path)):
            path.unlink(missing_ok=True)


def _in_batches(crops: np.ndarray, size: int = 64) -> list[np.ndarray]:
    return [crops[start : start + size] for start in range(0, len(crops), size)]


def _summary(
    pool: _Pool, soft: np.ndarray, meta: dict[str, Any], data: DataSet, recipe: ClassifyRecipe
) -> dict[str, Any]:
    """Tell what was learnt from."""
    sure = soft.max(axis=1) >= recipe.self_training.confidence
    counts = np.bincount(soft[sure].argmax(axis=1), minlength=len(data.classes))
    return {
        "images": len(np.unique(pool.image[sure])),
        "cells": int(sure.sum()),
        "cells_by_class": {data.classes.names[k]: int(counts[k]) for k in np.flatnonzero(counts)},
        **{name: meta[name] for name in ("history", "options", "seed", "train_ids")},
    }
