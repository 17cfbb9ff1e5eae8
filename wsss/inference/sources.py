"""The ways of scoring cells. Each is a Source; blend, parts, provenance and report iterate over one list of them.

To add one, write a class here and name it in SOURCES: `infer` then blends it, writes it with `--parts` and records it.
Published networks (`--source`) are sources that need no run, after those of SOURCES.
A source that scores by a vector of each cell offers it as an embedding (`columns`, `describe`).
Networks run on batches of images (`see`, one batch at a time), scores are made image by image (`score`, several images
at a time).
"""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, ClassVar

import numpy as np
import torch
import torch.nn.functional as F

from wsss.cells.instances import crop_batches, window_batches
from wsss.cells.scoring import GROUPS, Group, Share, cell_cam_scores, take_shares
from wsss.core.checks import DataError, some
from wsss.core.console import say
from wsss.core.runtime import Overlap
from wsss.data.catalog import DataSet
from wsss.feature_classifier.features import cell_features, describe_features
from wsss.inference.checkpoints import CamCheckpoint, Plan
from wsss.inference.published import Published
from wsss.metrics.calibration import Calibration, mean_calibration
from wsss.models.cam_net import crop_outputs
from wsss.models.device import Device, check_outputs, in_parts
from wsss.models.unet import Unet
from wsss.options.infer import Embeddings
from wsss.options.scoring import CropConfig, ScoreConfig, TtaConfig

BLOCK = 4
"""Maps of U-Nets are averaged over blocks of this many pixels: the statistics of a cell need no finer ones."""


@dataclass(frozen=True)
class Task:
    """What to do with every image."""

    data: DataSet
    score: ScoreConfig
    crops: CropConfig
    device: Device
    batch: int = 8
    """Images the network sees at once. Batches are cut from the plan, never from what is left of it, so that a run
    that was interrupted gives the very numbers of one that was not."""
    tta: TtaConfig = field(default_factory=TtaConfig)
    """Views that the network's answers are averaged over."""
    calibration: Calibration | None = None
    """Curves that the final scores go through; None to leave them as they are."""
    embeddings: Embeddings = False
    """Which vectors of each cell are kept; see `InferOptions.embeddings`."""
    published: Sequence[Published] = ()
    """Published networks that score too."""
    overlap: Overlap | None = None
    """The segmentation that runs at the same time and is waited for, image by image; None where the cells are there."""


def batches_of(images: list[int], size: int, done: Set[int] = frozenset()) -> list[list[int]]:
    """Cut the images of a plan into batches, and leave out those of which all images are done.

    The cut does not depend on what is done, so that an interrupted run gives the very numbers of one that was not.
    """
    batches = [images[first : first + size] for first in range(0, len(images), size)]
    return [batch for batch in batches if not set(batch) <= done]


@dataclass(frozen=True)
class Sample:
    """One image, read, and what the networks see in it."""

    index: int
    image: np.ndarray
    """(C, S, S) uint8."""
    label_map: np.ndarray | None
    """As kept on disk, native or stored size; None if there is none."""
    cells: np.ndarray
    """(S, S) int32 label map at stored size; all 0 if there is none."""
    cell_ids: np.ndarray
    """(N,) int32, its cells, rising: the rows of all scores."""
    content: tuple[int, int]
    """(height, width) of the image inside the square."""
    nuclei: np.ndarray | None = None
    """(S, S) nuclei at stored size, where the cell masks come with them."""
    problem: str = ""
    """Why there is no label map."""
    maps: tuple[np.ndarray, ...] = ()
    """Raw class maps (K, h, w) of each network of the run."""
    probs: np.ndarray = field(default_factory=lambda: np.zeros(0, np.float32))
    """(K,) probabilities of the image, the mean of the networks."""
    probs_by_network: tuple[np.ndarray, ...] = ()
    """The same of each network."""
    seen: Mapping[str, Any] = field(default_factory=dict)
    """What each source's `see` returned for this image, by name of the source."""
    vectors: Mapping[str, np.ndarray] = field(default_factory=dict)
    """What each source's `describe` returned, by name of the source."""


@dataclass(frozen=True)
class Batch:
    """Images that the networks see at once."""

    samples: list[Sample]
    images: np.ndarray
    """(B, C, S, S) uint8."""

    def pairs(self, outputs: Sequence[tuple[np.ndarray, np.ndarray]]) -> list[tuple[np.ndarray, np.ndarray]]:
        """Join scores and vectors that came some cells at a time, and cut them into those of each image."""
        stops = np.cumsum([len(sample.cell_ids) for sample in self.samples])[:-1]
        scores, vectors = (np.split(np.concatenate(parts), stops) for parts in zip(*outputs, strict=True))
        return list(zip(scores, vectors, strict=True))


