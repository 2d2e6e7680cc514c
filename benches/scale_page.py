"""The page of benches/scale.py: plots with two logarithmic axes, as SVG, and tables; no scripts, no network access.

Colours and fonts are those of mipgpu's reports (src/page/plot.css and page.css).
"""
import html, math, os

root = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
WIDTH, LEFT, RIGHT, TOP, BOTTOM = 680, 66, 664, 30, 330
MORE = """svg.plot .ref { stroke: var(--soft); stroke-width: 1.25; fill: none; }
figcaption { font-weight: 600; color: var(--ink); }
svg.plot .faint { stroke: var(--line); stroke-width: 1; stroke-opacity: .55; }
ul.told { padding-left: 1.2rem; } ul.told li { margin: .35rem 0; }
"""


# ------------------------------------------------------------------------------------------------ numbers
def power(n): return "10" + str(n).translate(str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹"))


def count(x):
    """A size: 10⁶ for a power of ten, otherwise with commas."""
    n = round(math.log10(x)) if x > 0 else 0
    return power(n) if x >= 1000 and x == 10 ** n else f"{x:,.0f}"


def digits(x, most=3):
    """Rounds to about `most` significant digits."""
    if x == 0: return "0"
    return f"{x:,.{max(0, most - 1 - math.floor(math.log10(abs(x)) + 1e-9))}f}"


def tick(x):
    if x >= 1e6 or x < 1e-3: return power(round(math.log10(x)))
    return f"{x:,.0f}" if x >= 1 else f"{x:g}"


def slope(a, b): return math.log(b[1] / a[1]) / math.log(b[0] / a[0])


# ------------------------------------------------------------------------------------------------ a plot
def plot(title, x_name, y_name, series, refs=(), xs=None, unit=""):
    """`series`: name, colour, points (x, median, minimum, maximum), dashes, whether points are drawn. `refs`: name,
    slope, a point of the line, dashes. The axes cover the series."""
    series = [dict(dict(dash="", dots=True), **s) for s in series if s["points"]]
    if not series: return ""
    all_x = sorted({p[0] for s in series for p in s["points"]})
    all_y = [v for s in series for p in s["points"] for v in p[1:] if v > 0]
    x0, x1 = math.log10(all_x[0]), math.log10(all_x[-1])
    if x1 - x0 < 0.1: x0, x1 = x0 - 0.3, x1 + 0.3
    x0, x1 = x0 - 0.04 * (x1 - x0), x1 + 0.04 * (x1 - x0)
    fine = math.log10(max(all_y) / min(all_y)) < 1.6
    marks = sorted(m * 10.0 ** e for e in range(-9, 16) for m in ((1, 2, 5) if fine else (1,)))
    low = max(m for m in marks if m <= min(all_y) * 1.0001)
    high = min(m for m in marks if m >= max(all_y) * 0.9999 and m > low)
    y0, y1 = math.log10(low), math.log10(high)
    px = lambda x: LEFT + (math.log10(x) - x0) / (x1 - x0) * (RIGHT - LEFT)
    py = lambda y: BOTTOM - (math.log10(y) - y0) / (y1 - y0) * (BOTTOM - TOP)
    line = lambda kind, a, b, c, d: out.append(f'<line class="{kind}" x1="{a:.1f}" y1="{b:.1f}" x2="{c:.1f}" y2="{d:.1f}"/>')
    label = lambda kind, anchor, x, y, text: out.append(f'<text class="{kind}" x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{html.escape(text)}</text>')
    out = []
    label("soft", "start", 0, 14, y_name)
    for m in (m for m in marks if low <= m <= high):
        line("grid", LEFT, py(m), RIGHT, py(m))
        label("soft", "end", LEFT - 8, py(m) + 4, tick(m))
    for x in xs or all_x:
        line("faint", px(x), TOP, px(x), BOTTOM)
        line("rest", px(x), BOTTOM, px(x), BOTTOM + 4)
        label("soft", "middle", px(x), BOTTOM + 18, count(x))
    line("rest", LEFT, BOTTOM, RIGHT, BOTTOM)
    label("soft", "middle", (LEFT + RIGHT) / 2, BOTTOM + 36, x_name)
    for name, steep, (ax, ay), dash in refs:
        # Clipped to the frame, in logarithms.
        ends = [x0, x1]
        at = lambda lx: math.log10(ay) + steep * (lx - math.log10(ax))
        if steep:
            crossing = sorted(math.log10(ax) + (y - math.log10(ay)) / steep for y in (y0, y1))
            ends = [max(x0, crossing[0]), min(x1, crossing[1])]
        elif not y0 <= at(x0) <= y1: continue
        if ends[0] < ends[1]: line(f"ref {dash}", px(10 ** ends[0]), py(10 ** at(ends[0])), px(10 ** ends[1]), py(10 ** at(ends[1])))
    for s in series:
        points = [(p[0], *(max(v, low) for v in p[1:])) for p in s["points"]]
        out.append(f'<g class="c{s["colour"]}">')
        if len(points) > 1:
            path = " ".join(f"{px(p[0]):.1f},{py(p[1]):.1f}" for p in points)
            out.append(f'<polyline class="curve {s["dash"]}" points="{path}"/>')
        for p in points if s["dots"] else ():
            if len(p) == 4 and p[3] > p[2]: line("spread", px(p[0]), py(p[2]), px(p[0]), py(p[3]))
            told = f"{s['name']}, {count(p[0])}: {digits(p[1])}{unit}" + (f" ({digits(p[2])} to {digits(p[3])})" if len(p) == 4 and p[3] > p[2] else "")
            out.append(f'<circle class="dot" cx="{px(p[0]):.1f}" cy="{py(p[1]):.1f}" r="3.5"><title>{html.escape(told)}</title></circle>')
        out.append("</g>")
    # Legend: names next to samples of their lines, in as many columns as fit.
    names = [(f"curve {s['dash']}", f"c{s['colour']}", s["name"], s["dots"]) for s in series] + [(f"ref {r[3]}", "", r[0], False) for r in refs]
    columns = max(1, int(WIDTH // (52 + 6.9 * max(len(n[2]) for n in names))))
    for i, (kind, colour, name, dots) in enumerate(names):
        x, y = i % columns * WIDTH / columns, BOTTOM + 62 + i // columns * 20
        out.append(f'<g class="{colour}">')
        line(kind, x, y, x + 26, y)
        if dots: out.append(f'<circle class="dot" cx="{x + 13:.1f}" cy="{y:.1f}" r="3.5"/>')
        label("", "start", x + 34, y + 4, name)
        out.append("</g>")
    tall = BOTTOM + 62 + (len(names) - 1) // columns * 20 + 14
    title = html.escape(title)
    head = f'<svg class="plot" viewBox="0 0 {WIDTH} {tall}" width="{WIDTH}" height="{tall}" role="img" aria-label="{title}">'
    return f'<figure><figcaption>{title}</figcaption><div class="scroll">{head}{"".join(out)}</svg></div></figure>'


def table(rows, columns):
    """`columns`: name, unit, function from row to cell."""
    if not rows: return ""
    head = "".join(f'<th class="n">{html.escape(name)}<small>{html.escape(unit) or "&nbsp;"}</small></th>' for name, unit, _ in columns)
    cells = lambda row: "".join(f'<td class="n">{html.escape(str(cell(row)))}</td>' for _, _, cell in columns)
    body = "".join(f"<tr>{cells(row)}</tr>" for row in rows)
    return f'<div class="scroll" tabindex="0"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'


# ------------------------------------------------------------------------------------------------ sections of the page
MB = 1e-6


class Of:
    """The measured points of a sweep."""

    def __init__(self, result, sweep):
        self.all = [p for p in result["points"] if p["sweep"] == sweep and p["runs"]]

    def of(self, series): return [p for p in self.all if p["series"] == series]

    def line(self, series, key, name, colour, scale=1.0, only=lambda p: True, **more):
        """Median, minimum and maximum of a number over the size."""
        of = [p for p in self.of(series) if p["median"].get(key) and only(p)]
        return dict(name=name, colour=colour, points=[(p["x"], p["median"][key] * scale, *(v * scale for v in p["spread"][key])) for p in of], **more)

    def made(self, series, value, name, colour, **more):
        """A number computed from a point."""
        return dict(name=name, colour=colour, points=[(p["x"], value(p)) for p in self.of(series)], **more)


def anchor(points, key, at=-1, scale=1.0): return (points[at]["x"], points[at]["median"][key] * scale)


# Columns of tables.
def shown(name, unit, key, scale=1.0): return (name, unit, lambda p: digits(p["median"][key] * scale))


def whole(name, unit, key, scale=1.0): return (name, unit, lambda p: f"{p['median'][key] * scale:,.0f}")


def spread(unit, key):
    def cell(p):
        low, high = map(digits, p["spread"][key])
        return f"{low}–{high}" if low != high else ""
    return ("min–max", unit, cell)


def steepness(points, key, name="slope"):
    """The exponent from the previous point of the same series."""
    def cell(p):
        before = [q for q in points if q["series"] == p["series"] and q["x"] < p["x"]]
        return f"{slope(anchor(before, key), anchor([p], key)):.2f}" if before else ""
    return (name, "from the row above", cell)


def computed(name, unit, value): return (name, unit, value)


EACH = computed("per interaction", "µs", lambda p: digits(p["median"]["ms"] * 1e3 / p["median"]["tokens"]))
PEAK, PLANNED = whole("peak", "MB", "peak", MB), whole("planned", "MB", "planned", MB)


def items_of(p): return p.get("items", p["x"])
def tables_of(p): return items_of(p) * p["width"] * 4 * p["tables"] * MB
def logits_of(p): return p["median"]["scored"] * items_of(p) * 4 * MB


def catalogue(r):
    o, s = Of(r, "catalogue"), Of(r, "scored")
    full, sampled, scored = o.of("full"), o.of("sampled"), s.of("full")
    if not o.all and not s.all: return None
    told, plots, under = [], [], ""
    if o.all:
        plots.append(plot("Time of a step by items", "items of the catalogue", "ms per step", [
            o.line("full", "ms", "full softmax", 0),
            o.line("sampled", "ms", "1,024 negatives, table by rows", 1),
        ], [("linear", 1, anchor(full, "ms"), "d1")] if full else [], unit=" ms"))
        plots.append(plot("Peak memory by items", "items of the catalogue", "MB", [
            o.line("full", "peak", "full softmax, peak", 0, MB),
            o.line("sampled", "peak", "1,024 negatives, peak", 1, MB),
            o.made("full", tables_of, "tables of full softmax: weights, gradients, moments", 0, dash="d2", dots=False),
            o.made("sampled", tables_of, "tables updated by rows: weights, moments", 1, dash="d2", dots=False),
            o.made("full", logits_of, "logits of full softmax, if stored", 6, dash="d1", dots=False),
        ], unit=" MB"))
        under += table(full + sampled, [
            computed("items", "", lambda p: count(p["x"])),
            computed("loss", "", lambda p: {"full": "full softmax", "sampled": "1,024 negatives"}[p["series"]]),
            whole("rows scored", "per step", "scored"), shown("step", "ms", "ms"), spread("ms", "ms"), steepness(full + sampled, "ms"),
            shown("rate", "sequences/s", "seq_s"), EACH, PEAK, PLANNED,
            computed("tables", "MB", lambda p: f"{tables_of(p):,.1f}"),
            computed("logits if stored", "MB", lambda p: f"{logits_of(p):,.0f}" if p["series"] == "full" else ""),
        ])
    if scored:
        over = f"over {count(items_of(scored[0]))} items"
        plots.append(plot("Peak memory by sequences", "sequences per step (10 scored rows each)", f"MB, {over}", [
            s.line("full", "peak", "full softmax, peak", 0, MB),
            s.made("full", tables_of, "its tables", 0, dash="d2", dots=False),
            s.made("full", logits_of, "logits, if stored", 6, dash="d1", dots=False),
        ], unit=" MB"))
        plots.append(plot("Time of a step by sequences", "sequences per step", f"ms per step, {over}", [s.line("full", "ms", "full softmax", 0)],
                          [("linear", 1, anchor(scored, "ms"), "d1")], unit=" ms"))
        under += f"<h3>More rows scored, {over}</h3>" + table(scored, [
            computed("sequences", "per step", lambda p: f"{p['x']:,}"), whole("rows scored", "per step", "scored"),
            shown("step", "ms", "ms"), spread("ms", "ms"), steepness(scored, "ms"), PEAK, PLANNED,
            computed("tables", "MB", lambda p: f"{tables_of(p):,.1f}"), computed("logits if stored", "MB", lambda p: f"{logits_of(p):,.0f}"),
        ])
    if full:
        p, m = full[-1], full[-1]["median"]
        told.append(f"Full softmax over {count(p['x'])} items: {digits(m['ms'])} ms per step, peak {m['peak'] * MB:,.0f} MB. "
                    f"The tables take {tables_of(p):,.0f} MB; the logits of the {m['scored']:,.0f} scored rows, "
                    f"which are never stored, would take {logits_of(p):,.0f} MB.")
    if len(full) > 1:
        told.append(f"Its time grows with exponent {slope(anchor(full, 'ms', -2), anchor(full, 'ms')):.2f} in the size of the catalogue "
                    f"from {count(full[-2]['x'])} to {count(full[-1]['x'])} items.")
    if len(sampled) > 1:
        a, b = sampled[0], sampled[-1]
        told.append(f"With 1,024 negatives and row-sparse table updates, a step over {count(b['x'])} items takes "
                    f"{b['median']['ms'] / a['median']['ms']:.1f} times as long as one over {count(a['x'])}.")
    if len(scored) > 1:
        a, b = scored[0]["median"], scored[-1]["median"]
        told.append(f"Over {count(items_of(scored[0]))} items, peak memory grows by {(b['peak'] - a['peak']) / (b['tokens'] - a['tokens']) / 1e3:.0f} kB "
                    f"per interaction of the batch, including its activations; every {b['tokens'] / b['scored']:.0f}th is scored, "
                    f"and a row of logits would be {items_of(scored[0]) * 4 / 1e3:,.0f} kB.")
    meaning = ("The number of items varies, everything else is fixed. Peak is the peak memory of the process, planned the memory that mipgpu computes "
               "before the first step. Tables are (items, width) in f32.")
    return "Catalogue", meaning, told, plots, under


def is_cold(p):
    """True if every run of a cold point read at least half of the data set from a disk."""
    return p["spread"].get("disk_bytes", [0])[0] >= p["median"].get("data_bytes", math.inf) / 2


def interactions(r):
    o = Of(r, "interactions")
    imports, warm, cold = (o.of(s) for s in ("import", "warm", "cold"))
    if not o.all: return None
    share = lambda p: 100 * p["median"]["load_ms"] / p["median"]["ms"]
    told, under = [], ""
    plots = [
        plot("Time by interactions", "interactions", "s", [
            o.line("import", "wall_s", "import of the log", 0),
            o.line("warm", "open_ms", "opening, files in memory", 1, 1e-3), o.line("warm", "split_ms", "splitting, files in memory", 2, 1e-3),
            o.line("cold", "open_ms", "opening, from disk", 1, 1e-3, is_cold, dash="d1"), o.line("cold", "split_ms", "splitting, from disk", 2, 1e-3, is_cold, dash="d1"),
        ], [("linear", 1, anchor(imports, "wall_s"), "d1")] if imports else [], unit=" s"),
        plot("Peak memory by interactions", "interactions", "MB", [
            o.line("import", "peak", "import, peak", 0, MB), o.line("warm", "peak", "training, peak", 1, MB),
            o.line("warm", "own", "training, its own memory", 2, MB), o.line("warm", "mapped", "training, mapped files touched", 4, MB),
            o.line("import", "data_bytes", "files of the data set", 7, MB, dash="d1", dots=False),
        ], unit=" MB"),
        plot("Loading and step by interactions", "interactions", "ms", [
            o.line("warm", "ms", "a step", 0), o.line("warm", "load_ms", "loading its batch, from memory", 1),
        ], unit=" ms"),
    ]
    if imports:
        m, n = imports[-1]["median"], imports[-1]["x"]
        told.append(f"Import takes {digits(m['wall_s'] / n * 1e9)} ns per interaction at {count(n)} ({digits(m['cpu_s'] / n * 1e9)} ns of CPU time), "
                    f"with a peak of {m['peak'] * MB:,.0f} MB.")
        under += "<h3>Import</h3>" + table(imports, [
            computed("interactions", "", lambda p: count(p["x"])), shown("time", "s", "wall_s"), spread("s", "wall_s"), shown("CPU time", "s", "cpu_s"),
            computed("per interaction", "ns", lambda p: digits(p["median"]["wall_s"] / p["x"] * 1e9)), steepness(imports, "wall_s"), PEAK,
            shown("log", "MB", "log_bytes", MB), shown("data set", "MB", "data_bytes", MB), computed("runs", "", lambda p: len(p["runs"])),
        ])
    if warm:
        told.append(f"Loading a batch takes {digits(min(map(share, warm)), 2)} to {digits(max(map(share, warm)), 2)} % of a step, from memory, since splitting has already read every file.")
    if len(warm) > 1:
        a, b = warm[0], warm[-1]
        each = (b["median"]["own"] - a["median"]["own"]) / (b["median"]["users"] - a["median"]["users"])
        told.append(f"From {count(a['x'])} to {count(b['x'])} interactions, the memory of training without mapped files grows from "
                    f"{a['median']['own'] * MB:,.0f} to {b['median']['own'] * MB:,.0f} MB: {each:.0f} bytes per user. "
                    f"The system may reclaim the mapped pages that were touched ({b['median']['mapped'] * MB:,.0f} MB).")
    proven = [p for p in cold if is_cold(p)]
    if proven:
        p, ms = proven[-1], lambda p: p["median"]["open_ms"] + p["median"]["split_ms"]
        beside = next((f", {digits(ms(q) / 1e3)} s if they are in memory" for q in warm if q["x"] == p["x"]), "")
        told.append(f"Opening and splitting {count(p['x'])} interactions takes {digits(ms(p) / 1e3)} s if the files are read from disk "
                    f"({p['median']['disk_bytes'] * MB:,.0f} MB are read){beside}.")
    left = [count(p["x"]) for p in cold if not is_cold(p)]
    if left:
        told.append(f"Not cold: {', '.join(left)} interactions. The system was asked to drop the cached files, but at least one run has no record of reading "
                    "half of their bytes from a disk. The times are in the table, but not in the plot.")
    if warm or cold:
        under += "<h3>Opening and splitting</h3>" + table(warm + cold, [
            computed("interactions", "", lambda p: count(p["x"])),
            computed("files", "", lambda p: "in memory" if p["series"] == "warm" else "from disk" if is_cold(p) else "not cold"),
            computed("read from a disk", "MB", lambda p: digits(p["median"]["disk_bytes"] * MB) if "disk_bytes" in p["median"] else "not counted"),
            computed("major page faults", "", lambda p: f"{p['median']['major_faults']:,.0f}" if "major_faults" in p["median"] else "not counted"),
            whole("users", "", "users"), shown("opening", "ms", "open_ms"), spread("ms", "open_ms"), shown("splitting", "ms", "split_ms"), spread("ms", "split_ms"),
        ])
    if warm:
        under += "<h3>Training from it</h3>" + table(warm, [
            computed("interactions", "", lambda p: count(p["x"])), whole("users", "", "users"), shown("step", "ms", "ms"), spread("ms", "ms"),
            shown("loading", "ms per step, from memory", "load_ms"), computed("share", "%", lambda p: digits(share(p), 2)), EACH, PEAK,
            whole("own", "MB", "own", MB), whole("mapped", "MB", "mapped", MB),
        ])
    held = ", which are held in the device's memory" if any(p["median"].get("held") for p in warm) else ""
    meaning = ("A generated log: 100 interactions per user, 1,000 different histories over 10,000 items, in order of time. The step reads its batches from the "
               f"files of the imported data set{held}, other users at every step. From disk: the system was asked to drop the cached files before the run, and the "
               "process read at least half of their bytes from a disk. This applies to opening and splitting only: splitting "
               "reads the events of every user and so the whole set, so that loading finds it in memory in every run. Opening also verifies sets below "
               "64 MiB, byte by byte. The memory of an import is bounded by --memory-mb (2,048 MiB by default).")
    return "Interactions", meaning, told, plots, under


def length(r):
    o = Of(r, "length")
    steps, ops = o.of("step"), o.of("ops")
    if not o.all: return None
    rest = lambda p: p["median"]["all_ms"] - p["median"]["attention_ms"]
    share = lambda p: 100 * p["median"]["attention_ms"] / p["median"]["all_ms"]
    xs = sorted({p["x"] for p in o.all})
    told, under = [], ""
    plots = [plot("Time of a step by length", "T, longest sequence (constant interactions per batch)", "ms per step", [
        o.line("step", "ms", "a step", 0), o.line("ops", "attention_ms", "attention, forward and backward", 1), o.made("ops", rest, "all other operations", 2),
    ], [("linear: quadratic in T per sequence", 1, anchor(ops, "attention_ms"), "d1")] if ops else [], xs, " ms")]
    if steps:
        batch = {p["x"]: p["median"]["batch"] for p in steps}
        each = dict(name="a sequence", colour=0, points=[(p["x"], *(v / batch[p["x"]] for v in (p["median"]["ms"], *p["spread"]["ms"]))) for p in steps])
        alone = dict(name="its attention", colour=1, points=[(p["x"], p["median"]["attention_ms"] / batch[p["x"]]) for p in ops if p["x"] in batch])
        refs = [("linear", 1, each["points"][0][:2], "d1")] + [("quadratic", 2, point, "d2") for point in alone["points"][-1:]]
        plots.append(plot("Time of a sequence by length", "T, longest sequence", "ms per sequence", [each, alone], refs, xs, " ms"))
        # From the runs with --ops at the same length, if there are any.
        of_ops = lambda cell: lambda p: next((cell(q) for q in ops if q["x"] == p["x"]), "")
        under = table(steps, [
            computed("T", "", lambda p: f"{p['x']:,}"), whole("sequences", "per step", "batch"), shown("step", "ms", "ms"), spread("ms", "ms"), EACH,
            shown("rate", "sequences/s", "seq_s"), computed("attention", "ms", of_ops(lambda q: digits(q["median"]["attention_ms"]))),
            computed("share", "%", of_ops(lambda q: f"{share(q):.0f}")),
            computed("attention's slope", "from the row above", of_ops(steepness(ops, "attention_ms")[2])), PEAK,
        ])
    if ops: told.append(f"Attention takes {share(ops[0]):.0f} % of a step's operations at T = {ops[0]['x']} and {share(ops[-1]):.0f} % at {ops[-1]['x']:,}.")
    if len(ops) > 1:
        told.append(f"For constant interactions per batch it grows with exponent {slope(anchor(ops, 'attention_ms', -2), anchor(ops, 'attention_ms')):.2f} in T "
                    f"between {ops[-2]['x']} and {ops[-1]['x']:,} (1 is quadratic per sequence).")
    if len(steps) > 1:
        told.append(f"An interaction costs {EACH[2](steps[0])} µs at T = {steps[0]['x']} and {EACH[2](steps[-1])} µs at {steps[-1]['x']:,}.")
    return "Length", "All sequences have full length. Attention and the other operations are timed in separate runs (--ops).", told, plots, under


def width(r):
    o = Of(r, "width")
    points = o.of("step")
    if not points: return None
    xs = [p["x"] for p in points]
    plots = [
        plot("Time of a step by width", "width", "ms per step", [o.line("step", "ms", "a step", 0)],
             [("linear", 1, anchor(points, "ms", 0), "d1"), ("quadratic", 2, anchor(points, "ms"), "d2")], xs, " ms"),
        plot("Peak memory by width", "width", "MB", [o.line("step", "peak", "peak", 0, MB), o.line("step", "planned", "planned", 2, MB, dash="d1")],
             [("linear", 1, anchor(points, "peak", -1, MB), "d2")], xs, " MB"),
    ]
    under = table(points, [
        computed("width", "", lambda p: p["x"]), whole("parameters", "", "params"), whole("sequences", "per step", "batch"), shown("step", "ms", "ms"),
        spread("ms", "ms"), steepness(points, "ms"), shown("rate", "sequences/s", "seq_s"), EACH, PEAK, PLANNED,
    ])
    between = lambda i, j: slope(anchor(points, "ms", i), anchor(points, "ms", j))
    told = [f"From width {points[0]['x']} to {points[1]['x']} the time of a step grows with exponent {between(0, 1):.2f}, "
            f"from {points[-2]['x']} to {points[-1]['x']} with {between(-2, -1):.2f}."] if len(points) > 1 else []
    return "Width", "Two blocks, heads of 32 columns, sequences of 200, 3,706 items.", told, plots, under


def read(path):
    with open(path, encoding="utf-8") as f: return f.read()


def page(r):
    """The page of a result; the result is not modified."""
    style = "".join(read(os.path.join(root, "src/page", name)) for name in ("plot.css", "page.css")) + MORE
    sections = [s for s in (f(r) for f in (catalogue, interactions, length, width)) if s]
    ran = sorted({p["runs"][0]["dtype"] for p in r["points"] if p["runs"] and "dtype" in p["runs"][0]})
    low, high = r["loadavg"]
    facts = [
        ("machine", f"{r['gpu'] + ', ' if r['gpu'] else ''}{r['cpu']}, {r['cores']} cores, {r['memory'] / 2**30:.0f} GiB; {r['system']}"),
        ("date", r["date"]), ("commit", r["commit"]), ("command", r["command"]),
        ("measured", f"on {r['device']} in {' and '.join(ran)}; a point is the median of its runs, at most {r['rounds']}; whiskers show minimum and maximum"),
        *([("files", f"on {r['files']}")] if r.get("files") else []),
        ("load average", f"{low:.1f} to {high:.1f}, including the measured processes"),
    ]
    listed = lambda lines: '<ul class="told">' + "".join(f"<li>{html.escape(line)}</li>" for line in lines) + "</ul>\n"
    out = [
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f'<meta name="color-scheme" content="light dark">\n<title>mipgpu: scaling of a training step</title>\n<style>\n{style}</style>\n</head>\n<body>\n'
        "<h1>Scaling of a training step</h1>\n<p>Time and memory of mipgpu by catalogue, interactions, length and width. Both axes of every "
        "plot are logarithmic: a straight line is a power law. Dashed grey lines are references with the named slopes. The tables below the plots contain "
        "the numbers.</p>\n"
        '<dl class="facts">' + "".join(f"<dt>{name}</dt><dd>{html.escape(value)}</dd>" for name, value in facts) + "</dl>\n"
        "<nav>" + "".join(f'<a href="#{s[0].lower()}">{s[0]}</a>' for s in sections) + "</nav>\n"
    ]
    for name, meaning, told, plots, under in sections:
        out.append(f'<h2 id="{name.lower()}">{name}</h2>\n<p class="meaning">{html.escape(meaning)}</p>\n{listed(told)}')
        out.append(f'<div class="plots">{"".join(plots)}</div>\n{under}\n')
    wrong = [f"{p['name']}: {p['wrong']}" for p in r["points"] if p.get("wrong")]
    if wrong: out.append(f'<h2 id="wrong">Not measured</h2>\n{listed(wrong)}')
    commands = "".join(f'<p class="error">{html.escape(p["name"])}: {html.escape(p["command"])}</p>' for p in r["points"])
    out.append(f"<details><summary>Commands</summary>{commands}</details>\n</body>\n</html>\n")
    return "".join(out)
