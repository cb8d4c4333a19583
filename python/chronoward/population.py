"""Who enters and for how long they are watched: what synthesis draws before the first token.

Published with every model, so nothing here describes fewer than 11 people. The joint of the prompt
is cut into boxes (sex, then race, then halves of year and age) that hold at least that many; inside
a box each field is drawn on its own. The length of observation is a Kaplan–Meier curve in which
*death* is the censoring: a subject who died would have been observed for longer.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from chronoward.errors import DataError
from chronoward.tokenizer import TokenClass, Tokenizer

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from numpy.typing import NDArray

    from chronoward.store import Shard, StoreSplit, TokenStore
    from chronoward.tokenizer import GrammarTables

SCHEMA = 1
MIN_CELL = 11
MAX_CELLS = 2_000  # larger populations get larger cells, not more of them
MAX_STEPS = 200  # of a survival curve
BAND_YEARS = (0, 18, 40, 65)  # lower edges of the age bands with a curve of their own
MIN_BAND = 100

_MINUTES_PER_YEAR = 365.25 * 1440
_ORDERED = (TokenClass.YEAR, TokenClass.AGE)  # fields that are halved; others are categories


def profile(store: TokenStore) -> dict[str, Any]:
    """Prompts and observation lengths of a store's train split, as JSON values.

    Returns:
        schema, n_subjects, min_cell, fields (names of the prompt's fields), cells (each `n` and
        `tokens`: per field the token ids to draw from, all alike), observation (`all` and
        `by_age`: survival curves, see `observation_curve`). A split with fewer than 11 subjects
        gives no cells.

    Raises:
        FormatError: the tokenizer or a shard is corrupt.
    """
    grammar = Tokenizer.load(store.tokenizer_path).grammar()
    return profile_split(store.split("train"), grammar)


def profile_split(split: StoreSplit, grammar: GrammarTables) -> dict[str, Any]:
    """As `profile`, for one split and its tokenizer's tables."""
    parts = [_read_shard(shard, grammar) for shard in split.shards]
    width = len(grammar.prompt_classes)
    prompts = np.concatenate([np.zeros((0, width), np.int32), *(part[0] for part in parts)])
    lengths = np.concatenate([np.zeros(0, np.int64), *(part[1] for part in parts)])
    ended = np.concatenate([np.zeros(0, np.bool_), *(part[2] for part in parts)])
    fields = [TokenClass(int(c)).name.lower() for c in grammar.prompt_classes]
    return {
        "schema": SCHEMA,
        "n_subjects": len(prompts),
        "min_cell": MIN_CELL,
        "fields": fields,
        "cells": prompt_cells(prompts, grammar),
        "observation": {
            "all": observation_curve(lengths, ended),
            "by_age": _curves_by_age(prompts, lengths, ended, grammar),
        },
    }


def _read_shard(
    shard: Shard, grammar: GrammarTables
) -> tuple[NDArray[np.int32], NDArray[np.int64], NDArray[np.bool_]]:
    """Prompts (n, p), minutes observed from the prompt on (n,), whether observation just ended."""
    first, last = shard.offsets[:-1], shard.offsets[1:]
    columns = first[:, None] + np.arange(len(grammar.prompt_classes))
    prompts = shard.token_id[columns]
    deaths = np.flatnonzero(grammar.token_class[shard.token_id] == TokenClass.DEATH)
    place = np.searchsorted(deaths, first)
    has_died = np.zeros(len(first), np.bool_)
    inside = place < len(deaths)
    has_died[inside] = deaths[place[inside]] < last[inside]
    end = shard.time_min[last - 1].astype(np.int64)
    observed = np.diff(shard.obs_offsets) > 0
    period = shard.obs_offsets[1:][observed] - 1  # periods ascend: the last one ends last
    end[observed] = np.maximum(end[observed], shard.obs_end_min[period])
    end[has_died] = shard.time_min[deaths[place[has_died]]]
    return prompts, np.maximum(end - shard.time_min[first], 0), ~has_died


