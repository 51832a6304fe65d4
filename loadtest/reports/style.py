"""Style sheet of the report. Series colours are Okabe and Ito's, which stay apart for colour-blind readers."""

SERIES = 6  # colours defined below; lines of a run are told apart by colour, P50 and P90 by dashes

STYLE = """
:root { color-scheme: light dark; --ink: #1b1f24; --quiet: #57606a; --paper: #ffffff; --panel: #f6f8fa; --edge: #d0d7de;
  --grid: #e4e8ec; --heat: #0072b2; --s0: #d55e00; --s1: #0072b2; --s2: #009e73; --s3: #cc79a7; --s4: #8a6d00;
  --s5: #56b4e9; --good: #0072b2; --late: #e69f00; --shed: #8c959f; --bad: #a4003b; }
@media (prefers-color-scheme: dark) { :root { --ink: #e6edf3; --quiet: #9aa4af; --paper: #0d1117; --panel: #161b22;
  --edge: #30363d; --grid: #262d36; --heat: #58b5f0; --s0: #ff8a3d; --s1: #58b5f0; --s2: #2fc79a; --s3: #e59ac4;
  --s4: #d9b93b; --s5: #9bd4f5; --good: #58b5f0; --late: #e69f00; --shed: #6e7781; --bad: #ff6b8f; } }
body { font: 15px/1.5 system-ui, sans-serif; color: var(--ink); background: var(--paper); max-width: 1120px;
  margin: 0 auto; padding: 20px 16px 40px; }
h1 { font-size: 22px; line-height: 1.25; margin: 0 0 4px; overflow-wrap: anywhere; }
h2 { font-size: 15px; line-height: 1.3; margin: 0 0 8px; overflow-wrap: anywhere; }
.lead, figcaption, dd { color: var(--quiet); } .lead { margin: 0 0 14px; }
.doubt { border-left: 4px solid var(--late); padding: 4px 10px; margin: 8px 0; background: var(--panel); }
.scroll { overflow-x: auto; border: 1px solid var(--edge); border-radius: 8px; }
table { border-collapse: collapse; width: 100%; font-size: 13px; font-variant-numeric: tabular-nums; }
th, td { padding: 6px 9px; text-align: right; white-space: nowrap; }
th:first-child { text-align: left; position: sticky; left: 0; background: var(--panel); }
thead th { color: var(--quiet); font-weight: 600; background: var(--panel); }
tbody tr { border-top: 1px solid var(--edge); }
.legend { display: flex; flex-wrap: wrap; gap: 6px 18px; margin: 14px 2px; font-weight: 600; }
.legend .key { width: 24px; height: 10px; margin-right: 6px; }
.figures { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 440px), 1fr)); gap: 14px; }
figure { margin: 0; padding: 12px 14px; background: var(--panel); border: 1px solid var(--edge); border-radius: 8px; }
figure svg { width: 100%; height: auto; display: block; } figcaption { font-size: 13px; margin-top: 6px; }
text { fill: var(--ink); font-size: 13px; } .tick { fill: var(--quiet); font-size: 12px; } .name { font-weight: 600; }
.grid { stroke: var(--grid); } .mark { stroke: var(--ink); stroke-dasharray: 2 3; } .track { fill: var(--grid); }
.line { fill: none; stroke-width: 2.2; stroke-linejoin: round; } .dashed { stroke-dasharray: 5 4; stroke-width: 1.6; }
.s0 { stroke: var(--s0); } .s1 { stroke: var(--s1); } .s2 { stroke: var(--s2); } .s3 { stroke: var(--s3); }
.s4 { stroke: var(--s4); } .s5 { stroke: var(--s5); } .fill0 { fill: var(--s0); } .fill1 { fill: var(--s1); }
.fill2 { fill: var(--s2); } .fill3 { fill: var(--s3); } .fill4 { fill: var(--s4); } .fill5 { fill: var(--s5); }
.heat { fill: var(--heat); } .good { fill: var(--good); } .late { fill: var(--late); } .shed { fill: var(--shed); }
.bad { fill: var(--bad); }
.swatch { display: inline-block; width: 11px; height: 11px; border-radius: 2px; margin: 0 5px 0 8px; }
.swatch.good { background: var(--good); } .swatch.late { background: var(--late); }
.swatch.shed { background: var(--shed); }
.swatch.bad { background: var(--bad); }
dl { margin: 0; overflow-wrap: anywhere; } dt { font-weight: 600; margin-top: 10px; }
dd { margin: 0; font-size: 13px; } .figures + h2 { margin-top: 22px; }
"""
