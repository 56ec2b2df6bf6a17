"""How a report looks: light or dark as the reader likes it, on a telephone, on paper."""

STYLE = """
:root { color-scheme: light dark; --ink: #1b1f24; --soft: #59636e; --page: #ffffff; --line: #d9dee3; --tile: #f4f6f8;
  --card: #ffffff; --strong: #0060a0 }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e6e9ec; --soft: #9aa5b1; --page: #14181c; --line: #333b44; --tile: #1e242a; --card: #f7f7f5;
    --strong: #6cb8f0 }
  .swatch { outline: 1px solid var(--soft) }
}
* { box-sizing: border-box }
body { margin: 0 auto; padding: 28px 24px 60px; max-width: 1060px; background: var(--page); color: var(--ink);
  font: 15px/1.5 system-ui, "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif }
h1 { font-size: 28px; line-height: 1.2; margin: 0 0 8px; overflow-wrap: anywhere }
h2 { font-size: 19px; margin: 40px 0 4px; padding-top: 14px; border-top: 1px solid var(--line) }
h3 { font-size: 15px; margin: 20px 0 4px }
p { margin: 4px 0 10px; max-width: 75ch } .soft, figcaption { color: var(--soft) } .lead { font-size: 17px }
.notice { border-left: 4px solid #D55E00; padding: 6px 12px; background: var(--tile) }
.tiles { display: grid; grid-template-columns: repeat(auto-fit, minmax(140px, 1fr)); gap: 10px; margin: 16px 0 12px }
.tile { background: var(--tile); border-radius: 8px; padding: 9px 12px }
.tile b { display: block; font-size: 21px; line-height: 1.25; font-variant-numeric: tabular-nums; white-space: nowrap }
.tile span { font-size: 12.5px; color: var(--soft) }
figure { margin: 10px 0 14px; break-inside: avoid } figcaption { font-size: 13.5px; margin-top: 5px }
figure img { display: block; max-width: 100%; background: var(--card); border-radius: 8px; padding: 8px }
.cases { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(430px, 100%), 1fr)); gap: 8px 22px }
.swatch { display: inline-block; width: 11px; height: 11px; border-radius: 2px; margin-right: 5px }
.key { white-space: nowrap; margin-right: 10px }
.scroll { overflow-x: auto }
table { border-collapse: collapse; margin: 8px 0 14px; font-variant-numeric: tabular-nums }
th, td { padding: 5px 14px 5px 0; border-bottom: 1px solid var(--line); text-align: left; vertical-align: top }
th { font-weight: 600; font-size: 13.5px; color: var(--soft) } td.n, th.n { text-align: right } td.n { white-space: nowrap }
td:first-child { white-space: nowrap }
code, pre { font: 13px/1.45 ui-monospace, "SF Mono", Menlo, Consolas, monospace }
pre { background: var(--tile); border-radius: 8px; padding: 12px 14px; overflow: auto; max-height: 420px;
  white-space: pre-wrap }
th button { all: unset; cursor: pointer } th button::after { content: "\u00a0▾"; opacity: .4 }
[aria-sort] button { color: var(--ink) } [aria-sort] button::after { opacity: 1 }
[aria-sort=ascending] button::after { content: "\u00a0▴" } tfoot td { border-top: 2px solid var(--line) }
:focus-visible, th button:focus-visible { outline: 2px solid var(--strong); outline-offset: 2px; border-radius: 3px }
.scroller:not([hidden]) { display: block; margin-top: 6px; font-size: 13.5px; color: var(--soft) }
.screen { overflow: hidden; max-width: 430px; background: #000; border-radius: 8px }
.screen img { display: block; width: 100% }
.scroller label { display: flex; gap: 8px; align-items: center; margin-top: 4px } .scroller input { flex: 1; min-width: 0 }
@media screen and (max-width: 640px) {
  body { padding: 18px 14px 40px } figure { overflow-x: auto } figure img { max-width: 720px } .cases img { max-width: 100% }
}
@media print {
  :root { --ink: #000; --soft: #444; --page: #fff; --line: #bbb; --tile: #f4f4f4; --card: #fff }
  body { max-width: none; padding: 0; font-size: 11pt } pre { max-height: none; overflow: visible }
  .tiles { grid-template-columns: repeat(6, 1fr); gap: 6px } .tile { padding: 6px 8px } .tile b { font-size: 15px }
  .cases { grid-template-columns: 1fr 1fr; gap: 6px 14px } th, td { padding-right: 9px }
  table { font-size: 8.5pt } th, .heat { font-size: 8pt } td.n { white-space: normal }
  h2, h3 { break-after: avoid } h2 { margin-top: 24px } tr, .tiles, .tile { break-inside: avoid }
  figure img { padding: 0 } .scroll { overflow: visible } .scroller:not([hidden]) { display: none }
  th button::after { content: none } * { print-color-adjust: exact; -webkit-print-color-adjust: exact }
}
"""
