"""One recording as other labs would have it: an NWB file that lacks columns, CSV tables, a MAT file.

Needs python3-h5py and python3-scipy.
"""
import shutil

import h5py
import numpy
import scipy.io

SPLITS = {"train": 0, "val": 1, "test": 2}


def stripped(nwb, out):
    """A copy without split, velocity and held-out column: `out`."""
    shutil.copyfile(nwb, out)
    out.chmod(0o644)
    with h5py.File(out, "r+") as file:
        for table, column in (("intervals/trials", "split"), ("units", "heldout")):
            del file[table][column]
            file[table].attrs["colnames"] = [c for c in file[table].attrs["colnames"] if c != column]
        del file["processing/behavior/hand_vel"]
    return out


def tables(nwb):
    """Spike times by unit, velocity, its times and unit of measure, trials."""
    with h5py.File(nwb, "r") as file:
        units, trials = file["units"], file["intervals/trials"]
        ends = [int(end) for end in units["spike_times_index"]]
        spikes = [units["spike_times"][a:b] for a, b in zip([0, *ends], ends)]
        velocity = file["processing/behavior/hand_vel"]
        data = velocity["data"]
        return {
            "ids": [int(i) for i in units["id"]],
            "spikes": spikes,
            "velocity": data[:] * data.attrs.get("conversion", 1.0),
            "times": velocity["timestamps"][:],
            "measure": data.attrs["unit"],
            "start": trials["start_time"][:],
            "stop": trials["stop_time"][:],
            "split": [s.decode() if isinstance(s, bytes) else s for s in trials["split"]],
        }


def as_csv(nwb, folder):
    """`folder`'s spikes.csv, hand_vel.csv and trials.csv; the flags of `cortex import` for them."""
    t = tables(nwb)
    spikes, velocity, trials = (folder / f"{name}.csv" for name in ("spikes", "hand_vel", "trials"))
    with open(spikes, "w") as file:
        file.write("unit,time_s\n")
        for unit, times in zip(t["ids"], t["spikes"]):
            file.writelines(f"{unit},{time:.6f}\n" for time in times)
    with open(velocity, "w") as file:
        file.write(f"time_s,x[{t['measure']}],y[{t['measure']}]\n")
        file.writelines(f"{time:.6f},{x:.9g},{y:.9g}\n"
                        for time, (x, y) in zip(t["times"], t["velocity"]))
    with open(trials, "w") as file:
        file.write("start_s,stop_s,split\n")
        file.writelines(f"{start:.6f},{stop:.6f},{split}\n"
                        for start, stop, split in zip(t["start"], t["stop"], t["split"]))
    return [spikes, "--behavior", velocity, "--trials", trials]


def as_mat(nwb, folder):
    """`folder`'s session.mat; the flags of `cortex import` for it."""
    t = tables(nwb)
    cells = numpy.empty((1, len(t["spikes"])), dtype=object)
    cells[0, :] = t["spikes"]
    scipy.io.savemat(folder / "session.mat", {
        "spikes": cells,
        "unit_ids": numpy.array(t["ids"], dtype=float),
        "time": t["times"],
        "hand_vel": t["velocity"],
        "hand_vel_unit": t["measure"],
        "trials": numpy.column_stack([t["start"], t["stop"]]),
        "split": numpy.array([SPLITS[s] for s in t["split"]], dtype=float),
    })
    return [folder / "session.mat"]
