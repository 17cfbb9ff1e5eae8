"""`python -m wsss.compare`: options in wsss.options.compare, what it does in wsss.stages.compare."""

from wsss import cli

main = cli.command("compare")

if __name__ == "__main__":
    cli.run(main)
