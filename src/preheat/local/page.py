"""The status page: one self-contained HTML document that keeps itself up to date, drawn with the cold starts'
own pen.

``body`` is what changes; the page's script puts it in again whenever it did. Everything from outside is
escaped.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from ..waterfall import document, facts, milliseconds, svg, table

DRAWN = 8
"""The latest starts that are drawn, of each function."""
_GOOD = ("ok", "accepted")


def page(status: Mapping[str, Any]) -> str:
    """The whole document."""
    title = f"Preheat: {', '.join(status['functions'])}"
    lost = '<p id="lost" class="bad" role="status" hidden>The gateway does not answer.</p>'
    inner = f'<style>{STYLE}</style>{lost}<div id="live">{body(status)}</div><script>{SCRIPT}</script>'
    return document(title, inner)


def body(status: Mapping[str, Any]) -> str:
    """What changes: the gateway's own line, and a section for each function."""
    gateway = status["gateway"]
    policy = gateway["policy"]
    count = len(status["functions"])
    head = (
        f"<header><p>preheat up, {_e(gateway['state'])} at {_e(gateway['address'])}</p>"
        f"<h1>{count} function{'s' if count > 1 else ''} up</h1></header>"
    )
    sections = "".join(_function(name, one) for name, one in status["functions"].items())
    known = [
        ("instances start", str(gateway["start"])),
        ("target", f"{policy['target']:g} requests in flight an instance, {policy['concurrency']} at most"),
        ("instances of a function", f"{policy['min']} to {policy['max']}"),
        (
            "windows",
            f"{policy['stable_window_s']:g} s stable, {policy['panic_window_percentage']:g} % of it in panic "
            f"from {policy['panic_threshold_percentage']:g} %",
        ),
        ("to zero after", f"the stable window and {policy['scale_to_zero_grace_s']:g} s"),
        ("a start may take", f"{policy['start_timeout_s']:g} s"),
        *((f"limit of {limit}", how) for limit, how in gateway["limits"].items()),
        ("process", str(gateway["pid"])),
        ("ended of an earlier gateway", str(gateway["ended_of_an_earlier_gateway"] or "")),
    ]
    return f"{head}{sections}<h2>Gateway</h2>{facts(known)}"


def _function(name: str, one: Mapping[str, Any]) -> str:
    parts = [
        f'<section class="function" id="function-{_e(name)}"><h2>{_e(name)} {_badge(one["state"])}'
        f'<button type="button" data-zero="{_e(name)}">scale to zero</button></h2>',
        f'<p class="note">{_e(one["target"])}</p>',
    ]
    if one["error"] is not None:
        again = f"; started again in {one['retry_in_s']:g} s" if one["retry_in_s"] else ""
        parts.append(
            f'<p class="bad" role="status"><b>{_e(one["error"]["code"])}</b> {_e(one["error"]["message"])}'
            f"{_e(again)}</p>"
        )
    if one["not_restored"]:
        parts.append(f'<p class="bad" role="status">instances start fresh: {_e(one["not_restored"])}</p>')
    parts += [_tiles(one), _outcomes(one["outcomes"])]
    if one["instances"]:
        heads = ["instance", "state", "ready in", "in flight", "answered", "memory"]
        parts += ["<h3>Instances</h3>", table(heads, [_row(each) for each in one["instances"]])]
    every = [*reversed(one["instances"]), *one["ended"]]
    drawn = [each for each in every if each["start"]][:DRAWN]
    if drawn:
        parts.append("<h3>Starts</h3>")
        parts += [_start(each, index == 0) for index, each in enumerate(drawn)]
    if one["ended"]:
        rows = [
            [
                f"{each['name']}\nprocess {each['pid']}, started {_clock(each['born'])}",
                f"{each['ended']['code']}\n{each['ended']['message']}",
                str(each["answered"]),
            ]
            for each in one["ended"]
        ]
        parts += ["<h3>Ended</h3>", table(["instance", "how", "answered"], rows)]
    if one["problems"]:
        rows = [
            [_clock(each["at"]), f"{each['status']} {each['code']}\n{each['said']}"]
            for each in one["problems"]
        ]
        parts += ["<h3>Requests without an answer</h3>", table(["at", "what they were told"], rows)]
    return "".join([*parts, "</section>"])


def _tiles(one: Mapping[str, Any]) -> str:
    states = [each["state"] for each in one["instances"]]
    ready, starting = states.count("ready"), states.count("starting")
    queue = one["queue"]
    panic = ", panicking" if one["panicking"] else ""
    tiles = [
        ("ready", str(ready), f"of {one['desired']} wanted{panic}"),
        ("starting", str(starting), f"{states.count('draining')} draining"),
        ("in flight", str(sum(each["in_flight"] for each in one["instances"])), "at instances"),
        ("waiting", str(queue["waiting"]), f"most {queue['most']}, of {queue['places']} places"),
    ]
    return '<div class="tiles">' + "".join(map(_tile, tiles)) + "</div>"


def _tile(tile: Sequence[str]) -> str:
    name, figure, note = tile
    return f"<div><span>{_e(name)}</span><b>{_e(figure)}</b><small>{_e(note)}</small></div>"


def _outcomes(outcomes: Mapping[str, int]) -> str:
    if not outcomes:
        return '<p class="note">No request yet.</p>'
    chips = [
        f'<li class="{"good" if name in _GOOD else "other"}"><b>{count:,}</b> {_e(name)}</li>'
        for name, count in outcomes.items()
    ]
    return f'<ul class="outcomes" aria-label="outcomes">{"".join(chips)}</ul>'


