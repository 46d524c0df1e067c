"""A plan as a decision record: context, options, assumptions, measured figures, risks, review date."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import date, timedelta
from typing import Any

REVIEW_DAYS = 90


def record(plan: Mapping[str, Any], today: date) -> str:
    """Markdown, from what ``--json`` prints."""
    artifact, traffic = plan["artifact"], plan["traffic"]
    chosen = plan["chosen"]
    wanted = ", ".join(plan["objective"])
    decision = f"Run it as **{chosen}**." if chosen else "**None of the options: the objective is not met.**"
    return "\n".join(
        [
            f"# How to run {_cell(artifact['name'])}",
            "",
            f"Date: {today}. Status: proposed. To be reviewed by {today + timedelta(days=REVIEW_DAYS)}, or "
            "before: when the model, the traffic, a price or the platform changes.",
            "",
            "## Context",
            "",
            f"- Artifact: {_cell(artifact['name'])}, `{artifact['version']}`, from `{plan['target']}`",
            f"- Traffic: {_cell(traffic['said'])}; {traffic['rate']:.3g} requests/s on average",
            f"- Objective: {wanted}",
            "",
            "## Decision",
            "",
            decision,
            "",
            *(f"- {_cell(line)}" for line in plan["why"]),
            "",
            "## Options",
            "",
            *_options(plan),
            "",
            *(f"- Left out: {_cell(line)}" for line in plan["left_out"]),
            *([""] if plan["left_out"] else []),
            "## Measured figures",
            "",
            *_measured(plan),
            "",
            "## Assumptions",
            "",
            *(f"- {_cell(line)}" for line in plan["assumptions"]),
            "",
            "## Risks",
            "",
            *(f"- {_cell(line)}" for line in plan["risks"]),
            "",
        ]
    )


def _options(plan: Mapping[str, Any]) -> list[str]:
    percentiles = list(plan["options"][0]["latency_ms"])
    heads = ["option", *percentiles, "cold", "no answer", "instances", "$ a month", "meets"]
    rows = [
        [
            f"`{one['name']}`",
            *(_milliseconds(one["latency_ms"][name]) for name in percentiles),
            f"{one['cold_share']:.3%}",
            f"{one['unanswered_share']:.3%}",
            str(one["instances"]),
            f"{one['monthly_usd']['total']:,.2f}",
            "yes" if one["meets"] else "no",
        ]
        for one in plan["options"]
    ]
    return _table(heads, rows)


def _measured(plan: Mapping[str, Any]) -> list[str]:
    rows = []
    for one in plan["options"]:
        start, request = one["start_ms"], one["request_ms"]
        rows.append(
            [
                f"`{one['name']}`",
                one["variant"],
                f"{one['memory_mb']:,}",
                *(f"{value[1]:,.1f} ({value[0]:,.1f} to {value[2]:,.1f})" for value in (start, request)),
            ]
        )
    return [
        f"From {_cell(plan['measured'])}; scaled to each option's CPU. Median, least and most, milliseconds.",
        "",
        *_table(["option", "variant", "MB", "the function's own start", "a warm request"], rows),
    ]


def _table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    return [f"| {' | '.join(row)} |" for row in (heads, ["---"] * len(heads), *rows)]


def _milliseconds(value: float | None) -> str:
    return "none" if value is None else f"{value:,.0f} ms" if value >= 100 else f"{value:.1f} ms"


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")
