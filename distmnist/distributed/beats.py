"""What a rank publishes of its progress, and who is to blame when the ranks stand still."""

import dataclasses
import os
import signal
import socket

from distmnist.distributed.failure import GRACE, Failure, wait_until
from distmnist.distributed.launcher import process_space, process_started

STANDSTILL = 2.0
"""Seconds for which no rank at all has made progress before one is blamed: where another has just moved, the rank that
waited for it may not have seen that yet, and is behind for a moment."""


@dataclasses.dataclass
class Beat:
    """What a rank publishes.

    space, pid, started: identify its process. number: of this beat. phase: progress that all ranks count alike;
    waiting: for other ranks; still: seconds without progress; limit: how many it may take; task: announced work that
    takes long, else ""; place: where its main thread is; left: it needs the others no more.
    """

    rank: int
    host: str = ""
    space: str = ""
    pid: int = 0
    started: str = ""
    number: int = 0
    phase: int = 0
    waiting: bool = False
    still: float = 0.0
    limit: float = 0.0
    task: str = ""
    place: str = ""
    left: bool = False

    @property
    def name(self) -> str:
        return f"rank {self.rank} on {self.host}"

    def can_be_seen(self) -> bool:
        """Whether its process is one of this machine, and of this container."""
        return bool(self.space) and self.space == process_space()

    def has_ended(self) -> bool:
        """Whether its process is seen to have ended without leaving."""
        return not self.left and self.can_be_seen() and process_started(self.pid) != self.started


def first_beat(rank: int) -> Beat:
    """This process's, before it has made any progress."""
    return Beat(rank, socket.gethostname(), process_space(), os.getpid(), process_started(os.getpid()))


def judge(beats: list[Beat], silent: set[int], still: float) -> Failure | None:
    """Who is to blame for a standstill; None as long as those that the others wait for are within their limits.

    beats: of all ranks; silent: the ranks that have stopped beating; still: seconds that the judging rank has waited.
    """
    beats = [beat for beat in beats if not beat.left]
    if missing := [beat for beat in beats if beat.rank in silent]:
        first = min(missing, key=lambda beat: (beat.phase, beat.rank))
        last = f"; it was last in {first.place}" if first.place else ""
        return Failure(f"{first.name} has sent no heartbeat for {still:.0f} s{last}", ranks=(first.rank,))
    behind = [beat for beat in beats if beat.phase == min(beat.phase for beat in beats)]
    blamed = [beat for beat in behind if not beat.waiting] or behind
    if any(beat.still < beat.limit for beat in blamed) or any(beat.still < STANDSTILL for beat in beats):
        return None
    first = blamed[0]
    if first.task:
        return Failure(f"{first.name} has not finished {first.task} within {first.limit:g} s", ranks=(first.rank,))
    ranks = ", ".join(str(rank) for rank in sorted(beat.rank for beat in blamed))
    if len(blamed) == 1:
        text = f"{first.name} has made no progress for {first.still:.0f} s, in {first.place}"
        return Failure(text, ranks=(first.rank,))
    return Failure(
        f"ranks {ranks} wait for each other, without progress for {first.still:.0f} s, in {first.place}; is the network"
        " between them down?"
    )


def kill(beat: Beat, patience: float = GRACE) -> None:
    """Kills a rank of this machine that does not end within `patience` seconds: it is stopped, or stuck in C code.

    torchrun would wait 30 s for it.
    """
    if beat.can_be_seen() and not wait_until(beat.has_ended, patience):
        os.kill(beat.pid, signal.SIGKILL)


def ended(beat: Beat) -> Failure:
    text = f"{beat.name} has ended without a word; was it killed, or did it run out of memory?"
    return Failure(text, ranks=(beat.rank,))
