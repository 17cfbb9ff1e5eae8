"""What a data set folder holds already when prepare is started on it (again)."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from wsss.core.channels import default_roles
from wsss.core.checks import DataError, some
from wsss.core.digests import check_seal
from wsss.core.files import digest_file
from wsss.core.parquet import read_parquet
from wsss.data import ids
from wsss.data.build import Spec, check_extras, read_extra, write_manifest
from wsss.data.catalog import COLUMNS, MANIFEST, SHARDS, TABLE, read_manifest

Known = dict[str, tuple[dict[str, Any], bytes]]
"""ID -> the image's record and its thumbnail, for images that are in the store."""


@dataclass(frozen=True)
class ExistingSet:
    """The data set as an earlier run left it; empty for a new one."""

    folder: Path
    manifest: dict[str, Any]
    table: pd.DataFrame

    @classmethod
    def read(cls, folder: Path) -> "ExistingSet":
        """Read the catalogue in `folder`, if there is one.

        Raises:
            DataError: it is damaged or of another format.
        """
        if folder.exists() and not folder.is_dir():
            raise DataError(f"--out {folder} is a file, expected a folder.")
        if not (folder / MANIFEST).exists():
            return cls(folder, {}, pd.DataFrame(columns=list(COLUMNS)))
        manifest = read_manifest(folder)
        if not manifest["unfinished"]:  # else they may be newer than it
            check_extras(folder, manifest)
        again = f"Restore it, or remove {folder} and prepare again."
        table = read_parquet(folder / TABLE, again=again)  # sealed; it may be newer than the manifest
        old = not manifest["unfinished"] and not check_seal(folder / TABLE, again)  # of an older version
        if old and digest_file(folder / TABLE) != manifest["table"]:
            raise DataError(f"{folder / TABLE} is not the one that {MANIFEST} describes. {again}")
        if missing := [name for name in COLUMNS if name not in table]:
            raise DataError(f"{folder / TABLE} has no column {some(missing)}. {again}")
        ids.check_names(table["ID"], folder / TABLE)
        names = [source["name"] for source in manifest["sources"]]
        return cls(folder, manifest, table[table["source"].isin(names)])

    @property
    def sources(self) -> list[dict[str, Any]]:
        """The manifest's records of the sources."""
        return self.manifest.get("sources", [])

    @property
    def group(self) -> str:
        """The column by which the folds are grouped, '' for none."""
        return str((self.manifest.get("folds") or {}).get("group", ""))

    def fold_of(self, spec: Spec) -> dict[str, int]:
        """Return ID -> fold of the images that keep theirs when folds are made by `spec`."""
        if self.folds != (spec.folds, spec.seed):
            return {}
        held = self.table[self.table["fold"] >= 0]
        return dict(zip(held["ID"], held["fold"].astype(int), strict=True))

    @property
    def folds(self) -> tuple[int, int] | None:
        """Number and seed of the folds, if there are any."""
        folds = self.manifest.get("folds")
        return (folds["n"], folds["seed"]) if folds else None

    def source(self, name: str) -> dict[str, Any] | None:
        """Return the record of a source, None if it is new."""
        return next((source for source in self.sources if source["name"] == name), None)

    def others(self, name: str) -> pd.DataFrame:
        """Return the rows of all sources but one."""
        return self.table[self.table["source"] != name]

    def forget(self, name: str) -> "ExistingSet":
        """Remove a source's pixels and rows; on the disk the data set is unfinished from here on."""
        left = replace(
            self,
            manifest={**self.manifest, "sources": [s for s in self.sources if s["name"] != name]},
            table=self.others(name),
        )
        if left.sources:
            left.mark_unfinished()
        else:
            (self.folder / MANIFEST).unlink(missing_ok=True)
            left = replace(left, manifest={})
        for path in (self.folder / SHARDS).glob(f"{name}-?????.npy"):
            path.unlink()
        return left

    def mark_unfinished(self) -> None:
        """Keep other stages from opening the data set until prepare is through."""
        write_manifest(self.folder, {**self.manifest, "unfinished": True})

    def check_fits(self, spec: Spec, name: str, new_ids: list[str]) -> None:
        """Check that a source can be in this data set with the others.

        Raises:
            DataError: size, channels or classes differ, or an ID is in another source.
        """
        if self.manifest:
            wanted = {
                "--size": (spec.size, self.manifest["size"]),
                "--channels": (",".join(spec.channels), ",".join(self.manifest["channels"])),
                "--roles": (
                    list(spec.roles or default_roles(spec.channels)),
                    list(self.manifest.get("roles") or default_roles(self.manifest["channels"])),
                ),
                "--classes": (list(spec.classes.names), self.manifest["classes"]),
                "--classes (negative)": (spec.classes.negative, self.manifest["negative"]),
            }
            for flag, (now, before) in wanted.items():
                if now != before:
                    raise DataError(
                        f"{self.folder} was prepared with {flag} {before}, now it is {now}: "
                        "pass the same, or choose another --out."
                    )
        elsewhere = self.others(name)["ID"].tolist()
        if twice := sorted(set(elsewhere) & set(new_ids)):
            raise DataError(
                f"{len(twice)} IDs of source {name} are in {self.folder} already: {some(twice)}. "
                "Leave them out with --skip, or rename them."
            )
        ids.check_distinct([*elsewhere, *new_ids], f"{self.folder} and source {name}")

    def known(self, name: str) -> tuple[Known, dict[str, int]]:
        """Return what is known of a finished source's images: records, and stamps of their files."""
        if self.source(name) is None:
            return {}, {}
        rows = self.table[self.table["source"] == name]
        thumbnails: np.ndarray = read_extra(self.folder, name, "thumbnails")
        stamps = read_extra(self.folder, name, "stamps").tolist()
        columns = ["status", "reason", "ImageHeight", "ImageWidth", "depth", "crc32"]
        records: list[dict[str, Any]] = [dict(zip(columns, row, strict=True)) for row in rows[columns].to_numpy(object)]
        names = rows["ID"].tolist()
        known: Known = {
            ID: (record, thumbnails[k].tobytes() if record["status"] == "ok" else b"")
            for k, (ID, record) in enumerate(zip(names, records, strict=True))
        }
        return known, dict(zip(names, stamps, strict=True))
