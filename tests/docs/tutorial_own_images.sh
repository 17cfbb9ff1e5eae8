# What of docs/tutorial_own_images.md is run, in its order; see scripts/run_docs.py.

python - <<'EOP'
import numpy as np, tifffile
from pathlib import Path
from wsss.data.synthetic import draw_field
rng = np.random.default_rng(0)
Path("slides").mkdir()
rows = ["ID,Label"]
for n in range(24):
    kind = n % 3
    field = draw_field(rng, 128, [(2,), (13,), (18,)][kind])
    red, green, blue, yellow = field.image
    for name, plane in (("Tubulin", red), ("GFP", green), ("DAPI", blue), ("Calnexin", yellow)):
        tifffile.imwrite(f"slides/well{n:02}_{name}.tif", plane.astype(np.uint16) * 256)
    rows.append(f"well{n:02},{kind}")
Path("labels.csv").write_text("\n".join(rows) + "\n")
Path("new_slides").mkdir()
for name in ("Tubulin", "GFP", "DAPI", "Calnexin"):
    Path(f"slides/well23_{name}.tif").rename(f"new_slides/well23_{name}.tif")
Path("labels.csv").write_text("\n".join(rows[:-1]) + "\n")
EOP

#: run cat > classes.yaml <<'EOY'

#: run python -m wsss.prepare --images slides --labels labels.csv --classes classes.yaml \

#: run python -m wsss.segment --data data/mine

#: replace --backbone seresnext50 => --backbone test_resnet --weights none --crop 64 --epochs 1 --batch 4
#: run python -m wsss.train --data data/mine --backbone seresnext50 --fold all --run runs/mine

#: run python -m wsss.infer --data data/mine --run runs/mine --out preds/mine --oof

python - <<'EOP'
import pandas as pd
cells = pd.read_csv("preds/mine/cells.csv").head(40)
labels = pd.read_csv("labels.csv", dtype=str).set_index("ID").Label
pd.DataFrame({"ID": cells.ID, "cell": cells.cell_id, "Label": labels[cells.ID].tolist()}).to_csv("by_hand.csv", index=False)
EOP

#: run python -m wsss.evaluate --preds preds/mine --truth by_hand.csv --data data/mine --join number

#: run python -m wsss.prepare --images new_slides --classes classes.yaml \
