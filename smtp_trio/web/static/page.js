// What the page does beyond links and forms. Each view is rendered by the server; this module loads it again, or another one,
// and replaces the parts that have changed.

const root = document.documentElement.dataset.root;
const find = (selector) => document.querySelector(selector);
const params = () => new URLSearchParams(location.search);
const query = () => params().get("q") ?? "";
const openId = () => find("#message")?.dataset.id ?? "";

const notice = find("#notice");
function tell(text) {
  notice.textContent = text;
  setTimeout(() => { notice.textContent = ""; }, 5000);
}

// The address of a view without the user and password that a browser may have in its own, with which `fetch` does not work.
const address = (url) => { const { pathname, search } = new URL(url, location.href); return location.origin + pathname + search; };

// --- loading

let loading = new AbortController();
let showing = null;

// Replace elements of this document by those of another view. A load ends the previous one, which then returns nothing.
async function load(url, ...ids) {
  loading.abort();
  const { signal } = loading = new AbortController();
  const text = await fetch(address(url), { signal }).then((response) => response.text()).catch((error) => {
    if (!signal.aborted) throw error;
  });
  if (signal.aborted) return;
  const loaded = new DOMParser().parseFromString(text, "text/html");
  const state = loaded.getElementById("main")?.className;
  if (!ids.every((id) => loaded.getElementById(id))) location.href = url; // an error, which is a page of its own
  for (const id of ids) replace(id, loaded);
  return { title: loaded.title, state };
}

function replace(id, loaded) {
  const before = document.getElementById(id);
  const after = loaded.getElementById(id);
  if (!before || !after) return;
  const scroll = before.scrollTop;
  const focused = before.contains(document.activeElement) ? document.activeElement : null;
  const known = new Set([...before.querySelectorAll("[data-id]")].map((row) => row.dataset.id));
  before.replaceWith(after);
  if (id === "list") {
    for (const row of after.querySelectorAll(".row")) if (known.size && !known.has(row.dataset.id)) row.classList.add("new");
  }
  if (id !== "message") after.scrollTop = scroll;
  if (focused?.dataset.id) rowOf(focused.dataset.id)?.focus({ preventScroll: true });
  else if (focused?.id) document.getElementById(focused.id)?.focus({ preventScroll: true });
  enable(after);
}

// Show what needs this module.
function enable(part) {
  for (const id of ["delete", "delete-all", "help-button"]) part.querySelector(`#${id}`)?.removeAttribute("hidden");
  for (const element of part.querySelectorAll("[data-script]")) element.hidden = false;
}

// Replace the view by another one, and its address too.
async function show(url, push = true) {
  const shown = showing = load(url, "list", "message");
  const loaded = await shown.finally(() => { if (showing === shown) showing = null; });
  if (!loaded) return;
  if (push) history.pushState(null, "", url.replace(location.origin, ""));
  document.title = loaded.title;
  const search = find("#search");
  if (search !== document.activeElement) search.value = query();
  find("#main").className = loaded.state;
  find("#message").focus({ preventScroll: true });
}

// Load the list again. The open message does not change, so it is not loaded.
async function refresh() {
  while (showing) await showing.catch(() => {});
  const wanted = new URLSearchParams({ q: query(), start: params().get("start") ?? "", selected: openId() });
  await load(`${root}/?${wanted}`, "list");
}

// Load at once, and again at the end of each interval in which something has happened.
function throttled(action, milliseconds) {
  let waiting = false, again = false;
  return async function run() {
    if (waiting) { again = true; return; }
    waiting = true;
    try { await action(); } catch { /* The server does not answer; the next event tries again. */ }
    setTimeout(() => { waiting = false; if (again) { again = false; run(); } }, milliseconds);
  };
}

// --- keyboard and deletion

const rows = () => [...document.querySelectorAll(".row")];
const rowOf = (id) => rows().find((row) => row.dataset.id === id);
const currentRow = () => (document.activeElement?.matches(".row") ? document.activeElement : rowOf(openId()));

function step(by) {
  const all = rows();
  const at = all.indexOf(currentRow());
  const next = all[at < 0 ? 0 : at + by];
  if (!next) return;
  next.scrollIntoView({ block: "nearest" });
  if (openId()) show(next.href); else next.focus();
}

async function change(method, url, body) {
  const headers = { "Content-Type": "application/json" };
  const response = await fetch(address(root + url), { method, headers, body: body && JSON.stringify(body) });
  if (response.ok) return true;
  const problem = await response.json().catch(() => ({}));
  tell(problem.error ?? `The server answered ${response.status}`);
  return false;
}

