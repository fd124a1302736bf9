"""The sections of BENCHMARKS.md that come out of gpu_*.json."""
SHAPES = {"tokenizer": ("D", "E"), "cross-attention": ("B", "H", "L", "E", "density"),
          "norm + linear": ("M", "N", "K")}


def device_of(report):
    device = report["device"]
    return device["gpu"] + (f", driver {device['driver']}, PyTorch {device['torch']}, Triton "
                            f"{device['triton']}" if "torch" in device else "")


def source(report, path):
    return (f"`{report['command']}`, {report['date']}, {device_of(report)}, revision "
            f"{report['revision']}, CUDA sources {report['cuda_sources']}: "
            f"[{path.name}]({path.as_posix()})\n")


def micro(us):
    return f"{us:.1f}" if us < 100 else f"{us:.0f}"


def windows(doc, table):
    report, path = doc.load("gpu_windows.json")
    if not report:
        return
    rows = []
    for r in report["results"]:
        if "ratio" not in r:
            continue
        device = min(t["device"]["us"] for t in report["peers"]
                     if t["model"] == r["model"] and t["B"] == r["batch"] and "device" in t)
        rows.append([r["model"], r["precision"], str(r["batch"]), micro(r["p50_us"]),
                     micro(r["p99_us"]), f"{r['batch'] / r['p50_us'] * 1e6:,.0f}", r["best_peer"],
                     micro(r["peer_us"]), f"**{r['ratio']:.2f}**",
                     f"{r['p50_us'] / device:.2f}"])
    doc.parts += [
        "## GPU: windows, a whole forward\n", source(report, path),
        "512 events a window, random weights, microseconds from events in pinned host memory to "
        "outputs in host memory. Peer: PyTorch in bf16, the fastest of eager, CUDA graph and "
        "torch.compile (reduce-overhead, max-autotune) measured the same way, with the fastest "
        "attention. Ratio: ours over theirs, below 1 ours is faster; against device: ours, host to "
        "host, over the peer's best time on the device alone. "
        + " ".join(report.get("notes", [])) + "\n",
        table(["model", "precision", "batch", "p50", "p99", "windows/s", "peer", "its time",
               "ratio", "against device"], rows)]


def streams(doc, table):
    report, path = doc.load("gpu_streams.json")
    if not report:
        return
    rows = [[r["model"], r["precision"], str(r["batch"]), micro(r["p50_us"]), micro(r["p99_us"]),
             f"{r['batch'] / r['p50_us'] * 1e6:,.0f}"] for r in report["results"]]
    doc.parts += [
        "## GPU: stream steps\n", source(report, path),
        "One batch of live streams with their whole context, 40 events a step, random weights, "
        "microseconds from events in host memory to velocities in host memory.\n",
        table(["model", "precision", "streams", "p50", "p99", "steps/s"], rows)]


