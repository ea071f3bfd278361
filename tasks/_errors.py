"""The one error a stage raises for its user."""


class StageError(Exception):
    """Something the user can mend. The message says what, where, what was found, what is allowed, what to do next."""


class Interrupted(Exception):  # noqa: N818 - not an error: a request to stop was honoured
    """SIGTERM or SIGINT arrived; state has been saved and the stage may be started again."""
