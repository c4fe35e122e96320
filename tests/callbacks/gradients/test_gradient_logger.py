import json
import warnings

import pytest
import pytorch_lightning as pl
import torch
from foreign_modules import LIGHTNINGS_WARNINGS, Memory, Plain, TwoOptimizers, fit, loader
from gradient_hand import Hand, norm, of
from pytorch_lightning.loggers import CSVLogger, TensorBoardLogger
from pytorch_lightning.plugins import MixedPrecision
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import nn

from callbacks import GradientLogger

pytestmark = LIGHTNINGS_WARNINGS
LAYERS = ("net.0", "net.1", "net.3")


def watched(root, module=Plain, *, logger_flags=None, epochs=1, **flags):
    """Fit with a logger that writes each step, and by hand beside it."""
    memory, hand = Memory(), Hand()
    ours = GradientLogger(**{"every": 1, "updates_every": 1, "write_every": 1, "flow_every": 0, **(logger_flags or {})})
    trainer, model = fit(root, module, ours, epochs=epochs, callbacks=[hand], logger=memory, **flags)
    return memory, hand, trainer, model


def near(value):
    return pytest.approx(value, rel=2e-6, abs=1e-12)


class Momentum(Plain):
    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters(), lr=0.01)


@pytest.mark.parametrize(
    ("module", "flags"),
    [
        (Plain, {}),
        (Momentum, {}),
        (Plain, {"accumulate_grad_batches": 2}),
        (Plain, {"gradient_clip_val": 0.1}),
        (Plain, {"gradient_clip_val": 0.01, "gradient_clip_algorithm": "value"}),
        (Plain, {"precision": "bf16-mixed"}),
        (Plain, {"precision": "64-true"}),
    ],
    ids=["sgd", "adam", "accumulated", "clipped by norm", "clipped by value", "bf16", "double"],
)
def test_the_numbers_are_those_computed_by_hand(tmp_path, module, flags):
    memory, hand, trainer, _ = watched(tmp_path, module, **flags)
    assert trainer.global_step == len(hand.steps) == len(memory.named("grad_norm/total")) >= 3
    for step, (grads, before, clipped, after) in enumerate(hand.steps):
        row = memory.rows[step]
        for layer in (*LAYERS, "total"):
            g, w, w1, c = (
                list(t.values()) if layer == "total" else of(layer, t) for t in (grads, before, after, clipped)
            )
            assert row[f"grad_norm/{layer}"] == near(norm(g))
            assert row[f"weight_norm/{layer}"] == near(norm(w))
            assert row[f"update_ratio/{layer}"] == pytest.approx(
                norm([a - b for a, b in zip(w1, w, strict=True)]) / norm(w), rel=2e-6
            )
            assert row[f"grad_zeros/{layer}"] == near(sum(int((t == 0).sum()) for t in g) / sum(t.numel() for t in g))
            if "gradient_clip_val" in flags:
                assert row[f"grad_norm_clipped/{layer}"] == near(norm(c))
        assert ("grad_norm_clipped/total" in row) == ("gradient_clip_val" in flags)
    if "gradient_clip_val" in flags:
        assert any(
            row["grad_norm_clipped/total"] < 0.9 * row["grad_norm/total"]
            for row in memory.rows.values()
            if "grad_norm/total" in row
        )


def test_a_large_parameter_is_sampled_but_its_gradient_norm_is_exact(tmp_path):
    class Wide(Plain):
        def __init__(self):
            super().__init__()
            self.net = nn.Sequential(nn.Linear(3, 500), nn.ReLU(), nn.Linear(500, 200), nn.Linear(200, 1))

    memory, hand, _, _ = watched(tmp_path, Wide, logger_flags={"sample": 5000}, gradient_clip_val=0.1)
    for step, (grads, before, clipped, after) in enumerate(hand.steps):
        row = memory.rows[step]
        assert row["grad_norm/net.2"] == near(norm(of("net.2", grads)))
        assert row["grad_norm_clipped/net.2"] == near(norm(of("net.2", clipped)))
        w0, w1 = of("net.2", before), of("net.2", after)
        assert row["weight_norm/net.2"] == pytest.approx(norm(w0), rel=0.03)
        change = norm([a - b for a, b in zip(w1, w0, strict=True)]) / norm(w0)
        assert row["update_ratio/net.2"] == pytest.approx(change, rel=0.15)
        assert row["update_ratio/net.0"] == pytest.approx(
            norm([a - b for a, b in zip(of("net.0", after), of("net.0", before), strict=True)])
            / norm(of("net.0", before)),
            rel=2e-6,
        )


