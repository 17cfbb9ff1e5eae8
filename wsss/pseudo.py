"""`python -m wsss.pseudo`: see wsss.stages.pseudo."""

from wsss.options import parsing as cli
from wsss.stages.pseudo import main

if __name__ == "__main__":
    cli.run(main)
