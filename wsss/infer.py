"""`python -m wsss.infer`: see wsss.stages.infer."""

from wsss.options import parsing as cli
from wsss.stages.infer import main

if __name__ == "__main__":
    cli.run(main)