async function remove(id) {
  const all = rows();
  const at = all.findIndex((row) => row.dataset.id === id);
  const next = all[at + 1] ?? all[at - 1];
  if (!(await change("DELETE", `/api/messages/${encodeURIComponent(id)}`))) return;
  if (id === openId()) {
    await show(next && at >= 0 ? next.href : `${root}/?${new URLSearchParams({ q: query() })}`);
  } else {
    next?.focus();
    await refresh();
  }
}

async function removeAll() {
  const wanted = query();
  if (!confirm(wanted ? `Delete all messages that match “${wanted}”?` : "Delete all messages?")) return;
  if (await change("DELETE", `/api/messages?${new URLSearchParams(wanted ? { query: wanted } : { all: true })}`)) {
    await show(`${root}/?${new URLSearchParams({ q: wanted })}`);
  }
}

const keys = {
  j: () => step(1),
  k: () => step(-1),
  u: () => find(".back")?.click(),
  "/": () => find("#search")?.focus(),
  "#": () => { const row = currentRow(); if (row) remove(row.dataset.id); },
  "?": () => find("#help").showModal(),
};
for (let number = 1; number <= 5; number++) keys[number] = () => document.querySelectorAll(".tabs a")[number - 1]?.click();

document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey || find("dialog[open]")) return;
  if (event.target.matches("input, textarea, select")) {
    if (event.key === "Escape") event.target.blur();
    return;
  }
  const action = keys[event.key];
  if (!action) return;
  event.preventDefault();
  action();
});

document.addEventListener("click", (event) => {
  const button = event.target.closest("button");
  if (button?.id === "delete") remove(openId());
  else if (button?.id === "delete-all") removeAll();
  else if (button?.id === "help-button") find("#help").showModal();
  else if (button?.dataset.preset) { find("#fault-text").value = button.dataset.preset; find("#fault-text").focus(); }
  else if (button?.dataset.fault) changeFaults("DELETE", `/api/faults/${button.dataset.fault}`);
  const link = event.target.closest("a.row, a[data-pane]");
  if (!link || event.button || event.ctrlKey || event.metaKey || event.shiftKey || event.altKey) return;
  event.preventDefault();
  show(link.href);
});

// --- the inbox

let typing;
find("#search")?.addEventListener("input", (event) => {
  clearTimeout(typing);
  typing = setTimeout(() => {
    const url = new URL(location.href);
    url.searchParams.delete("start");
    if (event.target.value) url.searchParams.set("q", event.target.value); else url.searchParams.delete("q");
    history.replaceState(null, "", url);
    refresh();
  }, 150);
});
find(".search")?.addEventListener("submit", (event) => {
  event.preventDefault();
  rows()[0]?.focus();
});
addEventListener("popstate", () => show(location.href, false));

const live = find("#live");
function connected(isOn) {
  live.hidden = false;
  live.className = isOn ? "live on" : "live";
  live.textContent = isOn ? "Live" : "Connecting";
}

// A browser keeps few connections to one server, so only the tab that is looked at has an event stream.
let events;
const later = throttled(refresh, 500);
function follow() {
  events?.close();
  if (document.hidden) return;
  const stream = events = new EventSource(address(`${root}/api/events`));
  for (const name of ["ready", "message", "lost"]) stream.addEventListener(name, later);
  stream.onopen = () => connected(true);
  stream.onerror = () => {
    connected(false);
    // A browser connects again after an interruption, but not after a refusal.
    if (stream.readyState === EventSource.CLOSED && stream === events) setTimeout(follow, 5000);
  };
}

// --- status and faults

async function changeFaults(method, url, body) {
  const done = await change(method, url, body);
  await load(location.href, "faults-list");
  return done;
}

find("#fault-form")?.addEventListener("submit", async (event) => {
  event.preventDefault();
  const values = Object.fromEntries([...new FormData(event.target)].filter(([, value]) => value.trim()));
  if (await changeFaults("POST", "/api/faults", values)) event.target.reset();
});

enable(document);
if (find("#list")) {
  follow();
  document.addEventListener("visibilitychange", follow);
  addEventListener("pagehide", () => events.close());
  addEventListener("pageshow", (event) => event.persisted && follow());
}
const refreshed = find("[data-refresh]");
if (refreshed) setInterval(() => document.hidden || load(location.href, refreshed.id).catch(() => {}), 2000);
