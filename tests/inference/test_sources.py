"""Every source is blended, written and recorded through one list."""

from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any, Literal, cast

import numpy as np
import pytest

from wsss.core.checks import DataError
from wsss.inference import sources
from wsss.inference.checkpoints import CamCheckpoint
from wsss.inference.pipeline import digests
from wsss.inference.sources import Sample, Source, Task, own_curves, rules_for_all, source_shares, sources_of
from wsss.metrics.calibration import Calibration, Curve
from wsss.models.device import choose_device
from wsss.options.scoring import CropConfig, ScoreConfig

NETWORK = SimpleNamespace(enabled=False)
RECIPE = SimpleNamespace(feature_classifier=NETWORK)
RECIPE_WITH_ALL = SimpleNamespace(feature_classifier=SimpleNamespace(enabled=True))
PLAIN = CropConfig()
NO_CROPS = CropConfig(mode="none")


def checkpoint(**beside: Any) -> CamCheckpoint:
    """Make a network with what scores beside it; sources look no further."""
    nothing: dict[str, Any] = {"feature_classifier": None, "unets": (), "network_share": None}
    about = {"path": "runs/a", "digest": "0", "recipe": RECIPE}
    return cast(CamCheckpoint, SimpleNamespace(**(about | nothing | beside)))


def with_digest(text: str) -> SimpleNamespace:
    return SimpleNamespace(digest=text, one_class=False, calibration=None)


FULL = {
    "feature_classifier": with_digest("f"),
    "unets": (with_digest("u"),),
}


def test_a_plain_run_is_scored_by_maps_and_crops() -> None:
    assert source_shares([checkpoint()], ScoreConfig(crop_share=0.3), PLAIN) == {"image": 0, "cam": 0.7, "crop": 0.3}
    assert source_shares([checkpoint()], ScoreConfig(crop_share=0.3), NO_CROPS) == {"image": 0, "cam": 1}


def test_shares_of_all_sources_are_what_the_options_say() -> None:
    rules = ScoreConfig(crop_share=0.5, feature_share=0.4, unet_share=0.2)
    shares = source_shares([checkpoint(**FULL)], rules, PLAIN)
    wanted = {"cam": 0.24, "unet": 0.06, "crop": 0.3, "feature_classifier": 0.4}
    assert shares == pytest.approx(wanted | {"image": 0})
    assert list(shares) == [kind.name for kind in sources.SOURCES]


@pytest.mark.parametrize("share", [0.0, 1.0])
@pytest.mark.parametrize("crops", [PLAIN, NO_CROPS])
def test_shares_sum_to_one_whatever_takes_part(share: float, crops: CropConfig) -> None:
    rules = ScoreConfig(crop_share=share, feature_share=share, unet_share=share)
    for beside in ({}, FULL, {"unets": FULL["unets"]}, {"feature_classifier": FULL["feature_classifier"]}):
        assert sum(source_shares([checkpoint(**beside)], rules, crops).values()) == pytest.approx(1)


def test_without_a_share_feature_classifiers_are_not_asked() -> None:
    assert "feature_classifier" not in source_shares([checkpoint(**FULL)], ScoreConfig(feature_share=0), PLAIN)


def test_a_network_without_the_feature_classifier_that_others_have_is_refused() -> None:
    both = [checkpoint(**FULL), checkpoint(path="runs/b")]
    with pytest.raises(DataError, match=r"runs/b has no feature classifier .*--score\.feature_share 0"):
        source_shares(both, ScoreConfig(), PLAIN)
    assert "feature_classifier" not in source_shares(both, ScoreConfig(feature_share=0), PLAIN)
    with pytest.raises(DataError, match="which the run wants"):
        source_shares([checkpoint(recipe=RECIPE_WITH_ALL)], ScoreConfig(), PLAIN)


def curve(middle: float) -> Calibration:
    """Return a curve for two classes that turns a score of one half into `middle`."""
    bent = [Curve("platt", np.array([0, 0.5, 1]), np.array([0, middle, 1]))] * 2
    return Calibration(bent, bent)


def with_curves(middle: float | None, *, one_class: bool = False, path: str = "runs/a") -> CamCheckpoint:
    curves = None if middle is None else curve(middle)
    return checkpoint(feature_classifier=SimpleNamespace(one_class=one_class, calibration=curves), path=path)


