"""The library for notebooks: `wsss.load` gives a model that scores the cells of an image in memory.

It takes the same steps as `infer` on a whole data set, without a file.
"""

import functools
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import pandas as pd

from wsss.core.channels import BITS, default_roles
from wsss.core.checks import ConfigError, DataError
from wsss.core.files import as_read
from wsss.core.label_maps import Geometry, check_label_map
from wsss.core.labels import HPA, HPA_CHANNELS, ClassList
from wsss.data.catalog import DataSet
from wsss.data.pixels import to_uint8
from wsss.inference.checkpoints import CamCheckpoint, check_alike, load_run
from wsss.inference.hub import is_model, load_model, pull_model
from wsss.inference.pipeline import check_origin, digests, make_sample, score_now, take_part
from wsss.inference.published import Published, Target, load_published
from wsss.inference.sources import Task, source_shares
from wsss.metrics.calibration import Calibration, load_calibration
from wsss.models.device import Device, choose_device
from wsss.options.scoring import CropConfig, ScoreConfig, TtaConfig
from wsss.segmenters import AUTO, AnyBackend, BackendOptions, Field, make_backend, segment_one


@dataclass(frozen=True)
class _OneImage:
    """What scoring asks of a data set, for a single image."""

    ids: list[str]
    size: int
    classes: ClassList
    shape: tuple[int, int]

    def geometry(self, i: int) -> Geometry:
        return Geometry(*self.shape, self.size)

    def pixel_um(self, i: int) -> float | None:
        return None


@dataclass(frozen=True)
class Model:
    """The networks of a run, published networks, or both, ready for images in memory; made by `wsss.load`."""

    checkpoints: list[CamCheckpoint] = field(repr=False)
    """Those of the run; their scores are averaged."""
    target: Target
    """Channels and classes of the images."""
    size: int
    """Edge in px of the square that images are scaled into."""
    device: Device
    score: ScoreConfig
    """How class maps become cell scores; that of the run."""
    crops: CropConfig
    """How cells are cut out for stage 2; that of the run."""
    tta: TtaConfig = field(default_factory=TtaConfig)
    """Views that the networks' answers are averaged over."""
    published: Sequence[Published] = field(default=(), repr=False)
    """Published networks that score too."""
    calibration: Calibration | None = None
    """Curves that the scores go through."""

    def calibrated(self, path: Path) -> "Model":
        """Return this model with the curves of a file of `python -m wsss.calibrate`.

        Raises:
            DataError: they are damaged, or were fitted to other networks or options.
        """
        curves = load_calibration(path, len(self.classes))
        facts: dict[str, Any] = {"score": self.score.facts(), "crops": asdict(self.crops), "tta": asdict(self.tta)}
        facts["members"] = [digests(checkpoint) for checkpoint in self.checkpoints]
        if self.published:
            facts["published"] = {model.name: model.facts() for model in self.published}
        check_origin(curves, as_read(facts), path)
        return replace(self, calibration=curves)

    @property
    def classes(self) -> ClassList:
        """The classes, in the order of the score columns '0', '1', ..."""
        return self.target.classes

    @property
    def channels(self) -> tuple[str, ...]:
        """Names of the image channels, in order."""
        return self.target.channels

    @property
    def roles(self) -> tuple[str, ...]:
        """What each channel shows: nucleus, signal, cell, outline, or ''."""
        return self.target.roles

    @property
    def bits(self) -> int | None:
        """Bits that uint16 values of the run's images use; None where that is not known, or they were of 8 bits."""
        return self.checkpoints[0].record.bits if self.checkpoints else None

    def predict(
        self, image: np.ndarray, label_map: np.ndarray | None = None, *, name: str = "image", bits: int | None = None
    ) -> pd.DataFrame:
        """Score the cells of an image.

        Args:
            image: (C, H, W) or (H, W, C) in the order of `channels`, of any size; uint8, uint16 or float in [0, 1].
            label_map: (H, W) whole numbers, 0 background; None finds the cells by their stains.
            name: what stands in the column ID.
            bits: that uint16 values use, one of 8, 10, 12, 14, 16; None for those of the images that the run was
                trained on or, if these were of 8 bits, the fewest that hold the largest value.

        Returns:
            One row a cell: the columns of cells.parquet, positions and masks at the size of `image`.

        Raises:
            DataError: the image or the label map is not what it must be.
        """
        planes = check_image(image, len(self.channels), bits or self.bits)
        shape = (planes.shape[1], planes.shape[2])
        geometry = Geometry(*shape, self.size)
        stored = geometry.image_to_store(planes)
        if label_map is None:
            cells_map, nuclei = _find_cells(stored, self.roles, geometry, name, str(self.device.place))
        else:
            cells_map, nuclei = check_label_map(label_map, "label_map"), None
            if cells_map.shape != shape:
                raise DataError(f"label_map is {cells_map.shape}, expected the image's {shape}.")
        data = cast(DataSet, _OneImage([name], self.size, self.classes, shape))
        task = Task(
            data,
            self.score,
            self.crops,
            self.device,
            tta=self.tta,
            calibration=self.calibration,
            published=self.published,
        )
        scored = score_now(task, self.checkpoints, make_sample(data, 0, stored, cells_map, nuclei))
        (cells,) = take_part([scored.cells], "")
        return cells


