"""Style and script of the page; both go into it, so that it stands alone."""

STYLE = """
:root { color-scheme: light dark; --sans: system-ui, "Segoe UI", "DejaVu Sans",
  sans-serif; --mono: ui-monospace, "DejaVu Sans Mono", monospace;
  --paper: #ffffff; --ink: #1b1f24; --quiet: #59636e; --rule: #d8dee4;
  --panel: #f6f8fa; --low: #f5a742; --high: #d3e6f8; --now: #0072b2;
  --bad: #b34700; --new: #d3e6f8;
  --c0: #0072b2; --c1: #d55e00; --c2: #009e73; --c3: #aa4499; --c4: #b8860b;
  --c5: #56b4e9; }
@media (prefers-color-scheme: dark) { :root {
  --paper: #0f1419; --ink: #e6eaef; --quiet: #9aa5b1; --rule: #313a44;
  --panel: #181f27; --low: #9a5b00; --high: #1d4468; --now: #6cbcf5;
  --bad: #ff9d5c; --new: #1d4468;
  --c0: #58aee8; --c1: #ff8a3d; --c2: #2fc79a; --c3: #d68ccb; --c4: #e0b64a;
  --c5: #8fd3ff; } }
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 1.5rem 1.25rem 4rem; max-width: 76rem;
  background: var(--paper); color: var(--ink); font: 15px/1.55 var(--sans); }
h1 { font-size: 1.7rem; margin: .2rem 0 .3rem; }
h2 { font-size: 1.25rem; margin: 2.6rem 0 .6rem; }
h3 { font-size: 1.02rem; margin: 1.8rem 0 .4rem; }
p { max-width: 48rem; margin: .4rem 0; }
.quiet, .note { color: var(--quiet); }
nav a { margin-right: 1rem; }
a { color: var(--now); }
.cards { display: grid; gap: .8rem; margin: 1.2rem 0;
  grid-template-columns: repeat(auto-fit, minmax(13rem, 1fr)); }
.card { background: var(--panel); border: 1px solid var(--rule); padding: .9rem 1rem;
  border-radius: 8px; }
.card b { display: block; font-size: 1.9rem; line-height: 1.25;
  font-variant-numeric: tabular-nums; }
.card em { color: var(--quiet); font-style: normal; font-size: .85rem; }
.card small { color: var(--quiet); display: block; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums;
  font-size: .86rem; width: 100%; }
th, td { padding: .26rem .6rem; text-align: right; white-space: nowrap;
  border-bottom: 1px solid var(--rule); }
th:first-child, td:first-child { text-align: left; white-space: normal;
  min-width: 14rem; }
thead th { vertical-align: bottom; white-space: normal; }
tr.group th { background: var(--panel); text-align: left; padding-top: .7rem; }
tr.base td { background: var(--panel); font-weight: 600; }
td.sure { font-weight: 700; }
.figures { display: grid; gap: 1rem;
  grid-template-columns: repeat(auto-fit, minmax(min(27rem, 100%), 1fr)); }
figure { margin: 0; padding: .6rem; border: 1px solid var(--rule); border-radius: 8px; }
figure svg { width: 100%; height: auto; display: block; }
figcaption { font-weight: 600; }
.example { border: 1px solid var(--rule); border-radius: 8px; padding: .8rem 1rem;
  margin: 1rem 0; }
.texts { display: grid; grid-template-columns: max-content 1fr; gap: .1rem .9rem;
  margin: .4rem 0 .7rem; }
.texts dt { color: var(--quiet); } .texts dd { margin: 0; }
mark { background: none; color: inherit; padding: 0 .12em; border-radius: 3px; }
mark.new { background: var(--new); box-shadow: 0 0 0 1px var(--now); }
mark.bad { color: var(--bad); font-weight: 600;
  text-decoration: underline wavy var(--bad) 1.5px; text-underline-offset: 3px; }
del { color: var(--bad); opacity: .85; }
.badge { border: 1px solid var(--rule); border-radius: 99px; padding: .05rem .6rem;
  font-size: .8rem; margin-left: .5rem; white-space: nowrap; }
.player { display: none; gap: .6rem; align-items: center; margin: .2rem 0 .5rem;
  flex-wrap: wrap; }
.js .player { display: flex; }
.player input[type=range] { width: 14rem; accent-color: var(--now); }
button { font: inherit; padding: .1rem .8rem; border-radius: 6px; cursor: pointer;
  border: 1px solid var(--rule); background: var(--panel); color: inherit; }
.frame { display: grid; grid-template-columns: 7.2rem 1fr; gap: .6rem;
  padding: .25rem 0; border-top: 1px dotted var(--rule); }
.one .frame { display: none; } .one .frame.on { display: grid; }
.caption { color: var(--quiet); font-size: .8rem; padding-top: .15rem; }
.cells { display: flex; flex-wrap: wrap; row-gap: 3px; }
.cell { font: normal .8rem/1.5 var(--mono); width: calc(var(--w) * 1ch + 6px);
  height: 1.6em; margin-right: 1px; text-align: center; white-space: pre;
  border: 1px solid transparent; border-radius: 3px; }
.cell.mask { border: 1px dashed var(--quiet); opacity: .55; }
.cell.given { color: var(--quiet); }
.cell.sure { background: color-mix(in srgb, var(--high) var(--p), var(--low));
  color: var(--ink); }
.cell.word { margin-left: 4px; }
.cell.now { box-shadow: inset 0 0 0 2px var(--now); }
.cell.end { color: var(--quiet); }
.key { display: flex; flex-wrap: wrap; gap: .4rem 1.4rem; align-items: center;
  font-size: .86rem; }
.key .cell { display: inline-block; margin-right: .4rem; }
.ramp { display: inline-block; width: 8rem; height: .9rem; border-radius: 3px;
  margin: 0 .4rem; vertical-align: -2px;
  background: linear-gradient(to right, var(--low), var(--high)); }
"""

SCRIPT = """
document.documentElement.classList.add("js");
for (const example of document.querySelectorAll(".example")) {
  const film = example.querySelector(".film");
  if (!film) continue;
  const frames = [...film.children], range = example.querySelector("input");
  const [play, all] = example.querySelectorAll("button");
  let timer = 0;
  const show = (n) => {
    range.value = n;
    frames.forEach((frame, i) => frame.classList.toggle("on", i == n));
  };
  const stop = () => { clearInterval(timer); timer = 0; play.textContent = "Play"; };
  const single = (on) => {
    film.classList.toggle("one", on);
    all.textContent = on ? "All passes" : "One pass";
  };
  range.max = frames.length - 1;
  show(frames.length - 1);
  range.addEventListener("input", () => { stop(); single(true); show(+range.value); });
  all.addEventListener("click", () => {
    stop(); single(!film.classList.contains("one"));
  });
  play.addEventListener("click", () => {
    if (timer) return stop();
    let n = 0;
    single(true); show(0); play.textContent = "Stop";
    timer = setInterval(() => { ++n < frames.length ? show(n) : stop(); }, 700);
  });
}
"""
