"""What the page of a policy study adds to the style sheet of the report: roles of policies, and the heat table."""

STUDY_STYLE = """
:root { --dualmap: #d1490c; --paper-policy: #0072b2; --peer: #008a63; --other: #9aa3ad; --up: #2a7fc4;
  --down: #d9822b; }
@media (prefers-color-scheme: dark) { :root { --dualmap: #ff8a3d; --paper-policy: #58b5f0; --peer: #2fc79a;
  --other: #737f8c; --up: #3d8fd1; --down: #c9772a; } }
h2.part { font-size: 19px; margin: 34px 0 4px; } h3 { font-size: 14px; line-height: 1.35;
  margin: 18px 0 8px; } figure h3 { margin-top: 0; }
p { margin: 6px 0 10px; max-width: 96ch; } .quiet, .absent { color: var(--quiet); }
code { font: 12.5px ui-monospace, monospace; background: var(--panel); border: 1px solid var(--edge);
  border-radius: 4px; padding: 0 4px; }
.said { font-size: 17px; font-weight: 600; } .contents { columns: 2 300px; font-size: 14px; margin: 12px 0; }
.contents a { color: inherit; } tr.judged th { color: var(--quiet); white-space: normal; }
.facts { display: grid; grid-template-columns: max-content 1fr; gap: 2px 14px; font-size: 13px; margin: 12px 0; }
.facts dt { margin: 0; color: var(--quiet); font-weight: 400; } .facts dd { color: var(--ink); }
.verdicts { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 240px), 1fr)); gap: 12px;
  margin: 14px 0; }
.verdict { border: 1px solid var(--edge); border-radius: 8px; padding: 10px 14px; background: var(--panel); }
.verdict b { display: block; font-size: 27px; line-height: 1.2; font-variant-numeric: tabular-nums; }
.verdict b.low { color: var(--down); } .verdict span { font-size: 13px; color: var(--quiet); display: block; }
.legend .policy.other + span { font-weight: 400; color: var(--quiet); }
.half { color: var(--quiet); font-size: 11.5px; }
tr.dualmap th, tr.dualmap td { font-weight: 700; } tr.dualmap th { box-shadow: inset 3px 0 var(--dualmap); }
tr.paper th { box-shadow: inset 3px 0 var(--paper-policy); } tr.peer th { box-shadow: inset 3px 0 var(--peer); }
tbody tr.bound { border-top: 2px dashed var(--quiet); font-style: italic; }
table.heat-table { width: auto; min-width: 100%; }
.heat-table thead th { vertical-align: bottom; padding: 6px 2px; }
.heat-table thead th:first-child { padding-left: 9px; } .heat-table thead th { text-align: center; }
.heat-table thead th:first-child { text-align: left; }
.heat-table thead th.turn span { writing-mode: vertical-rl; transform: rotate(180deg); display: inline-block; }
.heat-table thead th.dualmap { color: var(--dualmap); } .heat-table thead th.paper { color: var(--paper-policy); }
.heat-table thead th.peer { color: var(--peer); }
.heat-table td { padding: 3px 6px; text-align: center; border-left: 1px solid var(--paper); }
.heat-table tbody th { font-weight: 600; line-height: 1.25; padding: 3px 9px; }
.heat-table tbody th small { display: block; font-weight: 400; color: var(--quiet); }
.heat-table td.best { box-shadow: inset 0 0 0 1.5px var(--ink); } .heat-table td.gone { color: var(--quiet); }
.heat-table tr.mean { border-top: 2px solid var(--quiet); } .heat-table tr.mean > * { font-weight: 700; }
.heat-table .apart { border-left: 2px dashed var(--quiet); font-style: italic; }
.up { background: color-mix(in srgb, var(--up) var(--much), var(--paper)); }
.down { background: color-mix(in srgb, var(--down) var(--much), var(--paper)); }
.up, .down, tr, .verdict { print-color-adjust: exact; -webkit-print-color-adjust: exact; }
.scale { display: inline-block; width: 120px; height: 10px; border-radius: 2px; vertical-align: -1px; margin: 0 6px;
  background: linear-gradient(90deg, var(--down), var(--paper), var(--up)); border: 1px solid var(--edge); }
.policy { color: var(--other); } .policy.dualmap { color: var(--dualmap); }
.policy.paper { color: var(--paper-policy); }
.policy.peer { color: var(--peer); } .policy.bound { color: var(--ink); }
.policy .line { stroke: currentColor; stroke-width: 1.3; }
.policy .dot, .policy .knot, .policy .bar { fill: currentColor; }
.policy.dualmap .line { stroke-width: 3.4; } .policy.paper .line, .policy.peer .line { stroke-width: 2.4; }
.policy.peer .line { stroke-dasharray: 9 3; } .policy.bound .line { stroke-dasharray: 3 4; stroke-width: 1.8; }
.policy.bound .dot, .policy.bound .bar { fill: none; stroke: currentColor; stroke-dasharray: 3 3; stroke-width: 1.5; }
.policy .reach { fill: none; stroke: transparent; stroke-width: 12; pointer-events: stroke; }
.lead-line { fill: none; stroke: var(--quiet); stroke-width: 0.7; opacity: 0.55; }
.whisker { stroke: var(--ink); stroke-width: 1.6; }
.end { font-size: 12.5px; fill: var(--quiet); } .dualmap .end, .paper .end, .peer .end { font-weight: 700; }
.dualmap .end, .paper .end, .peer .end { fill: currentColor; } .bound .end { fill: var(--ink); font-style: italic; }
.policy:hover .line { stroke-width: 4; } .policy.other:hover { color: var(--ink); }
.policy:hover .end { fill: var(--ink); font-weight: 700; }
.panels { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 232px), 1fr)); gap: 12px; }
.panels figure { padding: 8px 10px; } .panels h3 { margin-bottom: 2px; }
details { margin: 12px 0; } summary { cursor: pointer; font-weight: 600; }
.figures { grid-template-columns: repeat(auto-fill, minmax(min(100%, 460px), 1fr)); margin: 10px 0; }
@media (max-width: 560px) { .figures .tick { font-size: 14px; } .figures .end { font-size: 13px; }
  .heat-table tbody th { min-width: 112px; max-width: 118px; white-space: normal; overflow-wrap: anywhere;
    font-size: 11.5px; } }
@media print { body { max-width: none; } figure, .verdict, tr { break-inside: avoid; } .scroll { overflow: visible; }
  table { font-size: 10px; } th, td { padding: 3px 4px; } }
"""
