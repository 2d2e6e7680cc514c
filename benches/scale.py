#!/usr/bin/env python3
"""Scaling of a training step: time and memory by catalogue, interactions, length and width, measured and plotted.

    cargo build --release && cargo bench --bench step --no-run
    python benches/scale.py --rounds 5 --out benches/results/scale

Writes scale.json and scale.html into the folder of --out after every run. Every round runs every point once, each
round in its own random order, so that a slowdown of the machine affects all points alike. A point is the median of
its rounds, with the minimum and maximum. --only selects sweeps or points by prefixes of their names, `--only list`
prints them. --quick omits the largest points and runs one round, as a test. --page draws a result again.

Peak memory on the CPU is the maximum resident size of the process (ru_maxrss), on CUDA the planned device memory. The
log of `interactions` is generated (in --scratch, up to 5 GB at 10^8 interactions) and deleted at the end. Before a
run of its `cold` points the system is asked to drop the cached files of the data set, so that opening and splitting
read them from the disk. Splitting reads all files: batches are loaded from memory in every run, so that a cold run
records only opening and splitting. Not all systems drop the cache: a cold point is marked as not cold if one of its
runs read less than half of the files' bytes from a disk (ru_inblock; small files are read without page faults,
ru_majflt). On tmpfs the cache cannot be dropped: cold points are refused there, and the default --scratch avoids it.
"""
import argparse, collections, glob, json, os, platform, random, shutil, statistics, subprocess, sys, tempfile, time

sys.dont_write_bytecode = True                                              # no __pycache__ in the source folder
here = os.path.dirname(os.path.abspath(__file__))
root = os.path.dirname(here)
sys.path += [here, os.path.join(here, "peers")]
import compare, scale_page

# ------------------------------------------------------------------------------------------------ the points
POINTS = []


def point(sweep, series, x, flags, quick=True, rounds=None, **more):
    """Adds a point. `flags`: flags of the step, with {n} for the batch size. `rounds`: maximum number of rounds."""
    POINTS.append(dict(name=f"{sweep}/{series}/{x}", sweep=sweep, series=series, x=x, flags=flags, quick=quick, rounds=rounds, **more))


BATCH = {"catalogue": dict(cpu=64, cuda=1024), "interactions": dict(cpu=64, cuda=1024), "width": dict(cpu=16, cuda=256)}
TOKENS = dict(cpu=12_800, cuda=102_400)                                    # interactions per batch in the sweep of lengths
SMALL = "--width 64 --heads 2 --blocks 2 --length 50"
# Catalogue. In a full softmax all items have a gradient, so one repeated batch costs the same as different ones. The
# rows of a sampled loss differ from batch to batch. `tables`: arrays of the size of the item table (weights, gradients,
# two moments).
for v in (10**3, 10**4, 10**5, 10**6):
    point("catalogue", "full", v, f"{SMALL} --batch {{n}} --items {v} --batches 1", quick=v < 10**6, tables=4, width=64)
for v in (10**4, 10**5, 10**6, 10**7):
    sampled = "--loss sampled-softmax --negatives 1024 --table-update rows"
    point("catalogue", "sampled", v, f"{SMALL} --batch {{n}} --items {v} --batches 8 {sampled}", quick=v < 10**7, rounds=3 if v == 10**7 else None, tables=3, width=64)
# The same catalogue with more scored rows: the cost of a larger batch.
for batch in (16, 64, 256, 1024):
    point("scored", "full", batch, f"{SMALL} --batch {batch} --items {10**5} --batches 1", quick=batch < 1024, tables=4, width=64, items=10**5)
# Interactions: the step reads its batches from the mapped files of an imported log. `cold`: the time to open and split
# without cached files. Its steps add nothing to `warm`, so there are few of them.
for n in (10**5, 10**6, 10**7, 10**8):
    for series in ("import", "warm", "cold"):
        point("interactions", series, n, f"{SMALL} --batch {{n}}" + (" --batches 1" if series == "cold" else ""), quick=n < 10**7, rounds=1 if series == "import" and n == 10**8 else None)
# Length, with the same number of interactions per batch.
for length in (20, 50, 100, 200, 400, 1024):
    for series in ("step", "ops"):
        point("length", series, length, f"--width 64 --heads 2 --blocks 2 --length {length} --batch {{tokens}} --batches 2" + (" --ops" if series == "ops" else ""))
