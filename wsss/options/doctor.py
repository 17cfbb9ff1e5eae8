"""Look at this machine, the prepared data sets and the trained runs, and say what is to be mended."""

from dataclasses import dataclass, field
from pathlib import Path

EXAMPLES = """\
  python -m wsss.doctor
  python -m wsss.doctor --data data/hpa --run runs/hpa-seresnext50
  python -m wsss.doctor --json
"""


@dataclass(frozen=True)
class DoctorOptions:
    """What is looked at beside the machine."""

    data: list[Path] = field(default_factory=list)
    """Prepared data sets; default: all under data/."""
    run: list[Path] = field(default_factory=list)
    """Run folders; default: all under runs/."""


OPTIONS = (DoctorOptions,)
