"""`python -m wsss.download`: options in wsss.options.download, what it does in wsss.stages.download."""

from wsss import cli

main = cli.command("download")

if __name__ == "__main__":
    cli.run(main)
