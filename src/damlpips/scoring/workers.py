"""The processes of one run, if torchrun or another launcher started several: who is there, has failed, or is done.

They talk through a store of torch.distributed. None waits in a collective operation: each keeps saying that it is
alive, and those that wait check it, so that a run ends soon after one of its processes is killed.
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

# exit status of a run that has lost a process
LOST = 4
# seconds after which a silent process is lost; it says twelve times as often that it is alive
SILENCE = 60.0
TIMEOUT_VARIABLE = "DAMLPIPS_RANK_TIMEOUT"
# seconds between checks for news from the other processes
PAUSE = 0.05
# seconds that the others have to notice the end before the first process exits, and the store with it
FAREWELL = 10.0

ON_AGAIN = "what was scored is kept: the same command goes on"


class RankError(Exception):
    """Another process has failed, was lost, or never joined."""

    def __init__(self, message: str, status: int = LOST) -> None:
        super().__init__(message)
        self.status = status


class Ended(Exception):
    """The first process has ended the run: the others have nothing left to do."""


class Ranks:
    """This process among the others of a run.

    Args:
        store: a `torch.distributed.Store` that all of them share.
        rank: which one this is; the first, 0, prints for all.
        world: how many there are.
        silence: seconds without a sign of life after which another one is lost.
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
        """Say that this process is alive, and wait for the others.

        Raises:
            RankError: they did not join.
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
                return  # the store is gone with the first process: the next request reports it

    def tell(self, key: str, value: Any) -> None:
        """Publish a value for the others."""
        with self._reaching():
            self._store.set(key, json.dumps(value))

    def ask(self, key: str) -> Any:
        """Wait for a value that another process publishes, and return it.

        Raises:
            RankError, Ended: it never will.
        """
        self._until(lambda: self._store.check([key]))
        with self._reaching():
            return json.loads(self._store.get(key))

    def count(self, new: int = 1, *, now: bool = False) -> int:
        """Count pairs that were scored; return the count of all processes, which is updated some times a second."""
        self._uncounted += new
        # a GPU can score a pair faster than the store answers
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
        """Check on the others, at most once a second.

        Raises:
            RankError: one of them has failed or is lost.
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
        """Report that this process has failed, and how."""
        with contextlib.suppress(RankError):
            self.tell(f"failed/{self.rank}", [status, socket.gethostname(), message])
            self.add("failed", 1)

    def leave(self, status: int) -> int:
        """End together: the others wait for the first one's end, and return its status."""
        try:
            return self._left(status)
        except (RankError, KeyboardInterrupt) as error:
            if self.rank == 0:
                return status  # its work is done, whatever happens to the others
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
    """Return this process among the others; None if it is the only one."""
    return _here


def join() -> Ranks | None:
    """Join the other processes of this run; return None if it is the only one.

    Raises:
        RankError: the others did not join, or the launcher's variables are invalid.
    """
    global _here
    _here = None
    world, rank = _number("WORLD_SIZE"), _number("RANK")
    if world < 2 or rank < 0:
        return None
    dist: Any = import_module("torch.distributed")  # type checkers do not see what it documents
    silence = _silence()
    try:
        found = dist.rendezvous("env://", timeout=datetime.timedelta(seconds=max(1.0, silence)))
        store, rank, world = next(iter(found))
    except (RuntimeError, ValueError) as error:
        if "expected, but not set" in str(error):
            raise RankError(f"WORLD_SIZE={world}: {error}; use torchrun, or unset WORLD_SIZE", 2) from error
        raise RankError(_missing("not all of them", world, silence)) from error
    # the launcher uses this store itself, and a run that it restarts is another one
    attempt = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
    ranks = Ranks(dist.PrefixStore(f"damlpips/{attempt}", store), rank, world, silence)
    ranks.start()
    _here = ranks
    return ranks


def local_rank() -> int:
    """Return the number of this process among those on this machine."""
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
