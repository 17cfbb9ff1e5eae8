"""`python -m wsss.doctor`: options in wsss.options.doctor, what it does in wsss.stages.doctor."""

from wsss import cli

main = cli.command("doctor")

if __name__ == "__main__":
    cli.run(main)