def _row(each: Mapping[str, Any]) -> list[str]:
    memory = f"{each['memory_mib']:g} MiB" if each["memory_mib"] is not None else ""
    whose = f", {each['tenant']}" if each["tenant"] else ""
    return [
        f"{each['name']}\n{each['kind']}{_unlike(each)}, process {each['pid']}, port {each['port']}{whose}",
        each["state"],
        milliseconds(each["ready_ms"]) if each["ready_ms"] is not None else "",
        str(each["in_flight"]),
        f"{each['answered']:,}",
        memory,
    ]


def _unlike(each: Mapping[str, Any]) -> str:
    """Why it was not restored, where it was to be."""
    return f" ({each['not_restored']})" if each["not_restored"] else ""


def _start(each: Mapping[str, Any], shown: bool) -> str:
    report = each["start"]
    took = milliseconds(report["total_ms"])
    key = f"start-{each['name']}"
    return (
        f'<details id="{_e(key)}"{" open" if shown else ""}><summary>{_e(each["name"])} <b>{_e(took)}</b> '
        f"<small>{_e(report['kind'])}, {_e(report.get('variant', ''))}, {_e(_clock(each['born']))}</small>"
        f"</summary>{svg(report, key)}</details>"
    )


def _badge(state: str) -> str:
    return f'<span class="state {_e(state.replace(" ", "-"))}">{_e(state)}</span>'


def _clock(seconds: float) -> str:
    return time.strftime("%H:%M:%S", time.localtime(seconds))


def _e(text: str) -> str:
    return escape(str(text), quote=True)


STYLE = """
:root{--go:#15803d;--wait:#a16207;--stop:#b91c1c;--card:#f5f5f4}
@media(prefers-color-scheme:dark){:root{--go:#4ade80;--wait:#facc15;--stop:#f87171;--card:#221e1b}}
.function{border-top:1px solid var(--line);padding-top:4px;margin-top:28px}
.function h2{display:flex;flex-wrap:wrap;align-items:center;gap:6px 12px;margin-top:18px;font-size:22px}
h3{margin:24px 0 6px;font-size:15px}
.function>.note{margin:0 0 12px;overflow-wrap:anywhere}
.state{font-size:13px;font-weight:600;color:var(--soft)}
.state::before{content:"";display:inline-block;width:9px;height:9px;margin-right:6px;border-radius:50%;
 background:currentColor}
.state.ready{color:var(--go)}.state.starting,.state.draining{color:var(--wait)}
.state.failing{color:var(--stop)}
button{margin-left:auto;font:13px system-ui,sans-serif;color:inherit;background:none;
 border:1px solid var(--line);border-radius:6px;padding:5px 10px;cursor:pointer}
button:hover,button:focus-visible{border-color:currentColor}button[disabled]{opacity:.5;cursor:default}
.bad{color:var(--stop);overflow-wrap:anywhere;margin:10px 0}
.tiles{display:grid;grid-template-columns:repeat(auto-fit,minmax(140px,1fr));gap:10px;margin:12px 0}
.tiles div{background:var(--card);border-radius:8px;padding:10px 12px;min-width:0}
.tiles span{color:var(--soft);font-size:13px}
.tiles b{display:block;font-size:24px;line-height:1.25;font-variant-numeric:tabular-nums}
.outcomes{display:flex;flex-wrap:wrap;gap:6px 18px;margin:12px 0;padding:0;list-style:none;font-size:14px}
.outcomes .good b{color:var(--go)}.outcomes .other b{color:var(--wait)}
details{border-bottom:1px solid var(--line);padding:6px 0}
summary{cursor:pointer;padding:2px 0}summary small{display:inline;margin-left:6px}
summary b{margin-left:6px;font-variant-numeric:tabular-nums}
details .waterfall{margin:10px 0 4px}
td small{white-space:normal;min-width:14em}
"""
SCRIPT = """
const live=document.getElementById('live'),lost=document.getElementById('lost');let shown='',timer=0;
async function look(){
 clearTimeout(timer);
 try{
  const answer=await fetch('/_preheat/live');if(!answer.ok)throw new Error(answer.status);
  const text=await answer.text();lost.hidden=true;
  if(text!==shown){
   const open=new Map([...live.querySelectorAll('details')].map(d=>[d.id,d.open]));
   const left=[...live.querySelectorAll('.scroll')].map(s=>s.scrollLeft);
   const held=document.activeElement?.dataset?.zero;
   live.innerHTML=shown=text;
   live.querySelectorAll('details').forEach(d=>{if(open.has(d.id))d.open=open.get(d.id)});
   live.querySelectorAll('.scroll').forEach((s,i)=>{s.scrollLeft=left[i]??0});
   if(held)live.querySelector(`[data-zero="${held}"]`)?.focus();
  }
 }catch(error){lost.hidden=false}
 timer=setTimeout(look,document.hidden?5000:1000);
}
live.addEventListener('click',async event=>{
 const button=event.target.closest('[data-zero]');if(!button)return;
 button.disabled=true;
 const options={method:'POST',headers:{'content-type':'application/json'},body:'{"instances":0}'};
 try{await fetch(`/_preheat/functions/${button.dataset.zero}/scale`,options)}catch(error){}
 button.disabled=false;look();
});
look();
"""
