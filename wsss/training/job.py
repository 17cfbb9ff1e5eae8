"""What a training works with."""

from dataclasses import dataclass, field

from wsss.core.device import Device
from wsss.models.cam_net import CamNet
from wsss.options.recipe import Recipe
from wsss.runs.record import RunRecord
from wsss.runs.run_folder import RunFolder
from wsss.training.distributed import World


@dataclass(frozen=True)
class Job:
    """What a fit works with, beside the state that it changes."""

    recipe: Recipe
    device: Device
    folder: RunFolder
    record: RunRecord
    """What the checkpoints say of the run."""
    names: list[str]
    """ID of every image of the data set, for naming those of a bad batch."""
    save_every: int = 0
    """Steps between saves within an epoch; 0 for none."""
    bad_batches: int = 0
    """Batches with a loss that is not finite that are skipped before the run stops."""
    world: World = field(default_factory=World)
    """This process among all."""
    teacher: CamNet | None = None
    """The first network of a refinement, in evaluation mode."""
    compiled: bool = False
    """Whether torch.compile makes the network faster."""
