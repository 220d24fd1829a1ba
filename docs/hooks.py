"""Hooks of MkDocs: what pages need from outside docs/, and equations without a script from another host.

Pages link to results/ as the repository has it (``../results/speed``), so that the links work there too. In the site
pictures are copied, and other files of the repository are named in their link's title.
"""

from __future__ import annotations

import html
import posixpath
import re
from pathlib import Path
from typing import Any

from latex2mathml.converter import convert
from mkdocs.structure.files import File, Files

ROOT = Path(__file__).resolve().parents[1]
LINK = re.compile(r"\]\((?:\.\./)+((?:results|examples|scripts|experiments|envs|BENCHMARK\.md)[^)#\s]*)(?:#[^)\s]*)?\)")
EQUATION = re.compile(r'<(span|div) class="arithmatex">\\([(\[])(.*?)\\[)\]]</\1>', re.S)


def on_files(files: Files, config: Any) -> Files:
    """Add the pictures of results/."""
    for path in sorted(ROOT.glob("results/*/*.png")):
        name = path.relative_to(ROOT).as_posix()
        files.append(File(name, str(ROOT), config["site_dir"], config["use_directory_urls"]))
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Pictures by where they are in the site; other files of the repository are named instead of linked."""
    folder = posixpath.dirname(page.file.src_uri)

    def replace(match: re.Match[str]) -> str:
        if match[1].endswith(".png"):
            return f"]({posixpath.relpath(match[1], folder or '.')})"
        return f"](#){{ title='{match[1]} in the repository' }}"

    return LINK.sub(replace, markdown)


def on_page_content(content: str, **_: Any) -> str:
    """Equations as MathML, which browsers draw themselves."""

    def draw(match: re.Match[str]) -> str:
        return convert(html.unescape(match[3]), display="block" if match[2] == "[" else "inline")

    return EQUATION.sub(draw, content)
