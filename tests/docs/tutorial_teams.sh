# What of docs/tutorial_teams.md is run, in its order; see scripts/run_docs.py.

python - <<'EOP'
from wsss.data.synthetic import write_fields
from pathlib import Path
write_fields(Path("train"), 24, 128, 1, prefix="train", workers=0)
write_fields(Path("test"), 6, 128, 2, prefix="test", workers=0)
EOP

#: replace --size 512 => --size 128
#: run python -m wsss.prepare --images train/images --labels train/train.csv --out data/train --size 512

#: replace --backbone seresnext50 => --backbone test_resnet --weights none --crop 64 --epochs 1 --batch 4
#: replace --backbone regnety_64 => --backbone test_resnet --weights none --crop 64 --epochs 1 --batch 4
#: run python -m wsss.train --data data/train --backbone seresnext50 --fold all --run runs/a

#: run python -m wsss.infer --data data/train --run runs/a --out preds/a-oof --oof

#: run python - <<'EOP'

#: run python -m wsss.ensemble --preds preds/a-oof preds/b-oof --weights auto --data data/train --out preds/blend-oof

#: replace --size 512 => --size 128
#: run python -m wsss.prepare --images test/images --out data/test --size 512

#: skip bash scripts/wheelhouse.sh wheelhouse
#: reason fetches some GB of packages

#: replace pip install --no-index --find-links /kaggle/input/wheelhouse wsss => true
#: replace /kaggle/input/runs/a --out preds/a => runs/a --out preds/notebook
#: run pip install --no-index --find-links /kaggle/input/wheelhouse wsss
