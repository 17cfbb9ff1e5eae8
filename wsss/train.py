"""`python -m wsss.train`: options in wsss.options.train, what it does in wsss.stages.train."""

from wsss import cli

main = cli.command("train")

if __name__ == "__main__":
    cli.run(main)
