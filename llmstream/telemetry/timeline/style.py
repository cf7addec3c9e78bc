"""How the page looks: the phases with their meanings and colours, and the style sheet."""

from __future__ import annotations

from ..._core.phase import Phase

__all__ = ["CSS", "PHASES"]

# phase -> what the time is spent on, and the colour of its bars on a light and on a dark page
_LOOKS: dict[str, tuple[str, str, str]] = {
    Phase.CONNECT: ("name resolution and TCP connection", "#cdbff0", "#57458a"),
    Phase.TLS: ("TLS handshake", "#f0bfe3", "#7b3f6d"),
    Phase.SEND: ("sending the request", "#b5e3dc", "#1f655c"),
    Phase.HEADERS: ("waiting for the response's headers", "#f4dfa0", "#6f5a17"),
    Phase.FIRST_TOKEN: ("waiting for the first content", "#f7c79a", "#84501d"),
    Phase.BODY: ("content, from the first on", "#b9d4f7", "#264f86"),
    Phase.POLL: ("polling a response in the background", "#d6dfb0", "#555f26"),
    Phase.BACKOFF: ("waiting before another attempt", "#b9c0c7", "#56606b"),
    Phase.THROTTLED: ("waiting because the service asked all callers to", "#e0b4b4", "#7a4040"),
}
_OTHER = ("", "#ccd2d8", "#454d56")  # a phase that this page does not know

PHASES = {name: what for name, (what, _, _) in _LOOKS.items()}

_BARS = {**_LOOKS, "other": _OTHER}
_LIGHT_BARS = "".join(f"--{name}:{light};" for name, (_, light, _) in _BARS.items())
_DARK_BARS = "".join(f"--{name}:{dark};" for name, (_, _, dark) in _BARS.items())
_BAR_RULES = "".join(f".p-{name}{{fill:var(--{name})}}" for name in _BARS)

_LIGHT_SIGNS = "--ok:#1a7f37;--bad:#c4242b;--mid:#8a5a00;--tick:#1f5fbf;"
_COLOURS = f""":root{{color-scheme:light dark;
--bg:#fff;--fg:#1c2127;--soft:#5b6570;--line:#d9dee3;--card:#f4f6f8;{_LIGHT_SIGNS}{_LIGHT_BARS}}}
@media (prefers-color-scheme:dark){{:root{{
--bg:#14181d;--fg:#e6eaee;--soft:#9aa5b1;--line:#333b44;--card:#1e242b;
--ok:#57c777;--bad:#ff7b78;--mid:#e0b050;--tick:#7fb2ff;{_DARK_BARS}}}}}
@media print{{:root{{color-scheme:light;
--bg:#fff;--fg:#000;--soft:#444;--line:#bbb;--card:#fff;{_LIGHT_SIGNS}{_LIGHT_BARS}}}}}
"""

_RULES = """
@media print{*{print-color-adjust:exact;-webkit-print-color-adjust:exact}
figure,tr,.tiles{break-inside:avoid}.scroll{overflow:visible!important}
.chart{min-width:0!important}body{padding:0}}
*{box-sizing:border-box}
body{margin:0 auto;padding:20px 24px;max-width:1180px;background:var(--bg);color:var(--fg);
font:14px/1.45 system-ui,-apple-system,"Segoe UI",Roboto,"Helvetica Neue",Arial,sans-serif}
.call+.call{margin-top:40px;padding-top:24px;border-top:2px solid var(--line)}
h1{font-size:20px;margin:0 0 10px}
.badge{font-size:14px;font-weight:600;margin-left:6px;padding:2px 10px;border-radius:12px;
border:1px solid currentColor;vertical-align:2px}
.success{color:var(--ok)}.error{color:var(--bad)}.cancelled{color:var(--mid)}
dl{margin:0}dd{margin:0;overflow-wrap:anywhere}dt{color:var(--soft);font-size:12px}
.facts{display:flex;flex-wrap:wrap;gap:8px 28px}
.tiles{display:grid;grid-template-columns:repeat(auto-fill,minmax(172px,1fr));gap:8px;margin:16px 0}
.tiles div{background:var(--card);border:1px solid var(--line);border-radius:6px;padding:7px 10px}
.tiles dd{font-size:17px;font-weight:600;font-variant-numeric:tabular-nums}
figure{margin:18px 0 0}figcaption{font-weight:600;margin-bottom:4px}
.scroll{overflow-x:auto}
.chart{display:block;width:100%;min-width:820px;height:auto}
svg text{font-size:11px;fill:var(--fg);paint-order:stroke;stroke:var(--bg);stroke-width:3px}
svg .axis{text-anchor:middle;fill:var(--soft)}svg .name{font-size:12px;font-weight:600}
svg .faint{font-weight:400;fill:var(--soft)}svg .label{fill:var(--soft)}
svg .inside{pointer-events:none;stroke:none}
svg text.error{fill:var(--bad);font-weight:600}svg path.error{stroke:var(--bad);stroke-width:2}
svg text.gap{text-anchor:middle;fill:var(--soft)}
svg path.gap{fill:none;stroke:var(--soft);stroke-width:1}
svg text.first{fill:var(--ok);font-weight:600}
svg path.first{stroke:var(--ok);stroke-width:1;stroke-dasharray:3 3}
.grid{stroke:var(--line);stroke-width:1}.tick{stroke:var(--tick);stroke-width:1.2;fill:none}
.legend{list-style:none;display:flex;flex-wrap:wrap;gap:4px 18px;padding:0;margin:12px 0;
font-size:12px;color:var(--soft)}
.legend svg{vertical-align:-2px;margin-right:5px}.legend b{color:var(--fg)}
table{border-collapse:collapse;width:100%;margin-top:14px;font-size:12.5px;
font-variant-numeric:tabular-nums}
caption{text-align:left;font-weight:600;font-size:14px;padding-bottom:4px}
th,td{text-align:left;vertical-align:top;padding:4px 10px 4px 0;border-bottom:1px solid var(--line)}
th{color:var(--soft);font-weight:500}td data,.nowrap{white-space:nowrap}
.none{color:var(--soft)}footer{margin-top:28px;color:var(--soft);font-size:12px}
"""

CSS = _COLOURS + _RULES + _BAR_RULES
