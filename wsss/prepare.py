"""`python -m wsss.prepare`: options in wsss.options.prepare, what it does in wsss.stages.prepare."""

from wsss import cli

main = cli.command("prepare")

if __name__ == "__main__":
    cli.run(main)
