# What of docs/training.md is run, in its order; see scripts/run_docs.py.

python - <<'EOP'
from pathlib import Path
from wsss.data.synthetic import write_fields
write_fields(Path("hpa"), 16, 128, 1, prefix="train", workers=0)
EOP
python -m wsss.prepare --images hpa/images --labels hpa/train.csv --out data/hpa --size 128
python -m wsss.segment --data data/hpa

#: replace --backbone seresnext50 => --backbone test_resnet --weights none --crop 64 --epochs 1 --batch 4 --run runs/hpa-seresnext50
#: run python -m wsss.train --data data/hpa --backbone seresnext50 --fold all

#: replace --nproc_per_node 4 => --nproc_per_node 2
#: replace --run runs/four => --run runs/four --device cpu --backbone test_resnet --weights none --crop 64 --epochs 1 --batch 4
#: run torchrun --standalone --nproc_per_node 4 -m -- wsss.train --data data/hpa --run runs/four

#: skip torchrun --nnodes 2 --nproc_per_node 4 --rdzv_backend c10d --rdzv_endpoint host1:29500 --rdzv_id hpa \
#: reason needs two machines

#: skip head=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
#: reason needs a Slurm cluster
