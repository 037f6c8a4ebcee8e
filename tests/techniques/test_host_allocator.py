"""glibc's thresholds and jemalloc, each tried in a child process: mallopt in this one would stay."""

from __future__ import annotations

import ctypes.util
import os
import subprocess
import sys

import pytest

from enxuto.errors import MissingDependency, UsageError
from enxuto.techniques import host_allocator
from enxuto.techniques.host_allocator import AllocatorKind, environment, malloc_library, set_mallopt

glibc = pytest.mark.skipif(
    malloc_library() != "glibc", reason=f"malloc is served by {malloc_library()} here, not by glibc"
)
jemalloc = pytest.mark.skipif(
    ctypes.util.find_library("jemalloc") is None, reason="jemalloc is not installed: apt install libjemalloc2"
)

#: Free a large block, which raises glibc's own threshold; then fill 100 MiB, keep a crumb behind it, and free it.
FRAGMENT = """
import ctypes, sys
from enxuto.techniques.host_allocator import malloc_library, set_mallopt
if sys.argv[1:]:
    assert set_mallopt().applied
libc = ctypes.CDLL(None)
libc.malloc.restype, libc.malloc.argtypes, libc.free.argtypes = ctypes.c_void_p, [ctypes.c_size_t], [ctypes.c_void_p]
libc.free(libc.malloc(16 * 2**20))
before = int(open("/proc/self/statm").read().split()[1])
blocks = [libc.malloc(2**20) for _ in range(100)]
for block in blocks:
    ctypes.memset(block, 1, 2**20)
crumb = libc.malloc(2**20)  # as large as the blocks: smaller, it could fall into a hole before them
for block in blocks:
    libc.free(block)
print(malloc_library(), int(open("/proc/self/statm").read().split()[1]) - before)
"""
PAGES = 100 * 2**20 // os.sysconf("SC_PAGE_SIZE")


def child(code: str, *arguments: str, variables: dict[str, str] | None = None) -> list[str]:
    plain = {k: v for k, v in os.environ.items() if not k.startswith("MALLOC_") and k != "LD_PRELOAD"}
    found = subprocess.run(
        [sys.executable, "-c", code, *arguments],
        env=plain | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))} | (variables or {}),
        capture_output=True,
        text=True,
        check=True,
    )
    return found.stdout.split()


@glibc
def test_glibc_keeps_what_was_freed() -> None:
    library, pages = child(FRAGMENT)
    assert library == "glibc"
    assert int(pages) > 0.9 * PAGES


@glibc
def test_mallopt_gives_it_back() -> None:
    library, pages = child(FRAGMENT, "mallopt")
    assert library == "glibc"
    assert int(pages) < 0.05 * PAGES


@glibc
def test_the_environment_of_thresholds_gives_it_back() -> None:
    library, pages = child(FRAGMENT, variables=environment(AllocatorKind.THRESHOLDS))
    assert library == "glibc"
    assert int(pages) < 0.05 * PAGES


@jemalloc
def test_the_environment_of_jemalloc_preloads_it() -> None:
    assert child(FRAGMENT, variables=environment(AllocatorKind.JEMALLOC))[0] == "jemalloc"


@jemalloc
def test_mallopt_says_that_jemalloc_is_not_glibc() -> None:
    code = "from enxuto.techniques.host_allocator import set_mallopt\nprint(set_mallopt())"
    said = " ".join(child(code, variables=environment(AllocatorKind.JEMALLOC)))
    assert "applied=False" in said
    assert "served here by jemalloc" in said


def test_without_glibc_nothing_is_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(host_allocator, "malloc_library", lambda: "ld-musl-x86_64.so.1")
    done = set_mallopt()
    assert (done.applied, done.allocator) == (False, "ld-musl-x86_64.so.1")
    assert "ld-musl" in done.reason


@glibc
def test_every_parameter_reaches_glibc_under_its_number(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[tuple[int, int]] = []

    class Library:
        @staticmethod
        def mallopt(parameter: int, value: int) -> int:
            calls.append((parameter, value))
            return int(parameter != -8)

    monkeypatch.setattr(host_allocator, "malloc_library", lambda: "glibc")
    monkeypatch.setattr(host_allocator.ctypes, "CDLL", lambda _: Library)
    assert set_mallopt(mmap_threshold=7, trim_threshold=8).applied
    refused = set_mallopt(arena_max=9)
    assert calls == [(-3, 7), (-1, 8), (-3, 65536), (-1, 131072), (-8, 9)]
    assert not refused.applied
    assert refused.reason.endswith("9")


@pytest.mark.parametrize("value", [-1, 2**31])
def test_a_value_that_mallopt_cannot_take_is_refused(value: int) -> None:
    with pytest.raises(UsageError, match=str(value)):
        set_mallopt(mmap_threshold=value)


def test_the_default_needs_no_variables_and_kinds_are_known_by_name() -> None:
    assert environment("default") == {}
    assert environment("thresholds") == environment(AllocatorKind.THRESHOLDS)
    with pytest.raises(UsageError, match=r"tcmalloc.*default, thresholds, jemalloc"):
        environment("tcmalloc")


def test_jemalloc_goes_before_what_is_preloaded_already(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ctypes.util, "find_library", lambda name: f"lib{name}.so.2")
    monkeypatch.setenv("LD_PRELOAD", "libone.so libjemalloc.so.2:libtwo.so")
    assert environment("jemalloc") == {"LD_PRELOAD": "libjemalloc.so.2:libone.so:libtwo.so"}


def test_a_missing_jemalloc_says_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ctypes.util, "find_library", lambda _: None)
    with pytest.raises(MissingDependency, match="apt install libjemalloc2"):
        environment("jemalloc")
