"""Binds the few libbpf functions that loading, attaching and reading an object need, by ctypes.

BCC would need kernel headers and several times the start time and memory; docs/architecture.md
has figures. Nothing is pinned, so every program leaves the kernel together with the process.
"""

from __future__ import annotations

import ctypes
import logging
import mmap
import os
from collections.abc import Iterator
from ctypes import POINTER, c_char_p, c_int, c_size_t, c_uint8, c_uint32, c_uint64, c_void_p
from pathlib import Path

from probe.errors import KernelError
from probe.kernel.btf import Btf

log = logging.getLogger(__name__)

_PRINT = ctypes.CFUNCTYPE(c_int, c_int, c_char_p, c_void_p)

#: name -> (result, arguments)
_FUNCTIONS: dict[str, tuple[type | None, list[type]]] = {
    "libbpf_version_string": (c_char_p, []),
    "libbpf_set_print": (c_void_p, [_PRINT]),
    "bpf_object__open_file": (c_void_p, [c_char_p, c_void_p]),
    "bpf_object__load": (c_int, [c_void_p]),
    "bpf_object__close": (None, [c_void_p]),
    "bpf_object__btf": (c_void_p, [c_void_p]),
    "btf__raw_data": (c_void_p, [c_void_p, POINTER(c_uint32)]),
    "bpf_object__next_program": (c_void_p, [c_void_p, c_void_p]),
    "bpf_program__name": (c_char_p, [c_void_p]),
    "bpf_program__section_name": (c_char_p, [c_void_p]),
    "bpf_program__set_autoload": (c_int, [c_void_p, ctypes.c_bool]),
    "bpf_program__autoload": (ctypes.c_bool, [c_void_p]),
    "bpf_program__fd": (c_int, [c_void_p]),
    "bpf_program__attach": (c_void_p, [c_void_p]),
    "bpf_program__attach_cgroup": (c_void_p, [c_void_p, c_int]),
    "bpf_program__attach_iter": (c_void_p, [c_void_p, c_void_p]),
    "bpf_link__fd": (c_int, [c_void_p]),
    "bpf_link__destroy": (c_int, [c_void_p]),
    "bpf_iter_create": (c_int, [c_int]),
    "bpf_object__find_map_by_name": (c_void_p, [c_void_p, c_char_p]),
    "bpf_object__next_map": (c_void_p, [c_void_p, c_void_p]),
    "bpf_map__fd": (c_int, [c_void_p]),
    "bpf_map__name": (c_char_p, [c_void_p]),
    "bpf_map__max_entries": (c_uint32, [c_void_p]),
    "bpf_map__set_max_entries": (c_int, [c_void_p, c_uint32]),
    "bpf_map__set_autocreate": (c_int, [c_void_p, ctypes.c_bool]),
    "bpf_map__initial_value": (c_void_p, [c_void_p, POINTER(c_size_t)]),
    "bpf_obj_get_info_by_fd": (c_int, [c_int, c_void_p, POINTER(c_uint32)]),
}

_library: ctypes.CDLL | None = None
_messages: list[str] = []


def _collect(level: int, text: bytes, arguments: int | None) -> int:
    """Keeps what libbpf prints. An error shows the last line, and -v shows all of them."""
    buffer = ctypes.create_string_buffer(65536)
    # The calling conventions that libbpf is built for pass a va_list as a pointer.
    ctypes.CDLL(None).vsnprintf(buffer, len(buffer), text, c_void_p(arguments))
    line = buffer.value.decode(errors="replace").rstrip()
    if level < 2 and line:
        _messages.append(line)
        log.debug("%s", line)
    return 0


_printer = _PRINT(_collect)


