"""Wording that reports, plans and status lines share."""


def percent(share: float) -> str:
    """Write a share in percent, with as many digits as it has.

    Examples:
        >>> percent(0.95), percent(0.995)
        ('95%', '99.5%')
    """
    return f"{round(100 * share, 6):g}%"


def counted(number: int, noun: str) -> str:
    """Write how many there are of something.

    Examples:
        >>> counted(1, "cell"), counted(85, "cell")
        ('1 cell', '85 cells')
    """
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"
