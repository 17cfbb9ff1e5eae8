"""Prepare images for everything that follows: one store of pixels, one catalogue, folds that stay.

Reads <ID>_red.png, <ID>_green.png, ... (or one four-channel file per image), 8 or 16 bit, any size, and a table of
image labels if there is one. Can be stopped at any time and started again with the same command."""

from dataclasses import dataclass
from pathlib import Path

from wsss.core.checks import ConfigError, check_choice, check_range
from wsss.core.labels import HPA_CHANNELS
from wsss.core.ray_cluster import ENGINES
from wsss.core.runtime import Workers

EXAMPLES = """\
  python -m wsss.prepare --images hpa/train --labels hpa/train.csv --out data/hpa
  python -m wsss.prepare --images external --labels external.csv --out data/hpa --source external    add a source
  python -m wsss.prepare --images hpa/train --labels hpa/train.csv --group antibody --out data/hpa   folds by protein
  python -m wsss.prepare --images hpa/test --out data/test                                           no labels
"""


def channel_names(text: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Read 'red=Cy3,green,...': the names of the channels, and what the files call them."""
    parts = [part.partition("=") for part in text.split(",")]
    return tuple(name for name, _, _ in parts), tuple(other.strip() or name for name, _, other in parts)


@dataclass(frozen=True)
class PrepareOptions:
    """What the stage is asked to do."""

    images: Path
    """Folder of the image files, or a path_list.csv that names them."""
    out: Path
    """Folder of the data set to make, data/NAME."""
    labels: Path | None = None
    """Label table (CSV); without it the images are there to be predicted. Columns beside ID and labels are carried
    along into every table."""
    size: int = 512
    """Edge of the stored square images, in pixels."""
    source: str = "main"
    """Name of this source; another name adds the images to a data set that exists."""
    classes: Path | None = None
    """YAML file with `names:` and `negative:`; the 19 classes of the Human Protein Atlas if left out."""
    channels: str = ",".join(HPA_CHANNELS)
    """Names of the four channels as they stand in file names or inside files, in the order red, green, blue, yellow;
    red=Cy3,green=GFP,blue=DAPI,yellow=Cy5 where the files call them otherwise."""
    folds: int | None = None
    """Number of folds; 4 if left out, or what the data set has already."""
    seed: int | None = None
    """Seed of the folds; 0 if left out, or what the data set has already. Images that have a fold keep it when a source
    is added; another number of folds or another seed makes all of them anew."""
    group: str | None = None
    """Column of the label table (antibody, plate, patient, ...) whose images of one value go to the same fold; none if
    left out, or what the data set has already."""
    workers: int | None = None
    """Processes; one per core if left out, 0 for none beside the main one."""
    engine: str = "local"
    """local; or ray: one process for each core of the Ray cluster that RAY_ADDRESS names or this machine belongs to."""
    skip: str = ""
    """IDs to leave out, separated by commas; or a text file with one ID a line."""
    depth: str = "auto"
    """Bits that 16-bit files use: 8, 12 or 16; auto tells from the largest value of each image."""
    allow_unlabelled: bool = False
    """Take images that the label table does not name, without labels, instead of stopping."""
    overwrite: bool = False
    """Make this source anew even if it exists with other images or options."""

    def __post_init__(self) -> None:
        check_range("--size", self.size, 8, 16384)
        check_choice("--engine", self.engine, ENGINES)
        check_choice("--depth", self.depth, ("auto", "8", "12", "16"))
        if self.folds is not None:
            check_range("--folds", self.folds, 2, 100)
        if self.seed is not None:
            check_range("--seed", self.seed, 0, 2**32 - 1)
        if self.workers is not None:
            check_range("--workers", self.workers, 0)
        if not self.source.replace("-", "").replace("_", "").isalnum() or not self.source.isascii():
            raise ConfigError(f"--source is '{self.source}', expected letters, digits, - and _.")
        names, in_files = channel_names(self.channels)
        if len(set(names)) != 4 or len(set(in_files)) != 4 or not all(name.isalnum() for name in names):
            raise ConfigError(f"--channels is '{self.channels}', expected four different names and commas.")

    @property
    def pool(self) -> Workers:
        """What does the work: processes of this machine, or of a Ray cluster."""
        return "ray" if self.engine == "ray" else self.workers


OPTIONS = (PrepareOptions,)