# Width: heads of 32 columns.
for d in (32, 64, 128, 256, 512):
    point("width", "step", d, f"--width {d} --heads {d // 32} --blocks 2 --length 200 --batch {{n}} --batches 2", quick=d < 512)

# The log: users with EVENTS events each, from HISTORIES different histories over ITEMS items. It is in order of time, so
# that the rows of a user are in PARTS places.
EVENTS, HISTORIES, ITEMS, PARTS = 100, 1_000, 10_000, 10


def generate(path, interactions):
    draw, each = random.Random(1), EVENTS // PARTS
    popular = lambda: min(int(ITEMS ** draw.random()), ITEMS - 1)
    # Every item occurs at least once, as the first event of a piece.
    pieces = [[b"".join(b"U,%d,%d\n" % (h * PARTS + part if e == 0 else popular(), part * each + e) for e in range(each)) for h in range(HISTORIES)]
              for part in range(PARTS)]
    with open(path, "wb", buffering=1 << 20) as f:
        f.write(b"user,item,time\n")
        for part in pieces:
            for user in range(interactions // EVENTS): f.write(part[user % HISTORIES].replace(b"U", b"%d" % user))


# ------------------------------------------------------------------------------------------------ running
class Failed(Exception): pass


def run(command):
    """Runs a command. Returns its last JSON line, and the resource usage reported by the system."""
    with tempfile.TemporaryFile() as err:
        clock = time.monotonic()
        child = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=err, cwd=root)
        out = child.stdout.read().decode()
        # Usage of this child only. It starts as a copy of this process, with at least the few megabytes of that.
        _, status, usage = os.wait4(child.pid, 0)
        child.returncode = os.waitstatus_to_exitcode(status)
        wall = time.monotonic() - clock
        found = [json.loads(line) for line in out.splitlines() if line.startswith("{")]
        if child.returncode != 0 or not found:
            err.seek(0)
            raise Failed(f"exit code {child.returncode}: {' '.join(command)}\n{err.read().decode(errors='replace')[-1500:]}")
    unit = 1 if platform.system() == "Darwin" else 1024
    return found[-1], dict(wall_s=round(wall, 3), cpu_s=round(usage.ru_utime + usage.ru_stime, 3), peak=usage.ru_maxrss * unit, major_faults=usage.ru_majflt, disk_bytes=usage.ru_inblock * 512)


