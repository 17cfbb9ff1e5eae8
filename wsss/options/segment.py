"""Find the cells of a prepared data set: one lossless label map per image, written as it is made."""

from dataclasses import dataclass
from pathlib import Path

from wsss.core.checks import between, check_choice, check_fields, refuse_idle
from wsss.core.runtime import ENGINES, Workers

EXAMPLES = """\
  python -m wsss.segment --data data/mine                                  find the cells by their stains
  python -m wsss.segment --data data/mine --backend masks --masks maps/    take given label maps
  python -m wsss.segment --data data/mine --backend masks --masks cells.json     the same from a COCO file
  python -m wsss.segment --data data/mine --backend hpacellseg --weights weights/hpacellseg
"""


NETWORK = ("device", "batch")
TAKES = {
    "auto": ("grow", *NETWORK),
    "classical": ("grow",),
    "unet": ("weights", *NETWORK),
    "masks": ("masks", "category", "split", "background"),
    "hpacellseg": ("weights", *NETWORK),
    "cellpose": ("weights", *NETWORK),
    "instanseg": ("weights", "pixel_um", *NETWORK),
}
"""Options of single backends; those of other packages may take any."""


@dataclass(frozen=True)
class SegmentOptions:
    """How cells are found."""

    data: Path | None = None
    """The prepared data set; may be left out where only one is prepared under data/."""
    backend: str = "auto"
    """How cells are found: auto (unet where nuclei and cells are stained, else classical), classical, unet (a network
    that comes with wsss), masks, hpacellseg, cellpose, instanseg, or one that another package registers (group
    wsss.backends)."""
    masks: Path | None = None
    """For the backend masks: a folder of label maps, <ID>.png|tif|npz|npy at original or stored size, or of outlines,
    <ID>.geojson (QuPath, StarDist); a COCO JSON; or a table (CSV or Parquet) with the masks as run lengths, or a
    submission."""
    category: str = ""
    """Which categories of a COCO JSON are cells: names or ids, separated by commas, or all. Needed where it has several
    and it is not clear; one of nuclei is paired with the cells."""
    weights: Path | None = None
    """Weights of a network: a folder for hpacellseg, a file for the others (if left out, cellpose and instanseg fetch
    their own, and unet has its own)."""
    device: str = "auto"
    """Where a network computes: auto (a GPU where there is one), cpu, cuda or cuda:N."""
    batch: int = between(8, 1)
    """Images that a network takes at once."""
    pixel_um: float | None = between(None, 1e-4)
    """Micrometres per pixel of the original images, for instanseg; left out, what their files declare; an image whose
    file does not is taken for a whole field of the HPA (164 um)."""
    split: bool = False
    """For the backend masks: take each connected part of a label as a cell of its own, as in a binary mask."""
    background: int = between(0, 0, 2**31 - 1)
    """For the backend masks: the number of the background in label maps where it is not 0; 0 then is a cell, of that
    number."""
    grow: float = between(0.0, 0, 20)
    """For the backend classical where only nuclei are stained: how far cells reach around them, in radii of a typical
    nucleus; 0 takes the nuclei for the cells."""
    workers: int | None = between(None, 0, 1024)
    """Processes; one per core if left out, 0 for the main process only."""
    engine: str = "local"
    """local; or ray: one process for each core of the Ray cluster that RAY_ADDRESS names or this machine belongs to.
    Networks that find cells run here, and the cluster labels, measures and writes."""
    overwrite: bool = False
    """Forget what earlier runs made and segment every image again."""

    def __post_init__(self) -> None:
        check_fields(self, "--")
        check_choice("--engine", self.engine, ENGINES)
        if self.backend in TAKES:
            idle = {name for names in TAKES.values() for name in names} - set(TAKES[self.backend])
            refuse_idle(self, sorted(idle), f"with --backend {self.backend}")

    @property
    def pool(self) -> Workers:
        """What does the work: processes of this machine, or of a Ray cluster."""
        return "ray" if self.engine == "ray" else self.workers


OPTIONS = (SegmentOptions,)
