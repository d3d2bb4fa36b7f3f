"""A plan's report as one page: no script, nothing loaded from elsewhere, light and dark, made to be printed on A4."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from planner.data import ROOT
from planner.files.escape import html as escape
from planner.report import decision_text as text
from planner.report import svg, wording
from planner.report.dossier import SHARES, Dossier
from planner.units import GIB, counted, format_gib


def render(dossier: Dossier) -> str:
    """The whole page."""
    advice = dossier.advice
    title = f"{advice.spec.name} on {text.gpu_names(advice.offers)}"
    body = "".join(
        (
            svg.PATTERNS,
            f"<header><h1>{escape(title)}</h1><p class='sub'>Capacity plan for LMDeploy "
            f"{escape(advice.lmdeploy.version)}, {escape(dossier.provenance.date)}</p></header>",
            "<main>",
            _summary(dossier),
            _options(dossier),
            _capacity(dossier),
            _terms(dossier),
            _assumptions(dossier),
            _measured(dossier),
            _commands(dossier),
            _provenance(dossier),
            "</main>",
            "<div class='sign'><div>Reviewed by</div><div>Decision</div><div>Date</div></div>",
        )
    )
    return page(title, body)


def page(title: str, body: str) -> str:
    """A self-contained page; its policy lets the browser load nothing at all."""
    style = (ROOT / "report.css").read_text(encoding="utf-8")
    return (
        "<!doctype html>\n"
        '<html lang="en"><head><meta charset="utf-8">\n'
        "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'\">\n"
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(title)}</title>\n<style>\n{style}</style></head>\n<body>{body}</body></html>\n"
    )


@dataclass(frozen=True, slots=True)
class Row:
    """A row of a table that is set apart by a class of `planner/data/report.css`."""

    css_class: str
    cells: Sequence[str]


def table(
    headers: Iterable[str], rows: Iterable[Row | Sequence[str]], numbers: Iterable[int] = (), classes: str = ""
) -> str:
    """A table; `numbers` are the columns set to the right."""
    right = set(numbers)

    def cells(values: Iterable[str], tag: str) -> str:
        return "".join(
            f"<{tag}{' class=n' if i in right else ''}>{escape(value)}</{tag}>" for i, value in enumerate(values)
        )

    lines = []
    for row in rows:
        name, values = (f" class={row.css_class}", row.cells) if isinstance(row, Row) else ("", row)
        lines.append(f"<tr{name}>{cells(values, 'td')}</tr>")
    return (
        f"<div class='scroll {classes}'><table><thead><tr>{cells(headers, 'th')}</tr></thead>"
        f"<tbody>{''.join(lines)}</tbody></table></div>"
    )


def _summary(dossier: Dossier) -> str:
    advice = dossier.advice
    serves = advice.decision.serves
    sentences = "".join(f"<li>{escape(sentence)}.</li>" for sentence in text.why(advice))
    return (
        f"<section><h2>Decision</h2><p>Asked: {escape(text.asked(advice))}.</p>"
        f"<div class='decision{'' if serves else ' no'}'><strong>{escape(text.headline(advice))}</strong></div>"
        f"{_facts(dossier)}<ul>{sentences}</ul></section>"
    )


def _facts(dossier: Dossier) -> str:
    chosen = dossier.advice.decision.chosen
    if chosen is None:
        return ""
    memory, speed = chosen.memory, chosen.speed
    facts = [
        ("GPUs", text.hardware(chosen.candidate.offer, chosen.candidate.option)),
        ("memory held", f"{memory.total_bytes / GIB:.2f} of {memory.deployment.free_bytes / GIB:.2f} GiB"),
        ("concurrent users", f"{chosen.candidate.users:,}"),
        ("could grow to", counted(chosen.users.value, "user")),
        ("ratio", f"{chosen.candidate.settings.cache_max_entry_count:g}"),
    ]
    if speed is not None:
        facts.append(("tokens/s per user", f"{speed.user_tokens_per_s.value:,.0f}"))
        facts.append(("first token after", f"{speed.first_token_seconds.value:.2f} s"))
    return "<dl class='facts'>" + "".join(f"<div><dt>{k}</dt><dd>{escape(v)}</dd></div>" for k, v in facts) + "</dl>"


def _options(dossier: Dossier) -> str:
    advice = dossier.advice
    chosen = advice.decision.chosen if advice.decision.relaxation is None else None
    rows = []
    for bar in dossier.bars:
        tp, gpu = bar.evaluation.option.tp, bar.evaluation.offer.gpu.name
        name = f"{f'{tp} ' if tp > 1 else ''}{gpu}: {text.short_option(bar.evaluation.option)}"
        verdict = text.rejected(bar.evaluation, chosen)
        rows.append((bar, name, verdict, verdict == "chosen"))
    if not rows:
        return ""
    free = ", ".join(dict.fromkeys(f"{b.free_bytes / GIB:.1f} on {b.evaluation.offer.gpu.name}" for b in dossier.bars))
    shares = [i for i in range(len(SHARES)) if any(bar.share_bytes[i] for bar in dossier.bars)]
    cells: list[Row | list[str]] = []
    for bar, name, verdict, mark in rows:
        row = [
            name,
            *(f"{bar.share_bytes[i] / GIB:.2f}" for i in shares),
            f"{bar.total_bytes / GIB:.2f}",
            f"{bar.evaluation.candidate.users:,}" if bar.evaluation.candidate and bar.evaluation.serves else "",
            verdict,
        ]
        cells.append(Row("chosen", row) if mark else row)
    return (
        "<section><h2>Options</h2><figure>"
        + svg.legend(shares)
        + "<div class='scroll'>"
        + svg.bars(rows)
        + f"</div><figcaption>GiB on one GPU; the line marks what is free: {escape(free)}. Options that do not serve "
        "are drawn with the KV cache and the reserve that the load would need.</figcaption></figure>"
        + table(
            ["option", *(SHARES[i] for i in shares), "total GiB", "users", "verdict"],
            cells,
            range(1, len(shares) + 3),
            "first",
        )
        + "</section>"
    )


def _capacity(dossier: Dossier) -> str:
    lines = [(curve, f"{curve.option.quant_policy or 16}-bit KV") for curve in dossier.curves]
    if not lines:
        return ""
    load = dossier.advice.load
    contexts = [c for c, _ in lines[0][0].points]
    weights = lines[0][0].option.weights.in_words
    rows = [[f"{context:,}", *(f"{curve.points[i][1]:,}" for curve, _ in lines)] for i, context in enumerate(contexts)]
    return (
        "<section><h2>Capacity by context length</h2><figure><div class='scroll'>"
        + svg.curves(lines, load.context_tokens, load.num_users)
        + f"</div><figcaption>Concurrent sequences that the KV cache holds with {weights}, "
        "each KV format at its own largest safe ratio; --max-batch-size has to allow as many.</figcaption></figure>"
        + table(["context tokens", *(name for _, name in lines)], rows, range(len(lines) + 1))
        + f"<p class='small-print'>{escape(wording.CAPACITY_NOT_FOOTPRINT)}</p></section>"
    )


def _terms(dossier: Dossier) -> str:
    memory = dossier.memory
    if memory is None:
        return ""
    terms = [*memory.terms]
    rows: list[Row | list[str]] = [
        [
            wording.title(t.name),
            f"{t.size_bytes / GIB:.3f}",
            _band(t.low_bytes, t.high_bytes),
            t.formula,
            str(t.evidence),
        ]
        for t in terms
    ]
    rows.append(Row("total", ["total when serving", f"{memory.total_bytes / GIB:.3f}", "", "sum of the terms", ""]))
    rows.append(["peak while starting", f"{memory.load_peak_bytes / GIB:.3f}", "", "", ""])
    if memory.growth_bytes:
        rows.append(["most under full load", f"{memory.full_load_bytes / GIB:.3f}", "", "", ""])
    for term in (memory.staging, memory.transient):
        if term is not None and term.high_bytes:
            rows.append(
                [
                    f"{wording.title(term.name)} (released after loading)",
                    f"{term.size_bytes / GIB:.3f}",
                    _band(term.low_bytes, term.high_bytes),
                    term.formula,
                    str(term.evidence),
                ]
            )
    headers = ["term", "GiB", "band GiB", "formula with its inputs", "evidence"]
    return f"<section><h2>Memory of the chosen plan, term by term</h2>{table(headers, rows, (1, 2))}</section>"


def _band(low_bytes: int, high_bytes: int) -> str:
    return "exact" if low_bytes == high_bytes else f"{low_bytes / GIB:.2f} to {high_bytes / GIB:.2f}"


def _assumptions(dossier: Dossier) -> str:
    chosen = dossier.advice.decision.chosen
    if chosen is None:
        return ""
    items = [
        f"{wording.title(t.name)} {format_gib(t.size_bytes)} ({_band(t.low_bytes, t.high_bytes)}): {t.evidence.detail}"
        for t in dossier.assumed
    ]
    if chosen.candidate.image_bytes:
        items.append(
            f"one image in the vision tower takes up to {format_gib(chosen.candidate.image_bytes)}: "
            "computed for one layer, not measured"
        )
    if chosen.speed is not None and not chosen.speed.evidence.startswith("measured"):
        items.append(f"speed: {chosen.speed.evidence}")
    items += dossier.advice.notes
    if not items:
        return "<section><h2>Assumptions</h2><p>None: every term is computed or was measured on this GPU.</p></section>"
    listed = "".join(f"<li>{escape(item)}</li>" for item in items)
    return f"<section><h2>Assumptions and notes</h2><ul>{listed}</ul></section>"


def _measured(dossier: Dossier) -> str:
    if not dossier.measured:
        return (
            "<section><h2>Measured against estimated</h2><p>The shipped measurements include no run of this model."
            "</p></section>"
        )
    rows = []
    for replayed in dossier.measured:
        run, memory = replayed.run, replayed.memory
        deployed = memory.deployment
        settings = ", ".join(f"{k} {v}" for k, v in run.settings.items() if k not in ("engine", "lmdeploy") and v)
        used, off = run.used_bytes, replayed.off_ratio
        rows.append(
            [
                f"{run.product}, {deployed.settings.engine} {run.lmdeploy}",
                f"{settings}; {format_gib(run.free_before_bytes, 1)} free",
                f"{used / GIB:.2f}" if used else run.outcome,
                f"{memory.total_bytes / GIB:.2f}" if memory.fits else str(memory.outcome),
                f"{off:+.2%}" if off is not None and memory.fits else "",
            ]
        )
    headers = ["where", "settings", "measured GiB", "estimated GiB", "off by"]
    return f"<section><h2>Measured against estimated</h2>{table(headers, rows, (2, 3, 4))}</section>"


def _commands(dossier: Dossier) -> str:
    parts = []
    for artefact in dossier.advice.artefacts():
        opened = " open" if artefact.key in ("api_server", "quantize") else ""
        parts.append(
            f"<details{opened}><summary>{escape(artefact.title)}</summary>"
            f"<pre><code>{escape(artefact.text.rstrip())}</code></pre></details>"
        )
    return f"<section><h2>Commands</h2>{''.join(parts)}</section>" if parts else ""


def _provenance(dossier: Dossier) -> str:
    made = dossier.provenance
    rules = "" if made.rules == made.lmdeploy else f" (by the rules of {made.rules})"
    rows = [
        ["lmplan", made.lmplan],
        ["LMDeploy", f"{made.lmdeploy}{rules}"],
        ["model", f"{made.model}{'@' + made.revision if made.revision else ''}"],
        ["config.json, sha256", made.config_sha256],
        *(["GPU", source] for source in made.gpu_sources),
        ["date", made.date],
    ]
    return f"<section><h2>Provenance</h2>{table(['', ''], rows)}</section>"
