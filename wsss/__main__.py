"""`wsss STAGE ...` is `python -m wsss.STAGE ...`."""

import importlib
import sys
from collections.abc import Sequence

from wsss.core import cli
from wsss.core.checks import ConfigError, nearest

STAGES = {
    "prepare": "images + labels -> a data set",
    "segment": "a data set -> its cells",
    "train": "a data set -> a trained run",
    "infer": "a run -> scores of every cell",
    "evaluate": "scores -> figures",
    "overlay": "scores -> pictures",
    "report": "scores -> one HTML page",
    "export": "scores or a run -> the forms of other tools",
    "ensemble": "several scores -> one",
    "download": "IDs -> images of the public Atlas",
    "demo": "all of it on fields drawn by code",
}


def stages(argv: Sequence[str] | None = None) -> int:
    """Run the stage named by the first word."""
    words = list(sys.argv[1:] if argv is None else argv)
    if not words or words[0] in ("-h", "--help"):
        cli.say("usage: wsss STAGE [options]     (wsss STAGE --help tells them)\n")
        for name, about in STAGES.items():
            cli.say(f"  {name:10} {about}")
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
