"""Convert hpacellseg's published weights, whole-model pickles, to safetensors; once, on purpose.

    python scripts/convert_hpacellseg.py --nuclei-model dpn_unet_nuclei_v1.pth --cell-model dpn_unet_cell_3ch_v1.pth \
        --out weights/hpacellseg

Afterwards: python -m wsss.segment --backend hpacellseg --weights weights/hpacellseg
The pickles: https://zenodo.org/record/4665863 (their MD5 sums stand there; compare them first).
"""

import argparse
import json
import pickle
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save

from wsss import cli
from wsss.core.checks import DataError
from wsss.core.console import say
from wsss.core.files import BLANK, sealed, write_bytes
from wsss.segmenters.packages import ARCHITECTURE, CELLS, NUCLEI, build_network


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--nuclei-model", type=Path, required=True)
    parser.add_argument("--cell-model", type=Path, required=True)
    parser.add_argument("--two-channel", action="store_true", help="the cell model was trained without yellow (ER)")
    parser.add_argument("--out", type=Path, required=True, help="folder for the two safetensors files")
    args = parser.parse_args(argv)
    convert_pickle(args.nuclei_model, args.out / NUCLEI, er=False)
    convert_pickle(args.cell_model, args.out / CELLS, er=not args.two_channel)
    say(f"wrote {args.out / NUCLEI} and {args.out / CELLS}; the pickles are not needed any more.")
    return 0


def convert_pickle(source: Path, target: Path, *, er: bool = True) -> None:
    """Write the weights of a whole-model pickle as safetensors.

    Only what the architecture consists of is unpickled; a pickle that names anything else is refused, and runs nothing.

    Args:
        source: the pickle, as hpacellseg publishes it.
        er: the network was trained with the yellow plane (the three-channel cell model).

    Raises:
        DataError: the file is missing, no pickle of a network, or one of another architecture.
    """
    blank = build_network(3, 3)
    parts: set[Any] = {type(module) for module in blank.modules()} | {
        torch.nn.DataParallel,
        torch.nn.functional.relu,
        set,
    }
    try:
        with torch.serialization.safe_globals(list(parts)):
            network: Any = torch.load(source, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise DataError(f"{source} does not exist: fetch the published weights first.") from None
    except pickle.UnpicklingError as error:
        named = re.search(r"GLOBAL (\S+)", str(error))
        reason = f"it names {named.group(1)}, which is no part of {ARCHITECTURE}" if named else "it is damaged"
        raise DataError(f"{source} is no pickle of one of hpacellseg's published networks: {reason}.") from error
    except (ImportError, AttributeError, EOFError, RuntimeError, TypeError, KeyError) as error:
        raise DataError(f"{source} is no pickle of a network ({' '.join(str(error).split())}).") from error
    network = network.module if isinstance(network, torch.nn.DataParallel) else network
    architecture = f"{type(network).__module__}.{type(network).__name__}"
    if architecture != ARCHITECTURE:
        raise DataError(f"{source} holds a {architecture}, expected {ARCHITECTURE}: hpacellseg's published networks.")
    tensors = {name: tensor.contiguous() for name, tensor in network.state_dict().items()}
    classes, channels = int(network.target_channel_num), int(network.input_channel_num)
    build_network(classes, channels).load_state_dict(tensors)
    about = {"architecture": ARCHITECTURE, "classes": classes, "channels": channels, "er": er, "digest": BLANK}
    write_bytes(target, sealed(save(tensors, {"wsss": json.dumps(about)})))


if __name__ == "__main__":
    cli.run(main)
