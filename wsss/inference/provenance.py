"""What predictions are made of; other facts are other predictions."""

from dataclasses import asdict
from typing import Any

from wsss.core.files import as_read, digest_file
from wsss.core.runtime import versions
from wsss.data.catalog import DataSet
from wsss.inference.checkpoints import CamCheckpoint, Plan
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
        "members": [_planned(member, indices, options.oof) for own, indices in plan for member in own],
        "parts": options.parts,
        "versions": versions(),
    }
    return as_read(facts)


def _planned(member: CamCheckpoint, indices: list[int], oof: bool) -> dict[str, Any]:
    facts: dict[str, Any] = {"path": str(member.path), "held_out_fold": member.fold}
    made = member.record.facts()
    facts |= {"trained_on": len(member.record.train_ids), "train_ids": made["train_ids"]}
    facts |= {"ancestors": made["ancestors"], "unet_paths": [str(unet.path) for unet in member.unets]}
    facts |= {"predicts": len(indices)}
    # plan_oof has refused anything else
    return facts | digests(member) | ({"seen_and_predicted": 0} if oof else {})


def digests(member: CamCheckpoint) -> dict[str, Any]:
    """Return the digests of a network and of all that scores beside it."""
    return {
        "weights": member.digest,
        "feature_classifier": None if member.feature_classifier is None else member.feature_classifier.digest,
        "self_trained": None if member.self_trained is None else member.self_trained.digest,
        "unets": [net.digest for net in member.unets],
    }
