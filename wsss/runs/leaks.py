"""The one guard against leaks: may a network say anything about images that are held out?

An image has reached a network if the network was trained on it, if a network that it was made from was (`--init_from`,
`--weights`, the teacher of a refinement, the makers of its pseudo-masks, and theirs in turn), or if a near-duplicate of
the image was. The feature classifier of a run learns from the images of its network alone.
"""

from collections.abc import Collection, Mapping
from pathlib import Path

from wsss.core.checks import DataError, some
from wsss.runs.record import Ancestor, Lineage, RunRecord


def check_unseen(
    path: Path,
    lineage: Lineage | None,
    held_out: Collection[str],
    role: str,
    advice: str,
    twins: Mapping[str, str] | None = None,
) -> None:
    """Refuse what held-out images have reached.

    Args:
        path: of the network, or of the pseudo-masks, for the message.
        lineage: all that reached it; None if it is not known.
        held_out: IDs of the images that it must not know.
        role: what these images are, such as 'images that it would predict out of fold'.
        advice: what to do, a sentence.
        twins: ID -> field, the same for near-duplicates; images without any may be left out.

    Raises:
        DataError: an image, or a near-duplicate of one, reached it, or that is not known; images and way are named.
    """
    if not held_out:
        return
    if lineage is None:
        raise DataError(
            f"{path} was made from other networks by version 0.1.0, which did not record their images: whether it "
            f"knows {role} cannot be proven. Train it again, and what it starts from. {advice}"
        )
    twins, wanted = twins or {}, frozenset(held_out)
    fields = {twins[name] for name in wanted if name in twins}
    alike = frozenset(name for name, field in twins.items() if field in fields) - wanted
    for images, relation in ((wanted, ""), (alike, "near-duplicates of ")):
        for ancestor in lineage:
            if seen := sorted(ancestor.images & images):
                raise DataError(f"{path} was trained on {some(seen)}{_way(path, ancestor)}: {relation}{role}. {advice}")


def has_seen(record: RunRecord, images: Collection[str]) -> bool:
    """Whether any of these images has reached a network, as far as that is known; it counts as seen if it is not."""
    wanted, lineage = frozenset(images), record.lineage
    return lineage is None or any(ancestor.images & wanted for ancestor in lineage)


def _way(path: Path, ancestor: Ancestor) -> str:
    return f" (through {' <- '.join([str(path), *ancestor.chain])})" if ancestor.chain else ""
