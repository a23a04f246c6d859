"""The one exception a user is meant to read."""


class UserError(Exception):
    """What was wrong, where, and what to do, in one message.

    Scripts print it without a traceback and exit with status 2.
    """
