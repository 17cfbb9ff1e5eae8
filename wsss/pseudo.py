"""`python -m wsss.pseudo`: options in wsss.options.pseudo, what it does in wsss.stages.pseudo."""

from wsss import cli

main = cli.command("pseudo")

if __name__ == "__main__":
    cli.run(main)
