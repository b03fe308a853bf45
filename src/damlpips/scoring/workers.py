"""The processes of one run, where torchrun or the like started several: who is there, who has failed, who is done.

They speak through a store of torch.distributed. Nobody waits in a collective: each tells that it lives, and whoever
waits looks at that, so that a run ends soon after one of its processes was killed.
"""

import contextlib
import datetime
import json
import math
import os
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from importlib import import_module
from typing import Any

# of a run that has lost a process
LOST = 4
# a process that was not heard of for so many seconds is lost; it tells twelve times as often that it lives
SILENCE = 60.0
TIMEOUT_VARIABLE = "DAMLPIPS_RANK_TIMEOUT"
# seconds between two looks at what the others tell
PAUSE = 0.05
# seconds in which the others may take note of the end, before the first process takes the store with it
FAREWELL = 10.0

ON_AGAIN = "what was scored is kept: the same command goes on"


class RankError(Exception):
    """Another process has failed, was lost, or never came."""

    def __init__(self, message: str, status: int = LOST) -> None:
        super().__init__(message)
        self.status = status


class Ended(Exception):
    """The first process has ended the run: there is nothing left to do for the others."""


class Ranks:
    """This process among the others of a run.

    Args:
        store: what all of them see, a `torch.distributed.Store`.
        rank: which one this is; the first, 0, says what there is to say.
        world: how many there are.
        silence: after how many seconds without a sign of life another one is lost.
    """

    def __init__(self, store: Any, rank: int, world: int, silence: float = SILENCE) -> None:
        self.rank, self.world, self.silence = rank, world, silence
        self.unsaid: list[str] = []
        self._store = store
        self._heard = {r: (-1, time.monotonic()) for r in (range(1, world) if rank == 0 else [0])}
        self._looked = self._asked = 0.0
        self._counted = self._uncounted = 0
        self._lost: set[int] = set()
        self._stopped = threading.Event()
        self._life = threading.Thread(target=self._live, daemon=True)

    def start(self) -> None:
        """Tell that this process lives, and wait for the others.

        Raises:
            RankError: they did not come.
        """
        self._life.start()
        self._store.add("here", 1)
        latest = time.monotonic() + self.silence
        while (here := self._store.add("here", 0)) < self.world:
            if time.monotonic() > latest:
                raise RankError(_missing(f"{here} of them", self.world, self.silence))
            time.sleep(PAUSE)

    def _live(self) -> None:
        while not self._stopped.wait(self.silence / 12):
            try:
                self._store.add(f"life/{self.rank}", 1)
            except RuntimeError:
                return  # the store has gone with the first process: whoever asks it next is told

    def tell(self, key: str, value: Any) -> None:
        """Put a value where the others find it."""
        with self._reaching():
            self._store.set(key, json.dumps(value))

    def ask(self, key: str) -> Any:
        """Return what another process tells, once it does.

        Raises:
            RankError, Ended: it never will.
        """
        self._until(lambda: self._store.check([key]))
        with self._reaching():
            return json.loads(self._store.get(key))

    def count(self, new: int = 1, *, now: bool = False) -> int:
        """Count pairs that are scored; return how many all processes have, as was told last, some times a second."""
        self._uncounted += new
        # a GPU scores a pair in less time than the store takes to answer
        if now or time.monotonic() - self._asked >= PAUSE:
            self._counted = self.add("scored", self._uncounted)
            self._uncounted, self._asked = 0, time.monotonic()
        return self._counted

    def add(self, key: str, number: int) -> int:
        """Add to a number that all processes share; return it."""
        with self._reaching():
            return self._store.add(key, number)

    def _until(self, true: Callable[[], bool]) -> None:
        while True:
            with self._reaching():
                if true():
                    return
            self.pause()

    def pause(self) -> None:
        """Wait a moment for the others; raises what `look` does."""
        self.look()
        time.sleep(PAUSE)

    def look(self) -> None:
        """Look at what has become of the others, at most once a second.

        Raises:
            RankError: one of them has failed, or is lost.
            Ended: the first one has ended the run.
        """
        now = time.monotonic()
        if now - self._looked < min(1.0, self.silence / 12):
            return
        self._looked = now
        with self._reaching():
            if self.rank > 0 and self._store.check(["end"]):
                raise Ended
            if self.rank == 0 and self._store.add("failed", 0):
                raise self._failure()
            for rank, (before, since) in self._heard.items():
                if (life := self._store.add(f"life/{rank}", 0)) != before:
                    self._heard[rank] = life, now
                elif now - since > self.silence:
                    self._lost.add(rank)
                    raise RankError(
                        f"rank {rank} of {self.world} was not heard of for {self.silence:g} seconds: it was killed,"
                        f" or its machine is gone; {ON_AGAIN}"
                    )

    def _failure(self) -> RankError:
        for rank in range(1, self.world):
            if self._store.check([f"failed/{rank}"]):
                status, host, message = json.loads(self._store.get(f"failed/{rank}"))
                return RankError(f"rank {rank} of {self.world}, on {host}: {message}", status)
        return RankError(f"one of {self.world} ranks has failed; {ON_AGAIN}")

    def fail(self, status: int, message: str) -> None:
        """Tell that this process has failed, and how."""
        with contextlib.suppress(RankError):
            self.tell(f"failed/{self.rank}", [status, socket.gethostname(), message])
            self.add("failed", 1)

    def leave(self, status: int) -> int:
        """End together: the others wait for the first one's end, and return its status."""
        try:
            return self._left(status)
        except (RankError, KeyboardInterrupt) as error:
            if self.rank == 0:
                return status  # its work is done, whatever becomes of the others
            if isinstance(error, RankError):
                print(f"damlpips: rank {self.rank}: {error}", file=sys.stderr)
            return status or LOST
        finally:
            self._stopped.set()
            self._life.join()

    def _left(self, status: int) -> int:
        if self.rank == 0:
            self.tell("end", status)
            latest = time.monotonic() + min(FAREWELL, self.silence)
            while self.add("left", 0) < self.world - 1 - len(self._lost) and time.monotonic() < latest:
                time.sleep(PAUSE)
            return status
        if status:
            self.fail(status, "; ".join(self.unsaid) or f"ended with status {status}")
        with contextlib.suppress(Ended):
            self._until(lambda: self._store.check(["end"]))
        with self._reaching():
            end = json.loads(self._store.get("end"))
        with contextlib.suppress(RankError):
            self.add("left", 1)
        return end

    @contextlib.contextmanager
    def _reaching(self) -> Iterator[None]:
        try:
            yield
        except RuntimeError as error:  # DistNetworkError is one
            raise RankError(f"rank 0 or the launcher was killed, and the others' store with it; {ON_AGAIN}") from error