class Source(ABC):
    """One way of scoring cells: class maps, crops, cell features, a U-Net's maps, a published network.

    Args:
        checkpoints: the networks of the run.
        task: data and rules.
        share: weight in the blend, in [0, 1]; the shares of all sources sum to 1. None for a source that describes
            cells without scoring them.
    """

    name: str
    """Column group in the journal and folder of `--parts`."""
    group: ClassVar[Group | None]
    """Sources of a group are averaged before groups are blended; None for scores that are written, not blended."""
    record: ClassVar[str | None] = None
    """Key of its digest in provenance.json; None where the digest of the run's networks covers it."""
    curves: Calibration | None = None
    """That the final scores go through, as far as it alone makes them."""

    def __init__(self, checkpoints: Sequence[CamCheckpoint], task: Task, share: Share | None) -> None:
        self.checkpoints, self.task, self.share = checkpoints, task, share

    @staticmethod
    def takes(checkpoints: Sequence[CamCheckpoint], score: ScoreConfig, crops: CropConfig) -> float | None:
        """Return the share that it takes from the sources before it in its group; None where it takes no part.

        Raises:
            DataError: it should take part, and some of the networks lack what it needs.
        """
        return None

    @staticmethod
    def digest(checkpoint: CamCheckpoint) -> Any:
        """Return the digest, or digests, of what it scores with; None if there is nothing."""
        return None

    @staticmethod
    def embeds(wanted: Embeddings) -> bool:
        """Whether its vectors are wanted even where it does not score."""
        return False

    @property
    def columns(self) -> Sequence[str]:
        """The names of the vectors' elements; empty where it has no vectors."""
        return ()

    def cut(self, batch: Batch) -> Iterator[np.ndarray] | None:
        """Cut out the cells of all images as it wants them, (n, C, size, size) uint8 at a time; None if it wants none.

        The first crops are made before `see` is called.
        """
        return None

    def see(self, batch: Batch, crops: Iterable[np.ndarray]) -> Sequence[Any]:
        """Run its networks on a batch and return what `score` needs of each image.

        Args:
            crops: what `cut` made of them.
        """
        return [None] * len(batch.samples)

    def describe(self, sample: Sample) -> np.ndarray:
        """Return what it knows of each cell, (N, len(columns)) float32; `score` gets it in the sample's `vectors`."""
        return np.zeros((len(sample.cell_ids), 0), np.float32)

    @abstractmethod
    def score(self, sample: Sample) -> np.ndarray:
        """Return cell scores (N, K) float32 in [0, 1]; row i is the i-th smallest id of the label map. N may be 0."""


class ImageProbs(Source):
    """The image's probabilities, for every cell alike: what the other sources are to be compared with."""

    name = "image"
    group = None

    @staticmethod
    def takes(checkpoints: Sequence[CamCheckpoint], score: ScoreConfig, crops: CropConfig) -> float:
        """Always there, never blended."""
        return 0.0

    def score(self, sample: Sample) -> np.ndarray:
        """Return the same row for every cell."""
        return np.tile(sample.probs, (len(sample.cell_ids), 1))


class CamScores(Source):
    """The class maps of the run's networks."""

    name = "cam"
    group = "maps"

    @staticmethod
    def takes(checkpoints: Sequence[CamCheckpoint], score: ScoreConfig, crops: CropConfig) -> float:
        """Always there."""
        return 1.0

    def score(self, sample: Sample) -> np.ndarray:
        """Return the mean of the networks' scores."""
        views = zip(sample.maps, sample.probs_by_network, strict=True)
        return np.mean([map_scores(self.task, self.task.score, sample, *view) for view in views], axis=0)


class SeenScores(Source):
    """A source whose networks see crops: `see` returns (N, K) scores and (N, D) vectors of each image."""

    def describe(self, sample: Sample) -> np.ndarray:
        """Return the vectors that were seen."""
        return np.asarray(sample.seen[self.name][1])

    def score(self, sample: Sample) -> np.ndarray:
        """Return the scores that were seen."""
        return np.asarray(sample.seen[self.name][0])


