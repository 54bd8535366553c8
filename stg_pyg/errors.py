"""Errors that commands turn into one line and exit status 2."""


class InputError(ValueError):
    """Bad input of a user: the message is one line that names the file or argument and the remedy."""
