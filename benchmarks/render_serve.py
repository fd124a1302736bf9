"""The sections of BENCHMARKS.md that come out of serve_*.json and scheduler.json."""
import plot


def where_and_when(report, path):
    return (f"`{report['command']}`, {report['date']}, {report['machine']['cpu']}, "
            f"{report['machine']['cores']} cores, revision {report['revision']}: "
            f"[{path.name}]({path.as_posix()})\n")


def micro(us):
    return f"{us:.1f}" if abs(us) < 100 else f"{us:,.0f}"


def percent(fraction):
    return f"{100 * fraction:.1f}%"


# As a reader knows them.
POLICIES = {"cortex": "cortex", "fifo": "FIFO", "fixed_window": "fixed 5 ms", "edf": "plain EDF"}
TABLE_AT = 1.2  # utilisation


def scheduler(doc, table):
    report, path = doc.load("scheduler.json")
    if not report:
        return
    doc.parts += [
        "## Scheduler, simulated\n", where_and_when(report, path),
        "A device whose batches take what cortex-s windows (512 events, deadlines of 50 to 150 ms) "
        "and stream-nano steps (deadline 20 ms) take in cpu_decode.json, with chance, under a "
        "virtual clock. Goodput: answers in time a second, of what batches of the best size do. "
        "Missed: offered requests without an answer in time, those refused at the door among "
        "them. Broken: of what was taken, what was late or given up.\n"]
    by_load = {}
    for run in report["results"]:
        by_load.setdefault(run["load"], []).append(run)
    rows = []
    for load, runs in by_load.items():
        for run in runs:
            if run["utilisation"] == TABLE_AT:
                rows += [[load, POLICIES[r["policy"]], f"**{percent(r['goodput_fraction'])}**",
                          percent(r["miss_rate"]), percent(r["broken_rate"]), f"{r['p50_ms']:.3g}",
                          f"{r['p99_ms']:.3g}", f"{r['mean_batch']:.1f}"] for r in run["results"]]
    doc.parts.append(f"At {percent(TABLE_AT)} of capacity:\n")
    doc.parts.append(table(["load", "policy", "goodput", "missed", "broken", "p50 ms", "p99 ms",
                            "batch"], rows))
    for load, runs in by_load.items():
        for key, what in (("goodput_fraction", "goodput, of capacity"),
                          ("miss_rate", "missed, of what is offered")):
            series = [(label, [(run["utilisation"], r[key]) for run in runs for r in run["results"]
                               if r["policy"] == policy]) for policy, label in POLICIES.items()]
            title = f"Scheduler, {load}: {what}"
            doc.picture(f"scheduler_{load}_{key}.svg", title,
                        plot.lines(title, "offered load, of capacity", what, series))


def overhead(doc, table):
    report, path = doc.load("serve_overhead.json")
    if not report:
        return
    rows = []
    for r in report["results"]:
        row = [r["where"], str(r["busy_poll_us"]), str(r["clients"]), f"{r['rate_hz']:,.0f}"]
        for q in ("p50", "p99"):
            p = r[q]
            row += [micro(p["ours_us"]), micro(p["echo_us"]),
                    f"**{micro(p['added_us'])}** ({micro(p['added_least_us'])} to "
                    f"{micro(p['added_most_us'])})", micro(p["target_us"])]
        rows.append(row)
    doc.parts += [
        "## Server: what it adds\n", where_and_when(report, path),
        "Microseconds from when a request was due to its answer in hand, with a model that decodes "
        "nothing. Echo: the same bytes both ways to a thread that only counts them (in process: a "
        "hand-over to a thread and back), by turns of a second in the same run. Added: ours minus "
        "the echo's at each percentile, median (least to most) of the rounds. 64 clients offer half "
        "of what they got out of the server at most. Client and server share the machine's cores. "
        "Polling: --busy-poll-us; 0 is a server whose threads sleep, and must be woken, between two "
        "requests.\n",
        table(["over", "polling", "clients", "requests/s", "p50 ours", "echo", "added", "target",
               "p99 ours", "echo", "added", "target"], rows)]


def windows(doc, table):
    for name, compared in (("serve_windows.json", "every answer compared with the model's"),
                           ("serve_windows_h100.json", "answers are not compared, a GPU's bits being its own")):
        windows_of(doc, table, name, compared)


