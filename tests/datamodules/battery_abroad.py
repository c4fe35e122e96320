"""More small files as people write them, invented before the code was tried on them, with what is meant by each."""

# ruff: noqa: B905

import json

import numpy as np
import pandas as pd
from battery import Case

NAMES = "NAMES"  # columns that are names
SAID = "SAID"  # refused, or with these words in what is said


def written_abroad(out):
    """Write all files into a folder; returns the cases."""
    rng = np.random.default_rng(11)
    n = 240
    size = np.round(rng.uniform(30, 220, n), 1)
    rooms = rng.integers(1, 8, n)
    rate = np.round(rng.uniform(1, 12, n), 1)
    amount = np.round(rng.normal(0, 90_000, n), 2)
    town = rng.choice(["Köln", "Bern", "Genf"], n)
    day = pd.to_datetime("2019-03-01") + pd.to_timedelta(rng.integers(0, 1200, n), "D")
    price = np.round(900 * size + 20_000 * rooms + rng.normal(0, 3000, n), 2)
    odd = rng.random(n) < 0.08
    cases = []

    def case(name, target, meant, columns=None, sep=",", enc="utf-8", eol="\n", pre="", post="", quote=False, **more):
        if columns is not None:
            mark = '"' if quote else ""
            rows = [sep.join(f"{mark}{c}{mark}" for c in columns)]
            rows += [sep.join(f"{mark}{c}{mark}" for c in row) for row in zip(*columns.values())]
            (out / name).write_bytes((pre + eol.join(rows) + eol + post).encode(enc))
        cases.append(Case(name, target, meant, **more))

    def comma(values, form="{}"):
        return [form.format(value).replace(".", ",") for value in values]

    def german(values, form="{:,.2f}"):
        return [form.format(v).replace(",", "\0").replace(".", ",").replace("\0", ".") for v in values]

    plain = {"size": size, "rooms": rooms, "price": price}
    case(
        *("excel_de.csv", "Preis", {"Fläche": size, "Anteil": rate, "DATE": "Am", NAMES: ["Garten"]}),
        {
            "Fläche": comma(size),
            "Anteil": comma(rate, "{} %"),
            "Am": day.strftime("%d.%m.%Y"),
            "Garten": rng.choice(["ja", "nein"], n),
            "Preis": german(price),
        },
        *(";", "utf-8-sig", "\r\n"),
    )
    case("r_csv2.csv", "price", {"size": np.where(odd, np.nan, size), "LEFT": "column_1"})
    rows = [
        f'"{i + 1}";{"NA" if o else str(s).replace(".", ",")};"{t}";{str(p).replace(".", ",")}'
        for i, (o, s, t, p) in enumerate(zip(odd, size, town, price))
    ]
    (out / "r_csv2.csv").write_text("\n".join(['"";"size";"town";"price"', *rows]) + "\n")
    case(
        "sas.csv",
        "price",
        {"size": np.where(odd, np.nan, size)},
        {**plain, "size": np.where(odd, ".", size.astype(str))},
    )
    case("codes.csv", "price", (SAID, "-99"), {**plain, "size": np.where(odd, "-99", size.astype(str))})
    case("nines.csv", "price", (SAID, "9999"), {**plain, "income": np.where(odd, 9999, rng.integers(900, 6000, n))})
    parts = {"size": [*size[:80], "size", *size[80:160], "size", *size[160:]]}
    parts |= {"price": [*price[:80], "price", *price[80:160], "price", *price[160:]]}
    parts |= {"town": [*town[:80], "town", *town[80:160], "town", *town[160:]]}
    case("pages.csv", "town", (SAID, "header"), parts, note="the header of each page")
    case(
        "sum.csv",
        "preis",
        (SAID, "Summe"),
        {"am": day.strftime("%d.%m.%Y"), "ort": town, "anteil": comma(rate), "preis": comma(price)},
        sep=";",
        post=f";;Summe;{price.sum():.2f}\n".replace(".", ","),
    )
    case(
        "padded_title.csv",
        "price",
        {"size": size, "rooms": rooms},
        {**plain, "town": town},
        sep=";",
        pre="Report 2021;;;\n;;;\n",
    )
    case("two_headers.csv", "price", ("OR", {"size": size}), plain, note="the second has the units")
    lines = (out / "two_headers.csv").read_text().splitlines()
    (out / "two_headers.csv").write_text("\n".join([lines[0], "m2,count,EUR", *lines[1:]]) + "\n")
    case("open_end.csv", "price", {"size": size}, {**plain, "price": [f"{p};" for p in price]}, sep=";")
    case("remarks.csv", "price", (SAID, ""), plain)
    lines.insert(100, "# from here on measured by laser")
    (out / "remarks.csv").write_text("\n".join(lines) + "\n")
    case("wrapped.csv", "price", {"size": size}, {"who": ["a\r\nb; c" for _ in size], **plain}, eol="\r\n", quote=True)
    case("ends.csv", "price", {"size": size, "rooms": rooms}, plain)
    text = (out / "ends.csv").read_bytes().splitlines()
    (out / "ends.csv").write_bytes(b"\r\n".join(text[:90]) + b"\n" + b"\n".join(text[90:]) + b"\n")
    case(
        "near_names.csv", "price", ("OR", {"size": size, "Size ": rate}), {"size": size, "Size ": rate, "price": price}
    )
    case(
        "powers.csv",
        "price",
        {"n": 10.0**rooms},
        {"n": [f"1E+0{r}" if r % 2 else f"1e{r}" for r in rooms], "price": price},
    )
    halves = rng.choice(["1/2", "3/4", "1/4", "2/3"], n)
    case("fractions.csv", "price", (SAID, "1/"), {"dose": halves, "size": size, "price": price})
    case(
        "flags.csv",
        "sold",
        {"size": size, NAMES: ["garden", "lift", "new"]},
        {
            "garden": rng.choice(["Y", "N", "NA"], n),
            "lift": rng.choice(["TRUE", "FALSE"], n),
            "new": rng.choice(["yes", "no", ""], n),
            "size": size,
            "sold": np.where(size > 100, "Y", "N"),
        },
        task="classification",
    )
    seconds = rng.integers(60, 30_000, n)
    case(
        "laps.csv",
        "price",
        {"DATE": "lap"},
        {"lap": [f"{s // 3600}:{s // 60 % 60:02d}:{s % 60:02d}" for s in seconds], "price": price},
    )
    case("years.csv", "price", {"age": 3.0 * rooms}, {"age": [f"{3 * r} yrs" for r in rooms], "price": price})
    case(
        "babies.csv",
        "price",
        (SAID, "different units"),
        {
            "age": [f"{r} months" if s < 80 else f"{r} years" for r, s in zip(rng.integers(1, 90, n), size)],
            "price": price,
        },
        note="two units",
    )
    case(
        "limits.csv",
        "price",
        (SAID, "<0.05"),
        {"lead": ["<0.05" if s < 70 else f"{s / 100:.3f}" for s in size], "size": size, "price": price},
    )
    case(
        "bands.csv",
        "price",
        {"size": size, NAMES: ["age"]},
        {"age": [f"{10 * r}-{10 * r + 9}" for r in rooms], "size": size, "price": price},
    )
    case(
        "footnotes.csv",
        "price",
        (SAID, "¹"),
        {"size": [f"{s}¹" if o else s for s, o in zip(size, odd)], "price": price},
    )
    case(
        "nbsp.csv",
        "price",
        {"size": size, "people": rooms * 1e4},
        {"size": [f"\xa0{s}\xa0" for s in size], "people": [f"{r}0\xa0000" for r in rooms], "price": price},
    )
    case(
        "quoted_percent.csv",
        "share",
        {"size": size},
        {"size": comma(size), "share": comma(rate + 0.5, "{:.1f}%")},
        quote=True,
    )
    case(
        "codes_of_money.csv",
        "cost",
        {"fee": np.abs(amount), "saldo": amount},
        {
            "fee": [f"CHF {abs(a):,.2f}".replace(",", "'") for a in amount],
            "saldo": [f"EUR {g}" for g in german(amount)],
            "cost": [f"USD {p:,.2f}" for p in price],
        },
        sep="\t",
    )
    case(
        "unicode.txt",
        "Preis",
        {"Fläche": size},
        {"Fläche": comma(size), "Ort": town, "Preis": german(price)},
        "\t",
        "utf-16",
        "\r\n",
    )
    case(
        "said_sep.csv",
        "Preis",
        {"Fläche": size},
        {"Fläche": comma(size), "Preis": german(price)},
        ";",
        "utf-8-sig",
        "\r\n",
        "sep=;\r\n",
        quote=True,
    )
    with (out / "texts.jsonl").open("w") as file:
        for s, o, r, p in zip(size, odd, rooms, price):
            cell = None if o else str(s).replace(".", ",")
            file.write(json.dumps({"size": cell, "at": {"lat": 47.1, "of": {"r": int(r)}}, "price": float(p)}) + "\n")
    case("texts.jsonl", "price", {"size": np.where(odd, np.nan, size), "LEFT": "at"})
    sheet = pd.DataFrame({"am": day, "anteil": rate / 100, "size": size, "price": price})
    with pd.ExcelWriter(out / "report.xlsx", engine="openpyxl") as book:
        sheet.to_excel(book, index=False, startrow=3)
        book.sheets["Sheet1"]["A1"] = "Sales of houses"
        book.sheets["Sheet1"].merge_cells("A1:D1")
        book.sheets["Sheet1"]["A2"] = "all regions"
    case("report.xlsx", "price", {"anteil": rate, "size": size, "DATE": "am"})
    with pd.ExcelWriter(out / "sum.xlsx", engine="openpyxl") as book:
        sheet.assign(size=[str(s) if o else s for s, o in zip(size, odd)]).to_excel(book, index=False)
        book.sheets["Sheet1"].cell(n + 2, 1, "Summe")
        book.sheets["Sheet1"].cell(n + 2, 4, float(price.sum()))
    case("sum.xlsx", "price", (SAID, "Summe"))
    case(
        "lakh.csv",
        "price",
        {"people": 1e5 * rooms + 1000},
        {"people": [f"{r},01,000" for r in rooms], "price": price},
        quote=True,
    )
    case(
        "short_years.csv",
        "price",
        {"DATE": "am", "size": size},
        {"am": day.strftime("%d.%m.%y"), "size": size, "price": price},
        sep=";",
    )
    case(
        "words_for_none.csv",
        "price",
        {"size": np.where(odd, np.nan, size)},
        {"size": np.where(odd, "not measured", size.astype(str)), "price": price},
    )
    case(
        "seasons.csv",
        "price",
        {"size": size, NAMES: ["season"]},
        {"season": [f"{2000 + r}/{r + 1:02d}" for r in rooms], "size": size, "price": price},
    )
    case(
        "ledger.csv",
        "Total",
        {"Fees": np.where(odd, np.nan, rate)},
        {
            "Fees": np.where(odd, " -   ", rate.astype(str)),
            "Total": [f"({abs(a):,.2f})" if a < 0 else f"{a:,.2f}" for a in amount],
        },
        quote=True,
    )
    case(
        "quarters.csv",
        "price",
        {"DATE": "in", "size": size},
        {"in": [f"{d.year}-Q{d.quarter}" for d in day], "size": size, "price": price},
    )
    return cases