class Scaled(Plain):
    """A batch whose gradient overflows is left out by the scaler."""

    fused = False

    def training_step(self, batch, batch_idx):
        loss = super().training_step(batch, batch_idx)
        return loss * float("inf") if batch_idx == 2 else loss

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1, fused=self.fused)


class Fused(Scaled):
    fused = True


@pytest.mark.parametrize(("module", "flags"), [(Scaled, {"gradient_clip_val": 0.1}), (Scaled, {}), (Fused, {})])
def test_under_a_gradient_scaler_values_are_unscaled(tmp_path, module, flags):
    plugin = MixedPrecision("16-mixed", "cpu", torch.amp.GradScaler("cpu", init_scale=1024.0))
    memory, hand, _, _ = watched(tmp_path, module, plugins=[plugin], **flags)
    totals = memory.named("grad_norm/total")
    assert sorted(totals) == list(range(6))
    scale = 1024.0
    for step, (grads, before, _, after) in enumerate(hand.steps):
        if step == 2:
            assert not totals[step] < float("inf")
            assert memory.rows[step]["update_ratio/total"] == 0
            scale /= 2
            continue
        unscaled = norm(grads.values()) / (scale if module is Fused else 1)
        assert totals[step] == near(unscaled)
        assert 0.01 < unscaled < 100
        change = norm([after[n] - before[n] for n in before]) / norm(before.values())
        assert memory.rows[step]["update_ratio/total"] == near(change)
        if flags:
            assert memory.rows[step]["grad_norm_clipped/total"] == pytest.approx(min(0.1, unscaled), rel=1e-4)


def test_readings_close_together_are_written_as_their_mean_and_the_largest(tmp_path):
    one, _, _, _ = watched(tmp_path / "1")
    ten, _, _, _ = watched(tmp_path / "3", logger_flags={"write_every": 3})
    each = [one.rows[step]["grad_norm/total"] for step in range(6)]
    assert ten.named("grad_norm/total") == {2: near(sum(each[:3]) / 3), 5: near(sum(each[3:]) / 3)}
    assert ten.named("grad_norm_max/total") == {2: near(max(each[:3])), 5: near(max(each[3:]))}


def test_steps_are_counted_for_each_optimizer(tmp_path):
    memory, _, trainer, _ = watched(tmp_path, TwoOptimizers, logger_flags={"every": 2, "updates_every": 2})
    assert trainer.global_step == 12
    assert sorted(memory.named("grad_norm/total_0")) == [0, 4, 8]
    assert sorted(memory.named("grad_norm/total_1")) == [1, 5, 9]
    assert sorted(memory.named("update_ratio/other")) == [1, 5, 9]


class Raw(Plain):
    """Steps with raw optimizers that Lightning does not see, one of them with a closure."""

    def __init__(self):
        super().__init__()
        self.automatic_optimization = False
        self.seen = []

    def training_step(self, batch, batch_idx):
        optimizer = self.optimizers(use_pl_optimizer=False)

        def closure():
            optimizer.zero_grad()
            loss = self.batch_loss(batch)
            self.manual_backward(loss)
            self.seen.append(norm([p.grad for p in self.parameters()]))
            return loss

        if batch_idx % 2:
            closure()
            optimizer.step()
        else:
            optimizer.step(closure)


def test_raw_optimizers_are_seen_too(tmp_path):
    memory, _, trainer, model = watched(tmp_path, Raw)
    assert trainer.global_step == 0
    assert memory.named("grad_norm/total") == {step: near(value) for step, value in enumerate(model.seen)}
    assert len(model.seen) == 6
    assert all(value > 0 for value in memory.named("update_ratio/total").values())


class Lbfgs(Plain):
    def __init__(self):
        super().__init__()
        self.net = nn.Linear(3, 1)

    def configure_optimizers(self):
        return torch.optim.LBFGS(self.parameters(), lr=0.5, max_iter=3)


def test_lbfgs_runs_its_closure_often_and_is_one_step(tmp_path):
    memory, hand, trainer, _ = watched(tmp_path, Lbfgs)
    assert trainer.global_step == 6 < len(hand.steps)
    totals = memory.named("grad_norm/total")
    assert sorted(totals) == list(range(6))
    assert totals[0] == near(norm(hand.steps[0][0].values()))


