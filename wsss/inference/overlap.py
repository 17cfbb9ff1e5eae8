"""Score images while their cells are still being found: one stage reports, the other waits, image by image."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from threading import Event

from wsss.core.checks import DataError


class Stopped(Exception):
    """The waiting stage has ended early: stop too."""


class Overlap:
    """What a stage that runs at the same time has finished; every method may be called from any thread.

    Args:
        order: the images' IDs as the waiting stage will ask for them; the reporting stage may work in this order.
    """

    def __init__(self, order: Sequence[str]) -> None:
        self._made: dict[str, Future[None]] = {name: Future() for name in order}
        self._stopped = Event()

    def begin(self, todo: Iterable[str]) -> list[str]:
        """Report what is still to be made; everything else is there. Return it in the order in which it is wanted."""
        rank = {name: k for k, name in enumerate(self._made)}
        names = sorted(todo, key=lambda name: rank.get(name, len(rank)))
        for name in set(rank).difference(names):
            self._made[name].set_result(None)
        return names

    def done(self, name: str) -> None:
        """Report that `name` is made, or has failed for good.

        Raises:
            Stopped: the waiting stage has ended and needs no more.
        """
        if name in self._made:
            self._made[name].set_result(None)
        if self._stopped.is_set():
            raise Stopped

    def wait(self, name: str) -> None:
        """Return when `name` is made.

        Raises:
            DataError: the reporting stage has ended without it; or whatever ended it.
        """
        self._made[name].result()

    def stop(self) -> None:
        """Ask the reporting stage to end."""
        self._stopped.set()

    def end(self, error: BaseException | None = None) -> None:
        """Report that the stage has ended, and with what error."""
        for name, made in self._made.items():
            if not made.done():
                lost = DataError(f"the cells of {name} were not made: start the same command again.")
                made.set_exception(error or lost)


@contextmanager
def running(work: Callable[[Overlap], object], overlap: Overlap) -> Iterator[Overlap]:
    """Run a stage in a thread while the block lasts, and wait for its end.

    Args:
        work: the stage; it calls `begin` and `done` of what it is given.
        overlap: what it reports to, and the block waits for.

    Raises (at the end of the block):
        whatever ended the stage.
    """
    with ThreadPoolExecutor(1, "overlap") as pool:
        stage = pool.submit(_work, work, overlap)
        try:
            yield overlap
        except BaseException:
            overlap.stop()
            raise
        stage.result()


def _work(work: Callable[[Overlap], object], overlap: Overlap) -> None:
    error: BaseException | None = None
    try:
        work(overlap)
    except Stopped:
        pass
    except BaseException as raised:
        error = raised
        raise
    finally:
        overlap.end(error)
