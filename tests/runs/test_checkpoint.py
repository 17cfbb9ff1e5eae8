"""Checkpoints: whole or not at all, damage noticed."""

from pathlib import Path

import numpy as np
import pytest
import torch

from wsss.core.checks import DataError
from wsss.runs.run_folder import load_checkpoint, previous, save_checkpoint

TENSORS = {"a": torch.arange(6.0).view(2, 3), "b": torch.tensor(3), "empty": torch.zeros(0)}
META = {"epoch": 3, "rate": 0.1, "names": ["x", "ü"]}


def test_what_is_saved_comes_back(tmp_path: Path) -> None:
    save_checkpoint(tmp_path / "c.safetensors", TENSORS, META)
    tensors, meta = load_checkpoint(tmp_path / "c.safetensors")
    assert meta == META
    assert all(torch.equal(tensors[name], value) for name, value in TENSORS.items())


def test_the_same_content_gives_the_same_bytes(tmp_path: Path) -> None:
    for name in ("a", "b"):
        save_checkpoint(tmp_path / name, TENSORS, META)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_the_checkpoint_before_is_kept_and_offered(tmp_path: Path) -> None:
    path = tmp_path / "c.safetensors"
    save_checkpoint(path, TENSORS, {"epoch": 1})
    save_checkpoint(path, TENSORS, {"epoch": 2})
    assert load_checkpoint(previous(path))[1] == {"epoch": 1}
    path.write_bytes(path.read_bytes()[:-3])
    with pytest.raises(DataError, match="previous"):
        load_checkpoint(path)


def test_every_flipped_bit_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "c.safetensors"
    save_checkpoint(path, TENSORS, META)
    content = path.read_bytes()
    rng = np.random.default_rng(0)
    for bit in rng.integers(len(content) * 8, size=150):
        changed = bytearray(content)
        changed[bit // 8] ^= 1 << (bit % 8)
        path.write_bytes(changed)
        with pytest.raises(DataError):
            load_checkpoint(path)


def test_every_cut_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "c.safetensors"
    save_checkpoint(path, TENSORS, META)
    content = path.read_bytes()
    for length in np.linspace(0, len(content) - 1, 50, dtype=int):
        path.write_bytes(content[:length])
        with pytest.raises(DataError):
            load_checkpoint(path)


def test_another_programs_file_is_refused(tmp_path: Path) -> None:
    from safetensors.torch import save_file

    save_file(dict(TENSORS), tmp_path / "x.safetensors")
    with pytest.raises(DataError, match="no checkpoint of wsss"):
        load_checkpoint(tmp_path / "x.safetensors")


def test_a_failed_save_leaves_no_rubbish(tmp_path: Path) -> None:
    path = tmp_path / "c.safetensors"
    save_checkpoint(path, TENSORS, META)
    with pytest.raises(TypeError):
        save_checkpoint(path, TENSORS, {"bad": object()})
    assert [p.name for p in tmp_path.iterdir()] == ["c.safetensors"]
