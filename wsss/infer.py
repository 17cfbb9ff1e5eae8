"""`python -m wsss.infer`: options in wsss.options.infer, what it does in wsss.stages.infer."""

from wsss import cli

main = cli.command("infer")

if __name__ == "__main__":
    cli.run(main)
