"""`python -m wsss.report`: options in wsss.options.report, what it does in wsss.stages.report."""

from wsss import cli

main = cli.command("report")

if __name__ == "__main__":
    cli.run(main)
