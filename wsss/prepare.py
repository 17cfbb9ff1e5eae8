"""`python -m wsss.prepare`: see wsss.stages.prepare."""

from wsss.options import parsing as cli
from wsss.stages.prepare import main

if __name__ == "__main__":
    cli.run(main)
