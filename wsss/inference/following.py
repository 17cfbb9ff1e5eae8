"""Score images while their cells are still being found: one stage tells, the other waits, image by image."""

import threading
from collections.abc import Callable, Iterable, Sequence

from wsss.core.checks import DataError

Work = Callable[["Following"], object]


class Stopped(Exception):
    """The other stage has ended early: stop too."""


class Following:
    """What a stage that runs beside another one has finished; every method may be called from any thread.

    Args:
        order: the images' IDs as the follower will ask for them; the stage that is followed may work in this order.
    """

    def __init__(self, order: Sequence[str]) -> None:
        self._rank = {name: k for k, name in enumerate(order)}
        self._changed = threading.Condition()
        self._waiting: set[str] | None = None
        self._ended = self._stopped = False
        self._error: BaseException | None = None

    def begin(self, todo: Iterable[str]) -> list[str]:
        """Tell what is still to be made; everything else is there. Return it in the follower's order."""
        names = sorted(todo, key=lambda name: self._rank.get(name, len(self._rank)))
        with self._changed:
            self._waiting = set(names)
            self._changed.notify_all()
        return names

    def done(self, name: str) -> None:
        """Tell that `name` is made, or has failed for good.

        Raises:
            Stopped: the follower has ended and needs no more.
        """
        with self._changed:
            assert self._waiting is not None, "begin comes first"
            self._waiting.discard(name)
            self._changed.notify_all()
            if self._stopped:
                raise Stopped

    def wait(self, name: str) -> None:
        """Return when `name` is made.

        Raises:
            DataError: the stage has ended without it.
        """
        with self._changed:
            self._changed.wait_for(lambda: self._ended or (self._waiting is not None and name not in self._waiting))
            if self._waiting is None or name in self._waiting:
                raise self._error or DataError(f"the cells of {name} were not made: start the same command again.")

    def stop(self) -> None:
        """Tell the stage to end."""
        with self._changed:
            self._stopped = True

    def end(self, error: BaseException | None = None) -> None:
        """Tell that the stage has ended, and of what."""
        with self._changed:
            self._ended, self._error = True, error
            self._changed.notify_all()


class Beside:
    """Run a stage in a thread while the block lasts, and wait for its end.

    Args:
        work: the stage; it calls `begin` and `done` of what it is given.
        following: what it tells, and the block waits for.

    Raises (at the end of the block):
        whatever ended the stage.
    """

    def __init__(self, work: Work, following: Following) -> None:
        self.following = following
        self._work = work
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="beside")

    def _run(self) -> None:
        try:
            self._work(self.following)
        except Stopped:
            pass
        except BaseException as error:
            self._error = error
        finally:
            self.following.end(self._error)

    def __enter__(self) -> Following:
        self._thread.start()
        return self.following

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is not None:
            self.following.stop()
        self._thread.join()
        if kind is None and self._error is not None:
            raise self._error
