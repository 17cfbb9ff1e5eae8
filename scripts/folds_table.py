"""Print how folds share out the classes of a label table, without any images.

python scripts/folds_table.py train.csv [--folds 4] [--seed 0]
"""

import argparse
import time
from pathlib import Path

import numpy as np

from wsss.core.labels import HPA
from wsss.data.folds import fold_lines, make_folds
from wsss.data.tables import read_classes, read_labels


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("table", type=Path, help="label table in any form that prepare reads")
    parser.add_argument("--folds", type=int, default=4)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--classes", type=Path, help="class list as for prepare")
    options = parser.parse_args()
    classes = read_classes(options.classes) if options.classes else HPA
    table = read_labels(options.table, classes)
    labels = np.stack([classes.encode(table.labels[ID]) for ID in sorted(table.labels)]).astype(bool)
    began = time.perf_counter()
    fold = make_folds(labels, np.arange(len(labels)), options.folds, options.seed)
    seconds = time.perf_counter() - began
    for line in fold_lines(labels, fold, classes):
        print(line)
    print(f"{len(labels)} images, {options.folds} folds, seed {options.seed}: {seconds:.1f} s")


if __name__ == "__main__":
    main()
