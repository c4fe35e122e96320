"""Small files as people write them, with what is meant by each."""

# ruff: noqa: B905

import gzip
import json
import sqlite3
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import pyarrow as pa


class Case(NamedTuple):
    path: str
    target: str
    meant: Any  # columns with their numbers; REFUSED; or (SAID, columns): read so, or refused in a line
    note: str = ""
    task: str = "regression"


def written(out):
    """Write all files into a folder; returns the cases."""
    rng = np.random.default_rng(7)
    n = 240
    size = np.round(rng.uniform(30, 220, n), 1)
    dist = np.round(rng.gamma(2, 4, n), 2)
    rooms = rng.integers(1, 8, n)
    bal = np.round(rng.normal(0, 900, n), 2)
    big = rng.integers(1200, 9_800_000, n)
    rate = np.round(rng.uniform(0, 12, n), 2)
    town = rng.choice(["Köln", "Zürich", "Genève", "Bern"], n)
    day = pd.to_datetime("2019-03-01") + pd.to_timedelta(rng.integers(0, 1200, n), "D")
    price = np.round(900 * size + 20000 * rooms - 300 * dist + 0.01 * big + rng.normal(0, 3000, n), 2)

    def de(x, th="."):  # 1.234,50
        s = f"{x:,.2f}"
        return s.replace(",", "\0").replace(".", ",").replace("\0", th)

    def write(name, cols, sep=";", enc="utf-8", eol="\n", pre="", post="", quote=False, gz=False):
        rows = [sep.join(cols)] + [sep.join((f'"{c}"' if quote else str(c)) for c in r) for r in zip(*cols.values())]
        data = (pre + eol.join(rows) + eol + post).encode(enc)
        p = out / name
        p.write_bytes(gzip.compress(data) if gz else data)
        return p

    cases = []

    def case(name, target, expect, flags=(), note=""):
        cases.append((name, target, expect, flags, note))

    write(
        "german_bom.csv",
        {"Fläche": [de(x) for x in size], "Entfernung": [de(x) for x in dist], "Preis": [de(x) for x in price]},
        enc="utf-8-sig",
        eol="\r\n",
    )
    case("german_bom.csv", "Preis", {"Fläche": size, "Entfernung": dist})
    write(
        "us_money.csv",
        {
            "balance": [f"(${abs(x):,.2f})" if x < 0 else f"${x:,.2f}" for x in bal],
            "rate": [f"{x} %" for x in rate],
            "price": [f"${x:,.0f}" for x in price],
        },
        sep=",",
        quote=True,
    )
    case("us_money.csv", "price", {"balance": bal, "rate": rate})
    write(
        "swiss.csv",
        {
            "flaeche": [f"{x:,.1f}".replace(",", "'") for x in size * 100],
            "preis": [f"{x:,.2f}".replace(",", "’") for x in price],
        },
    )
    case("swiss.csv", "preis", {"flaeche": size * 100})
    write(
        "french_latin1.csv",
        {
            "Surface (m²)": [f"{x:.1f}".replace(".", ",") for x in size],
            "Coût": [de(x, "\xa0") for x in price],
            "Ville": town,
        },
        enc="latin-1",
    )
    case("french_latin1.csv", "Coût", {"Surface (m²)": size})
    write(
        "french_nnbsp.csv",
        {"Surface": [f"{x:.1f}".replace(".", ",") for x in size], "Prix": [de(x, "\u202f") + " €" for x in price]},
    )
    case("french_nnbsp.csv", "Prix", {"Surface": size})
    write("excel_unicode.txt", {"size": size, "town": town, "price": price}, sep="\t", enc="utf-16", eol="\r\n")
    case("excel_unicode.txt", "price", {"size": size})
    write("utf16.csv", {"size": size, "price": price}, sep=",", enc="utf-16-le")
    case("utf16.csv", "price", {"size": size}, note="no BOM")
    write(
        "units.csv",
        {"dist": [f"{x} km" for x in dist], "size": [f"{x}m²" for x in size], "price": [f"{x:.2f} CHF" for x in price]},
        sep=",",
    )
    case("units.csv", "price", {"dist": dist, "size": size})
    write(
        "mixed_comma.csv",
        {"size": [f"{x:g}".replace(".", ",") for x in size], "rooms": rooms, "price": [f"{x:.0f}" for x in price]},
    )
    case("mixed_comma.csv", "price", {"size": size, "rooms": rooms})
    write("dates_de.csv", {"am": day.strftime("%d.%m.%Y %H:%M"), "size": size, "price": price})
    case("dates_de.csv", "price", {"size": size, "DATE": "am"})
    write("dates_us.csv", {"sold": day.strftime("%m/%d/%Y"), "size": size, "price": price}, sep=",")
    case("dates_us.csv", "price", {"size": size, "DATE": "sold"})
    write("dates_word.csv", {"sold": day.strftime("%d %b %Y"), "size": size, "price": price}, sep=",")
    case("dates_word.csv", "price", {"size": size, "DATE": "sold"})
    write("dates_month.csv", {"sold": day.strftime("%Y-%m"), "size": size, "price": price}, sep=",")
    case("dates_month.csv", "price", {"size": size, "DATE": "sold"})
    frame = pd.DataFrame({"sold": day, "size": size, "rooms": rooms, "town": town, "price": price})
    with pd.ExcelWriter(out / "book.xlsx", engine="openpyxl") as w:
        frame.to_excel(w, sheet_name="Sales", index=False)
        frame.head(3).to_excel(w, sheet_name="Notes", index=False)
    case("book.xlsx", "price", {"size": size, "rooms": rooms, "DATE": "sold"})
    case("book.xlsx?sheet=Sales", "price", {"size": size})
    case("book.xlsx?sheet=Nope", "price", "ERR")
    frame.assign(sold=day.strftime("%Y-%m-%d")).to_json(
        out / "rows.jsonl", orient="records", lines=True, force_ascii=False
    )
    case("rows.jsonl", "price", {"size": size, "DATE": "sold"})
    with (out / "nested.jsonl").open("w") as f:
        for s, r, p in zip(size, rooms, price):
            f.write(json.dumps({"size": float(s), "more": {"rooms": int(r)}, "tags": ["a"], "price": float(p)}) + "\n")
    case("nested.jsonl", "price", {"size": size})
    frame.assign(sold=day.strftime("%Y-%m-%d")).to_json(out / "records.json", orient="records")
    case("records.json", "price", ("OR", {"size": size}))
    db = out / "one.db"
    c = sqlite3.connect(db)
    frame.assign(sold=day.strftime("%Y-%m-%d")).to_sql("sales", c, index=False)
    c.commit()
    c.close()
    case("sqlite:///one.db?table=sales", "price", {"size": size, "DATE": "sold"})
    case("sqlite:///one.db", "price", {"size": size})
    db2 = out / "two.db"
    c = sqlite3.connect(db2)
    frame.drop(columns="sold").to_sql("a", c, index=False)
    frame.drop(columns="sold").to_sql("b", c, index=False)
    c.commit()
    c.close()
    case("sqlite:///two.db", "price", "ERR")
    case("sqlite:///two.db?table=zz", "price", "ERR")
    t = pa.Table.from_pandas(frame, preserve_index=False)
    with pa.OSFile(str(out / "s.arrows"), "wb") as f, pa.ipc.new_stream(f, t.schema) as w:
        w.write_table(t)
    with pa.OSFile(str(out / "f.arrow"), "wb") as f, pa.ipc.new_file(f, t.schema) as w:
        w.write_table(t)
    with pa.OSFile(str(out / "stream.arrow"), "wb") as f, pa.ipc.new_stream(f, t.schema) as w:
        w.write_table(t)
    for x in ("s.arrows", "f.arrow", "stream.arrow"):
        case(x, "price", {"size": size, "DATE": "sold"})
    write(
        "titled.csv",
        {"size": size, "rooms": rooms, "price": price},
        sep=",",
        pre="House sales 2019-2022\nStatistical office\n\n",
        post="Source: register\n",
    )
    case("titled.csv", "price", ("OR", {"size": size}))
    write("hash.csv", {"size": size, "price": price}, sep=",", pre="# exported 2021\n# by me\n")
    case("hash.csv", "price", ("OR", {"size": size}))
    write(
        "sep.csv",
        {"size": [f"{x:.1f}".replace(".", ",") for x in size], "price": [f"{x:.2f}".replace(".", ",") for x in price]},
        pre="sep=;\n",
    )
    case("sep.csv", "price", {"size": size})
    miss = [("n.a." if i % 17 == 0 else "-" if i % 23 == 0 else x) for i, x in enumerate(size)]
    write("gaps.csv", {"size": miss, "rooms": rooms, "price": price}, sep=",")
    case("gaps.csv", "price", {"size": np.array([np.nan if isinstance(m, str) else m for m in miss])})
    write(
        "sci.csv",
        {"size": [f"{x:.4E}".replace(".", ",") for x in size], "price": [f"{x:.6E}".replace(".", ",") for x in price]},
    )
    case("sci.csv", "price", {"size": size})
    write(
        "ids.csv",
        {
            "customer_id": 100234 + rng.permutation(n),
            "zip": [f"{x:05d}" for x in rng.integers(1001, 9999, n)],
            "size": size,
            "price": price,
        },
        sep=",",
    )
    case("ids.csv", "price", {"size": size, "LEFT": "customer_id"})
    write("uuid.csv", {"key": [f"{x:032x}" for x in rng.integers(0, 2**62, n)], "size": size, "price": price}, sep=",")
    case("uuid.csv", "price", {"size": size, "LEFT": "key"})
    write("eur_before.csv", {"kost": [f"EUR {de(x)}" for x in big], "price": [f"{de(x)} EUR" for x in price]})
    case("eur_before.csv", "price", {"kost": big})
    write(
        "thousand_dots.csv",
        {
            "einwohner": [f"{x:,}".replace(",", ".") for x in big],
            "preis": [f"{x:.2f}".replace(".", ",") for x in price],
        },
    )
    case("thousand_dots.csv", "preis", {"einwohner": big})
    write("thousand_commas.csv", {"population": [f"{x:,}" for x in big], "price": price}, sep=",", quote=True)
    case("thousand_commas.csv", "price", {"population": big})
    write(
        "sap_minus.csv",
        {"saldo": [(f"{de(abs(x))}-" if x < 0 else de(x)) for x in bal], "preis": [de(x) for x in price]},
    )
    case("sap_minus.csv", "preis", {"saldo": bal})
    write("unicode_minus.csv", {"saldo": [f"{x:.2f}".replace("-", "−") for x in bal], "price": price}, sep=",")
    case("unicode_minus.csv", "price", {"saldo": bal})
    write("percent_target.csv", {"size": size, "share": [f"{x:.2f}%" for x in rate + size / 50]}, sep=",")
    case("percent_target.csv", "share", {"size": size})
    p = out / "headerless.csv"
    pd.DataFrame({"a": size, "b": rooms, "c": price}).to_csv(p, header=False, index=False)
    case("headerless.csv", str(price[0]), ("OR", {}), note="no header: refused or flagged")
    write("twice.csv", {"a": size}, sep=",")
    (out / "twice.csv").write_text("size,size,price\n" + "\n".join(f"{a},{a},{b}" for a, b in zip(size, price)) + "\n")
    case("twice.csv", "price", "ERR")
    (out / "spaced.csv").write_text(
        "size, rooms, price\n" + "\n".join(f"{a}, {r}, {b}" for a, r, b in zip(size, rooms, price)) + "\n"
    )
    case("spaced.csv", "price", ("OR", {"size": size, "rooms": rooms}))
    write(
        "excel_errors.csv",
        {
            "size": [("#DIV/0!" if i % 19 == 0 else "#N/A" if i % 29 == 0 else x) for i, x in enumerate(size)],
            "price": price,
        },
        sep=",",
    )
    case(
        "excel_errors.csv",
        "price",
        {"size": np.array([np.nan if i % 19 == 0 or i % 29 == 0 else x for i, x in enumerate(size)])},
    )
    write(
        "times.csv",
        {
            "at": [f"{h:02d}:{m:02d}" for h, m in zip(rng.integers(0, 24, n), rng.integers(0, 60, n))],
            "size": size,
            "price": price,
        },
        sep=",",
    )
    case("times.csv", "price", {"size": size, "DATE": "at"})
    write(
        "late_latin.csv",
        {
            "size": np.r_[np.tile(size, 800)],
            "town": np.r_[np.tile(np.full(n, "Bern"), 799), town],
            "price": np.tile(price, 800),
        },
        sep=",",
        enc="latin-1",
    )
    case("late_latin.csv", "price", {"size": np.tile(size, 800)})
    write("latin.csv.gz", {"Größe": size, "Preis": price}, sep=";", enc="cp1252", gz=True)
    case("latin.csv.gz", "Preis", {"Größe": size})
    write("space_sep.txt", {"size": size, "rooms": rooms, "price": price}, sep="  ")
    case("space_sep.txt", "price", ("OR", {"size": size}))
    write("pipe.csv", {"size": size, "rooms": rooms, "price": price}, sep="|")
    case("pipe.csv", "price", {"size": size})
    write(
        "total.csv",
        {"size": size, "rooms": rooms, "price": price},
        sep=",",
        post=f"Total,{rooms.sum()},{price.sum()}\n",
    )
    case("total.csv", "price", ("OR", {}), note="a total row")
    (out / "fake.csv").write_bytes((out / "book.xlsx").read_bytes())
    case("fake.csv", "price", ("OR", {"size": size}))
    (out / "fake.xls").write_text("size\tprice\n" + "\n".join(f"{a}\t{b}" for a, b in zip(size, price)) + "\n")
    case("fake.xls", "price", ("OR", {"size": size}))
    write(
        "german_int.csv",
        {
            "plz": [f"{x:05d}" for x in rng.integers(1001, 99999, n)],
            "size": [f"{x:.1f}".replace(".", ",") for x in size],
            "preis": [f"{x:.0f}" for x in price],
        },
    )
    case("german_int.csv", "preis", {"size": size})
    write("trail.csv", {"size": size, "price": price}, sep=",")
    (out / "trail.csv").write_text(
        "size,rooms,price,\n" + "\n".join(f"{a},{r},{b}," for a, r, b in zip(size, rooms, price)) + "\n\n\n\n"
    )
    case("trail.csv", "price", {"size": size, "rooms": rooms})
    write("yesno.csv", {"garden": rng.choice(["ja", "nein"], n), "size": size, "price": price}, sep=",")
    case("yesno.csv", "price", {"size": size})
    write("leak.csv", {"size": size, "price_eur": np.round(price * 0.93, 1), "price": price}, sep=",")
    case("leak.csv", "price", {"size": size})

    return [Case(name, target, expect, note) for name, target, expect, _, note in cases]
