"""List the recipes that come with wsss: names for --config and --augment, each with a line."""

from dataclasses import dataclass

EXAMPLES = """\
  python -m wsss.configs
  python -m wsss.configs --show natural_cells > mine.yaml"""


@dataclass(frozen=True)
class ConfigsOptions:
    """What is printed."""

    show: str = ""
    """Print this one in full instead."""


OPTIONS = (ConfigsOptions,)
