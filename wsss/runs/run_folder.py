"""The folder of one fold's training: what is written, and how it is found again.

A checkpoint is one safetensors file of tensors and JSON, written whole or not at all; damage is noticed at load.
"""

import hashlib
import json
import pickle
import zipfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import torch
import yaml
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save
from torch import Tensor

from wsss.core.checks import ConfigError, DataError, some
from wsss.core.csv_text import read_numbers, write_csv
from wsss.core.files import (
    BLANK,
    MASK_SET,
    OF_OPTIONS,
    RUN,
    check_format,
    check_seal,
    digest_file,
    digest_json,
    kind_of,
    not_that,
    read_json,
    read_lines,
    sealed,
    sync,
    within,
    write_bytes,
    write_json,
    write_text,
)
from wsss.core.reading import MOST_YAML, ZIP_FAULTS, one_line, open_zip, parse_json, read_yaml
from wsss.options.recipe import recipe_from
from wsss.runs.record import (
    NETWORK,
    Lineage,
    RunRecord,
    check_network_record,
    fold_name,
    lineage_from,
    lineage_json,
    record_from,
    same_weights,
    unrecorded,
)

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
        sync(path.parent)
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
        raise DataError(f"{path} is damaged or no safetensors file ({one_line(error)}).{_way_out(path)}") from error
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
        with open_zip(path) as archive:
            unpacked = sum(member.file_size for member in archive.infolist())
        if unpacked > 2 * path.stat().st_size + (1 << 20):
            raise DataError(f"{path} unpacks to {unpacked} bytes: it is damaged, or made to do harm.")


def read_tensors(path: Path) -> dict[str, Tensor]:
    """Read a state dict from a .safetensors file or a torch file of tensors only; never runs code from the file.

    Raises:
        DataError: the file is missing, or is neither.
    """
    if not path.is_file():
        raise DataError(f"{not_that(path, 'a .safetensors or .pth file of weights')}: check the path.")
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        _check_unpacked(path)
        state = torch.load(path, map_location="cpu", weights_only=True)
    except DataError:
        raise
    except (SafetensorError, pickle.UnpicklingError, *ZIP_FAULTS) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        if isinstance(error, pickle.UnpicklingError):  # PyTorch would advise to read it all the same
            reason = "it is no such file, or holds more than tensors, which could be a program"
        raise DataError(f"{path} does not hold plain weights ({reason}): expected a state dict of tensors.") from error
    for key in ("state_dict", "model_state_dict", "model"):
        if isinstance(state, dict) and isinstance(state.get(key), dict):
            state = state[key]
    if not isinstance(state, dict) or not all(isinstance(value, torch.Tensor) for value in state.values()):
        raise DataError(f"{path} does not hold a state dict of tensors: expected name -> tensor.")
    return {str(name): tensor for name, tensor in state.items()}