class Odd(Plain):
    """Tied, frozen, unused, sparse and complex parameters, one of the module's own, and one unfrozen on the way."""

    def __init__(self):
        super().__init__()
        self.table = nn.Embedding(50, 3, sparse=True)
        self.net = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3), nn.Linear(3, 1))
        self.net[1].weight = self.net[0].weight
        self.frozen = nn.Linear(3, 3).requires_grad_(False)
        self.unused = nn.Linear(3, 3)
        self.phase = nn.Parameter(torch.tensor([0.5 + 0.5j, 1.0 - 1.0j, 0.0 + 1.0j]))

    def batch_loss(self, batch):
        rows = self.table(torch.tensor([3, 3, 7, 9]))
        x = self.frozen(batch[0] + rows) * (self.phase.abs() + self.phase.real)
        return (self.net(x) - 1).square().mean()

    def training_step(self, batch, batch_idx):
        if batch_idx == 3:
            self.frozen.requires_grad_(True)
        return super().training_step(batch, batch_idx)


def test_odd_parameters_are_right_or_absent(tmp_path):
    memory, hand, _, _ = watched(tmp_path, Odd)
    grads, before, _, after = hand.steps[0]
    row = memory.rows[0]
    table = grads["table.weight"].coalesce().values()
    assert row["grad_norm/table"] == near(norm([table]))
    assert row["grad_zeros/table"] == near(1 - int((table != 0).sum()) / 150)
    assert row["update_ratio/table"] == near(
        norm([after["table.weight"] - before["table.weight"]]) / norm([before["table.weight"]])
    )
    assert row["grad_norm/Odd"] == near(norm([grads["phase"]]))
    assert row["weight_norm/Odd"] == near(norm([before["phase"]]))
    assert row["update_ratio/Odd"] == near(norm([after["phase"] - before["phase"]]) / norm([before["phase"]]))
    assert row["grad_norm/net.0"] == near(norm(of("net.0", grads)))
    assert row["grad_norm/net.1"] == near(norm([grads["net.1.bias"]]))  # its weight counts for the first owner
    parts = [g.coalesce().values() if g.is_sparse else g for g in grads.values()]
    assert row["grad_norm/total"] == near(norm(parts))
    for tag in ("grad_norm", "weight_norm", "update_ratio", "grad_zeros"):
        assert memory.named(f"{tag}/unused") == {}
        assert sorted(memory.named(f"{tag}/frozen")) == [3, 4, 5]


def events(trainer):
    accumulator = EventAccumulator(trainer.log_dir, size_guidance={"histograms": 0, "scalars": 0, "images": 0})
    return accumulator.Reload()


def test_tensorboard_gets_scalars_histograms_and_the_picture(tmp_path):
    ours = GradientLogger(every=2, histograms_every=3, write_every=1)
    trainer, _ = fit(tmp_path, Plain, ours, epochs=1, logger=TensorBoardLogger(tmp_path))
    read = events(trainer)
    assert [e.step for e in read.Scalars("grad_norm/total")] == [0, 2, 3, 4]
    sizes = {"0.weight": 24, "1.weight": 8, "1.bias": 8, "3.weight": 8}  # no biases beside a matrix
    assert set(read.Tags()["histograms"]) == {f"{kind}/net.{n}" for kind in ("weights", "gradients") for n in sizes}
    for name, size in sizes.items():
        for kind in ("weights", "gradients"):
            found = read.Histograms(f"{kind}/net.{name}")
            assert [e.step for e in found] == [0, 3]
            for event in found:
                value = event.histogram_value
                assert sum(value.bucket) == value.num == size
                assert value.min <= value.sum / size <= value.max
                assert value.bucket_limit == sorted(value.bucket_limit)
                assert value.bucket_limit[-1] == pytest.approx(value.max)
    assert read.Histograms("weights/net.1.weight")[0].histogram_value.sum == pytest.approx(8.0)  # ones at first
    (image,) = read.Images("gradients/flow")
    assert (image.step, image.width > 500, image.height > 200) == (4, True, True)


def test_a_csv_file_is_whole_and_the_picture_lies_beside_it(tmp_path):
    fit(tmp_path, Plain, GradientLogger(every=2, write_every=1), epochs=1, logger=CSVLogger(tmp_path))
    lines = [line.split(",") for line in (tmp_path / "lightning_logs/version_0/metrics.csv").read_text().splitlines()]
    assert all(len(line) == len(lines[0]) for line in lines)
    total = lines[0].index("grad_norm/total")
    assert [line[lines[0].index("step")] for line in lines[1:] if line[total]] == ["0", "2", "4"]
    assert (tmp_path / "lightning_logs/version_0/gradient_flow.png").read_bytes().startswith(b"\x89PNG")


