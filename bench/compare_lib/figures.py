# SPDX-License-Identifier: Apache-2.0
"""Medians and spreads. Pure."""

import statistics


def summary(values):
    """{"median", "min", "max", "n"} of numbers; None of none."""
    values = [value for value in values if value is not None]
    if not values:
        return None
    return {"median": statistics.median(values), "min": min(values), "max": max(values), "n": len(values)}


def summarise(trials):
    """Trials (dicts of numbers, some of them None) as {key: summary}."""
    keys = dict.fromkeys(key for trial in trials for key in trial)
    result = {key: summary([trial.get(key) for trial in trials if isinstance(trial.get(key), (int, float))]) for key in keys}
    return {key: value for key, value in result.items() if value}


def median(results, cell, contender, key):
    """Of a report's `results`; None where there is no figure."""
    figures = results.get(cell, {}).get(contender, {}).get("figures", {})
    return figures[key]["median"] if key in figures else None


def interpolate(points, x):
    """y at x on the lines through `points` [(x, y)]; beyond the ends the end's y."""
    points = sorted(points)
    if not points:
        return None
    if x <= points[0][0]:
        return points[0][1]
    for (x0, y0), (x1, y1) in zip(points, points[1:]):
        if x <= x1:
            return y0 + (y1 - y0) * (x - x0) / (x1 - x0)
    return points[-1][1]


def si(value):
    """1234567 as 1.23 M: three digits."""
    for limit, unit in ((1e9, " G"), (1e6, " M"), (1e3, " k")):
        if abs(value) >= limit:
            return f"{digits(value / limit)}{unit}"
    return digits(value)


def digits(value):
    """Three digits, no more than are known."""
    if value == 0:
        return "0"
    for limit, form in ((100, ".0f"), (10, ".1f"), (1, ".2f")):
        if abs(value) >= limit - limit * 0.0005:
            return f"{value:{form}}"
    return f"{value:.3f}"


def count(macs):
    return "1 MAC" if macs == 1 else f"{macs:,} MACs"


def spread(figure, show=digits):
    """`median (min..max)`."""
    if figure is None:
        return "-"
    text = show(figure["median"])
    return text if figure["n"] < 2 else f"{text} ({show(figure['min'])}..{show(figure['max'])})"
