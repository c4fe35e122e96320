"""Reads back what the loggers of other people have written, without a server of theirs."""

import json
import struct
import subprocess
import sys
import time
import zipfile
from contextlib import contextmanager
from pathlib import Path
from urllib.request import Request, urlopen

BLOCK, HEADER = 32_768, 7


def wandb_records(file):
    """The records of a `.wandb` file: LevelDB's log format after a header of its own."""
    from wandb.proto.wandb_internal_pb2 import Record

    data = Path(file).read_bytes()
    assert data[:4] == b":W&B"
    at, parts = HEADER, b""
    while at + HEADER <= len(data):
        left = BLOCK - at % BLOCK
        if left < HEADER:
            at += left
            continue
        _, size, kind = struct.unpack("<IHB", data[at : at + HEADER])
        parts += data[at + HEADER : at + HEADER + size]
        at += HEADER + size
        if kind in (1, 4):  # whole, or the last part
            record = Record()
            record.ParseFromString(parts)
            parts = b""
            yield record


def wandb_run(folder):
    """History rows, summary, config and the kinds of media by key of the one offline run below a folder."""
    (file,) = Path(folder).rglob("*.wandb")
    history, summary, config = [], {}, {}
    for record in wandb_records(file):
        kind = record.WhichOneof("record_type")
        if kind == "history":
            history.append({_key(item): json.loads(item.value_json) for item in record.history.item})
        elif kind == "summary":
            summary |= {_key(item): json.loads(item.value_json) for item in record.summary.update}
        elif kind == "config":
            config |= {_key(item): json.loads(item.value_json) for item in record.config.update}
        elif kind == "run":
            config |= {_key(item): json.loads(item.value_json) for item in record.run.config.update}
    kinds = {key: value for row in history for key, value in row.items() if key.endswith("/_type")}
    media = {key.removesuffix("/_type"): value for key, value in kinds.items()}
    return {"history": history, "summary": summary, "config": config, "media": media, "folder": file.parent / "files"}


def _key(item):
    return item.key or "/".join(item.nested_key)


def comet_run(folder):
    """Metrics, parameters and uploads of the one zip file of an offline experiment below a folder."""
    (file,) = Path(folder).rglob("*.zip")
    with zipfile.ZipFile(file) as held:
        messages = [json.loads(line) for line in held.read("messages.json").splitlines()]
        uploads = [m["payload"] for m in messages if m["type"] == "file_upload"]
        contents = {up["file_path"]: held.read(up["file_path"]) for up in uploads if up["file_path"] in held.namelist()}
    metrics = [m["payload"]["metric"] for m in messages if m["type"] == "metric_msg"]
    said = [m["payload"] for m in messages if m["type"] == "parameter_msg"]
    parameters = [one.get("param") or one["params"] for one in said]  # the latter for lists
    return {
        "metrics": {(m["metricName"], m["step"]): m["metricValue"] for m in metrics},
        "parameters": {p["paramName"]: p["paramValue"] for p in parameters},
        "pictures": [up["additional_params"]["figName"] for up in uploads if up["upload_type"] == "visualization"],
        "histograms": [up["additional_params"]["fileName"] for up in uploads if up["upload_type"] == "histogram3d"],
        "assets": [up["additional_params"].get("fileName") for up in uploads],
        "texts": [contents[up["file_path"]].decode() for up in uploads if up["upload_type"] == "text-sample"],
    }


@contextmanager
def visdom_server(port, folder):
    """A Visdom server on this machine alone."""
    process = start_visdom(port, folder)
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def start_visdom(port, folder):
    """Start one and wait until it answers."""
    code = "import sys; from visdom.server.run_server import start_server as start; port, folder = sys.argv[1:]; "
    code += "start(port=int(port), base_url='', env_path=folder, bind_local=True)"
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    process = subprocess.Popen([sys.executable, "-W", "ignore", "-c", code, str(port), f"{folder}/"], **quiet)
    end = time.monotonic() + 60
    while time.monotonic() < end and process.poll() is None:
        try:
            ask_visdom(port, "env_state")
            return process
        except OSError:
            time.sleep(0.05)
    process.kill()
    raise TimeoutError("the Visdom server does not answer")


def ask_visdom(port, what, **question):
    """What a server answers, e.g. `win_data` for a window, or for all with `win=None`."""
    request = Request(f"http://127.0.0.1:{port}/{what}", json.dumps(question).encode())
    with urlopen(request, timeout=20) as answer:
        return json.loads(answer.read())


def lines_of(window):
    """The lines of a window by name: (steps, values)."""
    return {line["name"]: (line["x"], line["y"]) for line in window["content"]["data"]}
