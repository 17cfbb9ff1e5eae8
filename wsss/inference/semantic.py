"""Masks of images by the trained networks of a run: which network sees which image, and how it is asked."""

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from wsss.core.checks import ConfigError, DataError, some
from wsss.core.device import Device
from wsss.core.files import digest_file, digest_json, read_lines
from wsss.core.run_facts import check_facts
from wsss.data.mask_samples import coverage_folds, folds_digest, survey
from wsss.data.masks import MaskSet
from wsss.inference.members import weights_of
from wsss.inference.tiles import predict_tiles
from wsss.inference.views import predict_views
from wsss.models.memory import MemoryFull, attempt
from wsss.models.unet import Unet, build_unet, probabilities
from wsss.models.weights import load_weights, strip
from wsss.options.masks import MaskInferConfig
from wsss.options.recipe import Recipe, recipe_from
from wsss.runs.checkpoint import load_checkpoint
from wsss.runs.run_folder import RunFolder


@dataclass(frozen=True)
class MaskMember:
    """One trained mask network of a run."""

    folder: RunFolder
    fold: int | None
    """The fold it never saw; None if it was trained on every image."""
    net: Unet
    recipe: Recipe
    facts: dict[str, Any]
    """What its checkpoint says of it."""
    train_ids: frozenset[str]
    """The images it was trained on."""
    digest: str
    """Of its checkpoint file."""


def load_mask_members(folder: RunFolder, device: Device, *, snapshots: bool = False) -> list[MaskMember]:
    """Load the best mask network of a folder, or those at the end of each cycle.

    Raises:
        ConfigError: snapshots are asked for, and there are none.
        DataError: see `load_mask_member`.
    """
    return [load_mask_member(folder, device, path) for path in weights_of(folder, snapshots=snapshots)]


def load_mask_member(folder: RunFolder, device: Device, weights: Path) -> MaskMember:
    """Load the mask network in the file `weights` of a folder, with its record.

    Raises:
        DataError: a file is missing or damaged, is of another task, or train_ids.txt is not that of the checkpoint.
    """
    tensors, facts = load_checkpoint(weights)
    check_facts(facts, weights, ("recipe", "fold", "train_ids"))
    recipe = recipe_from(facts["recipe"], str(weights))
    if recipe.task != "masks":
        raise DataError(f"{folder.path} was trained for the task '{recipe.task}', expected masks.")
    net = build_unet(recipe, channels=recipe.masks.channels, outputs=recipe.masks.outputs, pretrained=False)
    load_weights(net, strip(tensors, "net."))
    ids = read_lines(folder.ids) if folder.ids.exists() else []
    if digest_json(ids) != facts["train_ids"]:
        raise DataError(f"{folder.ids} is missing or changed: it is not the list {weights} was trained on.")
    net = device.settle(net).eval()
    return MaskMember(folder, facts["fold"], net, recipe, facts, frozenset(ids), digest_file(weights))


MaskPlan = list[tuple[list[MaskMember], list[int]]]
"""Which networks predict which images."""


def plan_masks(members: list[MaskMember], masks: MaskSet, *, oof: bool) -> MaskPlan:
    """Let all networks predict every image; or, out of fold, each image the one (its snapshots) that held it out.

    Raises:
        DataError: out of fold, a fold has no network, or a network saw other folds or an image it would predict.
    """
    if not oof:
        return [(members, list(range(len(masks))))]
    recipe = members[0].recipe
    folds = coverage_folds(survey(masks).coverage, recipe.masks.folds, recipe.seed, masks.groups)
    digest = folds_digest(masks.ids, folds)
    plan: MaskPlan = []
    for fold in range(recipe.masks.folds):
        own = [member for member in members if member.fold == fold]
        indices = np.flatnonzero(folds == fold).tolist()
        if not own:
            raise DataError(f"no network of the run held out fold {fold}: train it with --fold {fold}, or --fold all.")
        for member in own:
            _check_unseen(member, {masks.ids[i] for i in indices}, digest, masks.folder)
        plan.append((own, indices))
    return plan


def _check_unseen(member: MaskMember, held_out: set[str], digest: str, data: Path) -> None:
    if member.facts["data"] != digest:
        raise DataError(f"{member.folder.path} was trained on other masks or folds than {data} has now.")
    leaked = sorted(member.train_ids & held_out)
    if leaked:
        raise DataError(f"{member.folder.path} was trained on {some(leaked)}, which it would predict out of fold.")


class MaskPredictor:
    """The mean of several networks on one image of any size.

    Args:
        members: the networks, all of one target.
        config: views, sizes, tiles.
        device: where to compute.
    """

    def __init__(self, members: list[MaskMember], config: MaskInferConfig, device: Device) -> None:
        self.members, self.config, self.device = members, config, device
        self.target = members[0].recipe.masks.target

    def __call__(self, image: np.ndarray) -> np.ndarray:
        """Return the (K, H, W) float32 probabilities of a (C, H, W) uint8 image."""
        size = image.shape[1], image.shape[2]
        if max(size) <= self.config.tile:
            return self.part(image)
        bands = predict_tiles(
            lambda y0, y1, x0, x1: image[:, y0:y1, x0:x1],
            self.part,
            size,
            tile=self.config.tile,
            overlap=self.config.overlap,
        )
        return np.concatenate([band for _, band in bands], axis=1)

    @torch.inference_mode()
    def part(self, image: np.ndarray) -> np.ndarray:
        """Return the maps of an image, or of a tile, that is seen as a whole."""
        images = self.device.put(torch.from_numpy(np.array(image))[None])
        config = self.config
        ask = [partial(self._ask, own) for own in self.members]
        try:
            maps = [attempt(partial(predict_views, own, images, config.tta, config.scales)) for own in ask]
        except MemoryFull as full:
            edges = " x ".join(map(str, image.shape[1:]))
            raise ConfigError(
                f"memory is too small for {edges} px ({full}): pass a smaller --segmentation.tile."
            ) from None
        return torch.stack(maps).mean(dim=0)[0].cpu().numpy()

    def _ask(self, member: MaskMember, images: torch.Tensor) -> torch.Tensor:
        with self.device.autocast():
            logits = member.net(images).logits.float()
        return probabilities(logits, self.target)
