"""Prepare images for everything that follows: one store of pixels, one catalogue, folds that stay.

Reads <ID>_red.png, <ID>_green.png, ... (or one file of all channels per image), 8 or 16 bit, any size and number of
channels, and a table of image labels if there is one. Can be stopped at any time and started again with the same
command."""

from dataclasses import dataclass
from pathlib import Path

from wsss.core.channels import BITS, channel_names, parse_roles
from wsss.core.checks import ConfigError, between, check_choice, check_fields
from wsss.core.labels import HPA_CHANNELS
from wsss.core.runtime import ENGINES, Workers
from wsss.core.tiff import parse_choice

EXAMPLES = """\
  python -m wsss.prepare --images hpa/train --labels hpa/train.csv --out data/hpa
  python -m wsss.prepare --images external --labels external.csv --out data/hpa --source external    add a source
  python -m wsss.prepare --images hpa/train --labels hpa/train.csv --group antibody --out data/hpa   folds by protein
  python -m wsss.prepare --images hpa/test --out data/test                                           no labels
  python -m wsss.prepare --images mine --channels DAPI,GFP --roles nucleus=DAPI,signal=GFP --out data/mine
"""


@dataclass(frozen=True)
class PrepareOptions:
    """What is prepared, and how."""

    images: Path
    """Folder of the image files, or a path_list.csv that names them."""
    out: Path
    """Folder of the data set to make, data/NAME."""
    labels: Path | None = None
    """Label table (CSV); without it the images are there to be predicted. Columns other than ID and labels are
    carried along into every table."""
    size: int = between(512, 8, 16384)
    """Edge of the stored square images, in pixels."""
    source: str = "main"
    """Name of this source; another name adds the images to a data set that exists."""
    classes: Path | None = None
    """YAML file with `names:` and `negative:`; the 19 classes of the Human Protein Atlas if left out."""
    channels: str = ",".join(HPA_CHANNELS)
    """Names of the channels, one or more, as they stand in file names or inside files; NAME=NAME_IN_FILES where the
    files call them otherwise: DAPI,GFP or red=Cy3,green=GFP,blue=DAPI,yellow=Cy5."""
    roles: str = ""
    """What the channels show: nucleus=DAPI,signal=GFP,cell=Tubulin+ER (nucleus; signal: the protein; cell: what fills
    the cell; outline: its border); if left out, what the names red, green, blue, yellow, nucleus, ... say."""
    folds: int | None = between(None, 2, 100)
    """Number of folds; 4 if left out, or what the data set has already."""
    seed: int | None = between(None, 0, 2**32 - 1)
    """Seed of the folds; 0 if left out, or what the data set has already. Images that have a fold keep it when a source
    is added; another number of folds or another seed assigns all of them again."""
    group: str | None = None
    """Column of the label table (antibody, plate, patient, ...) whose images of one value go to the same fold; none if
    left out, or what the data set has already."""
    workers: int | None = between(None, 0, 1024)
    """Processes; one per core if left out, 0 for the main process only."""
    engine: str = "local"
    """local; or ray: one process for each core of the Ray cluster that RAY_ADDRESS names or this machine belongs to."""
    skip: str = ""
    """IDs to leave out, separated by commas; or a text file with one ID a line."""
    bits: str = "auto"
    """Bits that 16-bit files use: 8, 10, 12, 14 or 16, the same for all; auto: the fewest that hold the largest value
    of all images of the source."""
    plane: str = ""
    """Which plane of files with Z or time to take, counted from 1: 3, or Z=3,T=1 where a file has several axes."""
    project: str = ""
    """How Z or time become one plane: max or mean."""
    allow_unlabelled: bool = False
    """Accept images that are not in the label table, without labels, instead of stopping."""
    overwrite: bool = False
    """Make this source again even if it exists with other images or options."""

    def __post_init__(self) -> None:
        check_fields(self, "--")
        check_choice("--engine", self.engine, ENGINES)
        check_choice("--bits", self.bits, ("auto", *map(str, BITS)))
        parse_choice(self.plane, self.project)
        if not self.source.replace("-", "").replace("_", "").isalnum() or not self.source.isascii():
            raise ConfigError(f"--source is '{self.source}', expected letters, digits, - and _.")
        names, _ = channel_names(self.channels)
        parse_roles(self.roles, names)
        if self.images.suffix.lower() == ".csv" and len(names) != len(HPA_CHANNELS):
            raise ConfigError(
                f"--images {self.images} lists four files an image, --channels names {len(names)}: name four channels."
            )

    @property
    def pool(self) -> Workers:
        """What does the work: processes of this machine, or of a Ray cluster."""
        return "ray" if self.engine == "ray" else self.workers


OPTIONS = (PrepareOptions,)
