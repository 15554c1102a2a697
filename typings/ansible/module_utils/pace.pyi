import re
from collections.abc import Callable, Hashable

MOST: float
QUIET: float
LONGEST: int
LEAST_LOOKS: int
TOO_SLOW: re.Pattern[str]

def factor(text: str) -> float: ...
def seconds(base: float) -> int: ...

class Watch:
    def __init__(self, base: float, now: Callable[[], float] | None = None) -> None: ...
    def over(self, sign: Hashable) -> str: ...
