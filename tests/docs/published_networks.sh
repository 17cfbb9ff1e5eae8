# What of docs/published_networks.md is run, in its order; see scripts/run_docs.py. The weights are tiny and random.

python - <<'EOP'
import numpy as np, tifffile, torch
from pathlib import Path
from wsss.data.synthetic import draw_field
from wsss.inference.published import SUBCELL_NAMES
rng = np.random.default_rng(0)
Path("fields").mkdir()
for n in range(6):
    for name, plane in zip(("red", "green", "blue", "yellow"), draw_field(rng, 128, [(2,), (13,), (18,)][n % 3]).image):
        tifffile.imwrite(f"fields/f{n}_{name}.tif", plane)
width, layer, state = 64, "encoder.encoder.layer.0.", {}
def add(name, *shape):
    state[name] = 0.05 * torch.randn(shape)
def linear(name, outputs, inputs):
    add(f"{name}.weight", outputs, inputs), add(f"{name}.bias", outputs)
stem = "encoder.embeddings."
add(f"{stem}cls_token", 1, 1, width), add(f"{stem}position_embeddings", 1, 17, width)
add(f"{stem}patch_embeddings.projection.weight", width, 4, 16, 16), add(f"{stem}patch_embeddings.projection.bias", width)
for name in ("attention.attention.query", "attention.attention.key", "attention.attention.value", "attention.output.dense"):
    linear(layer + name, width, width)
linear(f"{layer}intermediate.dense", 128, width), linear(f"{layer}output.dense", width, 128)
for name in (f"{layer}layernorm_before", f"{layer}layernorm_after", "encoder.layernorm"):
    add(f"{name}.weight", width), add(f"{name}.bias", width)
for name in ("v", "u"):
    linear(f"pool_model.attention_{name}.1", 8, width)
linear("pool_model.attention", 2, 8)
torch.save(state, "encoder.pth")
for n in range(2):
    state = {}
    linear("0", 16, 2 * width), linear("3", 16, 16), linear("6", len(SUBCELL_NAMES), 16)
    torch.save(state, f"classifier_{n}.pth")
EOP

#: replace --size 1024 => --size 128
#: run python -m wsss.prepare --images fields/ --size 1024 --out data/fields

#: run python -m wsss.report --preds preds/fields-subcell --out fields.html

cat > labels.csv <<'EOY'
ID,Label
f0,2
f1,13
f2,18
f3,2
f4,13
f5,18
EOY
python -m wsss.prepare --images fields --labels labels.csv --size 128 --folds 2 --out data/labelled
python -m wsss.segment --data data/labelled --backend classical
python -m wsss.train --data data/labelled --backbone test_resnet --weights none --crop 64 --epochs 1 --batch 2 --run runs/mine

#: run python -m wsss.infer --data data/fields --run runs/mine --source subcell=encoder.pth,classifier_0.pth --source_share 0.3 \
