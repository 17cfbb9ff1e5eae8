import numpy as np

from wsss.metrics.classify import label_doubts

LABELS = np.array([[1, 0, 0], [1, 1, 0], [0, 0, 1], [0, 0, 0], [1, 0, 0]])
SHARES = np.array([[0.6, 0.7, 0.9], [0.5, 0.02, 0.1], [0.1, 0.2, 0.7], [0.9, 0.9, 0.0], [np.nan] * 3])


def test_labels_that_no_cell_shows_and_classes_that_many_show_are_listed_the_surest_first() -> None:
    doubts = label_doubts(SHARES, LABELS, negative=2)
    assert [(own.image, own.label, own.missing) for own in doubts] == [(1, 1, False), (0, 1, True)]
    assert doubts[0].strength > doubts[1].strength > 0


def test_without_a_negative_class_every_class_may_be_missing() -> None:
    doubts = label_doubts(SHARES, LABELS, negative=None)
    assert (0, 2, True) in [(own.image, own.label, own.missing) for own in doubts]
