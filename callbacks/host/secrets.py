"""Passwords and keys: what is written down or said of a configuration is written without them."""

import re
from argparse import Namespace
from collections.abc import Iterable, Mapping
from typing import Any

HIDDEN = "***"  # in the place of a password, a key or a token

# The password between `://user:` and the last `@`, and what an address says as `?password=…`.
_PASSWORD = re.compile(r"(\b[\w.+-]+://[^\s:/@'\"]*):(?!\*\*\*@)[^\s'\"]*@")
_USER_OF_WEB = re.compile(r"(\bhttps?://)[^\s:/@'\"]+@")  # a token alone
_QUERY = re.compile(r"([?&](?:\w*(?:password|passwd|pwd|secret|token|api_?key|access_?key))=)[^&\s'\"]+", re.IGNORECASE)

_WORDS = {
    "password",
    "passwd",
    "pwd",
    "passphrase",
    "secret",
    "secrets",
    "token",
    "credential",
    "credentials",
    "apikey",
}
_KINDS_OF_KEY = {"api", "access", "secret", "private", "auth", "account", "license", "service", "encryption", "signing"}
_NO_SECRETS = {"experiment_key"}  # of Comet: the name of a run


def without_passwords(text: str) -> str:
    """Return a text in which the addresses have no passwords."""
    return _QUERY.sub(rf"\1{HIDDEN}", _USER_OF_WEB.sub(rf"\1{HIDDEN}@", _PASSWORD.sub(rf"\1:{HIDDEN}@", text)))


def without_secrets(value: Any, name: str = "") -> Any:
    """Return plain values of a configuration without the passwords, keys and tokens among them.

    A text is one where its argument is called so: `api_key`, `auth_token`, `password`, of a logger also any other
    `…key`. In every other text the passwords of addresses are hidden. A number is none, such as `num_tokens`.
    """
    if isinstance(value, Mapping | Namespace):
        hidden = {key: without_secrets(each, f"{name}.{key}") for key, each in _items(value)}
        return type(value)(**hidden) if isinstance(value, Namespace) else hidden
    if type(value) in (list, tuple):
        return type(value)(without_secrets(each, name) for each in value)
    if not isinstance(value, str) or not value:
        return value
    return HIDDEN if _is_secret(name) else without_passwords(value)


def _is_secret(name: str) -> bool:
    last = name.rpartition(".")[2].lower().replace("-", "_")
    words = last.split("_")
    if last in _NO_SECRETS:
        return False
    is_key = "key" in words and (words[-1] == "key" or "keys" in words)
    return bool(_WORDS & {*words}) or (is_key and (bool(_KINDS_OF_KEY & {*words}) or ".logger" in name))


def hidden_in(value: Any, name: str = "") -> list[str]:
    """Return the dotted names of values that were written down without their secret."""
    if isinstance(value, Mapping | Namespace):
        return [found for key, each in _items(value) for found in hidden_in(each, f"{name}.{key}".lstrip("."))]
    if isinstance(value, list | tuple):
        return [found for each in value for found in hidden_in(each, name)]
    is_hidden = isinstance(value, str) and (value == HIDDEN or f":{HIDDEN}@" in value or f"={HIDDEN}" in value)
    return [name] if is_hidden else []


def _items(value: Mapping[str, Any] | Namespace) -> Iterable[tuple[str, Any]]:
    return (value if isinstance(value, Mapping) else vars(value)).items()