def test_scores_of_the_features_alone_go_through_the_mean_of_their_curves() -> None:
    both, half = [with_curves(0.6), with_curves(0.8)], np.full((1, 2), 0.5)
    for share, wanted in ((1.0, [[0.7, 0.7]]), (np.array([1.0, 0.9]), [[0.7, 0.5]]), (0.9, half)):
        found = own_curves(both, ScoreConfig(), share)
        assert found is not None
        np.testing.assert_allclose(found.of_cells(half), wanted, rtol=1e-6)
        np.testing.assert_allclose(found.of_image(half[0]), wanted[0], rtol=1e-6)


@pytest.mark.parametrize(("rule", "wanted"), [("auto", 0.6), (False, 0.6), (True, 0.8)])
def test_of_folds_that_disagree_the_curves_of_the_rule_in_use_count(
    rule: bool | Literal["auto"], wanted: float
) -> None:
    found = own_curves([with_curves(0.6), with_curves(0.8, one_class=True)], ScoreConfig(one_class=rule), 1.0)
    assert found is not None
    np.testing.assert_allclose(found.of_image(np.full(2, 0.5)), wanted, rtol=1e-6)


@pytest.mark.parametrize(
    ("networks", "rules"),
    [
        ([with_curves(0.6)], ScoreConfig(calibrated=False)),
        ([with_curves(0.6)], ScoreConfig(prior_rounds=2)),
        ([with_curves(0.6)], ScoreConfig(border_power=1)),
        ([with_curves(0.6)], ScoreConfig(one_class=True)),
        ([with_curves(0.6), with_curves(None)], ScoreConfig()),
        ([with_curves(0.6, one_class=True)], ScoreConfig(one_class=False)),
    ],
)
def test_curves_of_other_rules_or_of_some_networks_are_not_used(
    networks: list[CamCheckpoint], rules: ScoreConfig
) -> None:
    assert own_curves(networks, rules, 1.0) is None


def test_where_one_fold_has_no_curves_none_are_used_and_it_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    of_now, of_before = with_curves(0.6, path="runs/a/fold0"), with_curves(None, path="runs/a/fold1")
    for alike in ([of_now], [of_before]):
        assert rules_for_all(ScoreConfig(), [(alike, [0])]).calibrated
    assert capsys.readouterr().out == ""
    assert not rules_for_all(ScoreConfig(), [([of_now], [0]), ([of_before], [1])]).calibrated
    assert "runs/a/fold1 has no calibration curves" in capsys.readouterr().out
    folds = [([of_now], [0]), ([with_curves(0.6, one_class=True, path="runs/a/fold1")], [1])]
    assert rules_for_all(ScoreConfig(), folds).calibrated, "each by its own rule"
    assert not rules_for_all(ScoreConfig(one_class=False), folds).calibrated
    assert "runs/a/fold1 has no calibration curves" in capsys.readouterr().out


def test_digests_name_all_that_scores() -> None:
    assert digests(checkpoint(**FULL)) == {"weights": "0", "feature_classifier": "f", "unets": ["u"]}
    assert digests(checkpoint()) == {"weights": "0", "feature_classifier": None, "unets": []}


class Brightness(Source):
    """A source that a project adds: the mean of the first channel, for every class."""

    name = "brightness"
    group = "features"
    record = "brightness"

    @staticmethod
    def takes(checkpoints: Sequence[CamCheckpoint], score: ScoreConfig, crops: CropConfig) -> float:
        return 0.25

    @staticmethod
    def digest(checkpoint: CamCheckpoint) -> str:
        return "b"

    def score(self, sample: Sample) -> np.ndarray:
        means = [sample.image[0][sample.cells == cell].mean() / 255 for cell in sample.cell_ids]
        return np.tile(np.reshape(means, (-1, 1)), (1, len(sample.probs))).astype(np.float32)


def test_a_new_source_is_one_class_and_its_name_in_the_list(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sources, "SOURCES", (*sources.SOURCES, Brightness))
    shares = source_shares([checkpoint(**FULL)], ScoreConfig(feature_share=0.4), PLAIN)
    assert shares["brightness"] == pytest.approx(0.1)
    assert digests(checkpoint())["brightness"] == "b"
    task = Task(cast(Any, None), ScoreConfig(), PLAIN, choose_device("cpu"))
    (*_, added) = sources_of([checkpoint(**FULL)], task)
    cells = np.array([[0, 3], [7, 7]], np.int32)
    image = np.array([[[9, 51], [0, 204]]], np.uint8)
    sample = Sample(0, image, cells, cells, np.array([3, 7], np.int32), (2, 2), probs=np.zeros(2))
    np.testing.assert_allclose(added.score(sample), [[0.2, 0.2], [0.4, 0.4]], rtol=1e-6)
