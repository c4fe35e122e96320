"""Changes to good inputs: to bytes, wherever they stand, to words and lines of a text, and to a tree of values."""

import copy
import re

EDGES = (0, 1, 2, 0x7F, 0x80, 0xFF, 0x7FFF, 0xFFFF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF, 1 << 62, (1 << 64) - 1)
TEXT = (
    b"\x00",
    b"\n",
    b"\r",
    b'"',
    b",",
    b"\t",
    b"\xff\xfe",
    b"\xef\xbb\xbf",
    b"\x1b[31m",
    b"nan",
    b"inf",
    b"1e999",
    b"{",
    b"]",
)


def mutated(data, random):
    """Return bytes with one to four changes of the kinds in `_CHANGES`."""
    for _ in range(random.choice((1, 1, 1, 2, 4))):
        data = random.choice(_CHANGES)(bytearray(data), random)
    return bytes(data)


def _place(data, random):
    # Headers stand at the front and at the back of most formats.
    low = random.choice((0, 0, max(len(data) - 200, 0)))
    high = random.choice((min(len(data), low + 200), len(data)))
    return random.randint(low, max(high - 1, low))


def _flip(data, random):
    for _ in range(random.choice((1, 1, 8, 64))):
        if data:
            data[_place(data, random) % len(data)] ^= 1 << random.randrange(8)
    return data


def _cut(data, random):
    return data[: _place(data, random)]


def _remove(data, random):
    at = _place(data, random)
    return data[:at] + data[at + random.choice((1, 4, 8, 64, 512)) :]


def _repeat(data, random):
    at, size = _place(data, random), random.choice((1, 8, 64, 512))
    return data[: at + size] + data[at : at + size] * random.choice((1, 2, 50)) + data[at + size :]


def _zero(data, random):
    at, size = _place(data, random), random.choice((4, 16, 256))
    data[at : at + size] = bytes(len(data[at : at + size]))
    return data


def _number(data, random):
    at, size = _place(data, random), random.choice((1, 2, 4, 8))
    value = random.choice(EDGES) & ((1 << 8 * size) - 1)
    data[at : at + size] = value.to_bytes(size, random.choice(("little", "little", "big")))
    return data


def _insert(data, random):
    at = _place(data, random)
    new = random.choice((random.choice(TEXT), random.randbytes(random.choice((1, 16, 300)))))
    return data[:at] + new + data[at:]


def _swap(data, random):
    a, b, size = _place(data, random), _place(data, random), random.choice((1, 8, 64))
    data[a : a + size], data[b : b + size] = data[b : b + size], data[a : a + size]
    return data


_CHANGES = (_flip, _flip, _cut, _remove, _repeat, _zero, _number, _number, _insert, _insert, _swap)


# ------------------------------------------------------------------ text

_WORDS = (
    *(
        "",
        "0",
        "-1",
        "1e999",
        "nan",
        "NaN",
        "Infinity",
        "null",
        "true",
        "9" * 25,
        "1e18",
        "0x1",
        "1,5",
        "x",
        "é",
        "\x1b[31m",
    ),
    *(
        '"',
        "'",
        "[",
        "]",
        "{",
        "}",
        ":",
        ",",
        "\t",
        "\\",
        "&a",
        "*a",
        "!!x",
        "- ",
        "#",
        "\\u0000",
        "\\ud800",
        "a" * 3000,
    ),
)
_TOKEN = re.compile(r"-?[\d.]+(?:e[+-]?\d+)?|\w+|[^\w\s]")


def reworded(data, random):
    """Return a text, in UTF-8, with one to four words or lines changed."""
    text = data.decode()
    for _ in range(random.choice((1, 1, 1, 2, 4))):
        text = random.choice((_word, _word, _word, _line))(text, random)
    return text.encode()


def _word(text, random):
    found = list(_TOKEN.finditer(text))
    if not found:
        return random.choice(_WORDS)
    at = random.choice(found)
    return text[: at.start()] + random.choice((random.choice(_WORDS), random.choice(found)[0])) + text[at.end() :]


def _line(text, random):
    lines = text.splitlines(keepends=True)
    if not lines:
        return text
    a, b = random.randrange(len(lines)), random.randrange(len(lines))
    new = random.choice(([], [lines[a]] * 2, [lines[b]], [lines[a][: len(lines[a]) // 2]], ["\n"], [lines[a][1:]]))
    return "".join([*lines[:a], *new, *lines[a + 1 :]])


# ------------------------------------------------------------------ trees


def places(tree, path=()):
    """Yield the path to every value of nested dicts and lists, the root's `()` first."""
    yield path
    if isinstance(tree, dict):
        for key, value in list(tree.items()):
            yield from places(value, (*path, key))
    elif isinstance(tree, list | tuple):
        for i, value in enumerate(tree):
            yield from places(value, (*path, i))


def with_value(tree, path, value):
    """Return a copy of a tree with another value at a path."""
    return _changed(tree, path, lambda _: value)


def without(tree, path):
    """Return a copy of a tree that lacks what stands at a path."""
    *parents, last = path

    def drop(parent):
        if isinstance(parent, dict):
            return type(parent)({key: value for key, value in parent.items() if key != last})
        return type(parent)(value for i, value in enumerate(parent) if i != last)

    return _changed(tree, parents, drop)


def _changed(tree, path, change):
    if not path:
        return change(tree)
    first, *rest = path
    if isinstance(tree, dict):
        return type(tree)({k: _changed(v, rest, change) if k == first else copy.copy(v) for k, v in tree.items()})
    return type(tree)(_changed(v, rest, change) if i == first else v for i, v in enumerate(tree))
