"""Damage for files: what a bad disk, a bad program or a bad person does to them."""

import resource
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

from hypothesis import strategies as st

T = TypeVar("T")

EXTREMES = (0, 1, 2, 7, 0x7F, 0x80, 0xFF, 0x7FFF, 0x8000, 0xFFFF, 1 << 20, (1 << 31) - 1, 1 << 31, (1 << 32) - 1)
HUGE = (1 << 40, (1 << 62) + 1, (1 << 63) - 1, 1 << 63, (1 << 64) - 1)


def integers_as_bytes() -> st.SearchStrategy[bytes]:
    """Integers from the ends of their ranges, of every width and byte order."""

    orders = st.sampled_from(["little", "big"])
    least = st.builds(lambda v, order: v.to_bytes((v.bit_length() + 7) // 8 or 1, order), numbers(), orders)
    wide = st.builds(lambda v, order: v.to_bytes(8, order), numbers(), orders)
    half = st.builds(lambda v, order: v.to_bytes(4, order), st.sampled_from(EXTREMES), orders)
    return st.one_of(least, half, wide)


def numbers() -> st.SearchStrategy[int]:
    """Whole numbers from the ends of the ranges of integers."""
    return st.sampled_from(EXTREMES + HUGE)


@st.composite
def positions(draw: st.DrawFn, length: int) -> int:
    """A place in a file; every other time near its beginning or its end, where formats keep their headers."""
    where = draw(st.sampled_from(["anywhere", "anywhere", "head", "tail"]))
    near = min(length, 128)
    if where == "head":
        return draw(st.integers(0, near))
    if where == "tail":
        return length - draw(st.integers(0, near))
    return draw(st.integers(0, length))


@st.composite
def mutated_once(draw: st.DrawFn, content: bytes) -> bytes:
    """`content` with one damage."""
    at = draw(positions(len(content)))
    length = draw(st.one_of(st.integers(1, 8), st.integers(1, 300)))
    kind = draw(
        st.sampled_from(
            ["flip", "flip", "integer", "integer", "cut", "delete", "double", "splice", "zero", "noise", "append"]
        )
    )
    if kind == "flip" and at < len(content):
        return content[:at] + bytes([content[at] ^ 1 << draw(st.integers(0, 7))]) + content[at + 1 :]
    if kind == "integer":
        number = draw(integers_as_bytes())
        return content[:at] + number + content[at + len(number) :]
    if kind == "cut":
        return content[:at]
    if kind == "delete":
        return content[:at] + content[at + length :]
    if kind == "double":
        return content[: at + length] + content[at:]
    if kind == "splice":
        other = draw(positions(len(content)))
        return content[:at] + content[other : other + length] + content[at + length :]
    if kind == "zero":
        return content[:at] + bytes(length) + content[at + length :]
    if kind == "noise":
        return content[:at] + draw(st.binary(min_size=1, max_size=16)) + content[at:]
    return content + draw(st.binary(min_size=1, max_size=16))


@st.composite
def mutated(draw: st.DrawFn, content: bytes, least: int = 1) -> bytes:
    """`content` with a few damages."""
    for _ in range(draw(st.integers(least, 4))):
        content = draw(mutated_once(content))
    return content


def or_message(kind: type[Exception], call: Callable[..., T], *arguments: object) -> T | str:
    """Return what a call returns, or the message of the documented error that it raises."""
    try:
        return call(*arguments)
    except kind as error:
        return str(error)


@contextmanager
def memory_within(mebibytes: int) -> Iterator[None]:
    """Assert that the process's peak grows by no more than this."""
    unit = 1 if sys.platform == "darwin" else 1024
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    yield
    added = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * unit >> 20
    assert added <= mebibytes, f"took {added} MiB"
