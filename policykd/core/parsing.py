"""Safe parsing of untrusted JSON and YAML in bounded time; failures raise ``ValueError``."""

from __future__ import annotations

import itertools
import json
import math
import re
from pathlib import Path
from typing import Any

from policykd.core.errors import PolicyKDError

MOST_JSON, MOST_YAML, MOST_NODES = 32_000_000, 200_000, 100_000
"""Maximum characters of JSON and YAML, and nodes of YAML; PyYAML reads some hundred thousand characters a second."""
_FILE_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.+-]{0,99}(?<!\.)")
_DEVICES = re.compile(r"(con|prn|aux|nul|com\d|lpt\d)(\..*)?", re.IGNORECASE)
"""Names that cannot be files on Windows."""
_EXPONENT = re.compile(r"[-+]?\d+[eE][-+]?\d+$")
"""Numbers without a point, such as 1e-3, which YAML 1.1 reads as strings."""


def read_text(path: Path, most: int = MOST_JSON, errors: str = "strict") -> str:
    """Read a text file.

    Args:
        path: the file.
        most: maximum number of characters.
        errors: handling of invalid UTF-8, as for ``open``.

    Raises:
        OSError, ValueError: the file cannot be read, is not UTF-8, or is too long.
    """
    with open(path, encoding="utf-8", errors=errors) as file:
        text = file.read(most + 1)
    return _bounded(text, most)


def parse_json(text: str) -> Any:
    """Parse JSON.

    Raises:
        ValueError: it is not JSON, too deep or too long, or has a duplicate key.
    """
    try:
        return json.loads(_bounded(text, MOST_JSON), object_pairs_hook=_unique_keys)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


def parse_yaml(text: str, loader_type: Any = None) -> Any:
    """Parse YAML; ``1e-3`` is a number, as in YAML 1.2, whereas PyYAML by default needs ``1.0e-3``.

    Args:
        text: the YAML.
        loader_type: a subclass of PyYAML's SafeLoader with more tags; None is SafeLoader.

    Raises:
        ValueError: it is not YAML, too deep or too long, has a duplicate key, or its aliases expand too far.
    """
    import yaml

    class Loader(loader_type or yaml.SafeLoader):  # type: ignore[misc]
        pass

    Loader.add_implicit_resolver("tag:yaml.org,2002:float", _EXPONENT, list("-+0123456789"))
    try:
        loader = Loader(_bounded(text, MOST_YAML))
        if _nesting_depth(text) > 100:  # beyond this PyYAML becomes slow before it fails
            raise RecursionError
        node = loader.get_single_node()
        if _expanded_size(node, {}) > MOST_NODES:
            raise ValueError(f"its aliases expand to more than {MOST_NODES:,} values")
        _check_keys(node)
        return None if node is None else loader.construct_document(node)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    except yaml.YAMLError as error:
        raise ValueError(" ".join(str(error).split())) from None
    except (TypeError, AttributeError, OverflowError) as error:  # tags that do not fit their values
        raise ValueError(str(error)) from None


def _nesting_depth(text: str) -> int:
    """Maximum nesting depth of brackets."""
    steps = (1 if character in "[{" else -1 for character in re.findall(r"[\[\]{}]", text))
    return max(itertools.accumulate(steps, lambda depth, step: max(0, depth + step), initial=0))


def _expanded_size(node: Any, known: dict[int, float]) -> float:
    """Number of values of a YAML node with its aliases expanded; infinite if it contains itself."""
    if id(node) not in known:
        known[id(node)] = math.inf  # while counting, to detect cycles
        children = node.value if isinstance(getattr(node, "value", None), list) else []
        flat = [part for child in children for part in (child if isinstance(child, tuple) else (child,))]
        known[id(node)] = 1 + sum(_expanded_size(part, known) for part in flat)
    return known[id(node)]


def _unique_keys(pairs: list[tuple[Any, Any]]) -> dict[Any, Any]:
    """Convert pairs to a dict; duplicate keys raise ``ValueError``."""
    found: dict[Any, Any] = {}
    for key, value in pairs:
        if key in found:
            raise ValueError(f"it has the key {key!r} twice")
        found[key] = value
    return found


def _check_keys(node: Any) -> None:
    """Refuse YAML mappings with duplicate keys; keys merged by ``<<`` may be overridden."""
    children = node.value if isinstance(getattr(node, "value", None), list) else []
    pairs = [child for child in children if isinstance(child, tuple)]
    _unique_keys([(key.value, None) for key, _ in pairs if isinstance(key.value, str) and key.value != "<<"])
    for part in (part for child in children for part in (child if isinstance(child, tuple) else (child,))):
        _check_keys(part)


def check_file_name(what: str, name: str) -> None:
    """Refuse a name that is not a valid file name, or that leads to another folder.

    Raises:
        PolicyKDError: it is a path, or not a valid name on some system.
    """
    if not _FILE_NAME.fullmatch(name) or _DEVICES.fullmatch(name):
        raise PolicyKDError(
            f"{what}: {name[:100]!r} cannot name a file: use letters, digits and _ . + -, at most 100 and a letter, "
            "digit or _ first"
        )


def _bounded(text: str, most: int) -> str:
    if len(text) > most:
        raise ValueError(f"it is longer than {most:,} characters")
    return text
