"""`python -m wsss.segment`: options in wsss.options.segment, what it does in wsss.stages.segment."""

from wsss import cli

main = cli.command("segment")

if __name__ == "__main__":
    cli.run(main)
