"""Measure what answers of `wsss review` do for the feature classifier: a scripted reviewer answers with the truth.

    python scripts/bench_review.py --data data/train --truth train/cells_truth.csv \
        --val-data data/val --val-truth val/cells_truth.csv [--wrong 0.1] [--answers 100,300,1000]

The data sets are prepared and segmented with --backend masks, so that cell numbers are those of the truth. The
classifier is fitted on image labels alone; the reviewer is asked by each strategy about cells of the training images,
scored by predictions that did not see them; the classifier is fitted again with the answers, and judged on all cells of
the validation images. Only the feature classifier is measured, without network and without image prior. With --wrong,
that share of the answers names a random other class. Prints a Markdown table.
"""

import argparse
from dataclasses import replace
from pathlib import Path

import numpy as np

from wsss.core.checks import ConfigError
from wsss.core.console import progress
from wsss.data.catalog import DataSet
from wsss.feature_classifier.features import cell_features
from wsss.feature_classifier.fit import FittedModel, LabelledCells, TrainingCells, fit_model
from wsss.metrics.cells import read_cell_truth
from wsss.metrics.classify import average_precision, mean_of_classes, several_class_precision
from wsss.metrics.weighted import sample_figures
from wsss.options.recipe import FitConfig
from wsss.reviewing.population import STRATEGIES, Queue, exponentials, image_seeds, inclusion, rates_of


class Cells:
    """All cells of a data set with features and truth.

    Attributes:
        features: (N, F) float32.
        image: (N,) number of each cell's image.
        numbers: (N,) numbers of the cells.
        truth: (N, K) 0/1.
    """

    def __init__(self, folder: Path, truth: Path, cache: Path | None = None, fields: int | None = None) -> None:
        self.data = DataSet.open(folder)
        known = read_cell_truth(truth, self.data.classes)
        places = {(name, int(cell)): row for row, (name, cell) in enumerate(zip(known.ids, known.cells, strict=True))}
        if cache is None or not cache.exists():
            features, image, numbers = self._described()
            if cache is not None:
                np.savez(cache, features=features, image=image, numbers=numbers)
        else:
            with np.load(cache) as stored:
                features, image, numbers = (stored[name] for name in ("features", "image", "numbers"))
        pairs = zip(image.tolist(), numbers.tolist(), strict=True)
        rows = np.array([places.get((self.data.ids[i], cell), -1) for i, cell in pairs])
        kept = (rows >= 0) & (image < (len(self.data) if fields is None else fields))
        if not kept.any():
            raise ConfigError(f"{truth} has no cell of {folder}.")
        self.features, self.image, self.numbers = features[kept], image[kept], numbers[kept]
        self.truth = known.labels[rows[kept]]

    def _described(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return features, image and number of every cell."""
        features, image, numbers = [], [], []
        for i in progress(np.flatnonzero(self.data.ok).tolist(), "features"):
            label_map = self.data.geometry(i).labels_to_store(self.data.cells(i))
            ids = np.unique(label_map)
            features.append(cell_features(np.array(self.data.image(i)), label_map, self.data.nuclei(i)))
            image += [i] * (len(ids) - 1)
            numbers += ids[ids != 0].tolist()
        return np.concatenate(features), np.array(image), np.array(numbers)


def ask(cells: Cells, scores: np.ndarray, strategy: str, count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the rows of the first `count` cells of a strategy, and their weights."""
    rates = rates_of(STRATEGIES[strategy], scores)
    seeds = image_seeds(cells.data.ids)[cells.image]
    queue = Queue(exponentials(seeds, cells.numbers, f"{seed} {strategy}") / rates, rates)
    rows = queue.next_rows((), count)
    threshold = queue.threshold(set(rows))
    return np.array(rows), 1 / inclusion(rates[rows][:, None], np.array([threshold]))


def answer(truth: np.ndarray, wrong: float, rng: np.random.Generator) -> np.ndarray:
    """Return (n, K) answers: the truth, but for a share of them that name one other class that occurs."""
    out = truth.copy()
    classes = np.flatnonzero(truth.any(axis=0))
    for row in np.flatnonzero(rng.random(len(truth)) < wrong):
        others = [k for k in classes if not truth[row, k]]
        out[row] = np.eye(truth.shape[1])[rng.choice(others)]
    return out


def fit(cells: Cells, config: FitConfig, seed: int, labelled: LabelledCells | None = None) -> FittedModel:
    """Fit the classifier on image labels, and on answers where there are some."""
    data = cells.data
    learnt = TrainingCells(cells.features, cells.image, data.labels, data.classes.negative, labelled=labelled)
    return fit_model(learnt, seed, config)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("data", "truth", "val-data", "val-truth"):
        parser.add_argument(f"--{name}", type=Path, required=True)
    parser.add_argument("--answers", default="100,300,1000")
    parser.add_argument("--strategies", default="random,doubtful")
    parser.add_argument("--wrong", type=float, default=0.0)
    parser.add_argument("--weight", type=float, default=FitConfig().answer_weight)
    parser.add_argument("--trees", type=int, default=FitConfig().trees)
    parser.add_argument("--fields", type=int, help="learn from the first so many images; default: all")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--cache", type=Path, help="folder in which features are kept from one call to the next")
    given = parser.parse_args()
    kept = [None if given.cache is None else given.cache / f"{part}.npz" for part in ("train", "val")]
    cells = Cells(given.data, given.truth, kept[0], given.fields)
    val = Cells(given.val_data, given.val_truth, kept[1])
    config = replace(FitConfig(), trees=given.trees, answer_weight=given.weight)

    def figures(model: FittedModel) -> str:
        scores = model.predict(val.features)
        several = mean_of_classes(several_class_precision(val.truth, scores))
        return f"{mean_of_classes(average_precision(val.truth, scores)):.3f} | {several:.3f}"

    base = fit(cells, config, given.seed)
    true_map = mean_of_classes(average_precision(cells.truth, base.soft))
    print(
        "| strategy | answers | wrong | AP | AP, several classes | review says of the training cells | truth |",
        flush=True,
    )
    print("|---|---|---|---|---|---|---|")
    print(f"| none | 0 | | {figures(base)} | | {true_map:.3f} |", flush=True)
    for strategy in given.strategies.split(","):
        for count in map(int, given.answers.split(",")):
            rng = np.random.default_rng([given.seed, count])
            rows, weights = ask(cells, base.soft, strategy, count, given.seed)
            said = answer(cells.truth[rows], given.wrong, rng)
            mean = sample_figures(said, base.soft[rows], weights, cells.data.classes.names).mean_ap
            model = fit(cells, config, given.seed, LabelledCells(rows, said))
            interval = f"{mean.value:.3f} ({mean.low:.3f} to {mean.high:.3f})"
            print(
                f"| {strategy} | {count} | {given.wrong:.0%} | {figures(model)} | {interval} | {true_map:.3f} |",
                flush=True,
            )


if __name__ == "__main__":
    main()
