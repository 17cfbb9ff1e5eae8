"""`python -m wsss.evaluate`: options in wsss.options.evaluate, what it does in wsss.stages.evaluate."""

from wsss import cli

main = cli.command("evaluate")

if __name__ == "__main__":
    cli.run(main)
