"""`python -m wsss.overlay`: options in wsss.options.overlay, what it does in wsss.stages.overlay."""

from wsss import cli

main = cli.command("overlay")

if __name__ == "__main__":
    cli.run(main)
