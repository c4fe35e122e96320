"""The one exception a search shows to its user: one line that says what is needed, what came and what would do."""


class SearchError(ValueError):
    """What stops a search before or between trials; `str()` of it is one line, fit for a terminal."""


def one_line(error: BaseException, limit: int = 300) -> str:
    """The kind of an exception and the first line of its text.

    Args:
        error: What was raised.
        limit: Letters to keep of the text.
    """
    text = next((line.strip() for line in str(error).splitlines() if line.strip()), "")
    return f"{type(error).__name__}: {text[:limit]}" if text else type(error).__name__