@dataclass(frozen=True)
class RunFolder:
    """config.yaml, train_ids.txt, ancestors.json, log.csv, last.safetensors (the whole state), best.safetensors
    (weights)."""

    path: Path

    @property
    def last(self) -> Path:
        """The whole state, for going on."""
        return self.path / "last.safetensors"

    @property
    def best(self) -> Path:
        """The weights with the lowest validation loss, for inference."""
        return self.path / "best.safetensors"

    @property
    def feature_classifier(self) -> Path:
        """The feature classifier, where there is one."""
        return first_of(self.path / "feature_classifier.safetensors", self.path / "opinion.safetensors")

    @property
    def ids(self) -> Path:
        """The IDs the weights were trained on, one a line."""
        return self.path / "train_ids.txt"

    @property
    def ancestors(self) -> Path:
        """The images that reached the weights through other networks, and by which way; missing where none did."""
        return self.path / "ancestors.json"

    @property
    def used(self) -> list[Path]:
        """The files that other stages read, whether they are there or not."""
        more = [self.path / name for name in ("config.yaml", "log.csv", "last.safetensors")]
        return [self.best, self.ids, self.ancestors, self.feature_classifier, *more]

    @property
    def is_begun(self) -> bool:
        """Whether the files that `begin` writes are there."""
        return (self.path / "config.yaml").exists() and self.ids.exists()

    def begin(self, record: RunRecord) -> None:
        """Write what is known before the first step."""
        options = yaml.safe_dump(asdict(record.recipe), sort_keys=False)
        content = f"# {BLANK}\n{options}"  # the seal comes first, so that a cut is noticed
        write_bytes(self.path / "config.yaml", sealed(content.encode()))
        write_text(self.ids, "".join(f"{name}\n" for name in record.train_ids))
        if record.ancestors == ():
            self.ancestors.unlink(missing_ok=True)
        else:
            write_json(self.ancestors, lineage_json(record.ancestors))

    def read(self, weights: Path | None = None) -> tuple[RunRecord, dict[str, Tensor]]:
        """Read a checkpoint (the best if none is named) with its record.

        Raises:
            DataError: a file is missing or damaged, or the lists of images are not those of the checkpoint.
        """
        source = weights or self.best
        tensors, meta = load_checkpoint(source)
        ids = self._check(meta, source)
        return record_from(meta, self.path, ids, self.read_ancestors(meta), digest_file(source)), tensors

    def _check(self, meta: dict[str, Any], source: Path) -> list[str]:
        """Compare a checkpoint with the other files of the run; return the content of train_ids.txt."""
        if not self.ids.exists():
            raise DataError(f"{self.ids} is missing: it belongs to the run and proves what it was trained on.")
        recipe = meta.get("recipe")
        of_masks = isinstance(recipe, dict) and recipe.get("task") == "masks"
        check_network_record(meta, source, ("recipe", "fold", "train_ids", *(() if of_masks else NETWORK)))
        self._check_config(meta, source)
        ids = read_lines(self.ids)
        if digest_json(ids) != meta["train_ids"]:
            raise DataError(f"{self.ids} was changed: it is not the list {source} was trained on.")
        return ids

    def _check_config(self, meta: dict[str, Any], source: Path) -> None:
        """Refuse a sealed config.yaml of another run; one without its seal was changed on purpose."""
        path = self.path / "config.yaml"
        if not path.is_file() or not check_seal(path, OF_OPTIONS, MOST_YAML):
            return
        given = read_yaml(path)
        recipes = (recipe_from(values, str(path)) for values in (given, meta["recipe"]))
        if not isinstance(given, dict) or not same_weights(*map(asdict, recipes)):
            raise DataError(f"{path} is of another run than {source}: restore it.")

    def read_ancestors(self, meta: dict[str, Any]) -> Lineage | None:
        """Return what came through other networks, by a checkpoint's metadata and ancestors.json; None if not known.

        Raises:
            DataError: the file is missing, or is not that of the checkpoint.
        """
        if "ancestors" not in meta:
            return None if unrecorded(meta["recipe"]) else ()
        values = read_json(self.ancestors) if self.ancestors.exists() else []
        if digest_json(values) != meta["ancestors"]:
            raise DataError(
                f"{self.ancestors} is missing or was changed: it proves which images reached the run through other "
                "networks. Restore it, or train the run again."
            )
        return lineage_from(values)

    def save(self, tensors: dict[str, Tensor], meta: dict[str, Any]) -> None:
        """Save the whole state."""
        save_checkpoint(self.last, tensors, meta)

    def save_best(self, tensors: dict[str, Tensor], meta: dict[str, Any]) -> None:
        """Save the weights for inference, replacing earlier ones."""
        save_checkpoint(self.best, tensors, meta)
        previous(self.best).unlink(missing_ok=True)

    def save_snapshot(self, number: int, tensors: dict[str, Tensor], meta: dict[str, Any]) -> None:
        """Save the weights at the end of a cosine cycle, counted from 1."""
        path = self.path / f"snapshot{number}.safetensors"
        save_checkpoint(path, tensors, meta)
        previous(path).unlink(missing_ok=True)

    def snapshots(self) -> list[Path]:
        """Return the snapshots that there are, in their order."""
        paths = self.path.glob("snapshot*.safetensors")
        return sorted(paths, key=lambda path: (len(path.name), path.name))

    def write_log(self, rows: list[dict[str, Any]]) -> None:
        """Write log.csv: one row an epoch, all of them each time, so that a resumed run has no row twice."""
        table = pd.DataFrame(rows)
        first = [name for name in ("epoch", "lr") if name in table]
        write_csv(self.path / "log.csv", table[[*first, *sorted(str(name) for name in table if name not in first)]])

    def read_log(self) -> pd.DataFrame:
        """Return the log, a row of numbers an epoch, NaN for what is none.

        It is that of the last state, which has a digest; log.csv is read where that is gone.

        Raises:
            DataError: the file is damaged.
        """
        saved = self.load()
        if saved is None:
            return read_numbers(self.path / "log.csv")
        self._check(saved[1], self.last)
        progress = saved[1].get("progress")
        history = progress.get("history") if isinstance(progress, dict) else None
        rows = [row for row in history if isinstance(row, dict)] if isinstance(history, list) else []
        return pd.DataFrame([{k: v for k, v in row.items() if isinstance(v, int | float)} for row in rows])

    def load(self) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
        """Read the last state; None where training has not been saved yet.

        Raises:
            DataError: the file is damaged.
        """
        if self.last.exists():
            return load_checkpoint(self.last)
        if previous(self.last).exists():  # killed between the two renames of a save
            return load_checkpoint(previous(self.last))
        return None


