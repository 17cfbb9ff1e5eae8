"""`python -m wsss.doctor`: see wsss.stages.doctor."""

from wsss.options import parsing as cli
from wsss.stages.doctor import main

if __name__ == "__main__":
    cli.run(main)
