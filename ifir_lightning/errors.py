"""The one exception that the command line shows as a single line, and what others say in one."""


class InputError(ValueError):
    """What the user gave cannot be used.

    The message is one line that names the value, what is allowed and the remedy. The command line prints it
    without a traceback (``IFIR_TRACEBACK=1`` shows it) and exits with status 2; every other exception is a
    fault of ours and keeps its traceback.
    """


def reason(error: Exception) -> str:
    """The first line of what a library says, to stand in a message of ours."""
    first = (str(error).strip().splitlines() or [type(error).__name__])[0]
    if "weights_only" in first or "mmap can only" in first:  # torch's advice would be to read the file without care
        return "it is no checkpoint of PyTorch, or it holds more than plain data and could run code"
    if "trust_remote_code=True" in str(error):  # said by transformers behind the first line
        return "it has code of its own, which only runs where trust_remote_code is true"
    return first
