"""What is answered: whether it may be, and how things stand with each quota."""

from __future__ import annotations

from msgspec import Struct


class Standing(Struct, frozen=True, gc=False):
    """How one quota stands for one key after the decision."""

    name: str
    count: int
    """What it allows in `window_seconds`."""
    window_seconds: float
    left: int
    """What could still be had at once."""
    seconds: float
    """Until what was asked can be had, when it was refused; else until all is back."""
    admitted: bool
    shadow: bool = False


class Answer(Struct, frozen=True, eq=False, weakref=True):
    """Whether a hit was admitted; true when it was.

    `time` is the store's at the decision, in microseconds. `checked` is false when the store could
    not be asked, and the limiter's `on_failure` has decided. Each answer is equal to itself only.
    """

    admitted: bool
    standings: tuple[Standing, ...] = ()
    time: int = 0
    cost: int = 1
    checked: bool = True

    def __bool__(self) -> bool:
        return self.admitted

    @property
    def refused_by(self) -> tuple[str, ...]:
        """The names of the quotas that refused."""
        return tuple(s.name for s in self.standings if not s.admitted and not s.shadow)

    @property
    def shadowed_by(self) -> tuple[str, ...]:
        """The names of those that would have refused, were they not in shadow mode."""
        return tuple(s.name for s in self.standings if not s.admitted and s.shadow)

    @property
    def retry_seconds(self) -> float:
        """How long to wait before the same can be had: the longest of all that refused, and of none
        in shadow mode."""
        return max((s.seconds for s in self.standings if not (s.admitted or s.shadow)), default=0.0)