def test_without_a_logger_all_of_it_lies_in_the_root_folder_and_a_second_fit_begins_anew(tmp_path, capsys):
    for _ in range(2):
        fit(tmp_path, Plain, GradientLogger(every=2, write_every=1, histograms_every=3), epochs=1)
    assert "GradientLogger" not in capsys.readouterr().err
    rows = [json.loads(line) for line in (tmp_path / "scalars.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows if "grad_norm/total" in row] == [0, 2, 3, 4]
    drawn = [json.loads(line) for line in (tmp_path / "histograms.jsonl").read_text().splitlines()]
    assert [row["step"] for row in drawn] == [0, 3]
    assert drawn[0]["weights/net.1.weight"]["sum"] == pytest.approx(8.0)  # ones at first
    assert (tmp_path / "gradient_flow.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize("name", ["every", "histograms_every", "updates_every", "flow_every", "write_every", "sample"])
def test_numbers_that_cannot_be_are_refused(name):
    with pytest.raises(ValueError, match=f"{name} must be at least [01], not -1"):
        GradientLogger(**{name: -1})


def test_a_failure_of_its_own_is_named_and_training_goes_on(tmp_path, capsys):
    class Broken(Memory):
        def log_metrics(self, metrics, step=None):
            if "grad_norm/total" in metrics:
                raise OSError("disk full")

    with warnings.catch_warnings():
        trainer, _ = fit(tmp_path, Plain, GradientLogger(every=1), epochs=2, logger=Broken())
    said = [line for line in capsys.readouterr().err.splitlines() if "GradientLogger" in line]
    assert said == ["GradientLogger: writing gradients failed (OSError: disk full); training goes on."]
    assert trainer.global_step == 12


def test_the_optimizer_is_left_as_it_was(tmp_path):
    kept = []

    class Keeps(pl.Callback):
        def on_train_start(self, trainer, pl_module):
            kept.append(trainer.optimizers[0])

    seen = []
    fit(tmp_path, Plain, GradientLogger(every=1), epochs=1, callbacks=[Keeps()], logger=Memory())
    (optimizer,) = kept
    optimizer.register_step_post_hook(lambda *args: seen.append(args))
    for p in optimizer.param_groups[0]["params"]:
        p.grad = torch.zeros_like(p)
    optimizer.step()
    assert len(seen) == 1


def test_validating_alone_breaks_nothing(tmp_path):
    ours, memory = GradientLogger(every=1), Memory()
    trainer = pl.Trainer(accelerator="cpu", logger=memory, callbacks=[ours], enable_progress_bar=False)
    trainer.validate(LogsScore(), loader(), verbose=False)
    assert memory.rows
    assert not any("grad_norm/total" in row for row in memory.rows.values())


class LogsScore(Plain):
    def validation_step(self, batch, batch_idx):
        self.log("val_score", 0.5)


def test_updates_are_read_on_a_schedule_of_their_own(tmp_path):
    memory, _, _, _ = watched(tmp_path, logger_flags={"every": 2, "updates_every": 3})
    assert sorted(memory.named("grad_norm/total")) == [0, 2, 3, 4]
    for tag in ("weight_norm", "update_ratio", "grad_zeros"):
        assert sorted(memory.named(f"{tag}/total")) == [0, 3]


def test_in_a_block_each_mean_is_over_the_steps_that_were_read(tmp_path):
    one, _, _, _ = watched(tmp_path / "1")
    ten, _, _, _ = watched(tmp_path / "6", logger_flags={"write_every": 6, "updates_every": 4})
    norms, ratios = (one.named(f"{tag}/net.0") for tag in ("grad_norm", "update_ratio"))
    assert ten.named("grad_norm/net.0") == {5: near(sum(norms.values()) / 6)}
    assert ten.named("update_ratio/net.0") == {5: near((ratios[0] + ratios[4]) / 2)}


def test_what_has_waited_long_is_written_before_its_block_is_full(tmp_path, monkeypatch):
    monkeypatch.setattr("callbacks.gradients.session.PATIENCE", -1.0)
    memory, _, _, _ = watched(tmp_path, logger_flags={"write_every": 100})
    assert sorted(memory.named("grad_norm/total")) == list(range(6))
