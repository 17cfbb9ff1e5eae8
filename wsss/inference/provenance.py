"""What predictions are made of: other facts are other predictions, and need other calibration curves."""

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from wsss.core.checks import DataError
from wsss.core.files import as_read, digest_file
from wsss.core.runtime import versions
from wsss.data.catalog import DataSet
from wsss.inference.calibration import Calibration
from wsss.inference.checkpoints import CamCheckpoint, Plan
from wsss.inference.sources import SOURCES, digests, source_shares
from wsss.options.infer import InferOptions


def prediction_facts(options: InferOptions, data: DataSet, plan: Plan) -> dict[str, Any]:
    """Return what stands in provenance.json: data, networks, rules and versions."""
    facts = {
        "data": str(data.folder),
        "table": data.manifest["table"],
        "run": str(options.run),
        "oof": options.oof,
        "score": asdict(options.score),
        "crops": asdict(options.crops),
        "tta": asdict(options.tta),
        "batch": options.batch,
        "precision": options.precision,
        "min_score": options.min_score,
        "calibration": None if options.calibration is None else digest_file(options.calibration),
        "sources": source_shares(plan[0][0], options.score, options.crops) if plan else {},
        "members": [_planned(member, indices, options.oof) for members, indices in plan for member in members],
        "parts": options.parts,
        "versions": versions(),
    }
    return as_read(facts)


def _planned(member: CamCheckpoint, indices: list[int], oof: bool) -> dict[str, Any]:
    facts: dict[str, Any] = {"path": str(member.path), "held_out_fold": member.fold}
    made = member.record.meta()
    facts |= {"trained_on": len(member.record.train_ids), "train_ids": made["train_ids"]}
    facts |= {"ancestors": made["ancestors"], "unet_paths": [str(unet.path) for unet in member.unets]}
    facts |= {"predicts": len(indices)}
    # plan_oof has refused anything else
    return facts | digests(member) | ({"seen_and_predicted": 0} if oof else {})


def check_origin(calibration: Calibration, facts: Mapping[str, Any], path: Path) -> None:
    """Refuse curves that were fitted to scores of other networks or other rules.

    Args:
        calibration: the curves.
        facts: of the predictions to calibrate, as in provenance.json.
        path: of the curves.

    Raises:
        DataError: they differ.
    """
    for name, wanted in origin_of(facts).items():
        if name in calibration.origin and calibration.origin[name] != wanted:
            raise DataError(
                f"{path} was fitted to scores made with other {name}: predict with those, or make it again from "
                "predictions of this run with these options (python -m wsss.calibrate)."
            )


def origin_of(facts: Mapping[str, Any]) -> dict[str, Any]:
    """Take out of the provenance of predictions what shapes their scores; each network once."""
    origin = {name: facts[name] for name in ("score", "crops", "tta") if name in facts}
    if "members" in facts:
        keys = ["weights", *(kind.record for kind in SOURCES if kind.record)]
        origin["members"] = sorted({"/".join(str(member.get(key)) for key in keys) for member in facts["members"]})
    return origin
