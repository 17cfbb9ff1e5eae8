"""`python -m wsss.train`: see wsss.stages.train."""

from wsss.options import parsing as cli
from wsss.stages.train import main

if __name__ == "__main__":
    cli.run(main)
