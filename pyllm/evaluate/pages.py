"""A training run as one HTML page: curves, samples, parameters, configuration. Nothing in it is fetched or run.

page = report("runs/shakespeare")
page.save("report.html")
"""

from __future__ import annotations

import json
import math
import os
import statistics
from collections.abc import Sequence
from html import escape
from typing import Any, NamedTuple

from pyllm.errors import ModelFileError, printable
from pyllm.evaluate.curves import Line, bars, curves
from pyllm.evaluate.runs import Record, Run, as_number, read_run
from pyllm.formats.config import check_config
from pyllm.formats.writing import Staging, check_target
from pyllm.models.counted import Count
from pyllm.models.counting import count_preset, mlp
from pyllm.models.presets import from_config

MOST_SAMPLES = 100  # the last ones are shown
LONGEST_SAMPLE = 20_000  # characters
LONGEST_VALUE = 20_000
_JOINERS = "\n\t\u200c\u200d"  # control characters that text needs

_STYLE = """
:root{color-scheme:light dark;--a:#1f6fb2;--b:#c4501b;--c:#2f8f4e;--d:#8a4fb5;--e:#a0821a;--line:#8884}
@media(prefers-color-scheme:dark){:root{--a:#6bb3ee;--b:#f0905c;--c:#6ecb8b;--d:#c79ae8;--e:#dcc05a}}
body{font:15px/1.5 system-ui,sans-serif;max-width:46rem;margin:2rem auto;padding:0 1rem}
h1{font-size:1.5rem}h2{font-size:1.1rem;margin-top:2rem}
table{border-collapse:collapse}td,th{padding:.15rem .8rem .15rem 0;text-align:left;vertical-align:top}
pre{white-space:pre-wrap;overflow-wrap:anywhere;border-left:3px solid var(--line);padding-left:.8rem;margin:.4rem 0}
figure{margin:1rem 0}figcaption{font-weight:600}svg{width:100%;height:auto}
svg text{font-size:11px;fill:currentColor}.grid{stroke:var(--line);stroke-width:.5}.none,.step{opacity:.7}
b.prompt{font-weight:600}.warning{border-left:3px solid var(--b);padding-left:.8rem}
""".strip()
_HEAD = (
    "<!doctype html><html lang='en'><head><meta charset='utf-8'>"
    "<meta http-equiv='Content-Security-Policy' content=\"default-src 'none'; style-src 'unsafe-inline'\">"
    "<meta name='viewport' content='width=device-width'>"
)


class Report(NamedTuple):
    """A page: html, and facts, what it says at its top. In a notebook it shows itself."""

    html: str
    facts: dict[str, Any]

    def _repr_html_(self) -> str:
        """The page in a frame of its own, so that its style stays inside."""
        frame = "sandbox style='width:100%;height:42rem;border:0'"
        return f"<iframe {frame} srcdoc='{escape(self.html)}'></iframe>"

    def __repr__(self) -> str:
        return f"Report({len(self.html):,} characters, {self.facts})"

    def save(self, path: str | os.PathLike[str], overwrite: bool = False) -> None:
        """Write the page. Raises ModelFileError, also for a file that is there already unless `overwrite`."""
        name = os.fspath(path)
        with Staging(check_target(name, overwrite)) as staging, staging.create(os.path.basename(name)) as file:
            file.write(self.html.encode())


def report(run: str | os.PathLike[str]) -> Report:
    """The page of a run's folder; what is missing there is said on it. Raises ModelFileError (no such run)."""
    found = read_run(run)
    name = os.path.basename(os.path.abspath(found.folder))
    facts = summary(found)
    body = [
        f"<h1>{text(name)}</h1>",
        *(f"<p class='warning'>{text(each)}</p>" for each in found.missing),
        rows({key.replace("_", " "): value for key, value in facts.items()}),
        *pictures(found),
        *samples(found.facts.get("samples")),
        *parameters(found.facts),
        *settings(found.facts),
    ]
    return page(name, body, facts)


def page(title: str, body: Sequence[str], facts: dict[str, Any]) -> Report:
    """Parts of HTML as a whole page."""
    html = f"{_HEAD}<title>{text(title)}</title><style>{_STYLE}</style></head><body>{''.join(body)}</body></html>"
    return Report(html + "\n", facts)


def text(value: object, longest: int = LONGEST_VALUE) -> str:
    """Any text as HTML: escaped, cut, with control characters (also those that turn text round) written out."""
    raw = str(value)
    kept = [c if c.isprintable() or c in _JOINERS else c.encode("unicode_escape").decode() for c in raw[:longest]]
    more = f" ... ({len(raw) - longest:,} more characters)" if len(raw) > longest else ""
    return escape("".join(kept) + more)


def shown(value: Any) -> str:
    """A value of a configuration: numbers with their digits, text as it is, lists and objects as JSON."""
    if isinstance(value, bool) or value is None or isinstance(value, dict | list):
        return json.dumps(value, ensure_ascii=False)
    if isinstance(value, int):
        return f"{value:,}"
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def rows(values: dict[str, Any]) -> str:
    """A table of two columns."""
    lines = (f"<tr><th>{text(key, 200)}</th><td>{text(shown(value))}</td></tr>" for key, value in values.items())
    return f"<table>{''.join(lines)}</table>"


def column(records: list[Record], name: str) -> list[tuple[float, float]]:
    """(step, value) of the records that have the value."""
    return [(record["step"], record[name]) for record in records if name in record]


