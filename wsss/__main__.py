"""`wsss STAGE ...` is `python -m wsss.STAGE ...`."""

import importlib
import sys
from collections.abc import Sequence

from wsss import __version__
from wsss.core.checks import ConfigError, nearest
from wsss.options import parsing as cli

STAGES = {
    "prepare": "images + labels -> a data set",
    "segment": "a data set -> its cells",
    "train": "a data set -> a trained run",
    "infer": "a run -> scores of every cell",
    "pseudo": "a run -> pseudo-masks for a U-Net",
    "evaluate": "scores -> figures",
    "overlay": "scores -> pictures",
    "report": "scores -> one HTML page",
    "export": "scores or a run -> the forms of other tools",
    "ensemble": "several scores -> one",
    "calibrate": "scores of unseen images -> curves that make scores mean what they say",
    "download": "IDs -> images of the public Atlas",
    "doctor": "machine, data sets and runs -> what is to be mended",
    "demo": "all of it on fields drawn by code",
}
EXAMPLES = """\
examples:
  wsss demo                                    try it, with nothing else
  wsss doctor                                  is this machine fit for it?
  wsss prepare --images images --labels train.csv --out data/mine
  wsss segment --data data/mine
  wsss train --data data/mine --fold all --run runs/mine
  wsss infer --data data/mine --run runs/mine --out preds/mine --oof
  wsss report --preds preds/mine --maps --out mine.html
"""


def stages(argv: Sequence[str] | None = None) -> int:
    """Run the stage named by the first word."""
    words = list(sys.argv[1:] if argv is None else argv)
    if not words or words[0] in ("-h", "--help"):
        cli.say("usage: wsss STAGE [options]     (wsss STAGE --help tells them; --quiet and --json go with all)\n")
        for name, about in STAGES.items():
            cli.say(f"  {name:10} {about}")
        cli.say(f"\n{EXAMPLES}\n{cli.EXIT_CODES}")
        return 0
    if words[0] == "--version":
        cli.say(f"wsss {__version__}")
        return 0
    if words[0] not in STAGES:
        raise ConfigError(f"there is no stage '{words[0]}', expected {', '.join(STAGES)}.{nearest(words[0], STAGES)}")
    code: int = importlib.import_module(f"wsss.{words[0]}").main(words[1:])
    return code


def main() -> None:
    """Entry point of the `wsss` script."""
    cli.run(stages)


if __name__ == "__main__":
    main()
