"""The library for notebooks: `wsss.load` gives a trained model that scores the cells of an image in memory."""

from pathlib import Path

from wsss.inference.checkpoints import load_classifier
from wsss.inference.hub import is_model, load_model, pull_model
from wsss.inference.one_image import Model, check_alike
from wsss.inference.sources import source_shares
from wsss.models.device import choose_device
from wsss.options.scoring import CropConfig, ScoreConfig, TtaConfig
from wsss.runs.run_folder import find_folders


def load(
    source: str | Path,
    *,
    device: str = "auto",
    precision: str = "auto",
    score: ScoreConfig | None = None,
    crops: CropConfig | None = None,
    tta: TtaConfig | None = None,
    calibration: str | Path | None = None,
) -> Model:
    """Load trained networks for images in memory.

    Args:
        source: a run folder (all its folds are averaged), one fold's folder, a folder written by
            `export --to huggingface`, or 'hf:USER/NAME' for such a model on Hugging Face.
        device: auto, cpu, cuda or cuda:N.
        precision: fp32, bf16, fp16, or auto: half precision on a GPU, fp32 on the CPU.
        score: cell score options; None for those of the run.
        crops: crop options of stage 2; None for those of the run.
        tta: views of the image that the networks' answers are averaged over; None for the image as it is.
        calibration: curves of `python -m wsss.calibrate`, fitted to predictions of these networks with these options.

    Returns:
        A `Model`; `model.predict(image, label_map)` gives a table with one row a cell.

    Raises:
        ConfigError: there is no such run, model or device.
        DataError: a file is damaged, or the networks do not belong together, or the curves not to them.

    Example:
        >>> import wsss
        >>> model = wsss.load("runs/hpa-seresnext50")  # doctest: +SKIP
        >>> cells = model.predict(image)  # (4, H, W), red green blue yellow  # doctest: +SKIP
    """
    place = choose_device(device, precision)
    text = str(source)
    folder = pull_model(text.removeprefix("hf:")) if text.startswith("hf:") else Path(source)
    if is_model(folder):
        checkpoints = load_model(folder, place)
    else:
        checkpoints = [load_classifier(fold, place) for fold in find_folders(folder)]
    check_alike(checkpoints, str(folder))
    recipe = checkpoints[0].recipe
    rules = score or recipe.score
    if not is_model(folder):  # a shared model holds the networks alone
        source_shares(checkpoints, rules, crops or recipe.crops)
    model = Model(checkpoints, place, rules, crops or recipe.crops, tta or TtaConfig())
    return model if calibration is None else model.calibrated(Path(calibration))
