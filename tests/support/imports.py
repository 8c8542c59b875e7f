"""The imports of a package, and what is wrong with them, such as upward arrows and circles.

All imports count: those inside functions and those for type checkers, too.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Floors:
    """The rooms of a package from top to bottom.

    A room is a folder or a module, named below the package: 'run', 'export.transports', 'api'.
    Rooms of one floor do not import each other. A folder's files belong to the longest name that
    they begin with. ``data`` are packages that other folders of the tree are installed as.
    """

    package: str
    rooms: Sequence[Sequence[str]]
    data: Sequence[str] = ()

    def room(self, module: str) -> str | None:
        """Returns the room of a module of the package, or None if it has none."""
        parts = module.split(".")[1:]
        for count in range(len(parts), 0, -1):
            if (name := ".".join(parts[:count])) in self.floor_of():
                return name
        return None

    def floor_of(self) -> dict[str, int]:
        return {name: floor for floor, names in enumerate(self.rooms) for name in names}


def modules(root: Path, package: str) -> dict[str, Path]:
    """Returns the files of a package by their dotted names."""
    found = {}
    for path in sorted((root / package).rglob("*.py")):
        parts = path.relative_to(root).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def imports(path: Path, root: Path) -> Iterator[tuple[str, str]]:
    """Yields (module, name) for each import in a file, with '' where no name is taken from it."""
    package = path.relative_to(root).parent.parts
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from ((alias.name, "") for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else ()
            module = ".".join((*base, *([node.module] if node.module else [])))
            yield from ((module, alias.name) for alias in node.names)


def arrows(root: Path, floors: Floors) -> tuple[dict[str, set[str]], list[str]]:
    """Returns what each module imports of the package, and the imports of what does not exist."""
    files = modules(root, floors.package)
    found: dict[str, set[str]] = {}
    faults = []
    for module, path in files.items():
        found[module] = set()
        for imported, name in imports(path, root):
            if imported.split(".")[0] != floors.package or imported in floors.data:
                continue
            target = f"{imported}.{name}" if f"{imported}.{name}" in files else imported
            if target not in files and f"{imported}.{name}" not in floors.data:
                faults.append(f"{module} imports {imported}, which does not exist")
            elif target in files and target != module:
                found[module].add(target)
    return found, faults


def faults(root: Path, floors: Floors) -> list[str]:
    """Returns all that is wrong with the imports of the package below ``root``."""
    found, wrong = arrows(root, floors)
    wrong += _unplaced(found, floors)
    wrong += _upward(found, floors)
    wrong += [f"circle: {', '.join(circle)}" for circle in circles(found)]
    rooms: dict[str, set[str]] = {}
    for module, targets in found.items():
        if room := floors.room(module):
            rooms.setdefault(room, set()).update(
                other for target in targets if (other := floors.room(target)) and other != room
            )
    return wrong + [f"circle of rooms: {', '.join(circle)}" for circle in circles(rooms)]


def _unplaced(found: Mapping[str, set[str]], floors: Floors) -> Iterator[str]:
    used = {floors.room(module) for module in found}
    for module in found:
        if module != floors.package and floors.room(module) is None:
            yield f"{module} has no place in the list of rooms"
    for name in floors.floor_of():
        if name not in used:
            yield f"there is no room {name}"


def _upward(found: Mapping[str, set[str]], floors: Floors) -> Iterator[str]:
    floor_of = floors.floor_of()
    for module, targets in found.items():
        room = floors.room(module)
        for target in sorted(targets):
            other = floors.room(target)
            if room and other and other != room and floor_of[other] <= floor_of[room]:
                yield f"{module} imports {target}, which is not below it"


def circles(arrows: Mapping[str, set[str]]) -> list[list[str]]:
    """Returns the groups of names that reach each other by arrows, sorted."""
    reached = {name: _reached(name, arrows) for name in arrows}
    groups = {
        tuple(sorted(other for other in reached[name] if name in reached.get(other, ())))
        for name in arrows
        if name in reached[name]
    }
    return [list(group) for group in sorted(groups)]


def _reached(start: str, arrows: Mapping[str, set[str]]) -> set[str]:
    found: set[str] = set()
    waiting = [*arrows[start]]
    while waiting:
        name = waiting.pop()
        if name not in found:
            found.add(name)
            waiting += arrows.get(name, ())
    return found
