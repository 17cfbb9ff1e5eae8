"""Checkpoints: one safetensors file of tensors and JSON, written whole or not at all, damage noticed at load."""

import hashlib
import json
import pickle
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save
from torch import Tensor

from wsss.core.checks import DataError
from wsss.core.digests import check_format
from wsss.core.files import sync_folder, write_bytes
from wsss.core.reading import parse_json

FORMAT = "wsss-1"


def save_checkpoint(path: Path, tensors: Mapping[str, Tensor], meta: Mapping[str, Any]) -> None:
    """Write tensors and JSON-like `meta` to `path`; an existing file is kept as `<name>.previous`."""
    plain = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    text = json.dumps(meta, sort_keys=True)
    # One entry only: safetensors writes several in an order of its own, and equal content must give equal bytes.
    header = json.dumps({"format": FORMAT, "meta": text, "digest": _digest(plain, text)}, sort_keys=True)
    content = save(plain, {"wsss": header})
    if path.exists():
        path.replace(previous(path))
        sync_folder(path.parent)
    try:
        write_bytes(path, content)
    except BaseException:
        if previous(path).exists() and not path.exists():
            previous(path).replace(path)  # a full disk, say: the last good state keeps its name
        raise


def previous(path: Path) -> Path:
    """Return where `save_checkpoint` keeps the checkpoint before this one."""
    return path.with_name(path.name + ".previous")


def load_checkpoint(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Read a checkpoint into CPU tensors and its meta.

    Raises:
        DataError: the file is missing, no checkpoint of wsss, or damaged.
    """
    if not path.is_file():
        raise DataError(f"{path} does not exist: train the run first, or check the folder.")
    try:
        with safe_open(path, framework="pt", device="cpu") as stream:
            header = parse_json((stream.metadata() or {}).get("wsss", "{}"), path)
            tensors = {name: stream.get_tensor(name) for name in stream.keys()}  # noqa: SIM118 (no mapping)
    except DataError as error:
        raise DataError(f"{error}{_way_out(path)}") from None
    except (SafetensorError, OSError, ValueError) as error:
        raise DataError(f"{path} is damaged or no safetensors file ({error}).{_way_out(path)}") from error
    header = header if isinstance(header, dict) else {}
    check_format(path, header.get("format"), FORMAT, "checkpoint of wsss", "pass another file")
    if header.get("digest") != _digest(tensors, str(header.get("meta", ""))):
        raise DataError(f"{path} is damaged: its content does not match its digest.{_way_out(path)}")
    meta = parse_json(header["meta"], path)
    if not isinstance(meta, dict):
        raise DataError(f"{path} holds no record of its training: pass another file.")
    return tensors, meta


def is_checkpoint(path: Path) -> bool:
    """Whether a file is a checkpoint of wsss, by its header."""
    try:
        with safe_open(path, framework="pt", device="cpu") as stream:
            return "wsss" in (stream.metadata() or {})
    except (SafetensorError, OSError):
        return False


def _way_out(path: Path) -> str:
    other = previous(path)
    return (
        f" The checkpoint before it is {other}: move it to {path.name} to go on from there." if other.exists() else ""
    )


def _digest(tensors: Mapping[str, Tensor], text: str) -> str:

    sha = hashlib.sha256(text.encode())
    for name in sorted(tensors):
        tensor = tensors[name]
        sha.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        sha.update(tensor.reshape(-1).view(torch.uint8).numpy().data if tensor.numel() else b"")
    return sha.hexdigest()


def _check_unpacked(path: Path) -> None:
    """Refuse a torch file that is packed: torch writes numbers as they are."""
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            unpacked = sum(member.file_size for member in archive.infolist())
        if unpacked > 2 * path.stat().st_size + (1 << 20):
            raise DataError(f"{path} unpacks to {unpacked} bytes: it is damaged, or made to do harm.")


def read_tensors(path: Path) -> dict[str, Tensor]:
    """Read a state dict from a .safetensors file or a torch file of tensors only; never runs code from the file.

    Raises:
        DataError: the file is missing, or is neither.
    """
    if not path.is_file():
        raise DataError(f"{path} does not exist: expected a .safetensors or .pth file of weights.")
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        _check_unpacked(path)
        state = torch.load(path, map_location="cpu", weights_only=True)
    except DataError:
        raise
    except (
        SafetensorError,
        zipfile.BadZipFile,
        pickle.UnpicklingError,
        RuntimeError,
        EOFError,
        OSError,
        ValueError,
    ) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise DataError(f"{path} does not hold plain weights ({reason}): expected a state dict of tensors.") from error
    for key in ("state_dict", "model"):
        if isinstance(state, dict) and isinstance(state.get(key), dict):
            state = state[key]
    if not isinstance(state, dict) or not all(isinstance(value, torch.Tensor) for value in state.values()):
        raise DataError(f"{path} does not hold a state dict of tensors: expected name -> tensor.")
    return {str(name): tensor for name, tensor in state.items()}
