"""The error that a user can mend."""


class BakeError(Exception):
    """Something that the user can mend: what was found, what was expected, what to type.

    The command line prints the message without a traceback and exits with 2. Everything else is a
    defect of ours or of a plugin, and crashes loudly.
    """


class BudgetError(BakeError):
    """`budget.max_dollars` would be passed; work stops before it is, and goes on when it rises."""
