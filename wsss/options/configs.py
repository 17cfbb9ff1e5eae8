"""List the recipes that come with wsss: names for --config and --augment, each with a line."""

import re
from dataclasses import dataclass
from pathlib import Path

from wsss.core.checks import ConfigError, nearest, some

EXAMPLES = """\
  python -m wsss.configs
  python -m wsss.configs --show natural_cells > mine.yaml"""


@dataclass(frozen=True)
class ConfigsOptions:
    """What is printed."""

    show: str = ""
    """Print this one in full instead."""


OPTIONS = (ConfigsOptions,)


_PLACES = (Path(__file__).parents[1] / "shipped", Path(__file__).parents[2] / "configs")
CONFIGS = next((folder for folder in _PLACES if folder.exists()), _PLACES[0])
"""Where they are: in the installed package, or beside it in a checkout."""
_AUGMENT = "augment_"


def recipes() -> dict[str, Path]:
    """Return the recipes for --config by name."""
    return {path.stem: path for path in sorted(CONFIGS.glob("*.yaml")) if not path.stem.startswith(_AUGMENT)}


def augmentations() -> dict[str, Path]:
    """Return the augmentations for --augment by name."""
    return {path.stem.removeprefix(_AUGMENT): path for path in sorted(CONFIGS.glob(f"{_AUGMENT}*.yaml"))}


def about(path: Path) -> str:
    """Return the first sentence of the comment that a file begins with."""
    lines = []
    for line in path.read_text().splitlines():
        if not line.startswith("#"):
            break
        lines.append(line.removeprefix("#").strip())
    return re.split(r"(?<=[.!?])\s", " ".join(lines))[0].rstrip(".")


def config_file(word: str) -> str:
    """Return the file that a word behind --config means: a file there is, or a recipe by name; YAML text passes.

    Raises:
        ConfigError: it is neither; the nearest name is given.
    """
    if word.lstrip().startswith("{") or Path(word).exists():
        return word
    known = recipes()
    name = Path(word).name.removesuffix(".yaml")
    if word in (name, f"{name}.yaml") and name in known:
        return str(known[name])
    raise ConfigError(
        f"--config {word}: there is no such file and no recipe of this name.{nearest(name, known)} Recipes are "
        f"{some(known, 20)}; wsss configs says what they are for."
    )
