# What of docs/segmentation.md is run, in its order; see scripts/run_docs.py.

python - <<'EOP'
import cv2, numpy as np
from pathlib import Path
from wsss.data.synthetic import draw_field, write_fields
for name, count in (("mine", 12), ("new", 2)):
    write_fields(Path(name), count, 128, 1, prefix=name, workers=0)
for name, seed in (("hpa_fields", 1), ("val", 2), ("hard", 3), ("composed", 4), ("natural", 5)):
    write_fields(Path(name), 2, 256, seed, prefix=name, workers=0)
# single cells, for train_segmenter.py
Path("hpa_cells/cells").mkdir(parents=True)
rows = ["cell,label,split"]
for label in (0, 16):
    field = draw_field(np.random.default_rng(label), 512, [label])
    for k in range(1, 7):
        y, x = np.nonzero(field.label_map == k)
        own = (slice(y.min(), y.max() + 1), slice(x.min(), x.max() + 1))
        mask = field.label_map[own] == k
        cv2.imwrite(f"hpa_cells/cells/c{label}_{k}.png", np.hstack([*(field.image[:, *own] * mask), mask * np.uint8(255)]))
        rows.append(f"c{label}_{k},{label},train")
Path("hpa_cells/cells.csv").write_text("\n".join(rows) + "\n")
# nuclei, in the layout of the Data Science Bowl
for n in range(2):
    field = draw_field(np.random.default_rng(n), 256, [0])
    for folder in ("images", "masks"):
        Path(f"dsb2018/stage1_train/n{n}/{folder}").mkdir(parents=True)
    cv2.imwrite(f"dsb2018/stage1_train/n{n}/images/n{n}.png", field.image[2])
    for k in np.unique(field.nuclei)[1:]:
        cv2.imwrite(f"dsb2018/stage1_train/n{n}/masks/{k}.png", (field.nuclei == k) * np.uint8(255))
EOP
python -m wsss.prepare --images mine/images --labels mine/train.csv --out data/mine --size 128
python -m wsss.prepare --images new/images --out data/new --size 128
tiny="--backbone test_resnet --weights none --crop 64 --epochs 1 --batch 4"
python -m wsss.train --data data/mine $tiny --fold none --run runs/mine

#: run python -m wsss.infer --data data/new --run runs/mine --segment unet

#: replace --split train => --split train --scenes 3 --drawn 1 --steps 2 --batch 2
#: run python scripts/train_segmenter.py hpa_cells/ --split train --work runs/segmenter --out my.safetensors

#: skip pip install -e '.[hpacellseg]'
#: reason installs from GitHub

#: skip python scripts/convert_hpacellseg.py --nuclei-model dpn_unet_nuclei_v1.pth --cell-model dpn_unet_cell_3ch_v1.pth \
#: reason needs the package and the published weights

#: replace --cells 30 100 300 --fields 3 => --cells 10 20 --fields 1 --edge 1024 --repeats 1
#: replace --fields 6 => --fields 1 --edge 1024 --repeats 1
#: run python scripts/bench_label_cells.py --cells 30 100 300 --fields 3

#: run python scripts/bench_segment.py --cpu --fields val/ --fields hard/ --fields natural/ --fields hpa_fields/ --nuclei dsb2018/stage1_train
