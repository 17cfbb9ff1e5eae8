"""Columns that a user's table brings along: under which names they stand in ours."""

from collections.abc import Iterable

_OURS = """
    id source status reason shard slot imageheight imagewidth depth label crc32 duplicate_of fold n_cells
    cell_id center_y center_x y0 x0 y1 x1 area_px touches_border rle top_class top_score
    image cell area border image_height image_width
"""
RESERVED = frozenset(_OURS.split())
"""Names, in lower case, that mean something in images.parquet, the tables of predictions or the exports."""


def carried_names(names: Iterable[str]) -> dict[str, str]:
    """Return name -> name here, for columns that are carried along.

    Names that mean something here, or look like a score ('0') or a part of one ('cam:0'), get 'given_' before them;
    what a spreadsheet would take for a formula is cut off; no two are the same in lower case.
    """
    out: dict[str, str] = {}
    taken: set[str] = set()
    for name in names:
        plain = " ".join(name.split()).replace(":", "_").lstrip("=+-@' ") or "column"
        if plain.lower() in RESERVED or plain.isdecimal():
            plain = f"given_{plain}"
        while plain.lower() in taken:
            plain += "_"
        taken.add(plain.lower())
        out[name] = plain
    return out


def carried_columns(names: Iterable[str]) -> list[str]:
    """Return those of a table's columns that were carried along from a user's table."""
    return [name for name in names if name.lower() not in RESERVED and not name.isdecimal() and ":" not in name]
