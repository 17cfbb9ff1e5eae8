# What of docs/formats.md is run, in its order; see scripts/run_docs.py.

python - <<'EOP'
from pathlib import Path
from wsss.data.synthetic import write_fields
write_fields(Path("fields"), 2, 128, 1, workers=0)
Path("slides").mkdir()
for path in Path("fields/images").iterdir():
    name, channel = path.stem.rsplit("_", 1)
    path.rename(f"slides/{name}_{dict(red='Cy3', green='GFP', blue='DAPI', yellow='Cy5')[channel]}.png")
EOP

#: run wsss prepare --images slides --channels red=Cy3,green=GFP,blue=DAPI,yellow=Cy5 --out data/mine

#: skip wsss prepare --images nuclei --channels DAPI --roles nucleus=DAPI --out data/nuclei
#: reason images of other microscopes

#: skip wsss download --ids 10580/1610_C1_1 --out images/hpa
#: reason needs the network

python -m wsss.demo --quiet --out demo --train-fields 16 --test-fields 4 --size 128 --epochs 1
mkdir -p preds runs
cp -r demo/preds/test preds/hpa
cp -r demo/runs/puzzle runs/hpa

#: replace wsss export --preds preds/hpa --to h5ad    --out hpa.h5ad => true
#: run wsss export --preds preds/hpa --to h5ad    --out hpa.h5ad        # scanpy, squidpy; needs pip install -e '.[h5ad]'

#: run wsss export --run runs/hpa --to huggingface --out model    # --push USER/NAME uploads it

cp -r demo/data/train data/hpa
#: run python - <<'EOP'

wsss train --data data/hpa --backbone test_resnet --weights none --crop 64 --epochs 1 --batch 4 --fold all --run runs/a
wsss train --data data/hpa --backbone test_resnet --weights none --crop 64 --epochs 1 --batch 8 --fold all --run runs/b
for name in a b; do
    wsss infer --data data/hpa --run runs/$name --out preds/$name-oof --oof
    wsss infer --data demo/data/test --run runs/$name --out preds/$name
done

#: run wsss ensemble --preds preds/a-oof preds/b-oof --weights auto --data data/hpa --out preds/blend-oof
