#!/bin/bash
# Wrote what is beside this file: bash write.sh in an empty folder, with PYTHONPATH naming a checkout of that head.
set -eu
export OMP_NUM_THREADS=1 XDG_CACHE_HOME="$PWD/cache" CUDA_VISIBLE_DEVICES=
run() { local verb=$1; shift; python -m "lightning_mods.$verb" "$@"; }
CPU="--trainer.accelerator=cpu"

# A classifier with what `fit` brings by default; what it predicts; and what the same run comes to after 8 epochs.
mkdir iris && cd iris
NET="--data.path=iris --model.hidden_sizes=[8] --model.dropout=0.1 --data.batch_size=16 $CPU"
run fit $NET --trainer.max_epochs=4
run predict --ckpt_path=last --data.predict_path=iris --output=predicted.csv $CPU
run test --ckpt_path=best $CPU | tee tested.txt
run export --ckpt_path=last --format=onnx --output=model.onnx $CPU
run export --ckpt_path=last --format=pt2 --output=model.pt2 $CPU
mkdir ../iris_8_epochs && cd ../iris_8_epochs
run fit $NET --trainer.max_epochs=8 --watch=[fit]
cd ..

# A regression with an optimizer and a schedule of the user's, in a table that is a file; logged to CSV.
mkdir houses && cd houses
python - <<'PY'
import csv, random
draw = random.Random(0)
with open("houses.csv", "w", newline="") as file:
    table = csv.writer(file)
    table.writerow(["rooms", "area", "heating", "price"])
    for _ in range(120):
        rooms, area, heating = draw.randint(1, 8), draw.gauss(90, 20), draw.choice(["gas", "oil", "wood", ""])
        table.writerow([rooms, f"{area:.2f}", heating, f"{3 * rooms + area / 4 + (heating == 'wood') * 5 + draw.gauss(0, 1):.3f}"])
PY
run fit --data.path=houses.csv --data.target=price --model.hidden_sizes=[8] --data.batch_size=16 --trainer.max_epochs=4 \
  --optimizer=Adam --optimizer.lr=0.01 --lr_scheduler=StepLR --lr_scheduler.step_size=3 --trainer.logger=csv $CPU
run predict --ckpt_path=last --data.predict_path=houses.csv --output=predicted.csv $CPU
cd ..

# Loggers and callbacks by name: the class paths in config.yaml are those that LightningCLI writes.
mkdir named && cd named
run fit $NET --trainer.max_epochs=2 --trainer.logger='[tensorboard,csv]' \
  --trainer.callbacks+=FitMonitor --trainer.callbacks.stop_after=5 \
  --trainer.callbacks+=GradientMonitor --trainer.callbacks.every=50 \
  --trainer.callbacks+=GradientLogger --trainer.callbacks+=GraphLogger \
  --trainer.callbacks+=EarlyStopping --trainer.callbacks.monitor=val_loss
cd ..

# The same for those that ask for a service; Visdom's is not there, Comet's is offline.
mkdir services && cd services
run fit $NET --trainer.max_epochs=2 --watch=[fit] \
  --trainer.logger='[{"class_path": "VisdomLogger", "init_args": {"port": 9}}, "OfflineCometLogger"]'
cd ..

# Studies, each killed in the middle of trials.
killed_in() { # storage's method, its call that kills, the verb and its flags
  python - "$@" <<'PY' || [ $? = 137 ]
import os, sys
from importlib import import_module
import optuna
from optuna.storages import JournalStorage, RDBStorage
name, left, verb, *flags = sys.argv[1:]
left = int(left)
for kind in (JournalStorage, RDBStorage):
    def killing(self, *args, _real=getattr(kind, name), **how):
        global left
        done = _real(self, *args, **how)
        left -= 1
        if left == 0:
            os.kill(os.getpid(), 9)
        return done
    setattr(kind, name, killing)
import_module(f"lightning_mods.{verb}").main(flags)
PY
}
mkdir study_journal && cd study_journal
SEARCH="--data.path=iris --model.hidden_sizes=[8] --trainer.max_epochs=3 $CPU --space.model.dropout=0..0.5"
run study $SEARCH --study.n_trials=3
killed_in create_new_trial 3 study $SEARCH --study.n_trials=6
cd ..
mkdir study_sqlite && cd study_sqlite
ONE="$SEARCH --study.storage=sqlite:///trials.db --study.fused=false --trainer.callbacks+=EarlyStopping --trainer.callbacks.monitor=val_loss"
run study $ONE --study.n_trials=2
killed_in set_trial_intermediate_value 2 study $ONE --study.n_trials=4
cd ..

# A search before a fit, killed as well.
mkdir search && cd search
BEFORE="$NET --trainer.max_epochs=3 --watch=[fit] --trainer.callbacks+=OptunaSearch --trainer.callbacks.n_trials=3"
killed_in set_trial_intermediate_value 5 fit $BEFORE
cd ..

# What no test reads.
rm -rf cache
find . \( -name '*.png' -o -name '*.svg' -o -name '*.zip' -o -name '*.txt' -not -name tested.txt \) -delete
find . \( -name 'events*' -not -path '*/study_sqlite/studies/study/trial_*' \) -delete
find . \( -name histograms.jsonl -o -path '*/named/*/best.ckpt' -o -path '*/services/*.ckpt' -o -path '*/iris_8_epochs/*/best.ckpt' \) -delete
find . -type d -empty -delete
