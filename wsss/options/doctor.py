"""Look at this machine, the prepared data sets and the trained runs, and report what needs fixing."""

from dataclasses import dataclass, field
from pathlib import Path

from wsss.core.checks import ConfigError, between, check_fields, refuse_idle

EXAMPLES = """\
  python -m wsss.doctor
  python -m wsss.doctor --data data/hpa --run runs/hpa-seresnext50
  python -m wsss.doctor --labels preds/hpa-oof
  python -m wsss.doctor --source subcell=encoder.pth,classifier.pth
  python -m wsss.doctor --json
"""


@dataclass(frozen=True)
class DoctorOptions:
    """What is checked in addition to the machine."""

    data: list[Path] = field(default_factory=list)
    """Prepared data sets; default: all under data/."""
    run: list[Path] = field(default_factory=list)
    """Run folders; default: all under runs/."""
    source: list[str] = field(default_factory=list)
    """Published networks whose files are read, written as for infer --source."""
    labels: Path | None = None
    """Out-of-fold predictions (infer --oof true): image labels that their cells contradict are listed, those that look
    most wrong first, instead of all else."""
    most: int = between(20, 1)
    """Doubtful image labels that are listed."""

    def __post_init__(self) -> None:
        check_fields(self, "--")
        if self.labels is None:
            refuse_idle(self, ("most",), "without --labels")
        elif self.source:
            raise ConfigError(
                "--source changes nothing with --labels, which is looked at alone: leave one of them out."
            )


OPTIONS = (DoctorOptions,)
