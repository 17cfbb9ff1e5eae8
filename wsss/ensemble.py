"""`python -m wsss.ensemble`: see wsss.stages.ensemble."""

from wsss.options import parsing as cli
from wsss.stages.ensemble import main

if __name__ == "__main__":
    cli.run(main)
