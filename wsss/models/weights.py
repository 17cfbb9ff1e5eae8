"""Weights: taking a part of a checkpoint by name, and loading it only if it fits."""

import re
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from safetensors import safe_open
from torch import Tensor, nn

from wsss.core.checks import DataError, some
from wsss.core.reading import parse_json


def strip(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """Return the tensors whose names begin with `prefix`, without it."""
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}


def read_recorded(path: Path) -> tuple[Any, dict[str, Tensor]]:
    """Read a safetensors file: what wsss wrote of it (JSON; an empty table without), and its tensors by name.

    Raises:
        DataError: the record is no JSON.
        SafetensorError, OSError: it is no safetensors file.
    """
    with safe_open(path, framework="pt") as file:
        about = parse_json((file.metadata() or {}).get("wsss", "{}"), path)
        return about, {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - it is no dict


def load_weights(net: nn.Module, tensors: dict[str, Tensor], where: object = "the checkpoint") -> None:
    """Load a state dict that must fit exactly; messages say `where` it is from.

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
            f"{where} does not fit {type(net).__name__}: missing {some(missing) or 'none'}; "
            f"extra {some(extra) or 'none'}; of another shape {some(shapes) or 'none'}."
        )
    _check_finite(tensors, where)
    net.load_state_dict(tensors)


def _check_finite(tensors: Mapping[str, Tensor], where: object) -> None:
    if broken := [n for n, t in tensors.items() if t.is_floating_point() and not t.isfinite().all()]:
        raise DataError(
            f"{where} holds weights that are no numbers (NaN or infinite) in {some(broken)}: train again, with "
            "a lower --optim.lr or --precision fp32."
        )


PREFIXES = ("module.", "model.", "_orig_mod.")
"""What DataParallel, Lightning and torch.compile put before every name, the names of some networks included."""
_HEAD = re.compile(r"(fc|heads?|head_dist|classifier|last_linear|logits|pre_logits|aux\w*)([._]|$)", re.IGNORECASE)
_KINDS = ("weight", "bias", "running_mean", "running_var")


def without_prefixes(state: dict[str, Tensor], known: Callable[[str], bool]) -> dict[str, Tensor]:
    """Return a state dict without what wrappers put before all of its names: PREFIXES, or any other word
    (`encoder.`), as long as none of the names is known.
    """
    while state:
        first = next(iter(state)).partition(".")
        prefix = next((p for p in PREFIXES if all(name.startswith(p) for name in state)), "")
        if not prefix and first[2] and not any(map(known, state)):
            prefix = f"{first[0]}."
        if not prefix or not all(name.startswith(prefix) for name in state):
            break
        state = strip(state, prefix)
    return state


def match_weights(
    wanted: Mapping[str, Tensor],
    state: dict[str, Tensor],
    whole: Mapping[str, Tensor],
    *,
    first: str,
    adapt: Callable[[Tensor, int], Tensor],
    key: Callable[[str], str],
    called: tuple[str, str],
) -> dict[str, Tensor]:
    """Find the tensors of a network without its classifier in a state dict of the same network.

    If no name is known, tensors are paired in order, but only if their number and every kind and shape agree.

    Args:
        wanted: the state dict to fill.
        state: the tensors, of the network with its classifier or without.
        whole: state dict of the network with a classifier; only names and shapes count. Empty where it is not known.
        first: name of the weight of the first convolution.
        adapt: turns that weight (O, 3, h, w) into one of as many channels as are wanted.
        key: brings names of `wanted`, `whole` and `state` into one form.
        called: the file and the network, for messages.

    Returns:
        Name -> tensor, for every name of `wanted` but the counters of batch norm, which may be missing.

    Raises:
        DataError: tensors are missing, have another shape, hold NaN, or are left over outside the classifier; they are
            named.
    """
    names = {key(name) for name in wanted}
    state = without_prefixes(state, lambda name: key(name) in names)
    given = {key(name): tensor for name, tensor in state.items()}
    if not names & given.keys():
        state = _in_order(wanted, state, whole, key(first), key)
        given = {key(name): tensor for name, tensor in state.items()}
    matched = {name: given[key(name)] for name in wanted if key(name) in given}
    if first in matched and matched[first].ndim == 4:
        matched[first] = adapt(matched[first], wanted[first].shape[1])
    missing = [name for name in wanted if name not in matched and not _is_counter(name)]
    shapes = [
        f"{name} {tuple(tensor.shape)} instead of {tuple(wanted[name].shape)}"
        for name, tensor in matched.items()
        if tensor.shape != wanted[name].shape
    ]
    known = {key(name) for names in (wanted, whole) for name in names}
    left = [name for name in given if name not in known and not _HEAD.match(name) and not _is_counter(name)]
    if missing or shapes or left:
        raise DataError(
            f"{called[0]} does not fit {called[1]}: missing {some(missing) or 'none'}; of another shape "
            f"{some(shapes) or 'none'}; left over {some(left) or 'none'}. Choose the file of this backbone."
        )
    _check_finite(matched, called[0])
    return matched


def _in_order(
    wanted: Mapping[str, Tensor],
    given: dict[str, Tensor],
    whole: Mapping[str, Tensor],
    first: str,
    key: Callable[[str], str],
) -> dict[str, Tensor]:
    """Name tensors by their place, if they are those of the network with or without its classifier."""
    tensors = [(name, tensor) for name, tensor in given.items() if tensor.ndim > 0 and not _is_counter(name)]
    for target in (whole, wanted):
        names = [name for name in target if not _is_counter(name)]
        pairs = list(zip(names, tensors, strict=False))
        if len(names) == len(tensors) and all(
            _is_alike(name, target[name].shape, *entry, stem=key(name) == first) for name, entry in pairs
        ):
            return {name: tensor for name, (_, tensor) in pairs}
    return given


def _is_alike(name: str, shape: Iterable[int], other: str, tensor: Tensor, *, stem: bool) -> bool:
    kinds = [full.rpartition(".")[2] for full in (name, other)]
    if kinds[0] != kinds[1] and set(kinds) <= set(_KINDS):
        return False
    if _HEAD.match(name):
        return True  # another number of classes
    now, then = tuple(shape), tuple(tensor.shape)
    return now == then or (stem and len(now) == len(then) == 4 and (now[0], now[2:]) == (then[0], then[2:]))


def _is_counter(name: str) -> bool:
    return name.endswith("num_batches_tracked")
