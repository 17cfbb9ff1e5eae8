"""Blend several predictions of the same cells into one: the same tables, and what each of them adds."""

from dataclasses import dataclass
from pathlib import Path

from wsss.core.checks import ConfigError, between, check_choice, check_fields, refuse_idle
from wsss.options.evaluate import JOINS

EXAMPLES = """\
  python -m wsss.ensemble --preds preds/a-oof preds/b-oof --weights auto --data data/hpa --out preds/blend-oof
  python -m wsss.ensemble --preds preds/a preds/b --weights 0.7,0.3 --out preds/blend
  python -m wsss.ensemble --preds preds/a preds/b preds/c --how rank --out preds/blend
"""

HOWS = ("mean", "geometric", "rank")


@dataclass(frozen=True)
class EnsembleOptions:
    """What is blended, and how."""

    preds: list[Path]
    """Folders of predictions of the same cells, two or more."""
    out: Path
    """Folder for the blend's tables."""
    weights: str = "equal"
    """equal; one number for each, such as 2,1,1; or auto: fitted on out-of-fold predictions, each fold's weights
    on the other folds only."""
    how: str = "mean"
    """mean, geometric, or rank (mean of ranks within the table; the result is no probability)."""
    data: Path | None = None
    """auto: data set whose image labels the weights are fitted to; default: the one recorded or the only one."""
    truth: Path | None = None
    """auto: table of true cells to fit to, instead of image labels."""
    masks: Path | None = None
    """True label maps in any form, as for evaluate, whose ids --truth speaks of: cells are joined by overlap. Needed
    unless the predicted cells are those (segment --backend masks)."""
    join: str = "auto"
    """Which predicted cell stands for a true one, as in evaluate: number, iou, or auto."""
    join_iou: float = between(0.5, 1e-9, 1)
    """Lowest IoU of the join by overlap."""
    min_score: float = between(0.01, 0, 1)
    """Predictions below this are left out of submission.csv."""
    overwrite: bool = False
    """Replace another blend in --out."""

    def __post_init__(self) -> None:
        check_fields(self, "--")
        check_choice("--how", self.how, HOWS)
        check_choice("--join", self.join, JOINS)
        if self.weights != "auto":
            refuse_idle(self, ("data", "truth", "masks", "join", "join_iou"), "without --weights auto")
        elif self.truth is None:
            refuse_idle(self, ("masks", "join", "join_iou"), "without --truth")
        if len(self.preds) < 2 or len({path.resolve() for path in self.preds}) != len(self.preds):
            raise ConfigError(f"--preds has {len(self.preds)} folders, expected two or more, all different.")
        if self.out.resolve() in {path.resolve() for path in self.preds}:
            raise ConfigError(f"--out {self.out} is one of --preds: choose another folder.")
        if self.weights not in ("auto", "equal"):
            given_weights(self.weights, len(self.preds))


def given_weights(text: str, count: int) -> list[float]:
    """Read '2,1,1'.

    Raises:
        ConfigError: not one number >= 0 for each prediction, or all are 0.
    """
    try:
        weights = [float(part) for part in text.split(",")]
    except ValueError:
        raise ConfigError(f"--weights is '{text}', expected auto, equal or {count} numbers and commas.") from None
    if len(weights) != count or not all(0 <= weight < float("inf") for weight in weights) or sum(weights) == 0:
        raise ConfigError(
            f"--weights is '{text}', expected {count} numbers from 0 on, not all 0: one for each --preds."
        )
    return weights


OPTIONS = (EnsembleOptions,)
