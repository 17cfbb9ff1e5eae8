"""`python -m wsss.evaluate`: see wsss.stages.evaluate."""

from wsss.options import parsing as cli
from wsss.stages.evaluate import main

if __name__ == "__main__":
    cli.run(main)