def check_image(image: np.ndarray, channels: int, bits: int | None = None) -> np.ndarray:
    """Return an image as (channels, H, W) uint8; uint16 values use `bits` bits, None for the fewest.

    Raises:
        DataError: neither first nor last axis holds the channels, or both might; or the values are no intensities.
    """
    array = np.asarray(image)
    array = array.astype(array.dtype.newbyteorder("="), copy=False)  # a map of ImageJ's TIFF is big-endian
    if array.ndim != 3 or 0 in array.shape or channels not in (array.shape[0], array.shape[2]):
        raise DataError(
            f"the image has the shape {array.shape}, expected ({channels}, H, W) or (H, W, {channels}): "
            "stack its channels."
        )
    if array.shape[0] == array.shape[2]:
        raise DataError(f"the image has the shape {array.shape}: which axis holds the channels cannot be told.")
    if bits is not None and bits not in BITS:
        raise DataError(f"bits is {bits}, expected one of {', '.join(map(str, BITS))}.")
    if str(array.dtype) not in ("uint8", "uint16", "float16", "float32", "float64"):
        raise DataError(f"the image holds {array.dtype} values, expected uint8, uint16, or floats in 0..1.")
    planes = array if array.shape[0] == channels else np.moveaxis(array, 2, 0)
    return np.ascontiguousarray(to_uint8(list(planes), ["the image"] * channels, bits)[0])


@functools.cache
def _backend(roles: tuple[str, ...], device: str) -> AnyBackend:
    return make_backend(AUTO, BackendOptions(device=device, roles=roles))


def _find_cells(
    stored: np.ndarray, roles: tuple[str, ...], geometry: Geometry, name: str, device: str
) -> tuple[np.ndarray, np.ndarray | None]:
    """Return cells and nuclei at stored size, as the stage segment would."""
    if not {"nucleus", "cell"} & set(roles):
        raise DataError("no channel shows nuclei or fills the cells (prepare --roles): pass a label_map.")
    height, width = geometry.content_height, geometry.content_width
    content = np.ascontiguousarray(stored[:, :height, :width])
    one = Field(name, content, geometry.height, geometry.width, geometry.size, roles)
    maps = segment_one(_backend(roles, device), one)
    padding = ((0, geometry.size - height), (0, geometry.size - width))
    return np.pad(maps.cells, padding), None if maps.nuclei is None else np.pad(maps.nuclei, padding)


SIZE = 1024
"""Edge in px of the square that images are scaled into for published networks alone: they see no more of a field."""


