"""Fetch images of the public Human Protein Atlas: four channels an image, named as prepare reads them.

The client is polite: a limited rate, retries, each file whole or not at all.
"""

from contextlib import closing
from dataclasses import dataclass
from functools import partial
from urllib.parse import quote

import pandas as pd

from wsss.core import __version__
from wsss.core.checks import DataError, exit_code
from wsss.core.console import progress, say
from wsss.core.csv_text import read_text, unguard_text, write_csv
from wsss.core.files import is_file, listed
from wsss.data import ids
from wsss.data.fetch import FetchError, Manners, Rate, fetch, in_threads
from wsss.options.download import DownloadOptions
from wsss.runs.output import Output, in_folder

FAILED = "failed.csv"
AGENT = f"wsss/{__version__} (research download; Python urllib)"


@dataclass(frozen=True)
class AtlasImage:
    """One image of the Atlas."""

    antibody: str
    place: str
    """plate_well_site."""

    @property
    def ID(self) -> str:
        """Its name here."""
        return f"{self.antibody}_{self.place}"


def run(options: DownloadOptions) -> int:
    """Fetch the missing images; write failed.csv if some failed, and return the exit code."""
    images = wanted_images(options)
    with in_folder(options.out, "download") as output:
        output.begin(
            lambda digests: {"options": {"base": options.base, "channels": options.channels}},
            overwrite=options.overwrite,
            subject=("options.base",),
            always=True,
        )
        return _download(options, images, output)


def _download(options: DownloadOptions, images: list[AtlasImage], output: Output) -> int:
    manners = Manners(AGENT, options.retries, options.timeout, deadline=10 * options.timeout)
    rate, failures = Rate(options.rate), []
    work = partial(_fetch_image, options=options, manners=manners, rate=rate)
    with closing(in_threads(work, images, options.workers, rate)) as fetched:
        for failed in progress(fetched, "download", total=len(images)):
            failures += failed
    path = options.out / FAILED
    if not failures:
        output.publish()
        say(f"{options.out}: {len(images)} images are complete.")
        return 0
    table = pd.DataFrame(sorted(failures), columns=["ID", "channel", "url", "reason"])
    write_csv(output.path(FAILED), table)
    output.publish()
    broken = table["ID"].nunique()
    say(f"{options.out}: {len(images) - broken} of {len(images)} images are complete; {path} names the others.")
    for row in table.head(3).itertuples():
        say(f"failed: {row.ID} {row.channel}: {row.reason}")
    return exit_code(broken, len(images))


def wanted_images(options: DownloadOptions) -> list[AtlasImage]:
    """Return the images that --ids or --labels names, each once.

    Raises:
        DataError: an ID is no ID of the Atlas, or the table has none.
    """
    if options.labels is not None:
        texts, where = unguard_text(read_text(options.labels, ["ID"])).ID.tolist(), str(options.labels)
    else:
        texts, where = listed(options.ids), options.ids if is_file(options.ids) else "--ids"
    images = [atlas_image(text.strip(), where) for text in texts if text.strip()]
    if not images:
        raise DataError(f"{where} names no images.")
    return list(dict.fromkeys(images))


def atlas_image(text: str, where: str) -> AtlasImage:
    """Read 'antibody/plate_well_site' or 'antibody_plate_well_site'.

    Raises:
        DataError: it is neither, or cannot be a file name.
    """
    name = ids.from_name(text)[0]  # an address of the Atlas becomes antibody_plate_well_site
    antibody, cut, place = name.partition("/") if "/" in name else name.partition("_")
    reason = ids.fault(f"{antibody}_{place}")
    if not (antibody and cut and place.count("_") >= 2) or reason:
        raise DataError(
            f"{where}: {ids.shown(text)} {reason or 'is no image of the Atlas'}, expected "
            "antibody/plate_well_site, such as 10580/1610_C1_1."
        )
    return AtlasImage(antibody, place)


def _fetch_image(
    image: AtlasImage, options: DownloadOptions, manners: Manners, rate: Rate
) -> list[tuple[str, str, str, str]]:
    """Fetch the channels of an image; return (ID, channel, address, reason) of those that failed."""
    failures: list[tuple[str, str, str, str]] = []
    sizes: dict[str, tuple[int, int]] = {}
    for channel in options.channels.split(","):
        url = f"{options.base.rstrip('/')}/{quote(image.antibody)}/{quote(image.place)}_{channel}.jpg"
        try:
            sizes[channel] = fetch(url, options.out / f"{image.ID}_{channel}.jpg", manners, rate)
        except FetchError as error:
            failures.append((image.ID, channel, url, str(error)))
    if len(set(sizes.values())) > 1:
        listing = ", ".join(f"{name} {height} x {width}" for name, (height, width) in sizes.items())
        failures.append((image.ID, "all", "", f"the channels are of different sizes: {listing}"))
    return failures