def command(p, a):
    batch = BATCH.get(p["sweep"], {}).get(a.device)
    flags = p["flags"].format(n=batch, tokens=TOKENS[a.device] // p["x"]).split()
    if a.precision: flags += ["--precision", a.precision]
    return [a.step, "--json", "--device", a.device, "--seconds", "0" if p["series"] == "cold" else str(a.seconds), *flags]


def folder(p, a): return os.path.join(a.scratch, f"data-{p['x']}")


def size(path): return sum(e.stat().st_size for e in os.scandir(path))


def file_system(path):
    """Type of the file system of a path; empty if the system does not report it."""
    path, found = os.path.realpath(path), ("", "")
    try: mounts = [line.split()[1:3] for line in open("/proc/self/mounts")]
    except OSError: return ""
    for place, kind in mounts:
        place = place.replace("\\040", " ")
        # The deepest mount point; of several at one place the last, which hides the others.
        if (path + "/").startswith(place.rstrip("/") + "/") and len(place) >= len(found[0]): found = (place, kind)
    return found[1]


def in_memory(path): return file_system(path) in ("tmpfs", "ramfs", "devtmpfs")


def default_scratch():
    """The temporary folder, or another folder that is not in memory."""
    places = [tempfile.gettempdir(), "/var/tmp", os.path.join(root, "target")]
    return next((p for p in places if os.path.isdir(p) and os.access(p, os.W_OK) and not in_memory(p)), places[0])


def forget(path):
    """Drops the system's cached copies of the files, so that the next access reads them from the disk."""
    if in_memory(path): raise Failed(f"the files are in memory ({file_system(path)}) and cannot be dropped from the cache: specify a folder on a disk with --scratch")
    if not hasattr(os, "posix_fadvise"): raise Failed("this system cannot drop files from the cache")
    for entry in os.scandir(path):
        fd = os.open(entry.path, os.O_RDONLY)
        os.fsync(fd)
        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(fd)


def import_once(p, a):
    log = os.path.join(a.scratch, f"log-{p['x']}.csv")
    if not os.path.exists(log): generate(log, p["x"])
    _, seen = run([a.mipgpu, "import", log, "--out", folder(p, a), "--force", "--json", "--quiet"])
    return dict(seen, log_bytes=os.path.getsize(log), data_bytes=size(folder(p, a)))


def measure(p, a):
    """Runs a point once."""
    if p["series"] == "import": return import_once(p, a)
    more = []
    if p["sweep"] == "interactions":
        more = ["--data", folder(p, a)]
        if p["series"] == "cold": forget(folder(p, a))
    record, seen = run(command(p, a) + more)
    if p["series"] == "cold": return dict(seen, data_bytes=size(folder(p, a)), **record["data"])
    if record["what"] == "ops":
        attention = [op for op in record["ops"] if op["op"].startswith("attention")]
        if not attention: raise Failed("no operation has a name that starts with attention")
        # The sum of the operations is less than the time of the step in which they are measured.
        return dict(seen, ms=record["ms_step"], all_ms=sum(op["ms"] for op in record["ops"]), attention_ms=sum(op["ms"] for op in attention), ops=record["ops"])
    steps = 1e3 / record["ms_step"]
    batch = round(record["seq_s"] / steps)
    batches = 8 if "--batches" not in p["flags"] else int(p["flags"].split("--batches ")[1].split()[0])
    out = dict(seen, ms=record["ms_step"], seq_s=record["seq_s"], batch=batch, tokens=record["rows"] / batches, scored=record["scored"] / batches, params=record["params"],
               dtype=record["dtype"], load_ms=record["load_ms"], plan=record["plan"], planned=record["plan_total"],
               own=1024 * record["resident_kib"]["own"], mapped=1024 * record["resident_kib"]["mapped"])
    if a.device.startswith("cuda"): out["host_peak"], out["peak"] = out["peak"], record["plan_total"]
    if "data" in record: out |= record["data"]
    return out


def summary(p):
    """Median, minimum and maximum of every number of a point's runs."""
    keys = [k for k, v in p["runs"][0].items() if isinstance(v, (int, float))]
    of = lambda k: [r[k] for r in p["runs"]]
    p["median"] = {k: statistics.median(of(k)) for k in keys}
    p["spread"] = {k: [min(of(k)), max(of(k))] for k in keys}


def room():
    """Bytes of available memory; None if the system does not report it."""
    try: return next(int(line.split()[1]) * 1024 for line in open("/proc/meminfo") if line.startswith("MemAvailable"))
    except (OSError, StopIteration): return None


def about(a):
    """Facts about the machine and the command."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    own = {"--scratch", "--step", "--mipgpu", "--out"}                       # paths are not part of the configuration
    said = [w for i, w in enumerate(sys.argv[1:]) if w.split("=")[0] not in own and sys.argv[i] not in own]
    return dict(compare.machine(a.device), device=a.device, memory=memory, files=file_system(a.scratch), rounds=a.rounds, seconds=a.seconds,
                command=" ".join(["python", "benches/scale.py", *said]), loadavg=[os.getloadavg()[0]] * 2)


def newest(pattern):
    return max((f for f in glob.glob(os.path.join(root, pattern)) if os.access(f, os.X_OK) and not f.endswith(".d")), key=os.path.getmtime, default=None)


def write(path, text):
    """Replaces the file atomically."""
    with open(path + ".new", "w", encoding="utf-8") as f: f.write(text)
    os.replace(path + ".new", path)


def save(result, folder):
    """Saves all finished runs, then draws the page. Returns whether the page was drawn."""
    done = dict(result, points=[p for p in result["points"] if p["runs"] or p.get("wrong")])
    write(os.path.join(folder, "scale.json"), json.dumps(done, indent=1))
    try: write(os.path.join(folder, "scale.html"), scale_page.page(done))
    except Exception as e:
        print(f"the page cannot be drawn ({type(e).__name__}: {e}); the measurements are in scale.json", file=sys.stderr, flush=True)
        return False
    return True


def main():
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument("--only", default="", help="prefixes of names of sweeps, series or points (catalogue/sampled), separated by commas; list: print all names")
    ap.add_argument("--device", default="cpu", choices=["cpu", "cuda"]); ap.add_argument("--precision", choices=["f32", "bf16"], help="[default: that of the device]")
    ap.add_argument("--rounds", type=int, default=5); ap.add_argument("--seconds", type=float, default=2, help="seconds to time per run of a point, at least three passes over its batches")
    ap.add_argument("--quick", action="store_true", help="one round without the largest points")
    ap.add_argument("--step", help="the benchmark binary [default: the newest under target/release/deps]"); ap.add_argument("--mipgpu", help="[default: target/release/mipgpu]")
    ap.add_argument("--scratch", help="folder on a disk for the generated log and its import [default: the temporary folder, or another one if that is a tmpfs]")
    ap.add_argument("--out", default="scale", help="folder for scale.json and scale.html"); ap.add_argument("--page", help="draw the scale.json of this folder again, without measuring")
    a = ap.parse_args()
    if a.page:
        with open(os.path.join(a.page, "scale.json"), encoding="utf-8") as f: text = scale_page.page(json.load(f))
        return write(os.path.join(a.page, "scale.html"), text)
    wanted = [p for p in POINTS if (not a.only or any(p["name"].startswith(w) for w in a.only.split(",")) or a.only == "list") and (p["quick"] or not a.quick)]
    # Training points need the import of the same size.
    sizes = {p["x"] for p in wanted if p["sweep"] == "interactions"}
    wanted += [p for p in POINTS if p["series"] == "import" and p["x"] in sizes and p not in wanted]
    if a.only == "list": return print(*[p["name"] for p in wanted], sep="\n")
    if not wanted: sys.exit(f"--only {a.only}: no such point; --only list prints all names")
    if a.quick: a.rounds, a.seconds = 1, min(a.seconds, 0.5)
    a.step, a.mipgpu = a.step or newest("target/release/deps/step-*"), a.mipgpu or newest("target/release/mipgpu")
    if not a.step: sys.exit("build first: cargo bench --bench step --no-run")
    if sizes and not a.mipgpu: sys.exit("build first: cargo build --release")
    a.step, a.mipgpu = os.path.abspath(a.step), a.mipgpu and os.path.abspath(a.mipgpu)
    os.makedirs(a.out, exist_ok=True)
    a.scratch = tempfile.mkdtemp(prefix="mipgpu-scale-", dir=a.scratch or default_scratch())
    result = dict(about(a), points=[dict(p, runs=[]) for p in wanted])
    for p in result["points"]: p["command"] = " ".join(["step", *command(p, a)[1:]]) if p["series"] != "import" else "mipgpu import log.csv --out data"
    try: drawn = rounds(result, a)
    finally: shutil.rmtree(a.scratch, ignore_errors=True)
    sys.exit(1 if not drawn or any(p.get("wrong") for p in result["points"]) else 0)


def rounds(result, a):
    """Runs all points. Returns whether the page was drawn."""
    kinds, drawn = collections.defaultdict(list), False
    for p in result["points"]: kinds[p["series"] == "import"].append(p)
    # Imports first, by size: a log is deleted after its last import.
    turns = [(turn, p) for p in kinds[True] for turn in range(a.rounds)]
    for turn in range(a.rounds):
        order = kinds[False][:]
        random.Random(turn).shuffle(order)
        turns += [(turn, p) for p in order]
    for turn, p in turns:
        if p.get("wrong"): continue
        if turn < (p["rounds"] or a.rounds):
            need, free = p["x"] * p.get("width", 0) * 4 * p.get("tables", 0) * 1.25, room()
            try:
                if p["sweep"] == "catalogue" and a.device == "cpu" and free and need > free: raise Failed(f"needs about {need / 1e9:.1f} GB of memory, {free / 1e9:.1f} GB are available")
                p["runs"].append(measure(p, a))
                summary(p)
                m = p["median"]
                print(f"{turn + 1}/{a.rounds} {p['name']}: " + (f"{m['ms']:.2f} ms per step" if "ms" in m else f"{m['wall_s']:.2f} s") + f", peak {m['peak'] / 1e6:,.0f} MB ({p['runs'][-1]['wall_s']:.0f} s)",
                      file=sys.stderr, flush=True)
            except Failed as e:
                p["wrong"] = str(e)
                print(f"{p['name']}: {e}", file=sys.stderr, flush=True)
            low, high, now = *result["loadavg"], os.getloadavg()[0]
            result["loadavg"] = [min(low, now), max(high, now)]
            drawn = save(result, a.out)
        log = os.path.join(a.scratch, f"log-{p['x']}.csv")
        if p["series"] == "import" and turn == a.rounds - 1 and os.path.exists(log): os.remove(log)
    return drawn


if __name__ == "__main__":
    main()
