"""How far an audit is: a bar where somebody looks, else a line each minute."""

from __future__ import annotations

import collections
import contextlib
import time
from collections.abc import Callable, Iterator

_SECONDS_PER_LINE = 60.0
# The rate is that of the last minutes: rows of an earlier run are many times as fast as new ones.
_RATE_SECONDS = 120.0
_SECONDS_PER_SAMPLE = 1.0


class Progress:
    """Counts clips and failures, and says how fast it goes and how long it will take.

    Args:
        note: Takes a line for the log.
        watched: Whether somebody looks at a terminal; then a bar is drawn and no line is noted.
        clock: Tells seconds.

    Attributes:
        total: About how many clips there are; None where that is not known.
        done: How many have a row.
        failed: How many of these fail.
    """

    def __init__(
        self,
        note: Callable[[str], None],
        *,
        watched: bool = False,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.total: int | None = None
        self.done = self.failed = 0
        self._note, self._watched, self._clock = note, watched, clock
        self._noted = clock()
        self._samples = collections.deque([(self._noted, 0)])
        self._draw: Callable[[], None] = lambda: None

    @contextlib.contextmanager
    def shown(self) -> Iterator[None]:
        """Draw the bar while the block runs, where somebody looks."""
        if not self._watched:
            yield
            return
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn

        columns = (BarColumn(), TextColumn("{task.description}", markup=False))
        with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
            task = bar.add_task(self.text(), total=self.total)
            self._draw = lambda: bar.update(
                task, completed=self.done, total=self.total, description=self.text()
            )
            try:
                yield
            finally:
                self._draw = lambda: None

    def add(self, clips: int, failed: int) -> None:
        """Count clips, and those of them that fail."""
        self.done += clips
        self.failed += failed
        now = self._clock()
        if now - self._samples[-1][0] >= _SECONDS_PER_SAMPLE:
            self._samples.append((now, self.done))
            while len(self._samples) > 2 and now - self._samples[1][0] >= _RATE_SECONDS:
                self._samples.popleft()
        self._draw()
        if not self._watched and now - self._noted >= _SECONDS_PER_LINE:
            self._noted = now
            self._note(self.text())

    def text(self) -> str:
        """Return how far it is, in a line."""
        parts = [f"{self.done:,} clips"]
        if self.total is not None and self.total >= self.done:
            parts = [f"{self.done:,} of about {self.total:,} clips"]
        (began, before), now = self._samples[0], self._clock()
        rate = (self.done - before) / (now - began) if now > began else 0.0
        if rate > 0:
            parts.append(f"{rate:,.0f} a second" if rate >= 10 else f"{rate:.2g} a second")
            if self.total is not None and self.total > self.done:
                parts.append(f"{_time((self.total - self.done) / rate)} left")
        parts.append(f"{self.failed:,} fail")
        return ", ".join(parts)


def _time(seconds: float) -> str:
    """Return a time in two units.

    Example:
        >>> _time(42), _time(620), _time(9000), _time(200_000)
        ('42 s', '10 min', '2 h 30 min', '2 d 7 h')
    """
    minutes = round(seconds / 60)
    if seconds < 90:
        return f"{seconds:.0f} s"
    if minutes < 60:
        return f"{minutes} min"
    if minutes < 24 * 60:
        return f"{minutes // 60} h {minutes % 60} min"
    return f"{minutes // (24 * 60)} d {minutes // 60 % 24} h"