def library() -> ctypes.CDLL:
    """Returns libbpf, loaded once. Raises KernelError if it is not installed."""
    global _library
    if _library is None:
        try:
            _library = ctypes.CDLL("libbpf.so.1", use_errno=True)
        except OSError as error:
            raise KernelError(
                "libbpf.so.1 is not installed: install the package libbpf1 (libbpf-dev)"
            ) from error
        for name, (result, arguments) in _FUNCTIONS.items():
            function = getattr(_library, name)
            function.restype, function.argtypes = result, arguments
        _library.libbpf_set_print(_printer)
    return _library


def version() -> str:
    return str(library().libbpf_version_string().decode())


class _MapInfo(ctypes.Structure):
    _fields_ = [("map_fd", c_uint32), ("rest", c_uint8 * 28)]


class _IterOptions(ctypes.Structure):
    _fields_ = [("size", c_size_t), ("info", c_void_p), ("info_length", c_uint32)]


class _ProgramInfo(ctypes.Structure):
    """struct bpf_prog_info, up to the member that is read."""

    _fields_ = [("rest", c_uint8 * 192), ("run_ns", c_uint64), ("runs", c_uint64),
                ("recursion_misses", c_uint64)]  # fmt: skip


class Link:
    """An attached program. ``close`` or the end of the process detaches it."""

    def __init__(self, pointer: int) -> None:
        self._pointer = pointer

    def close(self) -> None:
        library().bpf_link__destroy(self._pointer)


def _goes_on(descriptor: int) -> bool:
    """Returns whether a pass has more to do. The kernel pauses after a million objects."""
    try:
        return bool(os.read(descriptor, 4096))
    except BlockingIOError:
        return True


class IteratorLink(Link):
    """An attached iterator program. Each ``run`` is one whole pass in the kernel."""

    def run(self) -> None:
        lib = library()
        fd = lib.bpf_iter_create(lib.bpf_link__fd(self._pointer))
        if fd < 0:
            raise KernelError(f"a pass of the kernel iterator failed: {os.strerror(-fd)}")
        try:
            while _goes_on(fd):
                pass
        finally:
            os.close(fd)


