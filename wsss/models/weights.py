"""Weights by name: taking a part of a checkpoint, and loading it only if it fits."""

from torch import Tensor, nn

from wsss.core.checks import DataError, some


def strip(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """Return the tensors whose names begin with `prefix`, without it."""
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}


def load_weights(net: nn.Module, tensors: dict[str, Tensor]) -> None:
    """Load a state dict that must fit exactly.

    Raises:
        DataError: tensors are missing, extra, or of another shape; they are named.
    """
    wanted = net.state_dict()
    missing, extra = sorted(set(wanted) - set(tensors)), sorted(set(tensors) - set(wanted))
    shapes = [
        f"{n} {tuple(tensors[n].shape)} instead of {tuple(t.shape)}"
        for n, t in wanted.items()
        if n in tensors and tensors[n].shape != t.shape
    ]
    if missing or extra or shapes:
        raise DataError(
            f"the checkpoint does not fit {type(net).__name__}: missing {some(missing) or 'none'}; "
            f"extra {some(extra) or 'none'}; of another shape {some(shapes) or 'none'}."
        )
    if broken := [n for n, t in tensors.items() if t.is_floating_point() and not t.isfinite().all()]:
        raise DataError(
            f"the checkpoint holds weights that are no numbers (NaN or infinite) in {some(broken)}: train again, with "
            "a lower --optim.lr or --precision fp32."
        )
    net.load_state_dict(tensors)