def sessions(doc, table):
    report, path = doc.load("gpu_sessions.json")
    if not report:
        return
    ms = lambda us: f"{us / 1000:,.2f}"  # noqa: E731
    rows = [[r["machine"], f"{r['sessions']:,}", str(r["generators"]), str(r["poll_us"]),
             f"{r['max_batch']:,}", str(r["batches_in_flight"]), f"{r['answered_hz']:,.0f}",
             ms(r["latency_us"]["p50"]), ms(r["latency_us"]["p99"]), ms(r["server_us"]["p50"]),
             ms(r["server_us"]["p99"]), ms(r["lag_us"]["p99"]),
             f"{sum(r['refused'].values()):,}", r["revision"]]
            for r in report["results"]]
    unpaced = [[f"{r['sessions']:,}", str(r["generators"]), f"{r['max_batch']:,}",
                f"{r['answered_hz']:,.0f}", ms(r["latency_us"]["p50"]),
                ms(r["latency_us"]["p99"]), r["revision"]]
               for r in report["unpaced"]]
    machine = report["machine"]
    doc.parts += [
        "## GPU: sessions at 50 Hz\n",
        f"`{report['command']}`, {report['date']}, {machine['gpu']}, {machine['cpu']}, "
        f"{machine['cores']} cores, two machines of the kind: "
        f"[{path.name}]({path.as_posix()})\n",
        "Milliseconds from when a step was due to its velocity in hand; from its submission as the "
        "engine counts it; and how late the generating threads were, which is part of the first. "
        "Refused: sessions that the engine did not admit, as its predicted capacity was taken.\n",
        table(["machine", "sessions", "generators", "poll us", "batch", "in flight", "steps/s",
               "p50", "p99", "engine p50", "engine p99", "late p99", "refused", "revision"], rows),
        "Each session's next step as soon as one is answered, on the first machine:\n",
        table(["sessions", "generators", "batch", "steps/s", "p50", "p99", "revision"], unpaced),
        "What limits it: the steps a second that the GPU does, which the last table shows and the "
        "compute thread now keeps up with; and stalls of the machine. Where the generating threads "
        "were on time (first machine) all 10,000 sessions were answered within 20 ms at p99, in a "
        "run of two seconds. On the second they were late in every run, with a thousand sessions on "
        "one thread that never sleeps as well, while the engine answered what was sent within a "
        "millisecond; up to 4,000 sessions stayed within 20 ms. There, from 8,000 on, steps that "
        "come at once after a stall wait for one another, the longer the less of the GPU is free. "
        "What stalls those threads was not found.\n"]


def kernels(doc, table):
    report, path = doc.load("gpu_kernels.json")
    if not report:
        return
    rows = []
    for r in report["results"]:
        if "ratio" not in r:
            continue
        shape = ", ".join(f"{name} {r[name]:g}" for name in SHAPES[r["op"]] if name in r)
        best = min(r["peers_us"], key=r["peers_us"].get)
        rows.append([r["op"], r["dtype"], shape, r["peer"].removeprefix("cortex").strip(", "),
                     micro(r.get("cold", r["warm"])["us"]), best, micro(r["peers_us"][best]),
                     f"**{r['ratio']:.2f}**"])
    doc.parts += [
        "## GPU: kernels\n", source(report, path),
        "Microseconds of a call within a CUDA graph of many, over sets of buffers that are together "
        "twice the L2 where several fit. Peers: PyTorch eager and compiled, scaled dot product "
        "attention of every backend (dense: the peer at every density), and Triton kernels of the "
        "same fusions.\n",
        table(["operation", "dtype", "shape", "mask", "ours", "best peer", "its time", "ratio"],
              rows)]


def linears(doc, table):
    report, path = doc.load("gpu_linears.json")
    if not report:
        return
    forwards = [[r["model"], r["precision"], str(r["batch"]), micro(r["before_us"]),
                 micro(r["after_us"])] for r in report["results"]]
    tilings = [[r["type"], f"{r['linear']}, {r['epilogue']}", f"{r['m']} x {r['n']} x {r['k']}",
                r["tiling"], micro(r["us"]), f"{2e-6 * r['m'] * r['n'] * r['k'] / r['us']:.0f}",
                micro(r["cublaslt_us"]), micro(r["cublaslt_and_pass_us"])]
               for r in report["linears"]]
    stages = [[r["type"], r["linear"], micro(r["us"]), micro(r["without_products_us"]),
               micro(r["copies_alone_us"]), micro(r["half_the_bytes_us"])]
              for r in report["stages"]]
    doc.parts += [
        "### Linears of windows\n",
        f"{report['command']}, {report['date']}, {report['device']['gpu']}, revision "
        f"{report['revision']}, microseconds: [{path.name}]({path.as_posix()}). {report['note']}\n",
        "Tiles of 128 x 128 were limited by shared memory: a slice of K keeps the tensor cores busy "
        "for 512 cycles, while 640 cycles' worth of bytes are written and read. Tiles of 128 x 256, "
        "128 x 192 and 192 x 192 need less, and a resident W halves what is written. Whole forwards, "
        "p50 before and with tiles of 192 x 192 and the shorter prologue and epilogue:\n",
        table(["model", "precision", "batch", "before", "after"], forwards),
        "The fastest tiling of a linear of 8 and of 32 windows, its rate in TFLOP/s, cuBLASLt's "
        "product alone, and that product with a pass over memory for what our epilogue does beside "
        "it:\n",
        table(["type", "linear", "m x n x k", "tiling", "ours", "TFLOP/s", "cuBLASLt",
               "with a pass"], tilings),
        "Where the time of 128 x 128 went, cortex-s, 32 windows:\n",
        table(["type", "linear", "all", "without the products", "copies alone",
               "half the bytes copied"], stages)]


