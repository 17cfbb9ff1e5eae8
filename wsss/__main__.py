"""`wsss STAGE ...` is `python -m wsss.STAGE ...`."""

from wsss.cli import main

if __name__ == "__main__":
    main()
