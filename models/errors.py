"""The one base of errors that whoever gave the input can mend."""


class UserError(ValueError):
    """What was given cannot be used; the message says why and what to do, and needs no traceback."""
