"""Work that was asked for rightly and failed all the same: exit code 1, where a `ValueError` means 2. Knows no work."""


class FailureError(Exception):
    """Work that failed; the message says what is still good and what to do."""
