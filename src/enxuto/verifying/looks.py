"""Ledger: every look at samples that certify is counted, so that their error is spent once and no more."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from ..errors import UndecidableError, UsageError
from ..records import Looks, read, write


class Ledger:
    """Counts the looks at sets of samples, in memory or in files that outlive the process.

    The k-th look spends its share of the error (`records.bounds.error_of_look`), whatever the earlier ones found, so
    the probability that any of them accepts a candidate that is too bad is at most 1 - confidence. To see the same
    scores again, as a resumed search does, is no further look. What this rests on and cannot check: no candidate was
    made from what an earlier look showed, and a part of the samples under another name is not another set.

    Args:
        folder: where each set has its file, `looks-FINGERPRINT.json`; None keeps the count in memory. One process
            at a time.
        planned: how many looks there will be at each set, fixed ahead: each gets an equal part of the error, and a
            further one none. 0 is open: the first gets half, the second a sixth, the k-th 1/(k(k+1)).
    """

    def __init__(self, folder: Path | None = None, *, planned: int = 0) -> None:
        if planned < 0:
            raise UsageError(f"planned looks are a count, and 0 where it is open, not {planned}")
        if folder is not None and not folder.is_dir():
            raise UsageError(f"looks cannot be counted in {folder}: there is no such folder")
        self._folder = folder
        self._planned = planned
        self._sets: dict[str, Looks] = {}

    def look(self, data: str, seen: str, confidence: float) -> Looks:
        """Count a look, before anybody learns what it shows; its place in `seen` is its number.

        Raises:
            UsageError: earlier looks were taken at another confidence, or with another plan.
            UndecidableError: as many looks as were planned have been taken.
        """
        found = self._find(data, confidence)
        if found.confidence != confidence or found.planned != self._planned:
            raise UsageError(
                f"earlier looks at these samples were taken at a confidence of {found.confidence:g} and with "
                f"{found.planned or 'no number of'} looks planned; keep to that, or certify on other samples"
            )
        if seen in found.seen:
            return found
        if found.planned and len(found.seen) >= found.planned:
            raise UndecidableError(
                f"these samples were looked at {len(found.seen)} times, as planned, and no error is left for another "
                "candidate; certify it on samples that were not looked at"
            )
        found = replace(found, seen=(*found.seen, seen))
        self._sets[data] = found
        if path := self._path(data):
            write(found, path)
        return found

    def _find(self, data: str, confidence: float) -> Looks:
        path = self._path(data)
        if path and path.exists():
            found = read(path, expect=Looks)
            assert isinstance(found, Looks)
            if found.data != data:
                raise UsageError(f"{path} counts the looks at other samples; move it away")
            return found
        return self._sets.get(data, Looks(data=data, confidence=confidence, planned=self._planned))

    def _path(self, data: str) -> Path | None:
        return self._folder / f"looks-{data[:16]}.json" if self._folder else None
