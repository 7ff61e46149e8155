// What the pages gain with JavaScript; each is whole without it.
//
//   live       server-sent events say "look again"; htmx fetches this very page and takes #live out
//              of it. Open details, focus and what is being read or typed are kept.
//   keys       / find · j k rows · g then a letter · u times · ? help
//   times      "3 min ago" goes on; theme; copying
"use strict";

const body = document.body;
const LOOK_MS = 150; // changes that come together cost one look
const AGAIN_MS = 2000; // after one that would have taken something from under the reader
const $ = (selector) => document.querySelector(selector);
const $$ = (selector) => [...document.querySelectorAll(selector)];

// --- live -----------------------------------------------------------------------------------------

let source = null;
let looking = 0;
let lost = false;

let pressed = false; // what is being clicked is not exchanged under the finger
addEventListener("pointerdown", () => (pressed = true), true);
for (const end of ["pointerup", "pointercancel"]) {
  addEventListener(end, () => setTimeout(() => (pressed = false)), true);
}

let told = 0; // buttons that say for a moment what they did: an exchange would take that away

function busy() {
  if (pressed || told) return true;
  const live = $("#live");
  const focused = document.activeElement;
  if (live?.contains(focused) && focused.matches("input, textarea, select")) return true;
  const selection = getSelection();
  return selection.type === "Range" && live?.contains(selection.anchorNode);
}

function look() {
  clearTimeout(looking);
  looking = setTimeout(() => {
    if (asking) missed = true; // a look at the old address must not follow the new one's answer
    else if ($("#live")) htmx.trigger("#live", "outlive:look");
  }, LOOK_MS);
}

let asking = 0; // what was asked for and is not answered yet
let missed = false;
document.addEventListener("htmx:beforeSend", (event) => {
  asking += 1;
  event.detail.xhr.addEventListener("loadend", () => {
    asking -= 1;
    if (!asking && missed) look();
    if (!asking) missed = false;
  });
});

function connection(state) {
  const shown = $("[data-connection]");
  if (!shown) return;
  shown.hidden = false;
  shown.dataset.connection = state;
  shown.querySelector("span").textContent = state;
}

function follow() {
  if (source || !$("#live")) return;
  const one = body.dataset.follow ? `?process=${encodeURIComponent(body.dataset.follow)}` : "";
  source = new EventSource(`${body.dataset.home}/events${one}`);
  source.addEventListener("open", () => {
    connection("live");
    if (lost || !$("[data-final]")) look(); // what happened since the page was made
    lost = false;
  });
  source.addEventListener("change", look);
  source.addEventListener("end", () => {
    leave();
    connection("ended");
  });
  source.addEventListener("error", () => {
    lost = true;
    connection("reconnecting");
    if (source?.readyState === EventSource.CLOSED) setTimeout(again, 2000);
  });
}

function leave() {
  source?.close();
  source = null;
}

function again() {
  if (document.hidden) return;
  leave();
  follow();
}

document.addEventListener("visibilitychange", () => {
  if (document.hidden) {
    leave();
    lost = true;
  } else follow();
});
document.addEventListener("submit", (event) => {
  if (event.defaultPrevented || event.target.method !== "post") return;
  leave(); // the page is left: who signs out must not look once more
  clearTimeout(looking);
});
addEventListener("pagehide", leave);
addEventListener("pageshow", (event) => {
  if (!event.persisted) return; // else it is as it was left, and follows nothing
  lost = true;
  follow();
});

let open = new Set();
let held = null;
let filled = [];
document.addEventListener("htmx:beforeSwap", (event) => {
  if (event.detail.requestConfig.triggeringEvent?.type === "outlive:look" && busy()) {
    event.detail.shouldSwap = false;
    setTimeout(look, AGAIN_MS);
    return;
  }
  if (event.detail.xhr.status >= 400) {
    event.detail.isError = false;
    refused(event.detail);
    return;
  }
  const live = $("#live");
  if (!live) return;
  const focused = document.activeElement;
  open = new Set([...live.querySelectorAll("details[open]")].map((one) => one.dataset.key ?? one.firstElementChild.textContent));
  filled = $$("#live :is(input, textarea, select), #many :is(input, select)").filter((one) => one.name && one.type !== "hidden" && (one.type === "radio" ? one.checked : one.value !== one.defaultValue))
    .map((one) => [one.id, one.type === "radio", one.value]);
  held = live.contains(focused) ? { key: focused.closest("[data-key]")?.dataset.key, href: focused.getAttribute("href") } : null;
});

function refused({ requestConfig, pathInfo, xhr }) {
  if (requestConfig.verb === "post") requestConfig.elt.submit(); // as without a script
  else if (requestConfig.triggeringEvent?.type !== "outlive:look") {
    location.assign(pathInfo.finalRequestPath); // a person asked: the page says what was wrong
  } else if (xhr.status === 401) {
    leave();
    connection("signed out");
  }
}

