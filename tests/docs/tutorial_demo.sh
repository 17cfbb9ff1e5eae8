# What of docs/tutorial_demo.md is run, in its order; see scripts/run_docs.py.

#: skip bash scripts/demo.sh
#: reason fetches packages; the same is run below, smaller

#: run python -m wsss.doctor

#: run python -m wsss.demo --out demo --train-fields 24 --test-fields 6 --size 128 --epochs 2

#: run python -m wsss.report --preds demo/preds/test --run demo/runs/puzzle --maps --truth demo/fields/test/cells_truth.csv \

#: run python - <<'EOP'
