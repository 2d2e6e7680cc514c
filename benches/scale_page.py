"""The page of benches/scale.py: plots with two logarithmic axes, written by hand, and the tables beneath; no script, no network.

Colours and type are those of the program's own reports (src/experiment/plot.css and page.css).
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
    """A size: 10⁶ where it is a power of ten, else with commas."""
    n = round(math.log10(x)) if x > 0 else 0
    return power(n) if x >= 1000 and x == 10 ** n else f"{x:,.0f}"


def digits(x, most=3):
    """About so many digits that count."""
    if x == 0: return "0"
    return f"{x:,.{max(0, most - 1 - math.floor(math.log10(abs(x)) + 1e-9))}f}"


def tick(x):
    if x >= 1e6 or x < 1e-3: return power(round(math.log10(x)))
    return f"{x:,.0f}" if x >= 1 else f"{x:g}"


def slope(a, b): return math.log(b[1] / a[1]) / math.log(b[0] / a[0])


# ------------------------------------------------------------------------------------------------ a plot
def plot(title, x_name, y_name, series, refs=(), xs=None, unit=""):
    """`series`: name, colour, points (x, median, least, most), dashes, whether points are drawn. `refs`: name, slope, a point of
    the line, dashes. Frames are what the series need."""
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
        # Cut to the frame, in logarithms.
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
    # Legend: names beside samples of their lines, in as many columns as fit.
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
    return (f'<figure><figcaption>{html.escape(title)}</figcaption><div class="scroll"><svg class="plot" viewBox="0 0 {WIDTH} {tall}" width="{WIDTH}" height="{tall}" role="img" aria-label="{html.escape(title)}">'
            f'{"".join(out)}</svg></div></figure>')


def table(heads, rows):
    """`heads`: name and unit."""
    head = "".join(f'<th class="n">{html.escape(n)}<small>{html.escape(u) or "&nbsp;"}</small></th>' for n, u in heads)
    body = "".join("<tr>" + "".join(f'<td class="n">{html.escape(str(c))}</td>' for c in row) + "</tr>" for row in rows)
    return f'<div class="scroll" tabindex="0"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>' if rows else ""


# ------------------------------------------------------------------------------------------------ what is drawn of a result
class Of:
    """The points of a sweep that were measured."""

    def __init__(self, result, sweep):
        self.all = [p for p in result["points"] if p["sweep"] == sweep and p["runs"]]

    def of(self, series): return [p for p in self.all if p["series"] == series]

    def line(self, series, key, name, colour, scale=1.0, **more):
        """Median, least and most of a number, against the size."""
        points = [(p["x"], p["median"][key] * scale, *(v * scale for v in p["spread"][key])) for p in self.of(series) if p["median"].get(key)]
        return dict(name=name, colour=colour, points=points, **more)

    def made(self, series, value, name, colour, **more):
        """A number that is computed from a point."""
        return dict(name=name, colour=colour, points=[(p["x"], value(p)) for p in self.of(series)], **more)


def spread(p, key, scale=1.0):
    low, high = (digits(v * scale) for v in p["spread"][key])
    return f"{low}–{high}" if low != high else ""


def steepness(points, p, key):
    """The slope from the point before."""
    i = points.index(p)
    return f"{slope((points[i - 1]['x'], points[i - 1]['median'][key]), (p['x'], p['median'][key])):.2f}" if i else ""


MB = 1e-6
tables_of = lambda p: p["x"] * p["width"] * 4 * p["tables"]
logits_of = lambda p, items: p["median"]["scored"] * items * 4


def anchor(points, key, at=-1, scale=1.0): return (points[at]["x"], points[at]["median"][key] * scale)


def catalogue(r):
    o, s = Of(r, "catalogue"), Of(r, "scored")
    full, sampled, scored = o.of("full"), o.of("sampled"), s.of("full")
    if not o.all and not s.all: return None
    told, plots, rows = [], [], []
    if o.all:
        refs = [("linear", 1, anchor(full, "ms"), "d1")] if full else []
        plots.append(plot("Time of a step by items", "items of the catalogue", "ms a step", [o.line("full", "ms", "full softmax", 0), o.line("sampled", "ms", "1,024 negatives, table by rows", 1)], refs, unit=" ms"))
        plots.append(plot("Peak memory by items", "items of the catalogue", "MB", [
            o.line("full", "peak", "full softmax, peak", 0, MB), o.line("sampled", "peak", "1,024 negatives, peak", 1, MB),
            o.made("full", lambda p: tables_of(p) * MB, "tables of full softmax: weights, gradients, moments", 0, dash="d2", dots=False),
            o.made("sampled", lambda p: tables_of(p) * MB, "tables updated by rows: weights, moments", 1, dash="d2", dots=False),
            o.made("full", lambda p: logits_of(p, p["x"]) * MB, "logits of full softmax, were they stored", 6, dash="d1", dots=False)], unit=" MB"))
    for series, points in (("full softmax", full), ("1,024 negatives", sampled)):
        for p in points:
            m = p["median"]
            rows.append([count(p["x"]), series, f"{m['scored']:,.0f}", digits(m["ms"]), spread(p, "ms"), steepness(points, p, "ms"), digits(m["seq_s"]), digits(m["ms"] * 1e3 / m["tokens"]),
                         f"{m['peak'] * MB:,.0f}", f"{m['planned'] * MB:,.0f}", f"{tables_of(p) * MB:,.1f}", f"{logits_of(p, p['x']) * MB:,.0f}" if series == "full softmax" else ""])
    heads = [("items", ""), ("loss", ""), ("rows scored", "a step"), ("step", "ms"), ("least–most", "ms"), ("slope", "from the row above"), ("rate", "sequences/s"), ("an interaction", "µs"),
             ("peak", "MB"), ("planned", "MB"), ("tables alone", "MB"), ("logits would be", "MB")]
    body = "".join(plots)
    under = table(heads, rows)
    if scored:
        items = scored[0]["items"]
        body += plot("Peak memory by sequences", "sequences a step (10 rows scored of each)", f"MB, over {count(items)} items", [
            s.line("full", "peak", "full softmax, peak", 0, MB), s.made("full", lambda p: items * p["width"] * 4 * p["tables"] * MB, "its tables alone", 0, dash="d2", dots=False),
            s.made("full", lambda p: logits_of(p, items) * MB, "logits, were they stored", 6, dash="d1", dots=False)], unit=" MB")
        body += plot("Time of a step by sequences", "sequences a step", f"ms a step, over {count(items)} items", [s.line("full", "ms", "full softmax", 0)],
                                  [("linear", 1, anchor(scored, "ms"), "d1")], unit=" ms")
        under += f"<h3>More rows scored, {count(items)} items</h3>" + table(
            [("sequences", "a step"), ("rows scored", "a step"), ("step", "ms"), ("least–most", "ms"), ("slope", "from the row above"), ("peak", "MB"), ("planned", "MB"), ("tables alone", "MB"), ("logits would be", "MB")],
            [[f"{p['x']:,}", f"{p['median']['scored']:,.0f}", digits(p["median"]["ms"]), spread(p, "ms"), steepness(scored, p, "ms"), f"{p['median']['peak'] * MB:,.0f}", f"{p['median']['planned'] * MB:,.0f}",
              f"{items * p['width'] * 4 * p['tables'] * MB:,.1f}", f"{logits_of(p, items) * MB:,.0f}"] for p in scored])
    if full:
        p, m = full[-1], full[-1]["median"]
        told.append(f"Full softmax over {count(p['x'])} items: {digits(m['ms'])} ms a step, peak {m['peak'] * MB:,.0f} MB. The tables alone take {tables_of(p) * MB:,.0f} MB; the logits of the {m['scored']:,.0f} scored rows, "
                    f"which are never stored, would take {logits_of(p, p['x']) * MB:,.0f} MB.")
        if len(full) > 1: told.append(f"Its time grows with the power {slope(anchor(full, 'ms', -2), anchor(full, 'ms')):.2f} of the catalogue over the last decade.")
    if len(sampled) > 1:
        a, b = sampled[0], sampled[-1]
        told.append(f"With 1,024 negatives and a table that is updated by rows, a step over {count(b['x'])} items takes {b['median']['ms'] / a['median']['ms']:.1f} times as long as one over {count(a['x'])}.")
    if len(scored) > 1:
        a, b = scored[0]["median"], scored[-1]["median"]
        told.append(f"Over {count(scored[0]['items'])} items, peak memory grows by {(b['peak'] - a['peak']) / (b['tokens'] - a['tokens']) / 1e3:.0f} kB an interaction of the batch, its activations among it; every {b['tokens'] / b['scored']:.0f}th is scored, and a row of logits would be {scored[0]['items'] * 4 / 1e3:,.0f} kB.")
    return "Catalogue", "Items of the catalogue; everything else stays as it is. Peak is that of the process, planned what the program counted before the first step; tables are (items, width) in f32.", told, body, under


def interactions(r):
    o = Of(r, "interactions")
    imports, warm, cold = (o.of(s) for s in ("import", "warm", "cold"))
    if not o.all: return None
    told, plots, under = [], [], ""
    refs = [("linear", 1, anchor(imports, "wall_s"), "d1")] if imports else []
    plots.append(plot("Time by interactions", "interactions", "s", [o.line("import", "wall_s", "import of the log", 0), o.line("warm", "open_ms", "opening, files in memory", 1, 1e-3), o.line("warm", "split_ms", "splitting, files in memory", 2, 1e-3),
                                                                  o.line("cold", "open_ms", "opening, from disk", 1, 1e-3, dash="d1"), o.line("cold", "split_ms", "splitting, from disk", 2, 1e-3, dash="d1")], refs, unit=" s"))
    plots.append(plot("Peak memory by interactions", "interactions", "MB", [o.line("import", "peak", "import, peak", 0, MB), o.line("warm", "peak", "training, peak", 1, MB), o.line("warm", "own", "training, its own memory", 2, MB), o.line("warm", "mapped", "training, mapped files touched", 4, MB),
                                                                    o.line("import", "data_bytes", "files of the data set", 7, MB, dash="d1", dots=False)], unit=" MB"))
    if warm:
        plots.append(plot("Loading and step by interactions", "interactions", "ms", [o.line("warm", "ms", "a step", 0), o.line("warm", "load_ms", "loading its batch, files in memory", 1), o.line("cold", "load_ms", "loading its batch, from disk", 1, dash="d1")], unit=" ms"))
        share = lambda p: 100 * p["median"]["load_ms"] / p["median"]["ms"]
        told.append(f"Loading a batch takes {digits(min(map(share, warm)), 2)} to {digits(max(map(share, warm)), 2)} % of a step" + (f" ({digits(max(map(share, cold)), 2)} % at most where the files came from disk)" if cold else "") + ".")
        a, b = warm[0], warm[-1]
        if a is not b:
            users = b["median"]["users"] - a["median"]["users"]
            told.append(f"From {count(a['x'])} to {count(b['x'])} interactions the memory that training has of its own grows from {a['median']['own'] * MB:,.0f} to {b['median']['own'] * MB:,.0f} MB: "
                        f"{(b['median']['own'] - a['median']['own']) / users:.0f} bytes a user. Mapped pages that were touched ({b['median']['mapped'] * MB:,.0f} MB) are the system's to take back.")
        under += "<h3>Training from it</h3>" + table(
            [("interactions", ""), ("files", ""), ("users", ""), ("opening", "ms"), ("splitting", "ms"), ("step", "ms"), ("least–most", "ms"), ("loading", "ms a step"), ("share", "%"), ("an interaction", "µs"), ("peak", "MB"), ("own", "MB"), ("mapped", "MB")],
            [[count(p["x"]), {"warm": "in memory", "cold": "from disk"}[p["series"]], f"{m['users']:,.0f}", digits(m["open_ms"]), digits(m["split_ms"]), digits(m["ms"]), spread(p, "ms"), digits(m["load_ms"]), digits(share(p), 2),
              digits(m["ms"] * 1e3 / m["tokens"]), f"{m['peak'] * MB:,.0f}", f"{m['own'] * MB:,.0f}", f"{m['mapped'] * MB:,.0f}"] for p in warm + cold for m in [p["median"]]])
    if imports:
        each = [p["median"]["wall_s"] / p["x"] * 1e9 for p in imports]
        told.insert(0, f"Import takes {digits(each[-1])} ns an interaction at {count(imports[-1]['x'])} ({digits(imports[-1]['median']['cpu_s'] / imports[-1]['x'] * 1e9)} ns of CPU time), at a peak of {imports[-1]['median']['peak'] * MB:,.0f} MB.")
        under = "<h3>Import</h3>" + table([("interactions", ""), ("time", "s"), ("least–most", "s"), ("CPU time", "s"), ("an interaction", "ns"), ("slope", "from the row above"), ("peak", "MB"), ("log", "MB"), ("data set", "MB"), ("runs", "")],
                                          [[count(p["x"]), digits(m["wall_s"]), spread(p, "wall_s"), digits(m["cpu_s"]), digits(m["wall_s"] / p["x"] * 1e9), steepness(imports, p, "wall_s"), f"{m['peak'] * MB:,.0f}", f"{m['log_bytes'] * MB:,.1f}", f"{m['data_bytes'] * MB:,.1f}",
                                            len(p["runs"])] for p in imports for m in [p["median"]]]) + under
    meaning = "A generated log: 100 interactions a user, 1,000 different histories over 10,000 items, in order of time. The step reads its batches from the files of the imported data set, other users at every step; from disk: the system was told to forget the files before the run. Splitting looks at every user's events and so reads the whole set once: loading then finds it in memory. Opening also verifies sets below 64 MiB, byte by byte. The memory of an import is bounded by --memory-mb (2,048 MiB by default)."
    return "Interactions", meaning, told, "".join(plots), under


def length(r):
    o = Of(r, "length")
    steps, ops = o.of("step"), o.of("ops")
    if not o.all: return None
    told, plots, under = [], [], ""
    for p in ops: p["median"]["rest_ms"] = p["median"]["all_ms"] - p["median"]["attention_ms"]
    for p in ops: p["spread"]["rest_ms"] = [p["median"]["rest_ms"]] * 2
    xs = [p["x"] for p in steps or ops]
    refs = [("linear: quadratic in T for a sequence", 1, anchor(ops, "attention_ms"), "d1")] if ops else []
    plots.append(plot("Time of a step by length", "T, longest sequence (the same interactions a batch)", "ms a step", [o.line("step", "ms", "a step", 0), o.line("ops", "attention_ms", "attention, forward and backward", 1), o.line("ops", "rest_ms", "all other operations", 2)], refs, xs, " ms"))
    if steps:
        each = dict(name="a sequence", colour=0, points=[(p["x"], *(v / p["median"]["batch"] for v in (p["median"]["ms"], *p["spread"]["ms"]))) for p in steps])
        alone = dict(name="its attention", colour=1, points=[(p["x"], p["median"]["attention_ms"] / q["median"]["batch"]) for p in ops for q in steps if q["x"] == p["x"]])
        refs = [("linear", 1, each["points"][0][:2], "d1")] + ([("quadratic", 2, alone["points"][-1][:2], "d2")] if alone["points"] else [])
        plots.append(plot("Time of a sequence by length", "T, longest sequence", "ms a sequence", [each, alone], refs, xs, " ms"))
        heads = [("T", ""), ("sequences", "a step"), ("step", "ms"), ("least–most", "ms"), ("an interaction", "µs"), ("rate", "sequences/s"), ("attention", "ms"), ("share", "%"), ("attention's slope", "from the row above"), ("peak", "MB")]
        rows = []
        for p in steps:
            q, m = next((q for q in ops if q["x"] == p["x"]), None), p["median"]
            rows.append([f"{p['x']:,}", f"{m['batch']:,.0f}", digits(m["ms"]), spread(p, "ms"), digits(m["ms"] * 1e3 / m["tokens"]), digits(m["seq_s"]),
                         *([digits(q["median"]["attention_ms"]), f"{100 * q['median']['attention_ms'] / q['median']['all_ms']:.0f}", steepness(ops, q, "attention_ms")] if q else ["", "", ""]), f"{m['peak'] * MB:,.0f}"])
        under = table(heads, rows)
    share = lambda p: 100 * p["median"]["attention_ms"] / p["median"]["all_ms"]
    if ops: told.append(f"Attention takes {share(ops[0]):.0f} % of a step's operations at T = {ops[0]['x']} and {share(ops[-1]):.0f} % at {ops[-1]['x']:,}.")
    if len(ops) > 1: told.append(f"For the same interactions a batch it grows with the power {slope(anchor(ops, 'attention_ms', -2), anchor(ops, 'attention_ms')):.2f} of T between {ops[-2]['x']} and {ops[-1]['x']:,} (1 would be quadratic for a sequence).")
    if len(steps) > 1: told.append(f"An interaction costs {digits(steps[0]['median']['ms'] * 1e3 / steps[0]['median']['tokens'])} µs at T = {steps[0]['x']} and {digits(steps[-1]['median']['ms'] * 1e3 / steps[-1]['median']['tokens'])} µs at {steps[-1]['x']:,}.")
    return "Length", "All sequences of full length. Attention is timed by itself in runs of their own (--ops), and so is all else.", told, "".join(plots), under


def width(r):
    o = Of(r, "width")
    points = o.of("step")
    if not points: return None
    xs = [p["x"] for p in points]
    plots = [plot("Time of a step by width", "width", "ms a step", [o.line("step", "ms", "a step", 0)], [("linear", 1, anchor(points, "ms", 0), "d1"), ("quadratic", 2, anchor(points, "ms"), "d2")], xs, " ms"),
             plot("Peak memory by width", "width", "MB", [o.line("step", "peak", "peak", 0, MB), o.line("step", "planned", "planned", 2, MB, dash="d1")], [("linear", 1, anchor(points, "peak", -1, MB), "d2")], xs, " MB")]
    under = table([("width", ""), ("parameters", ""), ("sequences", "a step"), ("step", "ms"), ("least–most", "ms"), ("slope", "from the row above"), ("rate", "sequences/s"), ("an interaction", "µs"), ("peak", "MB"), ("planned", "MB")],
                  [[p["x"], f"{m['params']:,.0f}", f"{m['batch']:,.0f}", digits(m["ms"]), spread(p, "ms"), steepness(points, p, "ms"), digits(m["seq_s"]), digits(m["ms"] * 1e3 / m["tokens"]), f"{m['peak'] * MB:,.0f}", f"{m['planned'] * MB:,.0f}"]
                   for p in points for m in [p["median"]]])
    told = [f"From width {points[-2]['x']} to {points[-1]['x']} the time of a step grows with the power {slope(anchor(points, 'ms', -2), anchor(points, 'ms')):.2f}, "
            f"from {points[0]['x']} to {points[1]['x']} with {slope(anchor(points, 'ms', 0), anchor(points, 'ms', 1)):.2f}."] if len(points) > 1 else []
    return "Width", "Two blocks, heads of 32 columns, sequences of 200, 3,706 items.", told, "".join(plots), under


def page(r):
    style = "".join(open(os.path.join(root, "src/experiment", name)).read() for name in ("plot.css", "page.css")) + MORE
    sections = [s for s in (f(r) for f in (catalogue, interactions, length, width)) if s]
    ran = sorted({p["runs"][0]["dtype"] for p in r["points"] if p["runs"] and "dtype" in p["runs"][0]})
    facts = [("machine", f"{r['gpu']}, " * bool(r["gpu"]) + f"{r['cpu']}, {r['cores']} cores, {r['memory'] / 2**30:.0f} GiB; {r['system']}"), ("date", r["date"]), ("commit", r["commit"]), ("command", r["command"]),
             ("measured", f"on {r['device']} in {' and '.join(ran)}; every point is the median of {r['rounds']} round{'s' * (r['rounds'] != 1)}, whiskers from the least to the most"),
             ("load average", f"{min(r['loadavg']):.1f} to {max(r['loadavg']):.1f}, what was measured among it")]
    out = ["<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n<meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n<meta name=\"color-scheme\" content=\"light dark\">\n"
           f"<title>mipgpu: how cost grows</title>\n<style>\n{style}</style>\n</head>\n<body>\n<h1>How the cost of a training step grows</h1>\n"
           "<p>Time and memory of mipgpu by catalogue, interactions, length and width. Both axes of every plot are logarithmic: a straight line is a power, and parallel to a dashed grey line it is the power that the line names. Numbers stand in the tables beneath.</p>\n"]
    out.append('<dl class="facts">' + "".join(f"<dt>{k}</dt><dd>{html.escape(v)}</dd>" for k, v in facts) + "</dl>\n")
    out.append("<nav>" + "".join(f'<a href="#{s[0].lower()}">{s[0]}</a>' for s in sections) + "</nav>\n")
    for name, meaning, told, plots, under in sections:
        out.append(f'<h2 id="{name.lower()}">{name}</h2>\n<p class="meaning">{html.escape(meaning)}</p>\n<ul class="told">' + "".join(f"<li>{html.escape(t)}</li>" for t in told) + f'</ul>\n<div class="plots">{plots}</div>\n{under}\n')
    wrong = [p for p in r["points"] if p.get("wrong")]
    if wrong: out.append('<h2 id="wrong">Not measured</h2>\n<ul class="told">' + "".join(f"<li>{html.escape(p['name'])}: {html.escape(p['wrong'])}</li>" for p in wrong) + "</ul>\n")
    out.append("<details><summary>Commands</summary>" + "".join(f'<p class="error">{html.escape(p["name"])}: {html.escape(p["command"])}</p>' for p in r["points"]) + "</details>\n</body>\n</html>\n")
    return "".join(out)
