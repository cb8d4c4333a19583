"""Ways to spoil a file; each is a function of (content, random numbers) and knows the format a bit.

A mutation that any checksum catches is wasted, so those of JSON come with their hash made right
again, and those of Parquet and Arrow aim at lengths, offsets and footers.
"""

from __future__ import annotations

import hashlib
import json
import struct
from typing import TYPE_CHECKING, Any

from chronoward import files

if TYPE_CHECKING:
    from collections.abc import Callable
    from random import Random

    Mutation = Callable[[bytes, Random], bytes]

_NUMBERS = (0, 1, -1, 127, 128, 255, 2**15, 2**31 - 1, -(2**31), 2**32 - 1, 2**63 - 1, -(2**63))
_JSON_VALUES: tuple[Any, ...] = (
    *(None, True, "", "x", "../../x", "\0", [], {}, [[]], {"a": 1}, 0, 1, -1, 0.5, 1e308),
    *(2**31, -(2**31) - 1, 2**63, -(2**63), 10**30, "x" * 5000, [0] * 1000),
)
_CSV_VALUES = (
    *("", "NA", '"', '""', "\0", "\n", "\r", "1.5", "-1", "9" * 30, "1e308", "nan", "infinity"),
    *("2020-02-30", "0000-00-00", "99999-01-01", "é", "=1+1", "'", ",", "x" * 70_000),
)


def flip_bits(content: bytes, random: Random) -> bytes:
    """A few bits anywhere."""
    out = bytearray(content)
    for _ in range(random.choice((1, 1, 2, 8))):
        place = random.randrange(len(out))
        out[place] ^= 1 << random.randrange(8)
    return bytes(out)


def flip_tail(content: bytes, random: Random) -> bytes:
    """A few bits of the last kilobytes, where Parquet and Arrow keep their footers."""
    n = min(len(content), random.choice((16, 200, 4000)))
    return content[:-n] + flip_bits(content[-n:], random)


def truncate(content: bytes, random: Random) -> bytes:
    """An end that is missing, or a middle."""
    a, b = sorted(random.randrange(len(content) + 1) for _ in range(2))
    return content[:a] if random.random() < 0.5 else content[:a] + content[b:]


def put_number(content: bytes, random: Random) -> bytes:
    """A number of four or eight bytes overwritten by one at the edge of its type."""
    size = random.choice((4, 8))
    value = random.choice(_NUMBERS) & (2 ** (8 * size) - 1)
    place = random.randrange(max(1, len(content) - size)) & ~3
    return content[:place] + value.to_bytes(size, "little") + content[place + size :]


def copy_block(content: bytes, random: Random) -> bytes:
    """A block written over another, or inserted."""
    n = random.choice((1, 8, 64, 1024))
    source, target = (random.randrange(max(1, len(content) - n)) for _ in range(2))
    end = target + (n if random.random() < 0.5 else 0)
    return content[:target] + content[source : source + n] + content[end:]


def footer_length(content: bytes, random: Random) -> bytes:
    """Another length of the footer (Parquet: before the magic; Arrow: likewise)."""
    magic = 6 if content.endswith(b"ARROW1") else 4
    value = random.choice((0, 1, len(content), len(content) * 2, 2**31 - 1, random.randrange(4096)))
    return content[: -magic - 4] + struct.pack("<I", value) + content[-magic:]


def _paths(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    found = [path] if path else []
    items = value.items() if isinstance(value, dict) else enumerate(value)
    for key, item in items:
        if isinstance(item, dict | list):
            found += _paths(item, (*path, key))
        else:
            found.append((*path, key))
    return found


def json_values(content: bytes, random: Random) -> bytes:
    """Some values of a JSON file replaced, removed or repeated, with its own hash made right."""
    value = json.loads(content)
    for _ in range(random.choice((1, 1, 1, 3))):
        path = random.choice(_paths(value))
        owner = value
        for key in path[:-1]:
            owner = owner[key]
        key, kind = path[-1], random.random()
        if kind < 0.15:
            del owner[key]
        elif kind < 0.3 and isinstance(owner, list):
            owner.insert(key, random.choice(owner))
        elif kind < 0.45 and isinstance(owner[key], int | float):
            owner[key] = owner[key] + random.choice((-1, 1, 100, -1000))
        else:
            owner[key] = random.choice(_JSON_VALUES)
        if not isinstance(value, dict) or not value:
            break
    try:
        return _with_hash(value)
    except (TypeError, ValueError):
        return json.dumps(value).encode()


def _with_hash(value: dict[str, Any]) -> bytes:
    for name in ("hash", "checksum"):  # of tokenizer.json and store.json
        if name in value:
            body = {k: v for k, v in value.items() if k != name}
            value[name] = hashlib.sha256(files.canonical_json(body)).hexdigest()
    return files.canonical_json(value)


def csv_cells(content: bytes, random: Random) -> bytes:
    """Some cells replaced, columns swapped in a line, lines repeated."""
    lines = content.split(b"\n")
    for _ in range(random.choice((1, 2, 5))):
        i = random.randrange(len(lines))
        cells = lines[i].split(b",")
        kind = random.random()
        if kind < 0.6:
            cells[random.randrange(len(cells))] = random.choice(_CSV_VALUES).encode()
        elif kind < 0.8:
            random.shuffle(cells)
        else:
            lines.insert(i, lines[random.randrange(len(lines))])
        lines[i] = b",".join(cells)
    return b"\n".join(lines)


BINARY: tuple[Mutation, ...] = (
    *(flip_bits, flip_bits, flip_tail, flip_tail, truncate),
    *(put_number, put_number, copy_block, footer_length),
)
JSON: tuple[Mutation, ...] = (json_values, json_values, json_values, flip_bits, truncate)
CSV: tuple[Mutation, ...] = (csv_cells, csv_cells, csv_cells, flip_bits, truncate, copy_block)
