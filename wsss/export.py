"""`python -m wsss.export`: options in wsss.options.export, what it does in wsss.stages.export."""

from wsss import cli

main = cli.command("export")

if __name__ == "__main__":
    cli.run(main)
