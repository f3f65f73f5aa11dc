"""A row of small line charts as one SVG text: the same sizes below each, a quantity of its own."""

import math
from html import escape

WIDTH, HEIGHT = 250, 200
LEFT, RIGHT, TOP, BOTTOM = 46, 22, 50, 40
COLOURS = ["#1f6feb", "#bf5700"]
INK, PALE, PAPER = "#24292f", "#d8dee4", "#ffffff"


def chart(unit, sizes, panels):
    """`panels`: (title, [(label, values)]), a value for each size. Sizes are spaced by magnitude."""
    parts = [panel(index, unit, sizes, title, lines) for index, (title, lines) in enumerate(panels)]
    width = WIDTH * len(panels)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{HEIGHT}" viewBox="0 0 {width} {HEIGHT}"'
        f' font-family="sans-serif" font-size="11" fill="{INK}">\n'
        f'<title>{escape(unit)}: {escape(", ".join(title for title, _ in panels))}</title>\n'
        f'<rect width="{width}" height="{HEIGHT}" fill="{PAPER}"/>\n' + "".join(parts) + "</svg>\n"
    )


def panel(index, unit, sizes, title, lines):
    low, high = math.log10(sizes[0]), math.log10(sizes[-1])
    top, step = scale(max(max(values) for _, values in lines))
    x = lambda size: index * WIDTH + LEFT + (math.log10(size) - low) / (high - low) * (WIDTH - LEFT - RIGHT)
    y = lambda value: HEIGHT - BOTTOM - value / top * (HEIGHT - TOP - BOTTOM)
    left, right = index * WIDTH + LEFT, (index + 1) * WIDTH - RIGHT
    out = [text(left - 30, 16, title, weight="bold", size=12)]
    for tick in range(round(top / step) + 1):
        at = y(tick * step)
        out.append(f'<line x1="{left}" x2="{right}" y1="{at:.1f}" y2="{at:.1f}" stroke="{PALE}"/>\n')
        out.append(text(left - 5, at + 4, number(tick * step), anchor="end"))
    for size in sizes:
        out.append(text(x(size), HEIGHT - BOTTOM + 15, magnitude(size), anchor="middle"))
    out.append(text((left + right) / 2, HEIGHT - 8, unit, anchor="middle"))
    for colour, line, (label, values) in zip(COLOURS, range(2), lines):
        points = [(x(size), y(value)) for size, value in zip(sizes, values)]
        path = " ".join(f"{one:.1f},{other:.1f}" for one, other in points)
        out.append(f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="2"/>\n')
        out += [f'<circle cx="{one:.1f}" cy="{other:.1f}" r="3" fill="{colour}"/>\n' for one, other in points]
        if label:
            at = left + line * 105 - 30
            out.append(f'<rect x="{at}" y="25" width="10" height="10" fill="{colour}"/>\n' + text(at + 14, 34, label, size=10))
    return "".join(out)


def text(x, y, words, anchor="start", weight="normal", size=11):
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" font-weight="{weight}" font-size="{size}">{escape(words)}</text>\n'


def scale(highest):
    """The end of an axis from 0 that has room for the highest value, and its step: four or five of them."""
    rough = max(highest, 1e-9) * 1.1 / 4
    power = 10 ** math.floor(math.log10(rough))
    step = next(power * factor for factor in (1, 2, 2.5, 5, 10) if power * factor >= rough)
    return step * math.ceil(highest * 1.02 / step), step


def number(value):
    return f"{value:,.0f}" if value >= 10 or value == round(value) else f"{value:.2f}".rstrip("0")


def magnitude(size):
    for unit, short in ((1_000_000, "M"), (1_000, "k")):
        if size >= unit:
            return f"{size / unit:.3g}{short}"
    return str(size)
