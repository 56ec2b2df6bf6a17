"""The script and the style of a live page: it asks every two seconds, renews what has changed, and moves nothing else."""

STYLE = """
html { overflow-anchor: none }
#live progress { accent-color: var(--strong); height: 8px; width: 120px; vertical-align: middle }
#live > [data-part=rounds] progress { width: 100%; display: block; margin: 4px 0 12px }
#live th { white-space: nowrap }
#live [data-part$=" state"] { display: inline-block; min-width: 300px; overflow-wrap: anywhere }
#live .swatch { border-radius: 50%; outline: 1px solid var(--soft) }
#live .tile b { white-space: normal; overflow-wrap: anywhere } #live .tile b span { font-size: inherit; color: inherit }
#live ul { margin: 4px 0 10px; padding-left: 20px }
#note { border-left-color: var(--soft) } #report > div:first-child h2 { margin-top: 24px }
@media print { #live, #lost { display: none } }
"""

SCRIPT = r"""
"use strict";
{
  const PERIOD_MS = 2000, LONGEST_MS = 16000, PATIENCE_MS = 15000, FOCUSABLE = "button, input, summary, a";
  const live = document.getElementById("live"), report = document.getElementById("report");
  const head = document.getElementById("name"), said = document.getElementById("said");
  const note = document.getElementById("note"), lost = document.getElementById("lost");
  let tag = live.dataset.tag, wanted = hashes(), ahead = 0, misses = 0, timer = 0, busy = false;

  function hashes() {
    return Array.from(report.children, (part) => part.dataset.section);
  }

  // Moments are counted on between two answers, by the clock of the machine that the run is on; in words as live_page.py's.
  function lasted(seconds, kind) {
    const whole = Math.max(0, Math.floor(seconds)), two = (number) => String(number).padStart(2, "0");
    if (kind === "age" && whole < 120) return `${whole} s`;
    const hours = Math.floor(whole / 3600), minutes = Math.floor(whole / 60) % 60;
    return hours ? `${hours}:${two(minutes)}:${two(whole % 60)}` : `${minutes}:${two(whole % 60)}`;
  }

  function tick() {
    for (const place of live.querySelectorAll("[data-at]")) {
      const words = lasted((Date.now() + ahead) / 1000 - place.dataset.at, place.dataset.kind);
      if (place.textContent !== words) place.textContent = words;
    }
  }

  // What a reader has made of a part of the page: it is made of the part that comes in its place, too.
  function remember(part) {
    const of = (what) => Array.from(part.querySelectorAll(what));
    return {
      sorts: of("table.sorts").map((table) => {
        const head = table.tHead.querySelector("[aria-sort]");
        return head && [head.cellIndex, head.getAttribute("aria-sort")];
      }),
      open: of("details").map((details) => details.open),
      values: of("input").map((input) => input.value),
      lefts: of(".scroll, pre").map((box) => [box.scrollLeft, box.scrollTop]),
      focus: of(FOCUSABLE).indexOf(document.activeElement),
    };
  }

  function recall(part, state) {
    const each = (what, values, use) => part.querySelectorAll(what).forEach((one, i) => {
      if (i < values.length && values[i] !== null) use(one, values[i]);
    });
    each("table.sorts", state.sorts, (table, [column, way]) => {
      const head = table.tHead.rows[0].cells[column], button = head && head.querySelector("button");
      for (let press = 0; button && press < 2 && head.getAttribute("aria-sort") !== way; press += 1) button.click();
    });
    each("details", state.open, (details, open) => { details.open = open; });
    each("input", state.values, (input, value) => {
      input.value = value;
      input.dispatchEvent(new Event("input"));
    });
    each(".scroll, pre", state.lefts, (box, [left, top]) => box.scrollTo(left, top));
    const focus = state.focus < 0 ? null : part.querySelectorAll(FOCUSABLE)[state.focus];
    if (focus) focus.focus({ preventScroll: true });
  }

  function name(part) {
    const head = part.querySelector("h2");
    return head ? head.textContent : "";
  }

  // What stands at the top of the window stays there, whatever happens above it.
  function keeping(change) {
    const there = scrollY > 0 && Array.from(report.children).find((part) => part.getBoundingClientRect().bottom > 0);
    const title = there && name(there), top = there && there.getBoundingClientRect().top;
    const below = there && live.getBoundingClientRect().bottom <= 0;
    change();
    const now = below && Array.from(report.children).find((part) => name(part) === title);
    if (now) scrollBy({ top: now.getBoundingClientRect().top - top, behavior: "instant" });
  }

  function parts(box) {
    return new Map(Array.from(box.querySelectorAll("[data-part]"), (part) => [part.dataset.part, part]));
  }

  const shown = new Map(Array.from(parts(live), ([key, part]) => [key, part.innerHTML]));
  function renew(html) {
    const fresh = document.createElement("template");
    fresh.innerHTML = html;
    const old = parts(live), now = parts(fresh.content);
    if (old.size !== now.size || Array.from(now.keys()).some((key) => !old.has(key))) {
      const state = remember(live);
      live.innerHTML = html;
      enliven(live);
      recall(live, state);
    } else for (const [key, part] of now) if (shown.get(key) !== part.innerHTML) old.get(key).innerHTML = part.innerHTML;
    shown.clear();
    for (const [key, part] of now) shown.set(key, part.innerHTML);
  }

  async function section(hash) {
    const answer = await fetch(`section/${hash}`, { signal: AbortSignal.timeout(PATIENCE_MS) });
    if (!answer.ok) throw new Error(`section: ${answer.status}`);
    const part = document.createElement("div");
    part.dataset.section = hash;
    part.innerHTML = await answer.text();
    return part;
  }

  // Sections that have not changed stay where they are, with all that a reader has made of them.
  async function redraw() {
    const here = new Map(Array.from(report.children, (part) => [part.dataset.section, part]));
    if (wanted.join() === hashes().join() || !getSelection().isCollapsed) return; // who is copying something is not disturbed
    const made = await Promise.all(wanted.filter((hash) => !here.has(hash)).map(section));
    keeping(() => {
      const gone = Array.from(here.values()).filter((part) => !wanted.includes(part.dataset.section));
      const states = new Map(gone.map((part) => [name(part), remember(part)]));
      gone.forEach((part) => part.remove());
      made.forEach((part) => here.set(part.dataset.section, part));
      wanted.forEach((hash, i) => {
        if (report.children[i] !== here.get(hash)) report.insertBefore(here.get(hash), report.children[i] || null);
      });
      for (const part of made) {
        enliven(part);
        if (states.has(name(part))) recall(part, states.get(name(part)));
      }
    });
  }

  function put(place, words) {
    if (place.textContent !== words) place.textContent = words;
    place.hidden = !words;
  }

  async function look() {
    const answer = await fetch("state", { headers: { "If-None-Match": tag }, cache: "no-store",
      signal: AbortSignal.timeout(PATIENCE_MS) });
    if (!answer.ok && answer.status !== 304) throw new Error(`state: ${answer.status}`);
    ahead = Date.parse(answer.headers.get("Date")) + 500 - Date.now(); // it is said in whole seconds
    if (answer.status === 304) return redraw();
    const state = await answer.json();
    tag = answer.headers.get("ETag");
    document.title = state.title;
    put(head, state.name);
    put(said, state.said);
    put(note, state.note);
    keeping(() => renew(state.live));
    wanted = state.sections;
    return redraw();
  }

  async function poll() {
    if (busy) return;
    clearTimeout(timer);
    busy = true;
    try {
      await look();
      misses = 0;
    } catch {
      misses += 1;
    }
    put(lost, misses > 1 ? lost.dataset.words : "");
    tick();
    busy = false;
    timer = setTimeout(poll, document.hidden ? LONGEST_MS : Math.min(LONGEST_MS, PERIOD_MS * 2 ** Math.max(0, misses - 1)));
  }

  setInterval(tick, 1000);
  document.addEventListener("visibilitychange", () => { if (!document.hidden) poll(); });
  timer = setTimeout(poll, PERIOD_MS);
}
"""
