"""What `melcheck check --cache` prints of stored mels: each cause once, with how many share it."""

from __future__ import annotations

from itertools import zip_longest

from melcheck.caches import CacheResult
from melcheck.files import MAX_LISTED, place
from melcheck.report.model import FailedTest


class CacheAnswer:
    """The stored mels of a run's clips."""

    def __init__(self) -> None:
        self._results: list[CacheResult] = []

    def add(self, result: CacheResult) -> None:
        """Take in the mels of one clip."""
        self._results.append(result)

    @property
    def passed(self) -> bool:
        """Whether every clip has a mel, and each is fresh."""
        return all(result.passed for result in self._results)

    def lines(self) -> list[str]:
        """Return the text: each code with its first mel in full, and the names of the others."""
        by_code: dict[str, list[tuple[str, str]]] = {}
        for result in self._results:
            for code, problem in zip(result.codes, result.problems, strict=True):
                by_code.setdefault(code, []).append((result.clip.name, problem))
        lines = [f"note: {note}" for result in self._results for note in result.notes]
        for found in by_code.values():
            (name, first), *others = found
            lines.append(f"failed: {name}: {first}")
            if others:
                names = [name for name, _ in others]
                more = len(names) - MAX_LISTED
                listed = ", ".join(names[:MAX_LISTED]) + (f" and {more} more" if more > 0 else "")
                lines.append(f"  and {len(others)} more of this cause: {listed}")
        fresh = sum(result.passed for result in self._results)
        return [*lines, f"{fresh} of {len(self._results)} clips have fresh stored mels"]

    def failed_tests(self) -> list[FailedTest]:
        """Return the failures for a report."""
        return [
            FailedTest(
                name=result.clip.name,
                message=problem,
                kind="stored mel",
                path=place(file) if file is not None else "",
            )
            for result in self._results
            for problem, file in zip_longest(result.problems, result.files)
        ]

    def data(self) -> dict[str, object]:
        """Return the failures for JSON."""
        return {
            "clips": len(self._results),
            "fresh": sum(result.passed for result in self._results),
            "problems": [
                {"clip": result.clip.name, "code": code, "message": problem}
                for result in self._results
                for code, problem in zip(result.codes, result.problems, strict=True)
            ],
            "notes": [note for result in self._results for note in result.notes],
        }
