"""Which of a file's channels are wanted, in which order, by the names that it gives them."""

import re
from collections.abc import Sequence

from wsss.core.checks import DataError, some

_NUMBERED = re.compile(r"(channel|chan|ch|c)?[\s:_#-]*\d*(/\d+)?", re.IGNORECASE)
"""Names that say no more than a position: '', '2', 'Channel 2', 'C:1/4'."""


def order_of(names: Sequence[str], binding: bool, samples: int, wanted: Sequence[str], file: str) -> list[int]:
    """Return which of a file's channels are the wanted ones, in the wanted order.

    Named channels are found by name, whatever their order and however many there are beside them. Channels without
    names are taken in the order of the file.

    Args:
        names: what the file calls its channels.
        binding: whether names that fit nothing are an error, or a mere remark.
        samples: how many channels the file has.
        wanted: names of the channels that are needed.
        file: for messages.

    Raises:
        DataError: there are too few or too many channels, or none has a wanted name.
    """
    given = [name.strip().casefold() for name in names] if len(names) == samples else []
    places = [given.index(name.casefold()) if name.casefold() in given else -1 for name in wanted]
    if given and min(places, default=-1) >= 0:
        return places
    told = [name for name in names if not _NUMBERED.fullmatch(name.strip())]
    if binding and given and told and wanted:
        raise DataError(
            f"{file} calls its channels {some(names, 8)}, expected {', '.join(wanted)}: name them with --channels "
            f"{wanted[0]}=NAME,... in this order."
        )
    return list(range(samples))
