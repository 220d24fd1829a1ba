"""The house: imports go from higher rooms to lower ones only, and never in a circle, type-only imports counted."""

import ast
import re
from graphlib import TopologicalSorter
from pathlib import Path

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "policykd"


def modules():
    """Every module of the package by name, and its file."""
    found = {}
    for path in PACKAGE.rglob("*.py"):
        parts = path.relative_to(ROOT).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def imports(name, path, known):
    """The modules of the package that one imports, anywhere in it; a package as the parent of its own is no import."""
    package = name if path.name == "__init__.py" else name.rpartition(".")[0]
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            wanted = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            above = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
            base = ".".join([*above, *filter(None, [node.module])])
            wanted = [base, *(f"{base}.{alias.name}" for alias in node.names)]
        else:
            continue
        for module in wanted:
            parent_only = known.get(module, path).name == "__init__.py" and name.startswith(f"{module}.")
            if module in known and module != name and not parent_only:
                yield module


def test_there_is_no_circle():
    known = modules()
    # Raises CycleError, which names the circle.
    list(TopologicalSorter({name: set(imports(name, path, known)) for name, path in known.items()}).static_order())


def test_no_arrow_goes_from_a_lower_room_to_a_higher_one():
    """The order of rooms is that of docs/architecture.md, from the ground up."""
    (line,) = re.findall(
        r"^    (native < .*)$", (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8"), re.MULTILINE
    )
    floor = {room.strip(): number for number, room in enumerate(line.split("<"))}
    known = modules()
    rooms = {name: name.split(".")[1] for name, path in known.items() if path.parent != PACKAGE}
    assert set(rooms.values()) == set(floor)
    up = [
        f"{name} -> {module}"
        for name, path in known.items()
        if name in rooms
        for module in imports(name, path, known)
        if module in rooms and floor[rooms[module]] > floor[rooms[name]]
    ]
    assert up == []


def test_no_file_is_over_300_lines():
    files = (path for path in PACKAGE.rglob("*") if path.suffix in (".py", ".c", ".cpp", ".h", ".js"))
    long = {
        str(path.relative_to(ROOT)): n
        for path in files
        if (n := len(path.read_text(encoding="utf-8").splitlines())) > 300
    }
    assert not long


def test_text_is_read_in_utf_8_whatever_the_locale():
    """Ruff's PLW1514 sees only paths whose type it can tell."""
    files = (path for room in ("policykd", "envs", "experiments", "scripts") for path in (ROOT / room).rglob("*.py"))
    assert not [str(path.relative_to(ROOT)) for path in files if ".read_text()" in path.read_text(encoding="utf-8")]
