"""The one exception of the book."""


class BookError(ValueError):
    """A problem that the reader can mend.

    The message is one sentence that says what was wrong, where, and what to do; the command
    line and the book's runner print it alone, without a traceback, and exit with status 1.
    """
