"""The two charts of a report as SVG: stacked bars of memory, lines of capacity. Patterns, dashes and labels carry what
colours show, so that they read on paper and without colour."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator

from planner.files.escape import html as escape
from planner.report.dossier import SHARES, Bar, Curve
from planner.units import GIB

_LABEL = 250
_BAR = 380
_NOTE = 300
_ROW = 30
_TOP = 24
_SHORTEST_TEXT_PX = 34
_TEXT_PX = 7
WIDTH = _LABEL + _BAR + _NOTE

PATTERNS = """<svg class="patterns" aria-hidden="true" focusable="false"><defs>
<pattern id="p0" width="6" height="6" patternUnits="userSpaceOnUse"><rect width="6" height="6" class="s0"/></pattern>
<pattern id="p1" width="6" height="6" patternUnits="userSpaceOnUse"><rect width="6" height="6" class="s1"/></pattern>
<pattern id="p2" width="6" height="6" patternUnits="userSpaceOnUse"><rect width="6" height="6" class="s2"/>
<path d="M0 3H6" class="ink"/></pattern>
<pattern id="p3" width="8" height="8" patternUnits="userSpaceOnUse" patternTransform="rotate(45)">
<rect width="8" height="8" class="s3"/><path d="M0 0V8" class="ink"/></pattern>
<pattern id="p4" width="6" height="6" patternUnits="userSpaceOnUse"><rect width="6" height="6" class="s4"/>
<circle cx="3" cy="3" r="1" class="dot"/></pattern>
</defs></svg>"""
_DASHES = ("", "7 4", "2 4")


def legend(shares: Iterable[int]) -> str:
    """What the patterns mean, for the shares that occur."""
    items = "".join(
        f'<li><svg width="18" height="12" aria-hidden="true"><rect width="18" height="12" fill="url(#p{i})" '
        f'class="edge"/></svg> {escape(SHARES[i])}</li>'
        for i in shares
    )
    return f'<ul class="legend">{items}</ul>'


def bars(rows: list[tuple[Bar, str, str, bool]]) -> str:
    """Stacked bars: each row a bar, its name, a note and whether it was chosen. The line is the memory that is free."""
    scale = _BAR / max(max(bar.total_bytes, bar.free_bytes) for bar, *_ in rows)
    height = _TOP + _ROW * len(rows)
    parts = [_bar(bar, name, note, chosen, _TOP + _ROW * i, scale) for i, (bar, name, note, chosen) in enumerate(rows)]
    sizes = {bar.free_bytes for bar, *_ in rows}
    if len(sizes) == 1:
        (free_bytes,) = sizes
        above = f'x="{_LABEL + free_bytes * scale:.1f}" y="{_TOP - 8}" text-anchor="end"'
        parts.append(f'<text {above} class="small">{free_bytes / GIB:.1f} GiB free</text>')
    said = "; ".join(f"{name}: {bar.total_bytes / GIB:.1f} of {bar.free_bytes / GIB:.1f} GiB" for bar, name, *_ in rows)
    return _figure(height, "Memory of one GPU by option", said, "".join(parts))


def _bar(bar: Bar, name: str, note: str, chosen: bool, top: int, scale: float) -> str:
    middle = top + _ROW / 2 + 4
    weight = ' class="strong"' if chosen else ""
    parts = [f'<text x="{_LABEL - 8}" y="{middle}" text-anchor="end"{weight}>{escape(name)}</text>']
    x = float(_LABEL)
    for i, size_bytes in enumerate(bar.share_bytes):
        width = size_bytes * scale
        if width < 0.5:
            continue
        parts.append(
            f'<rect x="{x:.1f}" y="{top + 4}" width="{width:.1f}" height="{_ROW - 8}" fill="url(#p{i})" class="edge">'
            f"<title>{escape(SHARES[i])}: {size_bytes / GIB:.2f} GiB</title></rect>"
        )
        if width >= _SHORTEST_TEXT_PX:
            center = f'x="{x + width / 2:.1f}" y="{middle}" text-anchor="middle"'
            parts.append(f'<text {center} class="on">{size_bytes / GIB:.1f}</text>')
        x += width
    free = _LABEL + bar.free_bytes * scale
    parts.append(f'<path d="M{free:.1f} {top}V{top + _ROW}" class="limit"/>')
    parts.append(f'<text x="{_LABEL + _BAR + 10}" y="{middle}" class="small">{escape(note)}</text>')
    return "".join(parts)


def slots(rows: list[tuple[str, int, list[tuple[str, int]]]]) -> str:
    """GPUs with the processes that they hold: each row a name, what is free, and the processes with their bytes."""
    scale = (WIDTH - _LABEL - 20) / max(max(free, sum(size for _, size in held)) for _, free, held in rows)
    parts = []
    for i, (name, free_bytes, held) in enumerate(rows):
        top = _ROW * i
        middle = top + _ROW / 2 + 4
        parts.append(f'<text x="{_LABEL - 8}" y="{middle}" text-anchor="end">{escape(name)}</text>')
        x = float(_LABEL)
        for j, (process, size_bytes) in enumerate(held):
            width = size_bytes * scale
            label = f"{process}: {size_bytes / GIB:.1f}"
            parts.append(
                f'<rect x="{x:.1f}" y="{top + 4}" width="{width:.1f}" height="{_ROW - 8}" fill="url(#p{(j + 1) % 5})" '
                f'class="edge"><title>{escape(label)} GiB</title></rect>'
            )
            if width > _TEXT_PX * len(label):
                center = f'x="{x + width / 2:.1f}" y="{middle}" text-anchor="middle"'
                parts.append(f'<text {center} class="on">{escape(label)}</text>')
            x += width
        parts.append(f'<path d="M{_LABEL + free_bytes * scale:.1f} {top}V{top + _ROW}" class="limit"/>')
    said = "; ".join(f"{name}: " + ", ".join(process for process, _ in held) for name, _, held in rows)
    return _figure(_ROW * len(rows), "What every GPU holds", said, "".join(parts))


def curves(lines: list[tuple[Curve, str]], context_tokens: int, num_users: int) -> str:
    """Concurrent sequences against context length, both axes logarithmic, and the load as a cross."""
    left, right, top, bottom, height = 60, 150, 14, 46, 330
    xs = [c for curve, _ in lines for c, _ in curve.points]
    ys = [max(n, 1) for curve, _ in lines for _, n in curve.points] + [num_users]
    low_x, high_x = math.log2(min(xs)), math.log2(max(xs))
    high_y = max(math.log10(max(ys)), 1.0)

    def at(context: float, users: float) -> tuple[float, float]:
        x = left + (math.log2(context) - low_x) / max(high_x - low_x, 1e-9) * (WIDTH - left - right)
        return x, height - bottom - math.log10(max(users, 1)) / high_y * (height - top - bottom)

    parts = [*_axes(at, (min(xs), max(xs)), max(ys), height - bottom, left, top)]
    for i, (curve, name) in enumerate(lines):
        points = [at(c, n) for c, n in curve.points if n >= 1]
        if not points:
            continue
        path = "M" + "L".join(f"{x:.1f} {y:.1f}" for x, y in points)
        parts.append(f'<path d="{path}" class="line l{i}" stroke-dasharray="{_DASHES[i % 3]}"/>')
        parts += [_mark(i, x, y, f"{n} of {c} tokens") for (x, y), (c, n) in zip(points, curve.points, strict=False)]
        x, y = points[-1]
        parts.append(f'<text x="{x + 10:.1f}" y="{y + 4:.1f}" class="t{i}">{escape(name)}</text>')
    x, y = at(context_tokens, num_users)
    parts.append(f'<path d="M{x - 6:.1f} {y:.1f}H{x + 6:.1f}M{x:.1f} {y - 6:.1f}V{y + 6:.1f}" class="limit"/>')
    parts.append(f'<text x="{x + 9:.1f}" y="{y - 7:.1f}" class="strong">asked</text>')
    said = "; ".join(f"{name}: " + ", ".join(f"{n} of {c}" for c, n in curve.points) for curve, name in lines)
    return _figure(height, "Concurrent sequences by context length", said, "".join(parts))


def _axes(
    at: Callable[[float, float], tuple[float, float]],
    across: tuple[int, int],
    most: int,
    base: float,
    left: int,
    top: int,
) -> Iterator[str]:
    for power in range(across[0].bit_length() - 1, across[1].bit_length()):
        context = 1 << power
        if across[0] <= context <= across[1]:
            x = at(context, 1)[0]
            label = f"{context // 1024}k" if context >= 1024 else str(context)
            yield f'<path d="M{x:.1f} {top}V{base}" class="grid"/>'
            yield f'<text x="{x:.1f}" y="{base + 18}" text-anchor="middle" class="small">{label}</text>'
    for power in range(len(str(most)) + 1):
        y = at(across[0], 10**power)[1]
        if y < top - 1:
            break
        yield f'<path d="M{left} {y:.1f}H{at(across[1], 1)[0]:.1f}" class="grid"/>'
        yield f'<text x="{left - 8}" y="{y + 4:.1f}" text-anchor="end" class="small">{10**power:,}</text>'
    middle = (left + at(across[1], 1)[0]) / 2
    yield f'<text x="{middle:.0f}" y="{base + 38}" text-anchor="middle">context tokens</text>'
    yield (
        f'<text x="14" y="{(top + base) / 2:.0f}" text-anchor="middle" '
        f'transform="rotate(-90 14 {(top + base) / 2:.0f})">concurrent sequences</text>'
    )


def _mark(kind: int, x: float, y: float, said: str) -> str:
    shapes = (
        f'<circle cx="{x:.1f}" cy="{y:.1f}" r="4"',
        f'<rect x="{x - 4:.1f}" y="{y - 4:.1f}" width="8" height="8"',
        f'<path d="M{x:.1f} {y - 5:.1f}l5 9h-10z"',
    )
    return (
        f'{shapes[kind % 3]} class="mark l{kind}"><title>{said}</title>{("</circle>", "</rect>", "</path>")[kind % 3]}'
    )


def _figure(height: int, title: str, said: str, body: str) -> str:
    return (
        f'<svg viewBox="0 0 {WIDTH} {height}" role="img" class="chart"><title>{escape(title)}</title>'
        f"<desc>{escape(said)}</desc>{body}</svg>"
    )
