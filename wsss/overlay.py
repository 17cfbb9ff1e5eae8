"""`python -m wsss.overlay`: see wsss.stages.overlay."""

from wsss.options import parsing as cli
from wsss.stages.overlay import main

if __name__ == "__main__":
    cli.run(main)
