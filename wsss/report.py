"""`python -m wsss.report`: see wsss.stages.report."""

from wsss.options import parsing as cli
from wsss.stages.report import main

if __name__ == "__main__":
    cli.run(main)
