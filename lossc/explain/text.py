"""A report as text: tables by rich in a terminal, plain columns elsewhere."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from os.path import basename

from lossc.explain.report import Joint, Loss, Report, Step


@dataclass(frozen=True)
class Table:
    """A heading, the columns' names, and rows; columns named in ``right`` hold numbers."""

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    right: tuple[str, ...] = ()


def heading(report: Report) -> str:
    return f'{report.file}, phase {report.phase}: net "{report.net}" for {report.target}, {report.dtype}'


def tables(report: Report) -> list[Table]:
    """The report's tables; those without rows are left out."""
    alphas = tuple(
        (", ".join(a.losses), a.role, f"{a.function} ({a.kernel})", a.derivation, a.literal, f"{a.file}:{a.line}")
        for a in report.alphas
    )
    zero = tuple((z.loss, ", ".join(z.layers), z.removed, z.why) for z in report.zero_heads)
    found = [
        _losses(report),
        Table("Weights in the C", ("LOSS", "ROLE", "FUNCTION", "DERIVATION", "LITERAL", "LINE"), alphas),
        *(_joint(j) for j in report.joints),
        Table("Heads of weight 0", ("LOSS", "LAYERS", "REMOVED", "WHY THAT IS SAFE"), zero),
        *_steps(report.steps),
    ]
    return [t for t in found if t.rows]


def _losses(report: Report) -> Table:
    columns = ("LOSS", "LAYER", "TYPE", "WHERE", "VALUE", "NORMALISER", "WEIGHT", "WEIGHTED")
    rows = [
        (
            x.loss, x.layer, x.type, place(x), number(x.value), normaliser(x),
            weight(x), number(x.weighted),
        )
        for x in report.losses
    ]  # fmt: skip
    if report.total is not None:
        rows.append(("total", "", "", "", "", "", "", number(report.total)))
    return Table("Losses", columns, tuple(rows), ("VALUE", "WEIGHT", "WEIGHTED"))


def _steps(steps: Sequence[Step]) -> list[Table]:
    """One table for each reason that a pass has."""
    groups: dict[tuple[str, str], list[tuple[str, ...]]] = {}
    for s in steps:
        groups.setdefault((s.by, s.why), []).append((s.layer, s.section, s.what))
    columns = ("LAYER", "PART", "WHAT")
    return [Table(f"What {by} did: safe, since {why}", columns, tuple(rows)) for (by, why), rows in groups.items()]


def place(loss: Loss) -> str:
    """File, without its folder, and line of a loss's layer."""
    return f"{basename(loss.file)}:{loss.line}" if loss.line else basename(loss.file)


def weight(loss: Loss) -> str:
    """A weight, and of what kind it is where it can change."""
    return f"{loss.weight:g}" if loss.kind == "constant" else f"{loss.weight:g} ({loss.kind})"


def normaliser(loss: Loss) -> str:
    """Mode, derivation and value of what a loss is divided by."""
    text = ": ".join(filter(None, (loss.mode, loss.normaliser or "1")))
    plain = loss.normaliser.rpartition(" ")[2]
    return text if loss.divisor is None or f"{loss.divisor:g}" == (plain or "1") else f"{text} = {loss.divisor:g}"


def joint_title(joint: Joint) -> str:
    if not joint.shape:
        return f"Gradient of each loss over {joint.blob}"
    *others, last = joint.consumers
    return f"Gradient of each loss at {joint.blob} {list(joint.shape)}, which {', '.join(others)} and {last} use"


def _joint(joint: Joint) -> Table:
    names = [s.loss for s in joint.shares]
    cosines = tuple(f"cosine with {name}" for name in names) if len(names) > 1 else ()
    rows = tuple(
        (s.loss, number(s.norm), f"{100 * s.share:.1f}%", *(number(s.cosines.get(n), 3) for n in names if cosines))
        for s in joint.shares
    )
    return Table(joint_title(joint), ("LOSS", "NORM", "SHARE", *cosines), rows, ("NORM", "SHARE", *cosines))


def number(value: float | None, digits: int = 6) -> str:
    """A number for people; empty where there is none."""
    return "" if value is None else f"{value:.{digits}g}"


def plain_text(report: Report) -> str:
    """The report in aligned columns, lines as long as they need to be."""
    parts = [heading(report)]
    for t in tables(report):
        rows = [t.columns, *t.rows]
        widths = [max(len(row[k]) for row in rows) for k in range(len(t.columns))]
        right = [c in t.right for c in t.columns]
        lines = ["  " + "  ".join(_pad(row, widths, right)).rstrip() for row in rows]
        parts.append("\n".join([t.title, *lines]))
    if report.warnings:
        parts.append("\n".join(["Warnings", *(f"  {w}" for w in report.warnings)]))
    return "\n\n".join(parts) + "\n"


def _pad(row: Sequence[str], widths: Sequence[int], right: Sequence[bool]) -> list[str]:
    return [c.rjust(w) if r else c.ljust(w) for c, w, r in zip(row, widths, right, strict=True)]


def print_rich(report: Report) -> None:
    """The report in a terminal's width and colours."""
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table as RichTable

    console = Console(highlight=False)
    console.print(f"[bold]{escape(heading(report))}[/]")
    for t in tables(report):
        drawn = RichTable(box=SIMPLE_HEAD, header_style="dim", pad_edge=False)
        for c in t.columns:
            drawn.add_column(c, justify="right" if c in t.right else "left", overflow="fold")
        for row in t.rows:
            last = t.title == "Losses" and row[0] == "total"
            drawn.add_row(*(escape(c) for c in row), style="bold" if last else None)
        console.print(f"\n[bold]{escape(t.title)}[/]")
        console.print(drawn)
    for w in report.warnings:
        console.print(f"\n[bold yellow]warning:[/] {escape(w)}")
