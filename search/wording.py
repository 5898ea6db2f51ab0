"""Wording that reports, plans and status lines share."""


def counted(number: int, noun: str) -> str:
    """Write how many there are of something.

    Examples:
        >>> counted(1, "cell"), counted(85, "cell")
        ('1 cell', '85 cells')
    """
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"
