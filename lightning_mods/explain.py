"""One line out of an error: what is needed, what came."""

import re

from datamodules import DataError
from lightning_mods.arguments import UsageError
from lightning_mods.runs import RunError

_KEY = re.compile(r'(?:Parser key|Key) "([^"]+)"')
# What jsonargparse says around and beside the reason.
_NOISE = re.compile(
    r"^(Does not validate against|Subtypes:|Errors:|Given value|Problem with given|Expected a <class 'NoneType'>"
    r"|Parser key|Expected a path but|Call to compute_fn)"
)


def explain(error: BaseException) -> str:
    """One line for the person at the terminal.

    Args:
        error: What was raised, by us, by jsonargparse or by the system.

    Returns:
        The message of the innermost error of ours where there is one; else the gist of what was said.
    """
    for cause in _chain(error):
        if isinstance(cause, DataError | UsageError | RunError):
            return _one_line(str(cause))
    innermost = _chain(error)[-1]
    if isinstance(innermost, OSError) and not isinstance(error, ValueError):
        return _system(innermost)
    return _gist(str(error))


def _chain(error: BaseException) -> list[BaseException]:
    chain, current = [], error
    while current is not None and current not in chain:
        chain.append(current)
        current = current.__cause__ or current.__context__  # type: ignore[assignment]
    return chain


def _system(error: OSError) -> str:
    what = error.strerror or str(error)
    where = f": {error.filename}" if error.filename else ""
    return f"{what}{where}; what was there before is left as it was."


def _gist(message: str) -> str:
    """The key and the reason out of jsonargparse's nested report."""
    keys = _KEY.findall(message)
    lines = [re.sub(r"^[\s-]+", "", line) for line in message.splitlines()]
    reasons = [line for line in lines if line and not _NOISE.match(line)]
    reason = reasons[0] if reasons else lines[0]
    if message.startswith(("Parser key", "Key")) and keys:
        inline = message.splitlines()[0].partition(":")[2].strip()
        names = keys[:1] + [key for key in keys[1:] if not key.startswith(keys[0])]
        came = next((line.removeprefix("Given value: ") for line in lines if line.startswith("Given value: ")), None)
        reason = inline or reason
        if came and "Got value" not in reason and "NestedArg" not in came and "Namespace" not in came:
            reason = f"{reason.rstrip('.')}, not {came}"
        return _one_line(f"--{'.'.join(names)}: {_plain_types(reason)}")
    return _one_line(_plain_types(reason))


def _plain_types(text: str) -> str:
    text = re.sub(r"<class '(?:[\w.]*\.)?(\w+)'>", r"\1", text)
    choices = re.search(r"Expected an? typing\.Literal\[(.*?)\]\.?", text)
    if choices:
        words = choices[1].replace("'", "").replace(", ", " or ")
        text = text.replace(choices[0], f"needs {words}").replace(" Got value:", ", not")
    return re.sub(r"Expected an? (\w+)\. Got value: (.*)", r"needs a number or word of type \1, not \2", text)


def _one_line(text: str) -> str:
    return " ".join(text.split())