_here: Ranks | None = None


def here() -> Ranks | None:
    """Return this process among the others, None where there is one."""
    return _here


def speaks() -> bool:
    """Return whether this process is the one that speaks for all."""
    return _number("WORLD_SIZE") < 2 or _number("RANK") < 1


def join() -> Ranks | None:
    """Find the other processes of this run, None where there is one.

    Raises:
        RankError: the others did not come, or the launcher's variables are damaged.
    """
    global _here
    _here = None
    world, rank = _number("WORLD_SIZE"), _number("RANK")
    if world < 2 or rank < 0:
        return None
    dist: Any = import_module("torch.distributed")  # which does not export to type checkers what it documents
    silence = _silence()
    try:
        found = dist.rendezvous("env://", timeout=datetime.timedelta(seconds=max(1.0, silence)))
        store, rank, world = next(iter(found))
    except (RuntimeError, ValueError) as error:
        if "expected, but not set" in str(error):
            raise RankError(f"WORLD_SIZE={world}: {error}; use torchrun, or unset WORLD_SIZE", 2) from error
        raise RankError(_missing("not all of them", world, silence)) from error
    # the launcher's store is the launcher's, too, and a run that it starts again is another one
    attempt = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
    ranks = Ranks(dist.PrefixStore(f"damlpips/{attempt}", store), rank, world, silence)
    ranks.start()
    _here = ranks
    return ranks


def local_rank() -> int:
    """Return which of the processes on this machine this is."""
    return max(0, _number("LOCAL_RANK"))


def _number(variable: str) -> int:
    text = os.environ.get(variable, "")
    return int(text) if text.isdecimal() else -1


def _silence() -> float:
    text = os.environ.get(TIMEOUT_VARIABLE, "")
    try:
        seconds = float(text or SILENCE)
    except ValueError:
        seconds = math.nan
    if not (seconds > 0 and math.isfinite(seconds)):
        raise RankError(f"{TIMEOUT_VARIABLE}={text}: expected a number of seconds", 2)
    return seconds


def _missing(came: str, world: int, silence: float) -> str:
    return (
        f"WORLD_SIZE={world}, but {came} came within {silence:g} seconds: start all processes with torchrun, or unset"
        " WORLD_SIZE to score in one"
    )
