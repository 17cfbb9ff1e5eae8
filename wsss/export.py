"""`python -m wsss.export`: see wsss.stages.export."""

from wsss.options import parsing as cli
from wsss.stages.export import main

if __name__ == "__main__":
    cli.run(main)
