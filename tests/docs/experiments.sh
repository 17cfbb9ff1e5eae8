# What of docs/experiments.md is run, in its order; see scripts/run_docs.py.

#: skip python - <<'EOP'
#: reason an hour; the quick benchmark below runs the same script in small

#: skip python - <<'EOP'
#: reason hours, and the cells that are cut in two halves are not ours

python - <<'EOP'
import cv2, numpy as np
from pathlib import Path
from wsss.data.synthetic import draw_field
Path("CELLS/cells").mkdir(parents=True)
rows = ["cell,label,split"]
for label in (0, 16):
    field = draw_field(np.random.default_rng(label), 512, [label])
    for k in range(1, 9):
        y, x = np.nonzero(field.label_map == k)
        own = (slice(y.min(), y.max() + 1), slice(x.min(), x.max() + 1))
        mask = field.label_map[own] == k
        cv2.imwrite(f"CELLS/cells/c{label}_{k}.png", np.hstack([*(field.image[:, *own] * mask), mask * np.uint8(255)]))
        rows.append(f"c{label}_{k},{label},{'val' if k % 2 else 'train'}")
Path("CELLS/cells.csv").write_text("\n".join(rows) + "\n")
EOP

#: replace --seeds 0 1 2 --minutes 12 => --quick --seeds 0 --methods "published recipe"
#: replace --out bench-quick => --out bench-quick --methods "labels copied"
#: run python scripts/bench_labels.py --cells CELLS --seeds 0 1 2 --minutes 12      # or --train FIELDS --sets val=FIELDS ...

#: skip python scripts/bench_labels.py --train fields/train --sets val=fields/val --seeds 0 1 2 --epochs 4 --out bench \
#: reason hours; the block above runs the same script in small

python - <<'EOP'
from pathlib import Path
from wsss.data.synthetic import write_fields
for name, count, seed in (("train", 16, 1), ("val", 4, 2)):
    write_fields(Path(name), count, 128, seed, prefix=name, workers=0)
EOP
for name in train val; do
    python -m wsss.prepare --images $name/images --labels $name/train.csv --out data/$name --size 128 --folds 2
    python -m wsss.segment --data data/$name --backend masks --masks $name/masks
done
cp -r data/train data/hpa; cp -r data/val data/test
python -m wsss.train --data data/hpa --backbone test_resnet --weights none --crop 64 --epochs 1 --batch 4 --fold all --run runs/hpa

#: run python -m wsss.infer --data data/hpa --run runs/hpa --oof --out preds/oof

rm -r data

#: replace --size 512 => --size 128
#: replace --fold none => --fold none --feature_classifier.copies 0 --backbone test_resnet --weights none --crop 64 --epochs 1 --batch 4
#: replace --fields 60 => --fields 2
#: run python -m wsss.prepare --images train/images --labels train/train.csv --out data/train --size 512

#: replace 600, 11 => 16, 11
#: replace 200, 12 => 4, 12
#: replace n, 256, s => n, 128, s
#: replace --size 256 --epochs 3 => --size 128 --epochs 1
#: replace --crop 128 --batch 8 => --backbone test_resnet --weights none --crop 64 --batch 4
#: run python -c "from pathlib import Path; from wsss.data.synthetic import write_fields as w; \

mkdir fields; mv train val fields

#: replace --size 256 --epochs 3 => --size 128 --epochs 1
#: replace --crop 192 --batch 8 => --backbone test_resnet --weights none --crop 64 --batch 4
#: run python scripts/bench_labels.py --train fields/train --sets val=fields/val --out bench-oof --size 256 --epochs 3 \
