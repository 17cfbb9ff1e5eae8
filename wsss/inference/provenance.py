"""What predictions were made from, as provenance.json says it; and whether curves fitted to others fit them."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from wsss.core.checks import DataError
from wsss.core.files import as_read, digest_file
from wsss.core.runtime import versions
from wsss.data.catalog import DataSet
from wsss.inference.calibration import Calibration
from wsss.inference.checkpoints import CamCheckpoint, Plan
from wsss.inference.published import Published
from wsss.inference.sources import recorded, source_shares
from wsss.options.infer import InferOptions


def prediction_facts(
    options: InferOptions, data: DataSet, plan: Plan, published: Sequence[Published] = ()
) -> dict[str, Any]:
    """Return what stands in provenance.json: data, networks, rules and versions."""
    facts = {
        "data": str(data.folder),
        "table": data.manifest["table"],
        "oof": options.oof,
        "score": asdict(options.score),
        "crops": asdict(options.crops),
        "tta": asdict(options.tta),
        "batch": options.batch,
        "precision": options.precision,
        "min_score": options.min_score,
        "calibration": None if options.calibration is None else digest_file(options.calibration),
        "sources": _shares(options, plan, published),
        "members": [
            _planned(checkpoint, indices, options.oof) for checkpoints, indices in plan for checkpoint in checkpoints
        ],
        "parts": options.parts,
        "versions": versions(),
    }
    if options.run is not None:
        facts["run"] = str(options.run)
    if options.embeddings:  # predictions made before there were any are not out of date
        facts["embeddings"] = options.embeddings
    if options.runtime != "torch":
        facts["runtime"] = options.runtime
    if published:
        facts["published"] = {model.name: model.facts() for model in published}
    return as_read(facts)


def _shares(options: InferOptions, plan: Plan, published: Sequence[Published]) -> dict[str, float]:
    """Return the share of each source, the mean over the classes where they differ."""
    shares = source_shares(plan[0][0], options.score, options.crops, published) if plan else {}
    return {name: float(np.mean(share)) for name, share in shares.items()}


def _planned(checkpoint: CamCheckpoint, indices: list[int], oof: bool) -> dict[str, Any]:
    facts: dict[str, Any] = {"path": str(checkpoint.path), "held_out_fold": checkpoint.fold}
    made = checkpoint.record.meta()
    facts |= {"trained_on": len(checkpoint.record.train_ids), "train_ids": made["train_ids"]}
    facts |= {"ancestors": made["ancestors"], "unet_paths": [str(unet.path) for unet in checkpoint.unets]}
    facts |= {"predicts": len(indices)}
    # plan_oof has refused anything else
    return facts | digests(checkpoint) | ({"seen_and_predicted": 0} if oof else {})


def digests(checkpoint: CamCheckpoint) -> dict[str, Any]:
    """Return the digests of a network and of all that scores beside it, as they stand in provenance.json."""
    return {"weights": checkpoint.digest} | {name: kind.digest(checkpoint) for name, kind in recorded().items()}


def check_origin(calibration: Calibration, facts: Mapping[str, Any], path: Path) -> None:
    """Refuse curves, of the file `path`, that were fitted to scores of other networks or rules than `facts` names.

    Raises:
        DataError: they differ.
    """
    for name, wanted in (dict.fromkeys(["published"]) | origin_of(facts)).items():
        known = calibration.origin.get(name, None if name == "published" else wanted)
        if known != wanted:
            what = "published networks" if name == "published" else name
            raise DataError(
                f"{path} was fitted to scores made with other {what}: predict with those, or make it again from "
                "predictions of this run with these options (python -m wsss.calibrate)."
            )


def origin_of(facts: Mapping[str, Any]) -> dict[str, Any]:
    """Take out of the provenance of predictions what shapes their scores; each network once."""
    origin = {name: facts[name] for name in ("score", "crops", "tta", "published") if name in facts}
    if "members" in facts:
        keys = ["weights", *recorded()]
        origin["members"] = sorted(
            {"/".join(str(checkpoint.get(key)) for key in keys) for checkpoint in facts["members"]}
        )
    return origin
