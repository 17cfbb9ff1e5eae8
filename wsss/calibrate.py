"""`python -m wsss.calibrate`: options in wsss.options.calibrate, what it does in wsss.stages.calibrate."""

from wsss import cli

main = cli.command("calibrate")

if __name__ == "__main__":
    cli.run(main)