def prompt_cells(prompts: NDArray[np.int32], grammar: GrammarTables) -> list[dict[str, Any]]:
    """Boxes of the prompt's joint that hold at least 11 subjects each.

    A category (sex, race) with fewer subjects is pooled with other such ones; where the pool is
    still too small, its subjects count as the largest category's.

    Args:
        prompts: int32 (n, p), one prompt a subject.
        grammar: the tokenizer's tables.
    """
    if len(prompts) < MIN_CELL:
        return []
    size = max(MIN_CELL, len(prompts) // MAX_CELLS)
    ordered = [i for i, c in enumerate(grammar.prompt_classes) if c in _ORDERED]
    categories = [i for i in range(prompts.shape[1]) if i not in ordered]
    cells = []
    for rows, chosen in _by_category(prompts, np.arange(len(prompts)), categories, size):
        positions = {i: _positions(grammar, i) for i in ordered}
        values = np.stack(
            [positions[i][prompts[rows, i]] for i in ordered] or [np.zeros(len(rows), np.int64)], 1
        )
        for box in _halve(values, np.arange(len(rows)), size):
            tokens: list[list[int]] = [[] for _ in range(prompts.shape[1])]
            for column, field in enumerate(ordered):
                low, high = values[box, column].min(), values[box, column].max()
                place = positions[field]
                inside = np.flatnonzero((place >= low) & (place <= high))
                tokens[field] = inside[np.argsort(place[inside])].tolist()
            for field in categories:
                tokens[field] = chosen[field]
            cells.append({"n": len(box), "tokens": tokens})
    return cells


def _positions(grammar: GrammarTables, field: int) -> NDArray[np.int64]:
    """Place of each token in the order of a field (an unknown age comes first); −1 elsewhere."""
    tokens = np.flatnonzero(grammar.token_class == grammar.prompt_classes[field])
    is_known = tokens != grammar.age_unknown_id
    place = np.full(grammar.vocab_size, -1, np.int64)
    place[np.concatenate([tokens[~is_known], tokens[is_known]])] = np.arange(len(tokens))
    return place


def _by_category(
    prompts: NDArray[np.int32], rows: NDArray[np.int64], fields: list[int], size: int
) -> Iterator[tuple[NDArray[np.int64], dict[int, list[int]]]]:
    """Splits rows by categories, field after field; yields rows and the tokens of each field."""
    if not fields:
        yield rows, {}
        return
    field, rest = fields[0], fields[1:]
    tokens, inverse, counts = np.unique(
        prompts[rows, field], return_inverse=True, return_counts=True
    )
    groups = [[i] for i in np.flatnonzero(counts >= size).tolist()]
    drawn = [list(group) for group in groups]
    small = np.flatnonzero(counts < size).tolist()
    if small and (counts[small].sum() >= size or not groups):
        groups.append(small)
        drawn.append(small)
    elif small:
        groups[int(np.argmax([counts[g].sum() for g in groups]))].extend(small)
    for group, names in zip(groups, drawn, strict=True):
        members = rows[np.isin(inverse, group)]
        for part, chosen in _by_category(prompts, members, rest, size):
            yield part, {field: tokens[names].tolist(), **chosen}


def _halve(
    values: NDArray[np.int64], rows: NDArray[np.int64], size: int
) -> Iterator[NDArray[np.int64]]:
    """Boxes of at least `size` rows: halves the widest field near its median, again and again."""
    span = np.maximum(values.max(axis=0) - values.min(axis=0), 1)
    boxes = [rows]
    while boxes:
        box = boxes.pop()
        widths = np.ptp(values[box], axis=0) / span
        for column in np.argsort(-widths, kind="stable").tolist():
            column_values = np.sort(values[box, column])
            middle = len(box) // 2
            # the last of the values equal to the median, and the last of those below it
            cuts = [
                np.searchsorted(column_values, column_values[middle], side=side)
                for side in ("left", "right")
            ]
            cut = min(cuts, key=lambda c: (abs(int(c) - middle), int(c)))
            if min(cut, len(box) - cut) >= size:
                below = values[box, column] < column_values[cut]
                boxes += [box[~below], box[below]]
                break
        else:
            yield box


def observation_curve(lengths: NDArray[np.int64], ended: NDArray[np.bool_]) -> dict[str, Any]:
    """Kaplan–Meier estimate of how long subjects are observed, thinned so that each step stands
    for at least 11 subjects whose observation ended.

    Args:
        lengths: int64 (n,), minutes from the prompt to the end of observation or to death.
        ended: bool (n,), True where observation ended, False at a death.

    Returns:
        n, n_ended, minutes (ascending) and survival after each of them; both lists are empty
        where fewer than 11 observations ended.
    """
    order = np.lexsort((~ended, lengths))  # at one time, ends come before deaths
    times, events = lengths[order], ended[order]
    at_risk = len(times) - np.arange(len(times))
    survival = np.cumprod(1.0 - events / np.maximum(at_risk, 1))
    n_ended = int(events.sum())
    step = max(MIN_CELL, -(-n_ended // MAX_STEPS))
    kept = np.flatnonzero(events)[step - 1 :: step]
    last_of_time = np.searchsorted(times, times[kept], side="right") - 1
    minutes, places = np.unique(times[kept], return_index=True)
    return {
        "n": len(times),
        "n_ended": n_ended,
        "minutes": minutes.tolist(),
        "survival": survival[last_of_time[places]].tolist(),
    }


def _curves_by_age(
    prompts: NDArray[np.int32],
    lengths: NDArray[np.int64],
    ended: NDArray[np.bool_],
    grammar: GrammarTables,
) -> list[dict[str, Any]]:
    fields = grammar.prompt_classes.tolist()
    if TokenClass.AGE not in fields:
        return []
    ages = prompts[:, fields.index(TokenClass.AGE)]
    years = grammar.age_edge_min / _MINUTES_PER_YEAR + 0.01  # an edge's year, despite rounding
    band_of_edge = np.searchsorted(BAND_YEARS, years, side="right")
    curves = []
    for band in range(1, len(BAND_YEARS) + 1):
        tokens = np.unique(grammar.age_token[band_of_edge == band])
        chosen = np.isin(ages, tokens)
        if chosen.sum() >= MIN_BAND and ended[chosen].sum() >= MIN_BAND // 2:
            curve = observation_curve(lengths[chosen], ended[chosen])
            curves.append({"age_tokens": tokens.tolist(), **curve})
    return curves


def draw_prompts(profile: Mapping[str, Any], u: NDArray[np.float64]) -> NDArray[np.int32]:
    """Prompts drawn from a profile.

    Args:
        profile: what `profile` returned.
        u: float64 (n, 1 + p), uniforms in [0, 1): for the cell, then for each field.

    Returns:
        int32 (n, p), prompts without `continued`.

    Raises:
        DataError: the profile has no cells (its population had fewer than 11 subjects).
        ValueError: `u` has another width.
    """
    cells, width = profile["cells"], len(profile["fields"])
    if not cells:
        message = f"the population has no prompt cells: fewer than {MIN_CELL} subjects to train on"
        raise DataError(message)
    if u.ndim != 2 or u.shape[1] != width + 1:
        message = f"u must have shape (n, {width + 1}), got {u.shape}"
        raise ValueError(message)
    weights = np.cumsum([cell["n"] for cell in cells])
    chosen = np.searchsorted(weights, u[:, 0] * weights[-1], side="right")
    prompts = np.zeros((len(u), width), np.int32)
    for row, cell in enumerate(np.minimum(chosen, len(cells) - 1).tolist()):
        for field, tokens in enumerate(cells[cell]["tokens"]):
            prompts[row, field] = tokens[min(int(u[row, field + 1] * len(tokens)), len(tokens) - 1)]
    return prompts


def draw_observation_min(
    profile: Mapping[str, Any], prompts: NDArray[np.int32], u: NDArray[np.float64]
) -> NDArray[np.int64]:
    """Minutes of observation from the prompt on, drawn from the curve of the prompt's age band.

    Between the curve's steps the inverse is linear; below its last step it is the last time.

    Args:
        profile: what `profile` returned.
        prompts: int32 (n, p), as `draw_prompts` gives them.
        u: float64 (n,), uniforms in [0, 1).

    Raises:
        DataError: the profile has no curve (fewer than 11 observations ended).
    """
    curves = [profile["observation"]["all"], *profile["observation"]["by_age"]]
    if not curves[0]["minutes"]:
        message = f"the population has no curve: fewer than {MIN_CELL} observations ended"
        raise DataError(message)
    which = np.zeros(len(u), np.int64)
    if "age" in profile["fields"]:
        ages = prompts[:, profile["fields"].index("age")]
        for number, curve in enumerate(curves[1:], start=1):
            which[np.isin(ages, curve["age_tokens"])] = number
    minutes = np.empty(len(u), np.int64)
    for number, curve in enumerate(curves):
        mine = which == number
        survival = np.array([1.0, *curve["survival"]])[::-1]
        times = np.array([0, *curve["minutes"]], np.float64)[::-1]
        minutes[mine] = np.floor(np.interp(u[mine], survival, times) + 0.5).astype(np.int64)
    return minutes
