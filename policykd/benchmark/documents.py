"""Documents in which a program keeps parts up to date: those between ``<!-- name: begin -->`` and ``: end``."""

from __future__ import annotations

from pathlib import Path

from policykd.core.files import write_text


def with_part(document: str, name: str, text: str) -> str:
    """A document with ``text`` between the markers of that name; at its end where it has none."""
    begin, end = _markers(name)
    head, _, rest = document.partition(begin)
    _, _, tail = rest.partition(end)
    return f"{head}{begin}{text}{end}{tail}"


def publish(text: str, page: Path, name: str) -> None:
    """Put a text between the markers of that name in a file, if it is there and has both."""
    begin, end = _markers(name)
    document = page.read_text() if page.exists() else ""
    if end in document.partition(begin)[2]:
        write_text(page, with_part(document, name, text))


def _markers(name: str) -> tuple[str, str]:
    return f"<!-- {name}: begin -->\n", f"<!-- {name}: end -->"
