"""`python -m wsss.segment`: see wsss.stages.segment."""

from wsss.options import parsing as cli
from wsss.stages.segment import main

if __name__ == "__main__":
    cli.run(main)
