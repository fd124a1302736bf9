"""Charts as SVG text, with nothing but the standard library."""
import html
import math

WIDTH, ROW, LEFT, RIGHT, TOP, FOOT = 760, 22, 200, 110, 52, 34
COLORS = ("#3b6ea5", "#d98032", "#5a9a5a", "#8a6bb0", "#999999")


def _number(value):
    return f"{value:.0f}" if value >= 100 else f"{value:.3g}"


def _ticks(top, count=5):
    step = 10 ** math.floor(math.log10(top / count))
    step *= next(m for m in (1, 2, 5, 10) if step * m * count >= top)
    return [i * step for i in range(int(top / step) + 1)]


def _head(title, height):
    return [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{height}" '
        f'viewBox="0 0 {WIDTH} {height}" font-family="sans-serif" font-size="12">',
        f'<rect width="{WIDTH}" height="{height}" fill="white"/>',
        f'<text x="12" y="22" font-size="15">{html.escape(title)}</text>',
    ]


def lines(title, across, up, series):
    """series: label, [(x, y), ...]; both axes begin at 0 or below the least x."""
    height, left, right, bottom = 320, 60, 130, 44
    xs = [x for _, points in series for x, _ in points]
    top = max([y for _, points in series for _, y in points] + [1e-9]) * 1.05
    least, most = min(xs), max(xs)

    def at(x, y):
        return (left + (WIDTH - left - right) * (x - least) / (most - least),
                height - bottom - (height - bottom - TOP) * y / top)

    out = _head(title, height)
    for tick in _ticks(top):
        _, y = at(least, tick)
        out.append(f'<line x1="{left}" y1="{y:.1f}" x2="{WIDTH - right}" y2="{y:.1f}" '
                   'stroke="#dddddd"/>')
        out.append(f'<text x="{left - 8}" y="{y + 4:.1f}" text-anchor="end" fill="#555555">'
                   f'{tick:.3g}</text>')
    for x_tick in sorted(set(xs)):
        x, y = at(x_tick, 0)
        out.append(f'<text x="{x:.1f}" y="{y + 16:.1f}" text-anchor="middle" fill="#555555">'
                   f'{x_tick:g}</text>')
    out.append(f'<text x="{WIDTH - right}" y="{height - 10}" text-anchor="end" fill="#555555">'
               f'{html.escape(across)}</text>')
    out.append(f'<text x="12" y="{TOP - 12}" fill="#555555">{html.escape(up)}</text>')
    for i, (label, points) in enumerate(series):
        color = COLORS[i % len(COLORS)]
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in (at(*p) for p in points))
        out.append(f'<polyline points="{path}" fill="none" stroke="{color}" stroke-width="2"/>')
        y = TOP + 18 * i
        out.append(f'<line x1="{WIDTH - right + 12}" y1="{y}" x2="{WIDTH - right + 32}" y2="{y}" '
                   f'stroke="{color}" stroke-width="3"/>')
        out.append(f'<text x="{WIDTH - right + 38}" y="{y + 4}">{html.escape(label)}</text>')
    out.append("</svg>")
    return "\n".join(out) + "\n"


def bars(title, unit, rows):
    """rows: label, value, (low, high) or None, marker (the floor) or None, colour's number."""
    top = max([v for _, v, *_ in rows] + [s[1] for _, _, s, *_ in rows if s]) * 1.02
    height = TOP + ROW * len(rows) + FOOT
    span = WIDTH - LEFT - RIGHT

    def x(value):
        return LEFT + span * value / top

    out = _head(title, height)
    bottom = TOP + ROW * len(rows)
    for tick in _ticks(top):
        out.append(f'<line x1="{x(tick):.1f}" y1="{TOP - 6}" x2="{x(tick):.1f}" y2="{bottom}" '
                   'stroke="#dddddd"/>')
        out.append(f'<text x="{x(tick):.1f}" y="{bottom + 16}" text-anchor="middle" '
                   f'fill="#555555">{tick:g}</text>')
    out.append(f'<text x="{WIDTH - 12}" y="{bottom + 16}" text-anchor="end" fill="#555555">'
               f'{html.escape(unit)}</text>')
    for i, (label, value, spread, marker, color) in enumerate(rows):
        y = TOP + ROW * i
        middle = y + ROW / 2 - 2
        out.append(f'<text x="{LEFT - 8}" y="{middle + 4:.1f}" text-anchor="end">'
                   f'{html.escape(label)}</text>')
        out.append(f'<rect x="{LEFT}" y="{y}" width="{max(x(value) - LEFT, 0.5):.1f}" '
                   f'height="{ROW - 5}" fill="{COLORS[color % len(COLORS)]}"/>')
        end = x(value)
        if spread:
            low, high = (x(edge) for edge in spread)
            out.append(f'<line x1="{low:.1f}" y1="{middle:.1f}" x2="{high:.1f}" y2="{middle:.1f}" '
                       'stroke="black"/>')
            end = max(end, high)
        if marker is not None:
            out.append(f'<line x1="{x(marker):.1f}" y1="{y - 1}" x2="{x(marker):.1f}" '
                       f'y2="{y + ROW - 4}" stroke="#c02020" stroke-width="2"/>')
        out.append(f'<text x="{end + 6:.1f}" y="{middle + 4:.1f}">{_number(value)}</text>')
    out.append("</svg>")
    return "\n".join(out) + "\n"