def load(
    source: str | Path | None = None,
    *,
    published: str | Sequence[str] = (),
    published_share: float = 0.5,
    pixel_um: float | None = None,
    channels: Sequence[str] = HPA_CHANNELS,
    device: str = "auto",
    precision: str = "auto",
    score: ScoreConfig | None = None,
    crops: CropConfig | None = None,
    tta: TtaConfig | None = None,
    calibration: str | Path | None = None,
) -> Model:
    """Load trained networks, published networks, or both, for images in memory.

    Args:
        source: a run folder (all its folds are averaged), one fold's folder, a folder written by
            `export --to huggingface`, or 'hf:USER/NAME' for such a model on Hugging Face; None for published networks
            alone.
        published: published networks as `infer --source` takes them, such as 'subcell=encoder.pth,classifier.pth'.
        published_share: their part of each cell's score, in [0, 1], where there is a `source` too.
        pixel_um: micrometres per pixel of the images, for published networks; None for whole fields of the Atlas.
        channels: of the images, in order, where there is no `source`: red, green, blue and yellow as in the Atlas, or
            what they show (nucleus, signal, cell).
        device: auto, cpu, cuda or cuda:N.
        precision: fp32, bf16, fp16, or auto: fp16 on a GPU that computes in it, fp32 on the CPU.
        score: cell score options; None for those of the run.
        crops: crop options of stage 2; None for those of the run.
        tta: views of the image that the networks' answers are averaged over; None for the image as it is.
        calibration: curves of `python -m wsss.calibrate`, fitted to predictions of these networks with these options.

    Returns:
        A `Model`; `model.predict(image, label_map)` gives a table with one row a cell.

    Raises:
        ConfigError: there is no such run, model or device, or nothing to load; or the images lack a channel that a
            published network needs.
        DataError: a file is damaged, or the networks do not belong together, or the curves not to them.

    Example:
        >>> import wsss
        >>> model = wsss.load("runs/hpa-seresnext50")  # doctest: +SKIP
        >>> cells = model.predict(image)  # (4, H, W), red green blue yellow  # doctest: +SKIP
        >>> model = wsss.load(published="subcell=encoder.pth,classifier.pth")  # doctest: +SKIP
    """
    place = choose_device(device, precision, predicts=True)
    names = [published] if isinstance(published, str) else list(published)
    if source is None and not names:
        raise ConfigError("nothing to load: pass the folder of a run, published='subcell=ENCODER,CLASSIFIER', or both.")
    checkpoints, where = ([], "the image") if source is None else _trained(source, place)
    target, size = _target(checkpoints, where, tuple(channels))
    # without a run the scores are the published networks' own, as in infer: the prior was chosen for those of runs
    rules = score or (checkpoints[0].recipe.score if checkpoints else ScoreConfig(prior_rounds=0))
    cut = crops or (checkpoints[0].recipe.crops if checkpoints else CropConfig())
    scorers = load_published(names, target, place, published_share, pixel_um)
    if source is None or not is_model(Path(where)):  # a shared model holds the networks alone
        source_shares(checkpoints, rules, cut, scorers)
    model = Model(checkpoints, target, size, place, rules, cut, tta or TtaConfig(), scorers)
    return model if calibration is None else model.calibrated(Path(calibration))


def _trained(source: str | Path, device: Device) -> tuple[list[CamCheckpoint], str]:
    """Return the networks of a run or shared model, and its folder."""
    text = str(source)
    folder = pull_model(text.removeprefix("hf:")) if text.startswith("hf:") else Path(source)
    checkpoints = load_model(folder, device) if is_model(folder) else load_run(folder, device)
    check_alike(checkpoints, str(folder))
    return checkpoints, str(folder)


def _target(checkpoints: list[CamCheckpoint], where: str, channels: tuple[str, ...]) -> tuple[Target, int]:
    """Return the images that the networks expect, and the size they are scaled to; the Atlas's without networks."""
    if not checkpoints:
        return Target(where, channels, default_roles(channels), HPA), SIZE
    record = checkpoints[0].record
    roles = record.roles or default_roles(record.channels)
    return Target(where, record.channels, roles, ClassList(record.classes, record.negative)), record.size
