"""List the recipes that come with wsss: names for --config and --augment, each with a line."""

from wsss.core.checks import check_choice
from wsss.core.console import say
from wsss.options.configs import ConfigsOptions, about, augmentations, recipes


def run(options: ConfigsOptions) -> int:
    """Print the list, or one recipe; return 0."""
    known = {"--config": recipes(), "--augment": augmentations()}
    if options.show:
        files = known["--augment"] | known["--config"]
        check_choice("--show", options.show, files)
        say(files[options.show].read_text().rstrip())
        return 0
    width = max(len(name) for files in known.values() for name in files)
    for flag, files in known.items():
        for name, path in files.items():
            say(f"{flag:9} {name:{width}}  {about(path)}", "config", flag=flag, name=name, about=about(path))
    say("\nwsss configs --show NAME prints one; copy it, change it, and pass the file instead of the name.")
    return 0
