// Keeps the part of a page that is marked `data-live` up to date. The page is whole without it.
//
//   data-events   a process's own address: told by server-sent events, ended by `end`
//   data-poll     milliseconds between two looks: while the page is visible, and where events do not come
//
// What is replaced is what the server rendered; open details, focus and scroll are kept.
"use strict";

const live = document.querySelector("[data-live]");
const TOLD_MS = 80; // events that come together cost one look

async function look() {
  const address = new URL(location.href);
  address.searchParams.set("fragment", "1");
  let answer;
  try {
    answer = await fetch(address, { headers: { accept: "text/html" } });
  } catch {
    return; // the service restarts: the next look finds it again
  }
  if (answer.ok) replace(await answer.text());
}

function replace(text) {
  const focused = document.activeElement;
  if (live.contains(focused) && focused.matches("select, input, textarea")) return;
  const selection = getSelection();
  if (selection.type === "Range" && live.contains(selection.anchorNode)) return;
  const key = live.contains(focused) ? focused.closest("[data-key]")?.dataset.key : undefined;
  const href = live.contains(focused) ? focused.getAttribute("href") : null;
  const open = new Set([...live.querySelectorAll("details[open]")].map((one) => one.dataset.key));
  const next = new DOMParser().parseFromString(text, "text/html");
  live.replaceChildren(...next.body.childNodes);
  for (const one of live.querySelectorAll("details")) one.open = open.has(one.dataset.key);
  if (key) live.querySelector(`[data-key="${key}"] summary`)?.focus();
  else if (href) live.querySelector(`a[href="${CSS.escape(href)}"]`)?.focus();
  settle();
}

function status() {
  return live.querySelector("[data-status]")?.dataset.status ?? "";
}

function settle() {
  const final = live.querySelector("[data-final]") !== null;
  for (const one of document.querySelectorAll("[data-until-final]")) one.hidden = final;
  for (const one of document.querySelectorAll("[data-when]")) {
    one.disabled = !one.dataset.when.split(" ").includes(status());
  }
}

function follow() {
  let told = 0;
  const source = new EventSource(live.dataset.events);
  const soon = () => {
    clearTimeout(told);
    told = setTimeout(look, TOLD_MS);
  };
  for (const kind of live.dataset.kinds.split(" ")) source.addEventListener(kind, soon);
  source.addEventListener("end", () => source.close());
}

function seconds(text) {
  return Math.trunc((Date.now() - Date.parse(text)) / 1000);
}

function ago(text) {
  const past = seconds(text);
  const size = Math.abs(past);
  if (size < 1) return "just now";
  const [unit, name] = [[86400, "d"], [3600, "h"], [60, "min"], [1, "s"]].find(([of]) => size >= of);
  const amount = `${Math.trunc(size / unit)} ${name}`;
  return past > 0 ? `${amount} ago` : `in ${amount}`;
}

if (live) {
  const every = Number(live.dataset.poll);
  const final = () => live.querySelector("[data-final]") !== null;
  if (live.dataset.events && !final()) follow();
  setInterval(() => {
    if (document.visibilityState !== "visible" || final()) return;
    if (!live.dataset.events || ["running", "compensating"].includes(status())) look();
  }, every);
  live.addEventListener("change", (event) => event.target.closest(".filters")?.requestSubmit());
}
setInterval(() => {
  for (const one of document.querySelectorAll("time[data-ago]")) one.textContent = ago(one.dateTime);
}, 1000);