def summary(run: Run) -> dict[str, Any]:
    """The run in a few numbers, those that it recorded; finite ones only."""
    facts: dict[str, Any] = {}
    if run.log:
        facts["steps"] = round(run.log[-1]["step"])
    for name in ("samples", "tokens"):
        amounts = [y for _, y in column(run.log, name) if math.isfinite(y)]
        facts |= {name: round(amounts[-1])} if amounts else {}
    loss = column(run.log, "loss")
    finite = [y for _, y in loss if math.isfinite(y)]
    if finite:
        facts |= {"first_loss": finite[0], "last_loss": finite[-1]}
    if len(finite) < len(loss):
        facts["steps_without_a_finite_loss"] = len(loss) - len(finite)
    valid = [point for point in column(run.log, "valid_loss") if math.isfinite(point[1])]
    if valid:
        step, best = min(valid, key=lambda point: point[1])
        facts |= {"best_valid_loss": best, "at_step": round(step)}
        facts |= {"perplexity": math.exp(best)} if best < 700 and run.facts.get("model") != "mlp" else {}
    seconds = [y for _, y in column(run.timings, "seconds") if math.isfinite(y)]
    rates = [y for _, y in column(run.timings, "tokens_per_second") if math.isfinite(y)]
    facts |= {"seconds_in_steps": math.fsum(seconds)} if seconds and math.isfinite(sum(seconds)) else {}
    facts |= {"median_tokens_per_second": statistics.median(rates)} if rates else {}
    count = as_number(run.facts.get("parameters"))
    return facts | ({"parameters": round(count)} if count is not None and math.isfinite(count) else {})


def pictures(run: Run) -> list[str]:
    """The curves."""
    valid = column(run.log, "valid_loss")
    losses = [Line("train", column(run.log, "loss"))]
    losses += [Line("valid", valid, dots=len(valid) <= 60)] if valid else []
    found = ["<h2>Curves</h2>", curves("Loss", losses, "loss" if run.facts.get("model") == "mlp" else "nats per token")]
    found.append(curves("Learning rate", [Line("lr", column(run.log, "lr"))], "learning rate"))
    found.append(curves("Gradient norm", [Line("norm", column(run.log, "grad_norm"))], "norm"))
    rate = column(run.timings, "tokens_per_second")
    found.append(curves("Throughput", [Line("tokens", rate)], "tokens/s"))
    share = [(x, 100 * y) for x, y in column(run.timings, "share_of_peak")]
    return [*found, curves("Share of the machine's peak", [Line("share", share)], "%")] if share else found


def samples(found: Any) -> list[str]:
    """Texts that were written during training, the newest first."""
    title = "<h2>Samples</h2>"
    known = [each for each in found if isinstance(each, dict) and "text" in each] if isinstance(found, list) else []
    if not known:
        return [title, "<p class='none'>Samples: nothing was recorded.</p>"]
    lines = [title]
    if len(known) > MOST_SAMPLES:
        lines.append(f"<p class='none'>The last {MOST_SAMPLES} of {len(known):,}.</p>")
    for each in reversed(known[-MOST_SAMPLES:]):
        prompt = text(each.get("prompt") or "", LONGEST_SAMPLE)
        lines.append(f"<div class='step'>step {text(shown(each.get('step')), 40)}</div>")
        lines.append(f"<pre><b class='prompt'>{prompt}</b>{text(each['text'], LONGEST_SAMPLE)}</pre>")
    return lines


def parameters(facts: dict[str, Any]) -> list[str]:
    """Parameters by part, counted from the configuration."""
    title = "<h2>Parameters</h2>"
    try:
        count = counted(facts)
    except ModelFileError as error:
        return [title, f"<p class='none'>The parts cannot be counted: {text(error)}</p>"]
    parts: dict[str, int] = {}
    for group in count.groups:
        for part in group.parts:
            name = f"{group.name}: {part.name}" if group.repeat == 1 and len(group.parts) > 1 else part.name
            name = name if group.repeat > 1 or len(group.parts) > 1 else group.name
            parts[name] = parts.get(name, 0) + group.repeat * part.size
    lines = [title, f"<p>{count.total:,} in all.</p>", bars([(name, n) for name, n in parts.items() if n])]
    said = as_number(facts.get("parameters"))
    if said is not None and said != count.total:
        lines.append(f"<p class='warning'>run.json says {text(shown(facts['parameters']), 60)} parameters.</p>")
    return lines


def counted(facts: dict[str, Any]) -> Count:
    """The parts that the recorded family and configuration mean. Raises ModelFileError."""
    config = facts.get("config")
    if not isinstance(config, dict):
        raise ModelFileError("run.json", "config", None, "missing or no object", "a model's configuration")
    kind = config.get("model_type", facts.get("model"))
    sizes = config.get("sizes")
    if kind == "mlp" and isinstance(sizes, list) and 2 <= len(sizes) <= 1000:
        if not all(isinstance(size, int) and 0 < size < 1 << 31 for size in sizes):
            raise ModelFileError("run.json", "config sizes", None, printable(sizes), "whole numbers from 1")
        return mlp(sizes)
    return count_preset(from_config(check_config(config | {"model_type": kind}, "run.json")))


def settings(facts: dict[str, Any]) -> list[str]:
    """What the run was asked to do, and where it ran."""
    lines = []
    if "command" in facts:
        lines += ["<h2>Command</h2>", f"<pre>{text(facts['command'])}</pre>"]
    for key, title in (("config", "Configuration"), ("arguments", "Arguments"), ("machine", "Machine")):
        lines.append(f"<h2>{title}</h2>")
        values = facts.get(key)
        if isinstance(values, dict) and values:
            named = {"model": facts["model"]} if key == "config" and "model" in facts else {}
            lines.append(rows(named | values))
        else:
            said = "nothing was recorded" if values in (None, {}) else f"no object: {printable(values)}"
            lines.append(f"<p class='none'>{title}: {text(said)}.</p>")
    return lines
