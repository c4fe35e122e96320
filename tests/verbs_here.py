"""Verbs run in the process of the test: no start, and what it patches holds."""

import contextlib
import io
from importlib import import_module


def do(verb, *args):
    """Run a verb in this process; returns (exit code, stdout, stderr)."""
    main = import_module(f"lightning_mods.{verb}").main
    out, err, code = io.StringIO(), io.StringIO(), 0
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            main(list(args))
        except SystemExit as stop:
            code = stop.code or 0
    return code, out.getvalue(), err.getvalue()


def succeed(verb, *args):
    """Run a verb that must succeed without a traceback; returns (stdout, stderr)."""
    code, out, err = do(verb, *args)
    assert code == 0, err
    assert "Traceback" not in err
    return out, err
