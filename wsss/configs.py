"""`python -m wsss.configs`: options in wsss.options.parsing, what it does in wsss.stages.configs."""

from wsss import cli

main = cli.command("configs")

if __name__ == "__main__":
    cli.run(main)