class KernelObject:
    """A CO-RE object, in this order: opened, its knobs set, loaded, its programs attached.

    Raises KernelError if a file, a privilege or a kernel feature is missing; it says what to do.
    """

    def __init__(self, path: Path) -> None:
        lib = library()
        if not path.exists():
            raise KernelError(f"the kernel object {path.name} is missing: run `make -C bpf`")
        _messages.clear()
        self._pointer = lib.bpf_object__open_file(os.fsencode(path), None)
        if not self._pointer:
            raise KernelError(
                f"cannot open {path.name}: {self._reason()}; build it again with `make -C bpf`"
            )
        self.btf = self._read_btf()
        self._globals: mmap.mmap | None = None

    def _reason(self) -> str:
        return _messages[-1] if _messages else os.strerror(ctypes.get_errno())

    def _read_btf(self) -> Btf:
        lib = library()
        size = c_uint32()
        data = lib.btf__raw_data(lib.bpf_object__btf(self._pointer), ctypes.byref(size))
        return Btf(ctypes.string_at(data, size.value))

    def programs(self) -> Iterator[tuple[int, str, str]]:
        """Yields (pointer, name, section) of each program."""
        lib = library()
        pointer = lib.bpf_object__next_program(self._pointer, None)
        while pointer:
            name = lib.bpf_program__name(pointer).decode()
            yield pointer, name, lib.bpf_program__section_name(pointer).decode()
            pointer = lib.bpf_object__next_program(self._pointer, pointer)

    def leave_out(self, name: str) -> None:
        """Leaves the program ``name`` out when the object is loaded."""
        for pointer, found, _ in self.programs():
            if found == name:
                library().bpf_program__set_autoload(pointer, False)

    def leave_out_map(self, name: str) -> None:
        """Leaves the map ``name`` out. Programs may mention it in code that a knob removes."""
        library().bpf_map__set_autocreate(self._map(name), False)

    def set_knob(self, name: str, value: int) -> None:
        """Sets a ``const volatile`` of the object. To be called before ``load``."""
        offset, size = self.btf.variables(".rodata")[name]
        ctypes.memmove(self._section(".rodata") + offset, value.to_bytes(size, "little"), size)

    def _section(self, name: str) -> int:
        lib = library()
        size = c_size_t()
        pointer = lib.bpf_map__initial_value(self._map(name), ctypes.byref(size))
        return int(pointer)

    def variable(self, name: str) -> memoryview:
        """Returns the octets of a global, shared with the kernel. To be called after ``load``."""
        variables = self.btf.variables(".bss")
        if self._globals is None:
            length = max(offset + size for offset, size in variables.values())
            self._globals = mmap.mmap(self.map_fd(".bss"), length, mmap.MAP_SHARED)
        offset, size = variables[name]
        return memoryview(self._globals)[offset : offset + size]

    def _map(self, name: str) -> int:
        pointer = library().bpf_object__find_map_by_name(self._pointer, name.encode())
        if not pointer:
            raise KernelError(f"the kernel object has no map {name}: run `make -C bpf`")
        return int(pointer)

    def map_fd(self, name: str) -> int:
        return int(library().bpf_map__fd(self._map(name)))

    def map_entries(self, name: str) -> int:
        return int(library().bpf_map__max_entries(self._map(name)))

    def resize_map(self, name: str, entries: int) -> None:
        library().bpf_map__set_max_entries(self._map(name), entries)

    def load(self) -> None:
        _messages.clear()
        error = library().bpf_object__load(self._pointer)
        if error:
            raise LoadError(-error, list(_messages))

    def is_loaded(self, pointer: int) -> bool:
        return bool(library().bpf_program__autoload(pointer))

    def attach(self, pointer: int, cgroup_fd: int | None = None) -> Link:
        lib = library()
        _messages.clear()
        if cgroup_fd is None:
            link = lib.bpf_program__attach(pointer)
        else:
            link = lib.bpf_program__attach_cgroup(pointer, cgroup_fd)
        if not link:
            raise KernelError(f"cannot attach to the kernel: {self._reason()}")
        return Link(link)

    def attach_iterator(self, pointer: int, map_name: str | None = None) -> IteratorLink:
        options: _IterOptions | None = None
        if map_name is not None:
            info = _MapInfo(map_fd=self.map_fd(map_name))
            options = _IterOptions(ctypes.sizeof(_IterOptions), ctypes.addressof(info), 16)
        argument = ctypes.byref(options) if options else None
        link = library().bpf_program__attach_iter(pointer, argument)
        if not link:
            raise KernelError(f"cannot attach a kernel iterator: {self._reason()}")
        return IteratorLink(link)

    def recursion_misses(self) -> int:
        """Returns how many runs the kernel skipped, as the program already ran on that CPU."""
        lib, total = library(), 0
        for pointer, _, _ in self.programs():
            info, length = _ProgramInfo(), c_uint32(ctypes.sizeof(_ProgramInfo))
            fd = lib.bpf_program__fd(pointer)
            if fd >= 0 and not lib.bpf_obj_get_info_by_fd(
                fd, ctypes.byref(info), ctypes.byref(length)
            ):
                total += info.recursion_misses
        return total

    def close(self) -> None:
        if self._pointer:
            library().bpf_object__close(self._pointer)
            self._pointer = None


class LoadError(KernelError):
    """The kernel refused the object. ``program``: the one that it refused, '' if unknown."""

    def __init__(self, code: int, messages: list[str]) -> None:
        self.code = code
        self.program = ""
        for line in messages:
            if line.startswith("libbpf: prog '") and "failed to load" in line.lower():
                self.program = line.split("'")[1]
        what = f"program {self.program}" if self.program else "the object"
        super().__init__(
            f"the kernel refused {what}: {os.strerror(code)} (run with -v for the verifier's log)"
        )
