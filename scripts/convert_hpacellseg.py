"""Convert hpacellseg's published weights, whole-model pickles, to safetensors; once, on purpose.

    python scripts/convert_hpacellseg.py --nuclei-model dpn_unet_nuclei_v1.pth --cell-model dpn_unet_cell_3ch_v1.pth \
        --out weights/hpacellseg --trust-pickles

Afterwards: python -m wsss.segment --backend hpacellseg --weights weights/hpacellseg
The pickles: https://zenodo.org/record/4665863 (their MD5 sums stand there; compare them first).
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from wsss import cli
from wsss.core.checks import ConfigError
from wsss.core.console import say

WARNING = (
    "WARNING: these files are pickles. Loading a pickle runs whatever code its maker put into it, with all your "
    "rights. Convert only files whose source you trust, in a place where they can do no harm."
)


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--nuclei-model", type=Path, required=True)
    parser.add_argument("--cell-model", type=Path, required=True)
    parser.add_argument("--two-channel", action="store_true", help="the cell model was trained without yellow (ER)")
    parser.add_argument("--out", type=Path, required=True, help="folder for the two safetensors files")
    parser.add_argument("--trust-pickles", action="store_true", help="yes, load these pickles and run their code")
    args = parser.parse_args(argv)
    print(WARNING, file=sys.stderr)
    if not args.trust_pickles:
        raise ConfigError("nothing is loaded without --trust-pickles.")
    from wsss.segmenters.hpacellseg import CELLS, NUCLEI, convert_pickle

    convert_pickle(args.nuclei_model, args.out / NUCLEI, er=False)
    convert_pickle(args.cell_model, args.out / CELLS, er=not args.two_channel)
    say(f"wrote {args.out / NUCLEI} and {args.out / CELLS}; the pickles are not needed any more.")
    return 0


if __name__ == "__main__":
    cli.run(main)
