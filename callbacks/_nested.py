"""Tensors in lists, tuples, dicts and dataclasses, whatever way they are nested: each with a name."""

import copy
from collections.abc import Callable, Mapping
from dataclasses import fields, is_dataclass
from typing import Any


def flatten(value: Any, label: str) -> list[tuple[str, Any]]:
    """The leaves of a nested value in order, each with its path: `label_key_0`."""
    children: list[tuple[Any, Any]] | None = None
    if isinstance(value, Mapping):
        children = list(value.items())
    elif isinstance(value, tuple) and hasattr(value, "_fields"):
        children = list(zip(value._fields, value, strict=True))
    elif isinstance(value, list | tuple):
        children = list(enumerate(value))
    elif is_dataclass(value) and not isinstance(value, type):
        children = [(field.name, getattr(value, field.name)) for field in fields(value)]
    if children is None:
        return [(label, value)]
    return [leaf for key, child in children for leaf in flatten(child, f"{label}_{key}" if label else str(key))]


def rebuild(value: Any, change: Callable[[Any], Any]) -> Any:
    """The same nest of lists, tuples and dicts with every leaf changed; what else holds tensors is a leaf."""
    if type(value) is list:
        return [rebuild(child, change) for child in value]
    if type(value) is tuple:
        return tuple(rebuild(child, change) for child in value)
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return type(value)(*(rebuild(child, change) for child in value))
    if isinstance(value, dict):
        changed = copy.copy(value)
        for key, child in value.items():
            changed[key] = rebuild(child, change)
        return changed
    return change(value)