def check_free(path: Path) -> None:
    """Refuse a folder that holds something, but no training.

    Raises:
        ConfigError: it does.
    """
    names = {entry.name for entry in path.iterdir() if not entry.name.startswith(".")} if path.is_dir() else set()
    ours = {"last.safetensors", "last.safetensors.previous", "lr_find.csv", "lr_find.png"}
    config = path / "config.yaml"  # written first; a name that others use too
    begun = names & ours or (config.is_file() and check_seal(config, "Restore it, or choose another --run.", MOST_YAML))
    if names and not begun:
        raise ConfigError(f"{path} holds {some(sorted(names), 3)}, and no training: choose another --run.")
    run = path.parent
    if not begun and (kind := kind_of(run)) not in (None, MASK_SET) and (kind != RUN or (run / "config.yaml").exists()):
        what = "a fold of a run" if kind == RUN else kind
        raise ConfigError(f"{run} is {what}, in which no other training is put: choose another --run.")


def first_of(path: Path, old: Path) -> Path:
    """Return where a file is, or will be: its name of today, or that of version 0.1.0 if it is there alone."""
    return old if old.exists() and not path.exists() else path


def find_folders(run: Path) -> list[RunFolder]:
    """Return the folders with trained weights in a run: its folds, or the run itself if it is one fold's.

    Raises:
        ConfigError: there is none.
    """
    if (run / "best.safetensors").exists():
        return [RunFolder(run)]
    folders = [path.parent for path in within(run, "best.safetensors")]
    if not folders:
        what = f"{run} holds no trained weights yet" if within(run, "config.yaml") else not_that(run, RUN)
        raise ConfigError(f"{what}: train it first, or check its path.")
    return [RunFolder(path) for path in folders]


def same_fold(run: Path | str, option: str, fold: int | None) -> RunFolder:
    """Return the folder of a fold in an earlier run that an option names; a run of one network serves any fold.

    Raises:
        ConfigError: there is none.
    """
    folders = find_folders(Path(run))
    same = [folder for folder in folders if folder.path.name == fold_name(fold)]
    if not same and len(folders) > 1:
        raise ConfigError(f"{option} is {run}, which has no {fold_name(fold)}: name the folder of one of its folds.")
    return (same or folders)[0]
