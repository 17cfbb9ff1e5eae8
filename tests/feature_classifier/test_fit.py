from dataclasses import replace

import numpy as np
import pytest

from wsss.cells.scoring import image_prior, image_scores
from wsss.core.checks import ConfigError, DataError
from wsss.feature_classifier.fit import (
    ALONE,
    EXCEPTION,
    Copies,
    FittedModel,
    LabelledCells,
    TrainingCells,
    candidates,
    first_labels,
    fit_calibration,
    fit_model,
    renew,
)
from wsss.feature_classifier.train import learnt_from
from wsss.metrics.calibration import apply_curves
from wsss.metrics.classify import average_precision, reliability
from wsss.options.recipe import FitConfig

QUICK = FitConfig(rounds=3, folds=3, trees=30, leaf=2, strength=1.0)
NEGATIVE = 3


def toy(seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """60 images of 6 cells; each shows two of three classes, some cells Negative; noisy features tell the class."""
    rng = np.random.default_rng(seed)
    centres = 3.0 * np.eye(4)
    features, image_of_cell, truth = [], [], []
    labels = np.zeros((60, 4))
    for image in range(60):
        shown = rng.choice(3, 2, replace=False)
        labels[image, shown] = 1
        for cell in range(6):
            label = shown[cell] if cell < 2 else (NEGATIVE if rng.random() < 0.2 else rng.choice(shown))
            features.append(centres[label] + rng.normal(0, 0.7, 4))
            image_of_cell.append(image)
            truth.append(label)
    return np.array(features, np.float32), np.array(image_of_cell), labels, np.array(truth)


def test_cells_get_their_own_label_though_only_images_were_labelled() -> None:
    features, image_of_cell, labels, truth = toy()
    model = fit_model(TrainingCells(features, image_of_cell, labels, NEGATIVE), 0, QUICK)
    shows = truth != NEGATIVE
    assert (model.soft.argmax(axis=1) == truth)[shows].mean() > 0.9
    unseen, _, _, unseen_truth = toy(1)
    shows = unseen_truth != NEGATIVE
    assert (model.predict(unseen).argmax(axis=1) == unseen_truth)[shows].mean() > 0.9


def test_soft_labels_follow_the_labels_of_the_image() -> None:
    features, image_of_cell, labels, _ = toy()
    soft = fit_model(TrainingCells(features, image_of_cell, labels, NEGATIVE), 0, QUICK).soft
    allowed = labels[image_of_cell] > 0
    allowed[:, NEGATIVE] = True
    assert soft[~allowed].mean() < 0.02
    assert soft[allowed].mean() > 0.3


def test_a_cell_may_show_several_classes_of_its_image() -> None:
    rng = np.random.default_rng(0)
    labels = np.zeros((60, 4))
    for row in labels:
        row[rng.choice(3, 2, replace=False)] = 1
    image_of_cell = np.repeat(np.arange(60), 6)
    truth = labels[image_of_cell] * (rng.random((360, 4)) < 0.7)
    features = (3 * truth + rng.normal(0, 0.7, truth.shape)).astype(np.float32)
    model = fit_model(TrainingCells(features, image_of_cell, labels, NEGATIVE), 0, replace(QUICK, strength=1.0))
    both = truth.sum(axis=1) == 2
    assert both.sum() > 100
    assert ((model.soft[both] > 0.5) == truth[both].astype(bool))[:, :3].all(axis=1).mean() > 0.9
    assert ((model.predict(features)[both] > 0.5) == truth[both].astype(bool))[:, :3].all(axis=1).mean() > 0.8


def test_the_same_seed_gives_the_same_scores() -> None:
    features, image_of_cell, labels, _ = toy()
    first, second = (fit_model(TrainingCells(features, image_of_cell, labels, NEGATIVE), 5, QUICK) for _ in range(2))
    assert (first.predict(features) == second.predict(features)).all()


def test_classes_that_no_image_has_score_zero() -> None:
    features, image_of_cell, labels, _ = toy()
    wide = np.concatenate([labels, np.zeros((60, 2))], axis=1)
    scores = fit_model(TrainingCells(features, image_of_cell, wide, NEGATIVE), 0, QUICK).predict(features)
    assert scores.shape == (360, 6)
    assert (scores[:, 4:] == 0).all()


def test_first_labels_by_hand() -> None:
    labels = np.array([[1, 1, 0], [0, 0, 1], [0, 1, 0]])
    config = FitConfig(negative_share=0.2, shown_share=0.6)
    allowed = candidates(np.array([0, 1, 2]), labels, 2)
    assert allowed.tolist() == [[True, True, True], [False, False, True], [False, True, True]]
    e = EXCEPTION
    np.testing.assert_allclose(first_labels(allowed, 2, config), [[0.6, 0.6, 0.2], [e, e, 1 - e], [e, ALONE, 0.2]])
    allowed = candidates(np.array([0, 1, 2]), labels, None)
    np.testing.assert_allclose(first_labels(allowed, None, config), [[0.6, 0.6, e], [e, e, ALONE], [e, ALONE, e]])


def test_renewed_labels_follow_the_share_of_the_class_in_the_image() -> None:
    image = np.repeat([0, 1], 20)
    allowed = np.ones((40, 2), bool)
    soft = np.where(image[:, None] == 0, [[0.9, 0.5]], [[0.1, 0.5]])
    new = renew(np.full((40, 2), 0.5), np.array([0.5, 0.5]), soft, image, allowed)
    assert (new[:20, 0] > 0.8).all()
    assert (new[20:, 0] < 0.2).all()
    np.testing.assert_allclose(new[:, 1], 0.5)
    lacking = renew(np.full((40, 2), 0.5), np.array([0.5, 0.5]), soft, image, np.tile([True, False], (40, 1)))
    assert (lacking[:, 1] < 0.05).all()


def test_an_image_without_label_and_too_few_images_are_named() -> None:
    features, image_of_cell, labels, _ = toy()
    few = image_of_cell < 2
    with pytest.raises(DataError, match="2 images, expected at least 3"):
        fit_model(TrainingCells(features[few], image_of_cell[few], labels, NEGATIVE), 0, QUICK)
    labels[7] = 0
    with pytest.raises(DataError, match="row 7"):
        fit_model(TrainingCells(features, image_of_cell, labels, NEGATIVE), 0, QUICK)


def test_an_option_out_of_range_is_named() -> None:
    with pytest.raises(ConfigError, match=r"weak\.folds"):
        FitConfig(folds=1)


def test_importance_points_at_the_features_that_matter() -> None:
    features, image_of_cell, labels, _ = toy()
    noise = np.random.default_rng(0).normal(size=features.shape).astype(np.float32)
    model = fit_model(TrainingCells(np.hstack([features, noise]), image_of_cell, labels, NEGATIVE), 0, QUICK)
    assert model.importance[:4].sum() > 0.6


def test_copies_teach_what_plain_cells_do_not_show() -> None:
    features, image_of_cell, labels, _ = toy()
    config, rng = replace(QUICK, strength=3.0), np.random.default_rng(2)
    emptied = rng.random(len(features)) < 0.3
    changed = np.where(emptied[:, None], rng.normal(-20, 0.5, features.shape), 20 + features).astype(np.float32)
    copies = Copies(changed, np.arange(len(features)), emptied)
    unseen, _, _, truth = toy(1)
    model = fit_model(TrainingCells(features, image_of_cell, labels, NEGATIVE, copies), 0, config)
    plain = fit_model(TrainingCells(features, image_of_cell, labels, NEGATIVE), 0, config)

    def share_right(cells: np.ndarray, of: FittedModel) -> float:
        return float((of.predict(cells).argmax(axis=1) == truth).mean())

    assert share_right(unseen, model) > 0.85
    assert share_right(20 + unseen, plain) < 0.5
    assert share_right(20 + unseen, model) > share_right(20 + unseen, plain) + 0.2
    assert model.predict(np.full((1, 4), -20, np.float32)).argmax() == NEGATIVE


def test_images_of_one_class_alone_are_no_problem() -> None:
    features, image_of_cell, labels, _ = toy()
    alone = np.zeros_like(labels)
    alone[:, 1] = 1
    model = fit_model(TrainingCells(features, image_of_cell, alone, None), 0, QUICK)
    np.testing.assert_allclose(model.predict(features), np.tile([0, 1, 0, 0], (len(features), 1)), atol=0.02)


def test_a_class_of_one_image_is_not_taken_for_negative() -> None:
    features, image_of_cell, labels, _ = toy()
    labels = np.hstack([labels, np.zeros((60, 1))])
    labels[7] = [0, 0, 0, 0, 1]
    features[image_of_cell == 7] = -8
    model = fit_model(TrainingCells(features, image_of_cell, labels, NEGATIVE), 0, QUICK)
    assert (model.soft[image_of_cell == 7].argmax(axis=1) == 4).all()


def test_cells_labelled_by_hand_keep_their_labels_and_teach_what_images_do_not_say() -> None:
    features, image_of_cell, labels, truth = toy()
    wide = labels.copy()
    wide[:, :3] = 1  # every image claims every class: nothing tells them apart
    rng = np.random.default_rng(0)
    rows = rng.choice(len(truth), 60, replace=False)
    labelled = LabelledCells(rows, np.eye(4)[truth[rows]])
    blind = fit_model(TrainingCells(features, image_of_cell, wide, NEGATIVE), 0, QUICK)
    taught = fit_model(TrainingCells(features, image_of_cell, wide, NEGATIVE, labelled=labelled), 0, QUICK)
    assert (taught.soft[rows].argmax(axis=1) == truth[rows]).all()
    unseen, _, _, unseen_truth = toy(1)
    right = [(model.predict(unseen).argmax(axis=1) == unseen_truth).mean() for model in (blind, taught)]
    assert right[1] > right[0] + 0.2
    assert right[1] > 0.85


def test_a_class_that_no_image_bears_can_be_taught_by_hand() -> None:
    features, image_of_cell, labels, truth = toy()
    labels[:, NEGATIVE] = 0
    rows = np.flatnonzero(truth == NEGATIVE)[:20]
    labelled = LabelledCells(rows, np.eye(4)[truth[rows]])
    model = fit_model(TrainingCells(features, image_of_cell, labels, None, labelled=labelled), 0, QUICK)
    assert NEGATIVE in model.classes
    scores = model.predict(features)[:, NEGATIVE]
    assert scores[truth == NEGATIVE].mean() > 5 * scores[truth != NEGATIVE].mean()


def fields_of(both: float, images: int = 150) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return features, image of each cell and labels: one or two classes an image, both in a share of cells."""
    rng = np.random.default_rng(0)
    labels = np.zeros((images, 4))
    for row in labels:
        row[rng.choice(3, rng.integers(1, 3), replace=False)] = 1
    image_of_cell = np.repeat(np.arange(images), 8)
    shown = labels[image_of_cell]
    for k in np.flatnonzero((shown.sum(axis=1) == 2) & (rng.random(len(shown)) >= both)):
        shown[k, rng.choice(np.flatnonzero(shown[k]))] = 0
    pattern = 3 * shown / np.maximum(shown.sum(axis=1, keepdims=True), 1)  # a protein of two places is in each by half
    return (pattern + rng.normal(0, 0.7, shown.shape)).astype(np.float32), image_of_cell, labels


@pytest.mark.parametrize(("both", "one_class"), [(0.0, True), (0.4, False)])
def test_whether_cells_show_one_class_is_found_from_image_labels(both: float, one_class: bool) -> None:
    model = fit_model(TrainingCells(*fields_of(both), None), 0, replace(QUICK, rounds=1))
    assert model.one_class is one_class


def test_few_cells_do_not_say_whether_cells_show_one_class() -> None:
    model = fit_model(TrainingCells(*fields_of(0.0, images=60), None), 0, replace(QUICK, rounds=1))
    assert (model.margin_ratio, model.one_class) == (None, False)


def test_of_many_images_those_with_answers_and_of_rare_classes_are_learnt_from_first() -> None:
    labels = np.zeros((1000, 2))
    labels[:, 0], labels[::100, 1] = 1, 1
    train, answered = np.arange(100, 1000), np.arange(1000) == 555
    chosen = learnt_from(train, labels, answered, seed=0, most=60)
    assert len(chosen) == 60
    assert chosen == sorted(chosen)
    assert {555, *range(100, 1000, 100)} < set(chosen) <= set(train.tolist())
    assert chosen == learnt_from(train, labels, answered, seed=0, most=60)
    assert chosen != learnt_from(train, labels, answered, seed=1, most=60)
    assert learnt_from(train, labels, answered, seed=0, most=900) == train.tolist()


def several(seed: int) -> tuple[TrainingCells, np.ndarray]:
    """80 images of 6 cells; each bears some of six classes, which most of its cells show; and the truth."""
    rng = np.random.default_rng(seed)
    labels = np.eye(6)[rng.integers(0, 6, 80)]
    labels[rng.random(labels.shape) < 0.15] = 1
    image_of_cell = np.repeat(np.arange(80), 6)
    order = rng.random((480, 6)) * labels[image_of_cell]
    truth = labels[image_of_cell] * ((order > 0.4) | (order == order.max(axis=1, keepdims=True)))
    features = (1.5 * truth + rng.normal(0, 1, truth.shape)).astype(np.float32)
    return TrainingCells(features, image_of_cell, labels, None), truth


def test_curves_make_the_scores_of_unseen_images_probabilities() -> None:
    cells, _ = several(0)
    model = fit_model(cells, 0, QUICK)
    curves = fit_calibration(model, cells)
    unseen, truth = several(1)
    images = model.predict(unseen.features).reshape(80, 6, 6)
    scores = np.array([image_prior(image, None, 3) for image in images])
    of_images = np.array([image_scores(image, np.zeros(6), negative=None, share=1.0) for image in scores])
    for fitted, made, true in (
        (curves.cells, scores.reshape(-1, 6), truth),
        (curves.images, of_images, unseen.image_labels),
    ):
        calibrated = apply_curves(fitted, made)
        assert reliability(true, calibrated).error < 0.5 * reliability(true, made).error
        np.testing.assert_allclose(average_precision(true, calibrated), average_precision(true, made), rtol=1e-3)


def test_curves_go_by_labels_given_by_hand_and_leave_unknown_classes_alone() -> None:
    features, image_of_cell, labels, truth = toy()
    wide = np.concatenate([labels, np.zeros((60, 1))], axis=1)
    cells = TrainingCells(features, image_of_cell, wide, NEGATIVE)
    model = fit_model(cells, 0, QUICK)
    plain = fit_calibration(model, cells)
    assert (plain.cells[4].method, plain.images[4].method) == ("identity", "identity")
    nothing = LabelledCells(np.flatnonzero(truth == 0), np.zeros(((truth == 0).sum(), 5)))
    taught = fit_calibration(model, replace(cells, labelled=nothing))
    assert taught.cells[0].apply(np.array(0.9)) < plain.cells[0].apply(np.array(0.9)) - 0.2


def test_classes_that_a_fold_never_met_have_no_curve_and_raise_no_other() -> None:
    features, image_of_cell, labels, _ = toy()
    rare = np.concatenate([labels, np.zeros((60, 1))], axis=1)
    rare[0] = np.eye(5)[4]  # the only label of one image: the learners that do not see it know nothing about it
    cells = TrainingCells(features, image_of_cell, rare, NEGATIVE)
    model = fit_model(cells, 0, QUICK)
    assert np.isnan(model.held_out[:, 4]).all()
    curves = fit_calibration(model, cells)
    assert curves.cells[4].method == curves.images[4].method == "identity"
    without = replace(cells, features=features[6:], image_of_cell=image_of_cell[6:])
    alone = fit_calibration(replace(model, held_out=model.held_out[6:]), without)
    assert (curves.cells[0].y == alone.cells[0].y).all(), "its image says nothing about other classes"
    answers = LabelledCells(np.arange(6), np.tile(np.eye(5)[0], (6, 1)))
    taught = fit_calibration(model, replace(cells, labelled=answers))
    assert taught.cells[0].apply(np.array(0.5)) > curves.cells[0].apply(np.array(0.5)), "answers about its cells do"
