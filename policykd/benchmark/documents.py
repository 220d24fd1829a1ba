"""Updates generated parts of documents, between ``<!-- name: begin -->`` and ``<!-- name: end -->``."""

from __future__ import annotations

from pathlib import Path

from policykd.core.errors import PolicyKDError
from policykd.core.files import write_text


def insert_section(document: str, name: str, text: str) -> str:
    """Put ``text`` between a document's markers, or at its end if it has none.

    Raises:
        PolicyKDError: one marker is missing, or one occurs twice.
    """
    begin, end = f"<!-- {name}: begin -->", f"<!-- {name}: end -->"
    found = document.count(begin), document.count(end)
    if found == (0, 0):
        return f"{document}{begin}\n{text}{end}"
    head, _, rest = document.partition(begin)
    _, closed, tail = rest.partition(end)
    if found != (1, 1) or not closed:
        raise PolicyKDError(
            f"document: needs one {begin} and one {end} after it, but has {found[0]} and {found[1]}: nothing written"
        )
    return f"{head}{begin}\n{text}{end}{tail}"


def publish(text: str, page: Path, name: str) -> None:
    """Put a text between the markers in a file, if the file exists and has both of them once."""
    document = read_document(page) if page.is_file() else ""
    if f"<!-- {name}: end -->" in document.partition(f"<!-- {name}: begin -->")[2]:
        write_text(page, insert_section(document, name, text))


def read_document(path: Path) -> str:
    """Read a document without changing its line endings.

    Raises:
        PolicyKDError: the file cannot be read, or is not text.
    """
    try:
        return path.read_bytes().decode()
    except (OSError, UnicodeDecodeError) as error:
        raise PolicyKDError(f"document: cannot read {path}: {error}") from None
