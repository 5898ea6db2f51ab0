"""What a user did or has that radsweep cannot work with: told in one message, without a traceback."""


class StudyError(Exception):
    """A study file, folder or service that is at fault; the message says what, where and what to do."""
