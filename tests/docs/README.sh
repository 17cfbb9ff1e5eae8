# What of README.md is run, in its order; see scripts/run_docs.py.

#: skip bash scripts/demo.sh    # creates an environment and runs the main job on drawn fields (5 to 10 minutes)
#: reason fetches packages; the tutorial of the demo runs the same, smaller

#: skip python -m venv .venv && source .venv/bin/activate && pip install -e .
#: reason fetches packages

python - <<'EOP'
from pathlib import Path
from wsss.data.synthetic import write_fields
for name, count in (("old", 20), ("new", 4)):
    write_fields(Path(name), count, 128, 1, prefix=name, workers=0)
EOP
mv old/images images; mv old/train.csv .; mv new/images new_images

#: replace python -m wsss.review  --preds preds/mine => true
#: replace --out data/mine => --out data/mine --size 128
#: replace --out data/new => --out data/new --size 128
#: replace --backbone seresnext50 => --backbone test_resnet --weights none --crop 64 --epochs 1 --batch 4
#: run python -m wsss.doctor                                            # is this machine ready?

#: replace --nproc_per_node 4 => --nproc_per_node 2
#: replace --data data/mine => --data data/mine --device cpu --backbone test_resnet --weights none --crop 64 --epochs 1 --batch 4
#: run torchrun --standalone --nproc_per_node 4 -m -- wsss.train --data data/mine --run runs/four

#: skip torchrun --nnodes 2 --nproc_per_node 4 --rdzv_backend c10d --rdzv_endpoint host1:29500 --rdzv_id mine \
#: reason needs two machines, or a Slurm cluster