def sanitizer(report):
    found = report["sanitizer"]
    return (f"compute-sanitizer on {found['test']}: "
            + ", ".join(f"{tool} {n} errors" for tool, n in found["errors"].items())
            + f"; racecheck {found['racecheck']}")


def window_blocks(doc, table):
    report, path = doc.load("gpu_window_blocks.json")
    if not report:
        return
    peers = report["peers"]
    best = min(peers["peer_us"], key=peers["peer_us"].get)
    doc.parts += [
        "### Few windows in one kernel\n",
        f"{report['command']}, {report['date']}, {report['device']['gpu']}, revision "
        f"{report['revision']}, microseconds from events in host memory to outputs there: "
        f"[{path.name}]({path.as_posix()}). {report['note']}\n",
        table(["model", "windows", "p50", "p99"],
              [[r["model"], str(r["batch"]), ", ".join(map(micro, r["p50_us"])),
                ", ".join(map(micro, r["p99_us"]))] for r in report["results"]]),
        f"Beside PyTorch in one run, {peers['model']}, {peers['batch']} window: "
        f"{micro(peers['p50_us'])}, {best} {micro(peers['peer_us'][best])}, ratio "
        f"{peers['p50_us'] / peers['peer_us'][best]:.2f}. {sanitizer(report)}\n"]


def latent_attention(doc, table):
    report, path = doc.load("gpu_latent_attention.json")
    if not report:
        return
    def rows(results):
        return table(["model", "precision", "batch", "two kernels", "one kernel"],
                     [[r["model"], r["precision"], str(r["batch"]),
                       ", ".join(map(micro, r["before_us"])), ", ".join(map(micro, r["after_us"]))]
                      for r in results])
    def pairs(times):
        return ", ".join(f"{of} windows {micro(us)}" for of, us in times.items())
    doc.parts += [
        "### Projection and attention of windows in one kernel\n",
        f"{report['command']}, {report['date']}, {report['device']['gpu']}, revision "
        f"{report['revision']}, microseconds: [{path.name}]({path.as_posix()}). {report['note']}\n",
        rows(report["results"]),
        "Not taken, for no gain or a loss:\n", rows(report["not_taken"]),
        "The kernel alone, in a graph of 20:\n",
        table(["windows", "form", "us"], [[str(k["windows"]), k["form"], micro(k["us"])]
                                          for k in report["kernel"]]),
        "Tried and not kept, whole forwards of cortex-s, each beside the other in one call: "
        + "; ".join(f"{t['what']}: {pairs(t['us'])}, without it {pairs(t['against'])}"
                    for t in report["tried"]) + ".\n",
        sanitizer(report) + f" {report['sanitizer']['others']}\n"]


def attention_stages(doc, table):
    report, path = doc.load("attention_stages.json")
    if not report:
        return
    masks = list(report["results"][0]["us"])
    doc.parts += [
        f"### Where the time of cross-attention goes: {report['shape']}\n",
        f"{report['command']}, {report['date']}, {report['device']['gpu']}, revision "
        f"{report['revision']}, microseconds: [{path.name}]({path.as_posix()}). {report['note']}\n",
        table(["build", *masks], [[r["build"], *(micro(r["us"][m]) for m in masks)]
                                  for r in report["results"]])]


def sections(doc, table):
    windows(doc, table)
    streams(doc, table)
    sessions(doc, table)
    kernels(doc, table)
    linears(doc, table)
    window_blocks(doc, table)
    latent_attention(doc, table)
    attention_stages(doc, table)
