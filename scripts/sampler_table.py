"""Show what the balanced sampler does to a label table: images, expected and drawn shares of every class.

python scripts/sampler_table.py train.csv [--clip rank:3|class:8|none] [--epochs 4] [--seed 0]
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from wsss import cli
from wsss.core.console import say
from wsss.core.labels import HPA
from wsss.data.tables import read_labels
from wsss.training import loading as samples


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("table", type=Path, help="label table in any form that prepare reads")
    parser.add_argument("--clip", default="rank:3", help="class whose weight is the upper limit")
    parser.add_argument("--epochs", type=int, default=4, help="epochs to draw")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args(argv)

    labels = np.stack([HPA.encode(ids) for ids in read_labels(args.table, HPA).labels.values()])
    n = len(labels)
    weights = samples.image_weights(labels, args.clip)
    limit = samples.find_clip_class(labels, args.clip)
    drawn = [samples.draw_epoch(weights, n, seed=args.seed, epoch=e) for e in range(args.epochs)]
    shares = np.array([(labels[indices] > 0).mean(axis=0) for indices in drawn])
    plain = (labels > 0).mean(axis=0)
    expected = (weights / weights.sum()) @ (labels > 0)

    name = "none" if limit is None else f"{limit} {HPA.names[limit]}"
    say(f"{n} images, {args.epochs} epochs of {n} draws, clip class: {name}")
    say("share of the images that show a class; an image may show several")
    say(f"{'class':46}{'images':>8}{'plain':>9}{'expected':>10}{'drawn':>9}{'sd':>8}{'times':>8}")
    for k, title in enumerate(HPA.names):
        times = expected[k] / plain[k] if plain[k] else 0.0
        say(
            f"{k:2} {title:43}{int(labels[:, k].sum()):8}{plain[k]:9.2%}{expected[k]:10.2%}"
            f"{shares[:, k].mean():9.2%}{shares[:, k].std():8.2%}{times:8.1f}"
        )
    seen = np.mean([len(np.unique(indices)) for indices in drawn]) / n
    most = max(int(np.bincount(indices).max()) for indices in drawn)
    say(f"an epoch shows {seen:.1%} of the images, one of them up to {most} times")
    return 0


if __name__ == "__main__":
    cli.run(main)
