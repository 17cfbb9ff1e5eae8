"""`python -m wsss.demo`: see wsss.stages.demo."""

from wsss.options import parsing as cli
from wsss.stages.demo import main

if __name__ == "__main__":
    cli.run(main)
