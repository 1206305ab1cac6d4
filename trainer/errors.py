"""The errors that a user sees as a sentence instead of a traceback."""


class UserError(ValueError):
    """Something the user can mend: its message says what was expected, what came, what to do."""


def sentence(error: Exception) -> str:
    """Put an error into one line; of an I/O error, which file and which cause."""
    if not isinstance(error, OSError) or error.errno is None:
        return str(error)
    return f"{error.filename or 'a file'}: {error.strerror} (errno {error.errno})"
