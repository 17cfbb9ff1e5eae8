"""The figures of a training for TensorBoard."""

from pathlib import Path
from typing import Any

from wsss.core.checks import ConfigError
from wsss.training.fit import Watch
from wsss.training.state import Net


def open_tensorboard(folder: Path) -> Watch:
    """Return what writes every figure of an epoch into the folder `tensorboard` of a run.

    Raises:
        ConfigError: TensorBoard is not installed.
    """
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise ConfigError("tensorboard is not installed: pip install 'wsss[tensorboard]', or drop the flag.") from error
    writer = SummaryWriter(str(folder / "tensorboard"))

    def write(net: Net, row: dict[str, Any]) -> None:
        for name, value in row.items():
            if name != "epoch":
                writer.add_scalar(name.replace("_", "/", 1), value, row["epoch"])
        writer.flush()

    return write
