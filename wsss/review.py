"""`python -m wsss.review`: options in wsss.options.review, what it does in wsss.stages.review."""

from wsss import cli

main = cli.command("review")

if __name__ == "__main__":
    cli.run(main)
