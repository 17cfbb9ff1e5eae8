"""`python -m wsss.download`: see wsss.stages.download."""

from wsss.options import parsing as cli
from wsss.stages.download import main

if __name__ == "__main__":
    cli.run(main)