def windows_of(doc, table, name, compared):
    report, path = doc.load(name)
    if not report:
        return
    rows = []
    for r in report["results"]:
        load = r["load"]
        rows.append([r["model"], str(r["concurrency"]), f"{load['answered_hz']:,.0f}"]
                    + [f"{load['latency_us'][q] / 1000:.2f}" for q in ("p50", "p99", "p999", "max")])
    doc.parts += [
        f"## Server: windows over HTTP JSON{', on a GPU' if 'h100' in name else ''}\n", where_and_when(report, path),
        f"{report['results'][0]['load']['events']} events a window, milliseconds, each connection "
        f"sends the next window when one is answered; {compared}.\n",
        table(["model", "at once", "requests/s", "p50", "p99", "p99.9", "max"], rows)]


def overload(doc, table):
    report, path = doc.load("serve_overload.json")
    if not report:
        return
    rows = []
    for r in report["results"]:
        load, verify = r["load"], r["load"]["verify"]
        refused = sum(load["errors"].values())
        door = (f"{sum(load['refused'].values())} of {r['sessions_offered']} sessions"
                if r["kind"] == "sessions" else percent(refused / load["offered"]))
        wrong = (f"{verify['wrong']} of {verify['steps']:,}" if r["kind"] == "sessions"
                 else f"{verify['windows'] - verify['exact']} of {verify['windows']:,} inexact")
        rows.append([r["kind"], r["policy"], r["model"], f"{r['capacity_hz']:,.0f}",
                     f"**{percent(r['goodput_fraction'])}**", door, str(load["answered_late"]),
                     f"{load['latency_us']['p99'] / 1000:.2f}", wrong,
                     percent(r["memory"]["growth"])])
    seconds = report["results"][0]["load"]["seconds"]
    doc.parts += [
        "## Server: more than it can do\n", where_and_when(report, path),
        f"{seconds:g} s of open-loop load above capacity (the most that the same client got out of "
        "the server just before). Goodput: answers within their deadline by the client's clock, "
        "from when the request was due, as a share of capacity. Late: answered after the deadline "
        "by the server's clock. Memory: growth of the server's resident set.\n",
        table(["of", "policy", "model", "capacity/s", "goodput", "refused", "late", "p99 ms",
               "wrong", "memory"], rows)]


def soak(doc, table):
    report, path = doc.load("serve_soak.json")
    if not report:
        return
    rows = []
    for r in report["results"]:
        load, verify = r["load"], r["load"]["verify"]
        rows.append([r["model"], f"{r['sessions']} at {r['rate_hz']:g} Hz",
                     f"{percent(r['share'])} of {r['capacity_hz']:,.0f}", f"{r['seconds']:g}",
                     f"{verify['steps']:,}", str(verify["wrong"]),
                     str(load["lost"] + load["unanswered"]),
                     percent(load["marked_late"] / load["offered"]),
                     f"{load['latency_us']['p50'] / 1000:.2f}",
                     f"{load['latency_us']['p99'] / 1000:.2f}",
                     f"{load['latency_us']['max'] / 1000:.1f}", percent(r["memory"]["growth"])])
    doc.parts += [
        "## Server: soak\n", where_and_when(report, path),
        "Every stream replayed offline from its events and compared bit for bit. Memory: growth of "
        "the server's resident set from the second to the last tenth of the run.\n",
        *([f"Note: {report['note']}.\n"] if "note" in report else []),
        table(["model", "sessions", "of capacity, steps/s", "seconds", "steps verified", "wrong",
               "lost or unanswered", "marked late", "p50 ms", "p99 ms", "max ms", "memory"], rows)]


def first_request(doc, table):
    heading = [
        "## Server: the first request\n",
        "Servers started anew; the first request after `/ready` beside the median of those behind "
        "it on the same connection, back to back and after 20 ms without one (when the machine's "
        "cores have fallen asleep), milliseconds, and the median of the ratios of the first to "
        "those back to back.\n"]
    for name in ("serve_first_request_h100.json", "serve_first_request.json"):
        report, path = doc.load(name)
        if not report:
            continue
        span = lambda times: f"{min(times):.2f} to {max(times):.2f}" if times else "-"  # noqa: E731
        rows = [[r["model"], str(r["servers"]), clock,
                 *(span(r[clock].get(k)) for k in ("first_ms", "median_ms", "paused_ms")),
                 f"**{r[clock]['ratio']:.2f}**"]
                for r in report["results"] for clock in ("client", "server")]
        doc.parts += heading + [
            where_and_when(report, path),
            table(["model", "servers", "clock", "first", "back to back", "after a pause", "ratio"],
                  rows)]
        heading = []


def sections(doc, table):
    scheduler(doc, table)
    overhead(doc, table)
    windows(doc, table)
    first_request(doc, table)
    overload(doc, table)
    soak(doc, table)
