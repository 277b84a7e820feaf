"""What a model remembers of a sequence."""

from __future__ import annotations

from pyllm import _core


class State:
    """Keys and values of one sequence, in pages; forks share them until one of the two writes."""

    def __init__(self, sequence: _core.Sequence) -> None:
        self._sequence: _core.Sequence | None = sequence

    @property
    def sequence(self) -> _core.Sequence:
        """The sequence in C++. Raises ValueError after free()."""
        if self._sequence is None:
            raise ValueError("state: it has been freed")
        return self._sequence

    @property
    def length(self) -> int:
        """Positions held."""
        return self.sequence.length

    @property
    def pages(self) -> int:
        """Pages held, those for positions to come included."""
        return self.sequence.pages

    def reserve(self, length: int) -> bool:
        """Take the pages for positions up to length; False when the pool has no more, and what was taken stays."""
        return self.sequence.reserve(length)

    def page(self, at: int) -> _core.Page:
        """A full page, to be placed into other states. Raises IndexError where there is none."""
        return self.sequence.page(at)

    def place(self, at: int, page: _core.Page) -> None:
        """Let page `at` be this one, of the same tokens; at the end of the state it adds its positions.

        Raises ValueError for a page of another pool, IndexError behind the end.
        """
        self.sequence.place(at, page)

    def truncate(self, length: int) -> None:
        """Forget all positions from `length` on. Raises ValueError for more than there are."""
        self.sequence.truncate(length)

    def fork(self) -> State:
        """A second state with the same past."""
        return State(self.sequence.fork())

    def free(self) -> None:
        """Give the pages back now, and not when Python gets to it."""
        self._sequence = None

    def __repr__(self) -> str:
        return "State(freed)" if self._sequence is None else f"State(length={self.length})"