class CropScores(SeenScores):
    """The run's networks on crops of single cells."""

    name = "crop"
    group = "crops"

    @staticmethod
    def takes(checkpoints: Sequence[CamCheckpoint], score: ScoreConfig, crops: CropConfig) -> float | None:
        """There unless crops.mode is none."""
        return None if crops.mode == "none" else 1.0

    def cut(self, batch: Batch) -> Iterator[np.ndarray]:
        """As the options say."""
        return crop_batches([(sample.image, sample.cells) for sample in batch.samples], self.task.crops)

    @staticmethod
    def embeds(wanted: Embeddings) -> bool:
        """Only where they are wanted by name: every network pass over the crops takes time."""
        return wanted == "crops"

    @property
    def columns(self) -> Sequence[str]:
        """crop_0, crop_1 ...: the pooled features of the first network; those of others have no common axes."""
        return [f"crop_{k}" for k in range(self.checkpoints[0].net.classifier.in_channels)]

    def see(self, batch: Batch, crops: Iterable[np.ndarray]) -> Sequence[tuple[np.ndarray, np.ndarray]]:
        """Return (N, K) scores, the mean of the networks, and (N, D) features of each image.

        Each batch of crops is cut once for all networks; without a share, the first network alone sees them.
        """
        device, tta = self.task.device, self.task.tta
        checkpoints = self.checkpoints[:1] if self.share is None else self.checkpoints
        outputs = [crop_outputs(checkpoints[0].net, [], device, tta)]
        for crop in crops:
            probs, features = zip(
                *(crop_outputs(checkpoint.net, [crop], device, tta) for checkpoint in checkpoints), strict=True
            )
            outputs.append((np.mean(probs, axis=0), features[0]))
        return batch.pairs(outputs)


class FeatureScores(Source):
    """The feature classifiers that were fitted beside the run's networks."""

    name = "feature_classifier"
    group = "features"
    record = "feature_classifier"

    def __init__(self, checkpoints: Sequence[CamCheckpoint], task: Task, share: Share | None) -> None:
        super().__init__(checkpoints, task, share)
        self.curves = None if share is None else own_curves(checkpoints, task.score, share)

    @staticmethod
    def takes(checkpoints: Sequence[CamCheckpoint], score: ScoreConfig, crops: CropConfig) -> float | None:
        """There if the run has them and score.feature_share is above 0."""
        if score.feature_share == 0:
            return None
        lacking = [str(checkpoint.path) for checkpoint in checkpoints if checkpoint.feature_classifier is None]
        some_have = len(lacking) < len(checkpoints)
        if lacking and (some_have or any(one.recipe.feature_classifier.enabled is True for one in checkpoints)):
            raise DataError(
                f"{some(lacking)} has no feature classifier (feature_classifier.safetensors), which the run wants: run "
                "the same train command again with --feature_classifier.enabled true to make it, or pass "
                "--score.feature_share 0 to do without."
            )
        return None if lacking else 1.0

    @staticmethod
    def digest(checkpoint: CamCheckpoint) -> str | None:
        """Return that of the feature classifier."""
        return None if checkpoint.feature_classifier is None else checkpoint.feature_classifier.digest

    @staticmethod
    def embeds(wanted: Embeddings) -> bool:
        """Features need no feature classifier."""
        return wanted is not False

    @property
    def columns(self) -> Sequence[str]:
        """The features by name."""
        return list(describe_features(self.checkpoints[0].record.stains))

    def describe(self, sample: Sample) -> np.ndarray:
        """Return the features."""
        return cell_features(sample.image, sample.cells, sample.nuclei, self.checkpoints[0].record.stains)

    def score(self, sample: Sample) -> np.ndarray:
        """Return the mean of the feature classifiers."""
        features = sample.vectors[self.name]
        scores = [
            checkpoint.feature_classifier.predict(features)
            for checkpoint in self.checkpoints
            if checkpoint.feature_classifier
        ]
        return np.mean(scores, axis=0)


