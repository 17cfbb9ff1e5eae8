"""The library for notebooks: `wsss.load` gives a model that scores the cells of an image in memory."""

from collections.abc import Sequence
from pathlib import Path

from wsss.core.channels import default_roles
from wsss.core.checks import ConfigError
from wsss.core.labels import HPA, HPA_CHANNELS, ClassList
from wsss.inference.checkpoints import CamCheckpoint, load_classifier
from wsss.inference.hub import is_model, load_model, pull_model
from wsss.inference.one_image import Model, check_alike
from wsss.inference.published import Target, load_published
from wsss.inference.sources import source_shares
from wsss.models.device import Device, choose_device
from wsss.options.scoring import CropConfig, ScoreConfig, TtaConfig
from wsss.runs.run_folder import find_folders

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
        precision: fp32, bf16, fp16, or auto: half precision on a GPU, fp32 on the CPU.
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
    place = choose_device(device, precision)
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
    if is_model(folder):
        checkpoints = load_model(folder, device)
    else:
        checkpoints = [load_classifier(fold, device) for fold in find_folders(folder)]
    check_alike(checkpoints, str(folder))
    return checkpoints, str(folder)


def _target(checkpoints: list[CamCheckpoint], where: str, channels: tuple[str, ...]) -> tuple[Target, int]:
    """Return the images that the networks expect, and the size they are scaled to; the Atlas's without networks."""
    if not checkpoints:
        return Target(where, channels, default_roles(channels), HPA), SIZE
    record = checkpoints[0].record
    roles = record.roles or default_roles(record.channels)
    return Target(where, record.channels, roles, ClassList(record.classes, record.negative)), record.size
