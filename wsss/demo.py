"""`python -m wsss.demo`: options in wsss.options.demo, what it does in wsss.stages.demo."""

from wsss import cli

main = cli.command("demo")

if __name__ == "__main__":
    cli.run(main)