class UnetScores(Source):
    """The maps of U-Nets that learnt from pseudo-masks (`--unet`)."""

    name = "unet"
    group = "maps"
    record = "unets"

    def __init__(self, checkpoints: Sequence[CamCheckpoint], task: Task, share: Share | None) -> None:
        super().__init__(checkpoints, task, share)
        # probabilities have their sigmoid already
        self.rules = replace(task.score, region="mean") if task.score.region == "logit" else task.score

    @staticmethod
    def takes(checkpoints: Sequence[CamCheckpoint], score: ScoreConfig, crops: CropConfig) -> float | None:
        """There if U-Nets were given."""
        return score.unet_share if any(checkpoint.unets for checkpoint in checkpoints) else None

    @staticmethod
    def digest(checkpoint: CamCheckpoint) -> list[str]:
        """Return that of every U-Net."""
        return [net.digest for net in checkpoint.unets]

    @torch.inference_mode()
    def see(self, batch: Batch, crops: Iterable[np.ndarray]) -> Sequence[list[np.ndarray]]:
        """Return the class maps (K, h, w) float32 in [0, 1] of each U-Net, for each image."""
        nets = {net.digest: net.net for checkpoint in self.checkpoints for net in checkpoint.unets}
        images = batch.images
        maps = [np.concatenate(in_parts(net, images.shape, partial(self._ask, net, images))) for net in nets.values()]
        return [[of_net[b] for of_net in maps] for b in range(len(batch.samples))]

    def _ask(self, net: Unet, images: np.ndarray, rows: slice) -> np.ndarray:
        device = self.task.device
        with device.autocast():
            logits = net(device.put(torch.from_numpy(images[rows]))).logits
        maps = F.avg_pool2d(logits.float().sigmoid(), BLOCK).cpu()
        check_outputs(maps)
        return np.asarray(maps.numpy())

    def score(self, sample: Sample) -> np.ndarray:
        """Return the mean of the U-Nets' scores, which go by the image's probabilities too."""
        maps = sample.seen[self.name]
        scores = [map_scores(self.task, self.rules, sample, m, sample.probs, normalised=True) for m in maps]
        return np.mean(scores, axis=0)


class PublishedScores(SeenScores):
    """A published network on crops of single cells, cut out as its authors do."""

    group = "published"

    def __init__(self, model: Published, checkpoints: Sequence[CamCheckpoint], task: Task, share: Share | None) -> None:
        super().__init__(checkpoints, task, share)
        self.model, self.name = model, model.name

    @property
    def columns(self) -> Sequence[str]:
        """The elements of its embedding: subcell_0, subcell_1 ..."""
        return [f"{self.name}_{k}" for k in range(self.model.net.width)]

    def cut(self, batch: Batch) -> Iterator[np.ndarray]:
        """Cut windows of the channels that it takes."""
        return window_batches(map(self._field, batch.samples), self.model.window, self.task.crops.batch)

    def _field(self, sample: Sample) -> tuple[np.ndarray, np.ndarray, float]:
        data, model = self.task.data, self.model
        um = data.geometry(sample.index).stored_um(model.pixel_um or data.pixel_um(sample.index))
        return sample.image[list(model.planes)], sample.cells, um

    @torch.inference_mode()
    def see(self, batch: Batch, crops: Iterable[np.ndarray]) -> Sequence[tuple[np.ndarray, np.ndarray]]:
        """Return the (N, K) scores and (N, D) embeddings of each image."""
        classes, width = len(self.task.data.classes), self.model.net.width
        outputs = [(np.zeros((0, classes), np.float32), np.zeros((0, width), np.float32))]
        outputs += [
            output for crop in crops for output in in_parts(self.model.net, crop.shape, partial(self._ask, crop))
        ]
        return batch.pairs(outputs)

    def _ask(self, crops: np.ndarray, rows: slice) -> tuple[np.ndarray, np.ndarray]:
        device = self.task.device
        with device.autocast():
            probs, vectors = self.model.net(device.put(torch.from_numpy(crops[rows])))
        return self.model.to_classes(probs.float().cpu().numpy()), vectors.float().cpu().numpy()


SOURCES: tuple[type[Source], ...] = (ImageProbs, CamScores, CropScores, FeatureScores, UnetScores)
"""Every source, those of a group in the order in which they take their shares."""
ALWAYS = (ImageProbs.name, CamScores.name)
"""Sources that cost no more than the image's probabilities, which are always made; others run only for a share."""


def recorded() -> dict[str, type[Source]]:
    """Return the sources with a digest of their own, by its key in provenance.json."""
    return {kind.record: kind for kind in SOURCES if kind.record}


def sources_of(checkpoints: Sequence[CamCheckpoint], task: Task) -> list[Source]:
    """Return the sources that take part, with their shares; those whose vectors alone are wanted have None.

    Raises:
        DataError: some of the networks lack what a source needs.
    """
    described = [kind.name for kind in SOURCES if checkpoints and kind.embeds(task.embeddings)]
    described += [model.name for model in task.published if task.embeddings]
    shares = dict.fromkeys(described) | source_shares(checkpoints, task.score, task.crops, task.published)
    kinds = [kind(checkpoints, task, shares[kind.name]) for kind in SOURCES if kind.name in shares]
    models = [PublishedScores(m, checkpoints, task, shares[m.name]) for m in task.published if m.name in shares]
    return [*kinds, *models]


