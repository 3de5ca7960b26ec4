"""The one exception that the command line shows as a single line."""


class InputError(ValueError):
    """What the user gave cannot be used.

    The message is one line that names the value, what is allowed and the remedy. The command line prints it
    without a traceback (``IFIR_TRACEBACK=1`` shows it) and exits with status 2; every other exception is a
    fault of ours and keeps its traceback.
    """
