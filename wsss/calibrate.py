"""`python -m wsss.calibrate`: see wsss.stages.calibrate."""

from wsss.options import parsing as cli
from wsss.stages.calibrate import main

if __name__ == "__main__":
    cli.run(main)