def shows_one_class(checkpoints: Sequence[CamCheckpoint], score: ScoreConfig) -> bool:
    """Whether each cell is taken to show one class alone: as asked for, else as all feature classifiers found."""
    if score.one_class != "auto":
        return score.one_class
    known = [checkpoint.feature_classifier for checkpoint in checkpoints]
    return bool(known) and all(classifier is not None and classifier.one_class for classifier in known)


def own_curves(checkpoints: Sequence[CamCheckpoint], score: ScoreConfig, share: Share) -> Calibration | None:
    """Return the curves of the feature classifiers, their mean, for the classes that these alone score (share 1).

    Of classifiers that disagree on whether cells show one class, those count whose curves are of the rule in use. None
    where curves are not wanted, a classifier has none, or they were fitted to other rules than `score`.
    """
    fitted = [one.feature_classifier for one in checkpoints if one.feature_classifier is not None]
    rule, there = shows_one_class(checkpoints, score), [own for own in fitted if own.calibration is not None]
    curves = [own.calibration for own in there if own.calibration is not None and own.one_class == rule]
    same_rules = (score.prior_rounds, score.border_power) == (ScoreConfig.prior_rounds, ScoreConfig.border_power)
    if not (score.calibrated and same_rules) or not curves or len(there) < len(checkpoints):
        return None
    return mean_calibration(curves).only(np.broadcast_to(share == np.float64(1), len(curves[0].cells)))


def rules_for_all(score: ScoreConfig, plan: Plan) -> ScoreConfig:
    """Return the rules without curves, with a note, if some networks have none for them: a table has one scale."""
    groups = [group for group, _ in plan if any(one.feature_classifier for one in group)]
    lacking = [str(group[0].path) for group in groups if own_curves(group, score, 1.0) is None]
    if not score.calibrated or len(lacking) in (0, len(groups)):
        return score
    why = "of an earlier version, or made for another score.one_class"
    say(f"note: {some(lacking)} has no calibration curves ({why}): those of the others are not used.")
    return replace(score, calibrated=False)


def source_shares(
    checkpoints: Sequence[CamCheckpoint], score: ScoreConfig, crops: CropConfig, published: Sequence[Published] = ()
) -> dict[str, Share]:
    """Return the weight in the blend of each source that takes part, by name; they sum to 1.

    Raises:
        DataError: some of the networks lack what a source needs.
    """
    asked = [(kind.name, kind.group, kind.takes(checkpoints, score, crops)) for kind in SOURCES if checkpoints]
    takes = {name: (group, taken) for name, group, taken in asked if taken is not None}
    takes |= {model.name: ("published", 1 / (n + 1)) for n, model in enumerate(published)}  # all alike
    shares: dict[str, Share] = dict.fromkeys(takes, 0.0)
    groups = {group: [name for name in takes if takes[name][0] == group] for group in GROUPS}
    there = [group for group, names in groups.items() if names]
    wanted: dict[str, Share] = {"maps": 1.0, "crops": score.crop_share, "features": feature_share(checkpoints, score)}
    wanted["published"] = published[0].share if published else 0.0
    for group, of_group in zip(there, take_shares([wanted[group] for group in there]), strict=True):
        within = take_shares([takes[name][1] for name in groups[group]])
        shares |= {name: of_group * share for name, share in zip(groups[group], within, strict=True)}
    return {name: share for name, share in shares.items() if np.any(share) or name in ALWAYS}


def feature_share(checkpoints: Sequence[CamCheckpoint], score: ScoreConfig) -> Share:
    """Return the feature classifiers' share of a score: as asked for, else 1 less what their networks were given.

    Returns:
        a number, or (K,) float64, one a class, where a class gets less than 1: the mean over the networks.
    """
    if score.feature_share != "auto":
        return score.feature_share
    given = [checkpoint.network_share for checkpoint in checkpoints]
    known = [share for share in given if share is not None]
    return 1 - np.mean(known, axis=0) if np.any(known) else 1.0


def map_scores(
    task: Task, rules: ScoreConfig, sample: Sample, maps: np.ndarray, probs: np.ndarray, *, normalised: bool = False
) -> np.ndarray:
    """Score the cells of an image from class maps (K, h, w); see `cell_cam_scores`."""
    return cell_cam_scores(
        maps,
        probs,
        sample.cells,
        rules,
        negative=task.data.classes.negative,
        nuclei=sample.nuclei,
        content=sample.content,
        normalised=normalised,
    )
