import { createHash } from "node:crypto";

/** The page's style sheet. The page is complete without it: Jenkins' content security policy takes it away. */
const style: string = `
:root{color-scheme:light dark;--bg:#fff;--fg:#1b1f24;--muted:#57606a;--line:#d0d7de;--soft:#f6f8fa;--link:#0550ae;
--passed-bg:#dafbe1;--passed:#116329;--failed-bg:#ffebe9;--failed:#a40e26;--inconclusive-bg:#fff8c5;--inconclusive:#6c4400;
--skipped-bg:#eaeef2;--skipped:#424a53;--errored-bg:#ffe3f1;--errored:#8a1152;--mark:#fff3bf}
@media (prefers-color-scheme:dark){:root{--bg:#0d1117;--fg:#e6edf3;--muted:#9aa4af;--line:#3d444d;--soft:#161b22;--link:#79c0ff;
--passed-bg:#12261e;--passed:#7ee787;--failed-bg:#3a1418;--failed:#ffa198;--inconclusive-bg:#2e2711;--inconclusive:#e3b341;
--skipped-bg:#21262d;--skipped:#b6c0ca;--errored-bg:#351229;--errored:#ffadd6;--mark:#3f350f}}
*{box-sizing:border-box}
html{scroll-padding-top:1rem;-webkit-text-size-adjust:100%}
body{margin:0 auto;padding:1rem;max-width:62rem;background:var(--bg);color:var(--fg);font:1rem/1.5 system-ui,sans-serif;overflow-wrap:anywhere}
h1{font-size:1.5rem;line-height:1.25;margin:.5rem 0}
h2{font-size:1.25rem;line-height:1.3;margin:2rem 0 .25rem}
h3{font-size:1rem;margin:1.5rem 0 .25rem}
h4{font-size:1rem;font-weight:600;margin:1rem 0 .25rem}
a{color:var(--link)}
a:focus-visible,summary:focus-visible,[tabindex]:focus-visible{outline:3px solid var(--link);outline-offset:2px;border-radius:2px}
code,pre{font:.875em/1.5 ui-monospace,SFMono-Regular,Menlo,Consolas,monospace}
.meta,.where,.cites,small,figcaption,footer{color:var(--muted);font-size:.875rem}
.skip{position:absolute;left:-99rem}
.skip:focus{left:1rem;top:.5rem;background:var(--bg);padding:.5rem}
.badge{display:inline-block;padding:0 .5em;border-radius:1em;font-size:.85em;font-weight:600;white-space:nowrap;border:1px solid currentColor}
.passed .badge,.badge.passed{background:var(--passed-bg);color:var(--passed)}
.failed .badge,.badge.failed{background:var(--failed-bg);color:var(--failed)}
.inconclusive .badge,.badge.inconclusive{background:var(--inconclusive-bg);color:var(--inconclusive)}
.skipped .badge,.badge.skipped{background:var(--skipped-bg);color:var(--skipped)}
.errored .badge,.badge.errored{background:var(--errored-bg);color:var(--errored)}
.results,.checks,.words,.events,.lines{padding:0;margin:.5rem 0;list-style:none}
.results li{padding:.5rem 0;border-top:1px solid var(--line)}
.results p{margin:.1rem 0 0}
.checks li{padding:.35rem 0 .35rem .75rem;border-left:4px solid var(--line);margin:.25rem 0}
.checks .passed{border-color:var(--passed)}.checks .failed{border-color:var(--failed)}.checks .inconclusive{border-color:var(--inconclusive)}
.checks .cites{display:block}
.words li{margin:.25rem 0}
.words li:first-child{font-weight:600}
.scenario{border-top:2px solid var(--line);margin-top:2rem}
.sentence{font-size:1.05rem;margin:.5rem 0}
.meta{margin:0}
summary{cursor:pointer;font-weight:600;padding:.35rem 0}
dl{display:grid;grid-template-columns:max-content 1fr;gap:.15rem 1rem;margin:.5rem 0}
dt{color:var(--muted)}
dd{margin:0;overflow-wrap:anywhere}
figure{margin:.5rem 0}
svg{max-width:100%;height:auto}
.scroll{overflow-x:auto;max-width:100%}
table{border-collapse:collapse;margin:.5rem 0}
th,td{border:1px solid var(--line);padding:.3rem .6rem;text-align:left;vertical-align:top}
table{overflow-wrap:normal}
td{white-space:nowrap}
thead th{min-width:7rem}
th[scope=row]{min-width:10rem;font-weight:600}
pre{font-size:.8125rem;background:var(--soft);border:1px solid var(--line);border-radius:4px;padding:.75rem;margin:.5rem 0;max-height:32rem;overflow:auto;white-space:pre-wrap}
.lines code{color:var(--muted)}
.lines li{margin:.15rem 0}
.events li{display:grid;grid-template-columns:4.5em 1fr}
.events time{font-variant-numeric:tabular-nums;color:var(--muted)}
mark{background:var(--mark);color:inherit}
:target{outline:3px solid var(--link);outline-offset:2px}
section:target{outline:none}
ul.tree,.tree ul{list-style:none;padding-left:1rem;border-left:1px solid var(--line);margin:.25rem 0}
.tree li{margin:.35rem 0}
@media (max-width:36rem){body{padding:.75rem}dl{gap:.15rem .6rem;font-size:.875rem}.words,.checks{font-size:.9375rem}}
@media print{:root{color-scheme:light;--bg:#fff;--fg:#000;--muted:#444;--line:#999;--soft:#fff;--link:#000;--mark:#eee}
body{max-width:none;font-size:10pt}pre{max-height:none;overflow:visible;border:0;padding:0}.skip,.back{display:none}
figure,.checks li,.results li{break-inside:avoid}h2,h3,h4{break-after:avoid}
details::details-content{content-visibility:visible;display:block;height:auto}
a{text-decoration:none}}
`;

/** What a page begins with, up to a link to its element `results`; `title` is HTML. Whatever slipped through could load and run nothing. */
export function pageHead(title: string): string {
  const hash = createHash("sha256").update(style).digest("base64");
  return `<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'sha256-${hash}'; base-uri 'none'; form-action 'none'">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>oomlab: ${title}</title>
<style>${style}</style>
</head>
<body>
<a class="skip" href="#results">Skip to the results</a>
`;
}
