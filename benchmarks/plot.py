"""Bar charts as SVG text, with nothing but the standard library."""
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


def bars(title, unit, rows):
    """rows: label, value, (low, high) or None, marker (the floor) or None, colour's number."""
    top = max([v for _, v, *_ in rows] + [s[1] for _, _, s, *_ in rows if s]) * 1.02
    height = TOP + ROW * len(rows) + FOOT
    span = WIDTH - LEFT - RIGHT

    def x(value):
        return LEFT + span * value / top

    out = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{height}" '
        f'viewBox="0 0 {WIDTH} {height}" font-family="sans-serif" font-size="12">',
        f'<rect width="{WIDTH}" height="{height}" fill="white"/>',
        f'<text x="12" y="22" font-size="15">{html.escape(title)}</text>',
    ]
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
