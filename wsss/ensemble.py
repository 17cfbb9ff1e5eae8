"""`python -m wsss.ensemble`: options in wsss.options.ensemble, what it does in wsss.stages.ensemble."""

from wsss import cli

main = cli.command("ensemble")

if __name__ == "__main__":
    cli.run(main)
