# What of docs/performance.md is run, in its order; see scripts/run_docs.py.

#: replace --images 128 => --images 8 --size 128 --open 1000 --repeats 1
#: run python scripts/bench_store.py --images 128

#: replace --images 48 --repeats 3 => --images 2 --repeats 1 --edge 256
#: run python scripts/bench_prepare.py --images 48 --repeats 3

#: replace --images 100 --repeats 3 => --images 8 --repeats 1 --size 128 --crop 64 --set 1000
#: run python scripts/bench_loader.py --images 100 --repeats 3

#: replace --images 20 --batch 24 => --images 2 --batch 2 --size 96 --crop 64
#: run python scripts/bench_augment.py --images 20 --batch 24

#: run python scripts/bench_start.py --repeats 1

#: replace --backbone seresnext50 --crop 384 --batch 1 --steps 2 => --crop 64 --batch 2 --steps 1 --device cpu
#: replace --crop 384 --batch 2 --steps 3 => --crop 64 --batch 2 --steps 1 --device cpu
#: replace --backbone vgg16 --stride 8 --crop 128 --batch 1 --steps 2 => --crop 64 --batch 2 --steps 1 --device cpu
#: run python scripts/bench_train_step.py --backbone seresnext50 --crop 384 --batch 1 --steps 2 --variants plain puzzle --profile

#: replace --images 2 8 --plain 2 => --images 1 --plain 1 --edge 256
#: replace --images 2 --plain 2 --backbone seresnext50_32x4d => --images 1 --plain 0 --edge 256
#: run python scripts/bench_infer.py --images 2 8 --plain 2                                # one thread: OMP_NUM_THREADS=1

#: replace --images 4 12 --plain 3 --backbone seresnext50_32x4d => --images 1 --plain 0 --edge 256
#: replace --images 4 12 --plain 3 => --images 1 --plain 0 --edge 256
#: run python scripts/bench_infer.py --images 4 12 --plain 3

#: replace --images 24 559 --plain 6 => --images 1 2 --plain 1 --edge 256
#: run python scripts/bench_infer.py --images 24 559 --plain 6

#: replace --rounds 3 --runtimes eager bf16 onnx openvino => --rounds 1 --runtimes eager bf16 --backbones test_resnet --edges 64 64
#: run python scripts/bench_runtimes.py --rounds 3 --runtimes eager bf16 onnx openvino

#: skip python scripts/bench_crops.py --data data/val --run runs/NAME --truth cells_truth.csv --most 10
#: reason needs a trained run and labelled cells

#: replace --repeats 3 => --repeats 1 --size 128 --cells 20
#: run python scripts/bench_score_cells.py --repeats 3

#: replace --repeats 5 => --repeats 1 --size 256 --cells 20
#: run python scripts/bench_rle.py --repeats 5

#: skip ray start --head                       # on one machine; on each other one: ray start --address HEAD:6379
#: reason needs Ray; a slow test runs it on a cluster of its own

python - <<'EOP'
from pathlib import Path
from wsss.data.synthetic import write_fields
write_fields(Path("fields"), 8, 128, 1, workers=0)
EOP
python -m wsss.prepare --images fields/images --labels fields/train.csv --out data/NAME --size 128
python -m wsss.segment --data data/NAME
python -m wsss.train --data data/NAME --backbone test_resnet --weights none --crop 64 --epochs 1 --batch 4 \
    --fold none --run runs/NAME

#: replace python -m wsss.infer --run runs/NAME --out preds/NAME --shard 1/4 => for k in 1 2; do python -m wsss.infer --run runs/NAME --out preds/NAME --shard $k/2; done
#: run python -m wsss.infer --run runs/NAME --out preds/NAME --shard 1/4     # one job for each of 1/4 ... 4/4

#: replace --images 1000 10000 => --images 120 140 --stages prepare epoch
#: run python scripts/bench_scale.py --images 1000 10000

#: skip python scripts/bench_scale.py --images 10000 100000 --folder scale
#: reason takes hours
