"""The one error this room raises for data it cannot use."""


class DatasetError(ValueError):
    """Data that cannot be used as they are; says what is wrong, where, what was expected and the fix.

    Never carries a patient's name, number or an image's path: those are identifiers, and messages
    travel into logs and trackers. The folder or label file that the user named may be told.

    Args:
        what: what is wrong, as a sentence without a full stop.
        where: folder, file, column or key.
        expected: what would have been right.
        fix: what the user can do.
    """

    def __init__(self, what: str, where: str = "", expected: str = "", fix: str = ""):
        super().__init__(what, where, expected, fix)  # all of it, positional: the error is pickled by Ray
        self.what, self.where, self.expected, self.fix = what, where, expected, fix

    def __str__(self) -> str:
        parts = [f"{self.what} ({self.where})" if self.where else self.what]
        if self.expected:
            parts.append(f"expected {self.expected}")
        if self.fix:
            parts.append(self.fix)
        return "; ".join(parts)