document.addEventListener("htmx:afterSwap", () => {
  const live = $("#live");
  if (!live) return;
  for (const one of live.querySelectorAll("details")) one.open = open.has(one.dataset.key ?? one.firstElementChild.textContent);
  for (const [id, picked, value] of filled) {
    const one = id && document.getElementById(id);
    if (one && picked) one.checked = one.value === value;
    else if (one) one.value = value;
  }
  if (held?.href) live.querySelector(`a[href="${CSS.escape(held.href)}"]`)?.focus();
  else if (held?.key) live.querySelector(`[data-key="${CSS.escape(held.key)}"] summary`)?.focus();
  settle();
});
document.addEventListener("htmx:historyRestore", settle);
document.addEventListener("htmx:configRequest", (event) => {
  const given = event.detail.parameters; // what is not asked for does not stand in the address
  for (const name of [...given.keys()]) if (given.get(name) === "") given.delete(name);
});

function settle() {
  const status = $("[data-status]")?.dataset.status;
  if (status) for (const one of $$("[data-when]")) one.hidden = !one.dataset.when.split(" ").includes(status);
  for (const one of $$("[data-copy]")) one.hidden = false;
  times();
}

// --- times ----------------------------------------------------------------------------------------

let utc = false;

function ago(text) {
  const past = Math.trunc((Date.now() - Date.parse(text)) / 1000);
  const size = Math.abs(past);
  if (size < 1) return "just now";
  const [unit, name] = [[86400, "d"], [3600, "h"], [60, "min"], [1, "s"]].find(([of]) => size >= of);
  const amount = `${Math.trunc(size / unit)} ${name}`;
  return past > 0 ? `${amount} ago` : `in ${amount}`;
}

function times() {
  for (const one of $$("time[data-ago]")) {
    const text = utc ? one.dataset.utc : ago(one.dateTime);
    if (one.textContent !== text) one.textContent = text;
  }
}

// --- keys -----------------------------------------------------------------------------------------

let going = false;

function rows(by) {
  const all = $$("[data-row]").map((row) => row.querySelector("a, input")).filter(Boolean);
  if (!all.length) return;
  const at = all.findIndex((one) => one.closest("[data-row]").contains(document.activeElement));
  const next = all[at < 0 ? (by > 0 ? 0 : all.length - 1) : Math.min(all.length - 1, Math.max(0, at + by))];
  next.focus();
  next.closest("[data-row]").scrollIntoView({ block: "nearest" });
}

document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  if (event.target.matches("input, textarea, select")) {
    if (event.key === "Escape") event.target.blur();
    return;
  }
  if (going) {
    going = false;
    const to = { o: "", p: "/processes", t: "/types", n: "/nodes", a: "/activity", h: "/health",
      s: "/sessions", r: "/requests", l: "/limits", b: "/breakers", c: "/caches" }[event.key];
    if (to !== undefined) location.href = body.dataset.home + to;
    return;
  }
  const key = {
    "/": () => $("#search")?.focus(),
    "?": () => $("#help")?.showModal(),
    j: () => rows(1),
    k: () => rows(-1),
    g: () => (going = true),
    u: () => { utc = !utc; times(); },
  }[event.key];
  if (!key) return;
  event.preventDefault();
  key();
});

// --- buttons --------------------------------------------------------------------------------------

const THEMES = ["auto", "light", "dark"];

function theme(name) {
  if (name === "auto") delete document.documentElement.dataset.theme;
  else document.documentElement.dataset.theme = name;
  try {
    if (name === "auto") localStorage.removeItem("outlive-theme");
    else localStorage.setItem("outlive-theme", name);
  } catch {
    // it lasts for this page only
  }
  $("[data-theme-toggle] span").textContent = name;
}

document.addEventListener("click", async (event) => {
  const button = event.target.closest("button");
  if (!button) return;
  if ("help" in button.dataset) $("#help").showModal();
  if ("themeToggle" in button.dataset) {
    const now = document.documentElement.dataset.theme ?? "auto";
    theme(THEMES[(THEMES.indexOf(now) + 1) % THEMES.length]);
  }
  if ("copy" in button.dataset) {
    told += 1;
    try {
      await navigator.clipboard.writeText(button.parentElement.querySelector("pre").textContent);
      button.textContent = "Copied";
    } catch {
      getSelection().selectAllChildren(button.parentElement.querySelector("pre"));
      button.textContent = "Selected";
    }
    setTimeout(() => {
      button.textContent = "Copy";
      told -= 1;
    }, 2000);
  }
});

for (const one of $$("[data-theme-toggle], [data-help]")) one.hidden = false;
if ($("[data-theme-toggle]")) $("[data-theme-toggle] span").textContent = document.documentElement.dataset.theme ?? "auto";
settle();
setInterval(times, 1000);
follow();
