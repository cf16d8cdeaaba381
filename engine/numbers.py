"""How numbers are written for people: with units, three significant digits at most."""

from __future__ import annotations


def time_text(seconds: float | None) -> str:
    """A latency with its unit, three significant digits; "-" when it is unknown."""
    if seconds is None:
        return "-"
    for scale, unit in ((1e6, "us"), (1e3, "ms"), (1.0, "s")):
        for digits, limit in ((2, 10), (1, 100), (0, 1000)):
            text = f"{seconds * scale:.{digits}f}"
            # The rounded number decides: 9.999 has one decimal, as 10.0.
            if float(text) < limit:
                return f"{text} {unit}"
    return f"{float(f'{seconds:.3g}'):.0f} s"


def span_text(seconds: float) -> str:
    """A duration for people: 45 s, 3 min 20 s, 2 h 05 min."""
    whole = round(seconds)
    if whole < 60:
        return f"{seconds:.1f} s" if seconds < 10 else f"{whole} s"
    minutes, rest = divmod(whole, 60)
    if minutes < 60:
        return f"{minutes} min {rest:02d} s"
    return f"{minutes // 60} h {minutes % 60:02d} min"


def ratio_text(before: float | None, after: float | None) -> str:
    """How many times smaller `after` is: 1.53x; "-" when one is unknown."""
    return f"{before / after:.2f}x" if before and after else "-"


def count_text(number: float | None) -> str:
    """A large number with a suffix: 37.7 M; "-" when it is unknown."""
    if number is None:
        return "-"
    for scale, suffix in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if number >= 0.9995 * scale:
            return f"{number / scale:.3g} {suffix}"
    return f"{number:.3g}"


def share_text(part: float, whole: float) -> str:
    """A share in percent; "-" of nothing."""
    return f"{100 * part / whole:.1f} %" if whole else "-"
