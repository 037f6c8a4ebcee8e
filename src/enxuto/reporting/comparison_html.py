"""A comparison as one HTML page that works offline: the front as a picture, and every figure as a table."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from ..records import ComparedNet, Comparison
from . import comparison_figures as figures
from . import comparison_rows as rows
from .comparison_figures import GROUPS
from .comparison_rows import Cell
from .markup import column_heads, document, number, picture, section, table_row, text


def comparison_page(comparison: Comparison) -> str:
    """The page of a comparison; every number in it comes from the record."""
    drawn = figures.scatter(comparison)
    return document(
        comparison,
        title=rows.title(comparison),
        header=_header(comparison),
        body="".join(_sections(comparison)),
        pictures={"front-picture": drawn} if drawn else {},
    )


def _header(comparison: Comparison) -> str:
    return (
        f'<p class="eyebrow">Nets side by side</p><h1>{text(rows.title(comparison))}</h1>'
        f'<p class="conditions">{text(rows.conditions(comparison))}</p>'
    )


def _sections(comparison: Comparison) -> Iterable[str]:
    if said := rows.verdicts(comparison):
        items = "".join(f"<li>{text(line)}</li>" for line in said)
        yield section("fits", "What fits", "predicted", f'<ul class="plain">{items}</ul>')
    if figures.scatter(comparison):
        yield section(
            "front", "What it takes and what it reached", "predicted, published", _front(comparison)
        )
    yield section("nets", "Every net", "predicted", _table(comparison))
    yield section("columns", "What the columns are", "", _pairs(rows.meanings(comparison)))
    if found := rows.sources(comparison):
        yield section("sources", "Published accuracies", "published", _pairs(found))
    if noted := rows.notes(comparison):
        yield section("notes", "Notes", "", _pairs(noted))
    yield section("facts", "How these numbers were made", "", _pairs(rows.facts(comparison)))


def _front(comparison: Comparison) -> str:
    signs = "".join(
        f"<li>{_sign(name)}{text(name)}</li>" for name in GROUPS if comparison.own or name != "your own"
    )
    missing = [net.target for net in comparison.nets if net not in figures.drawn(comparison)]
    left_out = (
        f'<p class="under">Not drawn, since a value is not known: {text(", ".join(missing))}.</p>'
        if missing
        else ""
    )
    said = figures.sentence(comparison)
    return (
        f'<ul class="legend">{signs}</ul>{picture("front-picture", said)}{left_out}'
        f"<details><summary>The picture as a sentence</summary><p>{text(said)}</p></details>"
    )


def _sign(name: str) -> str:
    _, sign, colour = GROUPS[name]
    return f'<span class="sign" aria-hidden="true" style="color:var(--{colour})">{sign}</span>'


def _table(comparison: Comparison) -> str:
    """What is sorted by stands at the left, as a phone shows that much without scrolling."""
    wanted = rows.wanted_head(comparison)
    shown = [wanted, *(head for head in rows.heads(comparison) if head != wanted)]
    body = "".join(_row(comparison, net, shown) for net in comparison.nets)
    head = column_heads("net", *shown)
    return f'<div class="scroll"><table class="candidates">{head}<tbody>{body}</tbody></table></div>'


def _row(comparison: Comparison, net: ComparedNet, shown: Sequence[str]) -> str:
    values = rows.cells(comparison, net)
    why = rows.why_behind(comparison, net)
    own = ' <strong class="chosen">your own</strong>' if net.target == comparison.own else ""
    beyond = " beyond the budget" if comparison.fits(net) is False else ""
    made = "; ".join(filter(None, (why, beyond.strip())))
    below = f'<p class="made">{text(made)}</p>' if made else ""
    sign = _sign(figures.group(comparison, net)) if net.figures else ""
    return table_row(
        f"<th scope=row>{sign}{text(net.target)}{own}{below}</th>",
        *(_cell(values[head], strong=head == rows.wanted_head(comparison)) for head in shown),
    )


def _cell(cell: Cell, *, strong: bool) -> str:
    whole = cell.nbytes is not None and "(" not in cell.text
    content = number(cell.nbytes or 0) if whole else text(cell.text)
    return f'<td class="n{" strong" if strong else ""}">{content}</td>'


def _pairs(named: Sequence[tuple[str, str]]) -> str:
    return f"<dl>{''.join(f'<dt>{text(name)}</dt><dd>{text(value)}</dd>' for name, value in named)}</dl>"
