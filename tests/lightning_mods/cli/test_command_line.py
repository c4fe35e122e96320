import pytest

from lightning_mods.cli.command_line import CommandLine, UsageError


def parse(args):
    return CommandLine.parse("fit", args)


def test_flags_come_with_their_values_in_order():
    line = ["--a.b=1", "--c", "2", "--d", "-e", "--f=x=y", "--g+=h", "stray"]
    assert [(flag.name, flag.value) for flag in parse(line).flags if flag.name] == [
        ("a.b", "1"),
        ("c", "2"),
        ("d", "-e"),
        ("f", "x=y"),
        ("g", "h"),
    ]


def test_overwrite_needs_no_value_but_may_have_one():
    line = CommandLine.parse("export", ["--overwrite", "--output", "a", "--overwrite", "false", "--overwrite"])
    assert line.words == ["--overwrite=true", "--output", "a", "--overwrite", "false", "--overwrite=true"]
    assert line.typed == {"overwrite": "true", "output": "a"}


def test_a_configuration_file_is_read_when_the_line_is_taken_apart_and_never_again(tmp_path):
    config = tmp_path / "c.yaml"
    config.write_text("exported: m.onnx\ndata: {init_args: {predict_path: a.csv}}\nstudy: {n_trials: 3}\n")
    line = parse([f"--config={config}", "--model.lr=1"])
    config.unlink()
    assert (line.said("exported"), line.said("data.predict_path")) == ("m.onnx", "a.csv")
    assert line.section("data") == {"init_args": {"predict_path": "a.csv"}}
    kept = line.without_sections("study", "space")
    assert (kept.said("study.n_trials"), kept.said("exported")) == (None, "m.onnx")
    assert kept.words[0].startswith('--config={"exported": "m.onnx"')
    assert line.without_sections("space").words == line.words


def test_a_line_may_be_extended_at_both_ends():
    line = parse(["--model.lr=1", "--space.lr=0..1"]).without("space").extended(["--model=A"], ["--model.lr=2"])
    assert line.words == ["--model=A", "--model.lr=1", "--model.lr=2"]
    assert line.section("model") == {"class_path": "A", "init_args": {"lr": 2}}


def test_a_negative_number_is_a_value():
    assert parse(["--model.lr", "-1"]).typed == {"model.lr": "-1"}


def test_later_words_win_over_earlier_ones_and_over_config_files(tmp_path):
    config = tmp_path / "c.yaml"
    config.write_text(
        "data:\n  class_path: Mine\n  init_args: {path: a.csv, target: y}\ntrainer: {default_root_dir: r}\n"
    )
    line = [f"--config={config}", "--data.path=b.csv", "--data.drop=[u, v]"]
    assert parse(line).section("data") == {
        "class_path": "Mine",
        "init_args": {"path": "b.csv", "target": "y", "drop": ["u", "v"]},
    }
    assert parse([*line, "--data=Other"]).section("data")["class_path"] == "Other"
    assert parse(line).said("trainer.default_root_dir") == "r"
    assert parse([*line, "--trainer.default_root_dir=s"]).said("trainer.default_root_dir") == "s"
    assert parse(line).said("ckpt_path") is None


def test_a_section_without_class_path_is_read_as_arguments():
    assert parse(['--config={"model": {"lr": 0.5}}']).section("model") == {"init_args": {"lr": 0.5}}


@pytest.mark.parametrize(
    ("text", "says"), [(None, "No such file"), ("a: [", "line"), ("- 1\n- 2\n", "sections"), ("\x00", "not")]
)
def test_a_config_that_is_none_is_named(tmp_path, text, says):
    config = tmp_path / "c.yaml"
    if text is not None:
        config.write_text(text)
    with pytest.raises(UsageError, match=says) as error:
        parse([f"--config={config}"])
    assert str(config) in str(error.value)
    assert "\n" not in str(error.value)


KNOWN = ["trainer.max_epochs", "trainer.max_steps", "model.hidden_sizes", "data.path", "data.target", "optimizer"]


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        ("--trainer.max_epoch=3", "--trainer.max_epochs"),
        ("--trainer.max_ep", "--trainer.max_epochs"),
        ("--model.hiden_sizes=[1]", "--model.hidden_sizes"),
        ("--path=x", "--data.path"),
        ("--max_epochs=3", "--trainer.max_epochs"),
        ("--data.traget", "--data.target"),
    ],
)
def test_a_misspelt_or_abbreviated_flag_is_refused_with_the_nearest(typed, meant):
    with pytest.raises(UsageError, match=f"did you mean {meant}\\?"):
        parse([typed]).refuse_unknown(KNOWN)


def test_flags_of_classes_the_user_chose_and_help_flags_pass():
    line = ["--trainer.callbacks.patience=3", "--optimizer.lr=1", "--optimizer.help", "-c", "{}"]
    parse(line).refuse_unknown(KNOWN)


def test_a_flag_unlike_any_other_is_refused_without_a_guess():
    with pytest.raises(UsageError, match="--zzzzzzzz is not a flag;"):
        parse(["--zzzzzzzz"]).refuse_unknown(KNOWN)
