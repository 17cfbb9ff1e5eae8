"""The names of `checkpoints` as they were, for what has not moved yet."""

from wsss.inference.checkpoints import (
    CamCheckpoint,
    Plan,
    SelfTrained,
    check_feature_classifiers,
    check_fits,
    has_feature_classifiers,
    has_self_trained,
    plan_all,
    plan_oof,
)

Member = CamCheckpoint

__all__ = [
    "Member",
    "Plan",
    "SelfTrained",
    "check_feature_classifiers",
    "check_fits",
    "has_feature_classifiers",
    "has_self_trained",
    "plan_all",
    "plan_oof",
]
