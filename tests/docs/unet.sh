# What of docs/unet.md is run, in its order; see scripts/run_docs.py.

python - <<'EOP'
import sys
from pathlib import Path
sys.path.insert(0, "scripts")
from bench_unet import write_salt
write_salt(Path("salt/train"), 0, 12)
write_salt(Path("salt/test"), 12, 4)
EOP

#: replace --fold all => --fold all --backbone test_resnet --weights none --unet.channels "[8,8,8,4,4]" --epochs 3 --batch 4 --masks.folds 2 --run runs/train-unet-tf_efficientnet_lite0
#: run python -m wsss.train    --data salt/train --config configs/unet_salt.yaml --fold all

#: skip python -m wsss.train --task masks --data salt/train --backbone tiny:Tiny --weights none --unet.channels "[32,16,8]"
#: reason tests/models/test_own_encoder.py trains and asks the example

python - <<'EOP'
import numpy as np, tifffile
from pathlib import Path
from wsss.core.rle import encode_pairs
rng, rows = np.random.default_rng(0), ["id,encoding"]
y, x = np.mgrid[:160, :240]
Path("kidneys").mkdir()
for k in range(6):
    mask = (y - 80) ** 2 + (x - 60 - 20 * k) ** 2 < 40**2
    pixels = (rng.integers(0, 60, (160, 240, 3)) + 150 * mask[..., None]).astype(np.uint8)
    if k < 4:
        tifffile.imwrite(f"kidneys/k{k}.tif", pixels, photometric="rgb", tile=(64, 64))
        rows.append(f"k{k},{encode_pairs(mask)}")
tifffile.imwrite("slide1.tif", pixels, photometric="rgb", tile=(64, 64))
np.save("slide2.npy", pixels)
Path("kidneys/train.csv").write_text("\n".join(rows) + "\n")
EOP

#: replace --masks.tile 1024 --crop 512 => --masks.tile 64 --masks.folds 2 --crop 64 --backbone test_resnet --weights none --unet.channels "[8,8,8,4,4]" --epochs 1 --batch 4
#: run python -m wsss.train --data kidneys --task masks --masks.tile 1024 --crop 512 --fold all --run runs/kidneys

python - <<'EOP'
from pathlib import Path
from wsss.data.synthetic import write_fields
for name, count in (("train", 12), ("val", 3)):
    write_fields(Path(name), count, 128, 1, prefix=name, workers=0)
EOP
for name in train val; do
    python -m wsss.prepare --images $name/images --labels $name/train.csv --out data/$name --size 128 --folds 2
    python -m wsss.segment --data data/$name --backend masks --masks $name/masks
done
cp -r data/train data/hpa
tiny="--backbone test_resnet --weights none --crop 64 --epochs 1 --batch 4"
python -m wsss.train --data data/hpa $tiny --fold all --run runs/hpa-seresnext50
python -m wsss.train --data data/train $tiny --fold none --run runs/composed

#: replace --fold all => --fold all --backbone test_resnet --weights none --unet.channels "[8,8,8,4,4]" --crop 64 --epochs 1 --batch 4
#: run python -m wsss.pseudo --data data/hpa --run runs/hpa-seresnext50

#: replace --epochs 2 --unet.channels "[64,48,32,16,16]" => --backbone test_resnet --weights none --unet.channels "[8,8,8,4,4]" --crop 64 --epochs 1 --batch 4
#: run python -m wsss.pseudo --data data/train --run runs/composed --tta.views none --tta.scales "[1.0,0.75]"

#: skip python scripts/bench_unet.py salt --data salt
#: reason needs the 4,000 images of the competition, and 45 minutes

#: replace --data salt => --images 8 --epochs 2 --only dice hypercolumn
#: run python scripts/bench_unet.py options --data salt
