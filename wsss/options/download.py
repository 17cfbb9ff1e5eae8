"""Fetch images of the public Human Protein Atlas: four channels an image, named as prepare reads them."""

from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from wsss.core.checks import ConfigError, between, check_fields
from wsss.core.labels import HPA_CHANNELS

EXAMPLES = """\
  python -m wsss.download --ids 10580/1610_C1_1,19661_221_G1_1 --out images/hpa
  python -m wsss.download --labels external.csv --out images/hpa --workers 2
"""


@dataclass(frozen=True)
class DownloadOptions:
    """What is fetched from where."""

    out: Path
    """Folder for <ID>_<channel>.jpg; start the same command again to go on."""
    ids: str = ""
    """IDs, antibody/plate_well_site or antibody_plate_well_site, separated by commas; or a text file, one a line."""
    labels: Path | None = None
    """Label table whose column ID or Image names the images, by ID or by address."""
    base: str = "https://images.proteinatlas.org"
    """Where <antibody>/<plate_well_site>_<channel>.jpg is found."""
    channels: str = ",".join(HPA_CHANNELS)
    """Channels to fetch, as they stand in the addresses."""
    workers: int = between(4, 1, 16)
    """Files fetched at once."""
    rate: float = between(8.0, 0.01, 100)
    """Requests a second, at most."""
    retries: int = between(4, 0, 20)
    """Further tries after a failure that may pass (broken connection, busy server), with growing pauses."""
    timeout: float = between(30.0, 0.1, 3600)
    """Seconds without an answer after which a try has failed."""
    overwrite: bool = False
    """Take a folder that holds images of another --base."""

    def __post_init__(self) -> None:
        check_fields(self, "--")
        if bool(self.ids) == (self.labels is not None):
            raise ConfigError("pass either --ids or --labels: which images are to be fetched.")
        if not _is_address(self.base):
            raise ConfigError(f"--base is '{self.base}', expected an address that begins with https:// or http://.")
        if not all(name.isalnum() for name in self.channels.split(",")):
            raise ConfigError(f"--channels is '{self.channels}', expected names and commas.")


def _is_address(text: str) -> bool:
    try:
        parts = urlsplit(text)
        return parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:  # brackets that do not close, a port that is no number
        return False


OPTIONS = (DownloadOptions,)
