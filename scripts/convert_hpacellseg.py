"""Convert hpacellseg's published weights, whole-model pickles, to safetensors; once, on purpose.

    python scripts/convert_hpacellseg.py --nuclei-model dpn_unet_nuclei_v1.pth --cell-model dpn_unet_cell_3ch_v1.pth \
        --out weights/hpacellseg

Afterwards: python -m wsss.segment --backend hpacellseg --weights weights/hpacellseg
The pickles: https://zenodo.org/record/4665863 (their MD5 sums stand there; compare them first).
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

from wsss import cli
from wsss.core.console import say


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--nuclei-model", type=Path, required=True)
    parser.add_argument("--cell-model", type=Path, required=True)
    parser.add_argument("--two-channel", action="store_true", help="the cell model was trained without yellow (ER)")
    parser.add_argument("--out", type=Path, required=True, help="folder for the two safetensors files")
    args = parser.parse_args(argv)
    from wsss.segmenters.packages import CELLS, NUCLEI, convert_pickle

    convert_pickle(args.nuclei_model, args.out / NUCLEI, er=False)
    convert_pickle(args.cell_model, args.out / CELLS, er=not args.two_channel)
    say(f"wrote {args.out / NUCLEI} and {args.out / CELLS}; the pickles are not needed any more.")
    return 0


if __name__ == "__main__":
    cli.run(main)
