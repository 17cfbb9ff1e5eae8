# What of docs/quality.md is run, in its order; see scripts/run_docs.py.

#: skip python -m wsss.train --data data/mine --config natural_cells --fold all --run runs/mine
#: reason docs/experiments.md runs these commands on fields that it draws

#: skip python -m wsss.evaluate --preds preds/val --truth val/cells_truth.csv
#: reason docs/experiments.md runs these commands on fields that it draws

#: skip python scripts/bench_labels.py --quick --out bench-quick                # drawn fields, a tiny network, minutes
#: reason docs/experiments.md runs it
