// The list of documents, the latest first: kept up to date, searched, and each one that failed tried again.
import { ask, json } from "./server.js";
import { byId, counted, make, moment, put } from "./text.js";

const PAGE = 50;
// The list is fetched no more often than this (ms) while documents are read one after the other.
const PAUSE_MS = 900;
const AGAIN_MS = 10_000;
const SEARCH_MS = 300;
// A search goes on by itself for so many requests, of a second each.
const SEARCHES = 30;
// More rows than these are not kept up to date, and not fetched.
const MAX_ROWS = 1000;
const WORDS = { waiting: "waits", reading: "is read", done: "done", failed: "failed", retrying: "is tried again" };

export class Files {
  constructor({ reading, jobs }) {
    this.reading = reading;
    this.jobs = jobs;
    this.rows = new Map();
    this.files = [];
    this.before = null;
    this.extended = false;
    this.wanted = { query: "", failed: false };
    this.fetching = null;
    this.timer = null;
    this.fetchedAt = -Infinity;
    // Documents that are to be read again, until the daemon has seen that: when each had failed, and since when.
    this.again = new Map();
    byId("search").addEventListener("submit", (event) => {
      event.preventDefault();
      this.search();
    });
    byId("query").addEventListener("input", () => {
      clearTimeout(this.typing);
      this.typing = setTimeout(() => this.search(), SEARCH_MS);
    });
    byId("only-failed").addEventListener("change", () => this.search());
    byId("more").addEventListener("click", () => this.more());
    byId("rows").addEventListener("click", (event) => {
      const button = event.target.closest("button[data-retry]");
      if (button) this.retry(button);
    });
    document.addEventListener("visibilitychange", () => !document.hidden && this.dirty && this.changed());
  }

  /** Something about documents has changed: fetch the list soon. */
  changed() {
    this.dirty = true;
    if (document.hidden || this.timer !== null) return;
    const wait = Math.max(0, this.fetchedAt + PAUSE_MS - performance.now());
    this.timer = setTimeout(() => {
      this.timer = null;
      this.refresh();
    }, wait);
  }

  search() {
    this.wanted = { query: byId("query").value.trim(), failed: byId("only-failed").checked };
    this.extended = false;
    this.refresh(true);
  }

  address(before, limit) {
    const asked = new URLSearchParams({ limit });
    if (before) asked.set("before", before);
    if (this.wanted.query) asked.set("q", this.wanted.query);
    if (this.wanted.failed) asked.set("state", "failed");
    for (const job of this.jobs()) asked.append("job", job);
    return `v1/files?${asked}`;
  }

  async refresh(anew = false) {
    // A search is not repeated each time a document is read, nor is a long list.
    if (!anew && (this.wanted.query || this.extended)) return;
    this.fetching?.abort();
    const fetching = (this.fetching = new AbortController());
    this.dirty = false;
    this.fetchedAt = performance.now();
    try {
      await this.fetch(null, PAGE, fetching.signal);
    } catch (error) {
      if (!fetching.signal.aborted) this.say(`The list cannot be had: ${error.message}. ${error.hint || ""}`);
    } finally {
      if (this.fetching === fetching) this.fetching = null;
    }
  }

  /** Fetch rows until there are enough, and show them; before: what is shown already. */
  async fetch(before, limit, signal) {
    const found = before === null ? [] : [...this.files];
    let searched = 0;
    let told;
    for (let round = 0; round < SEARCHES; round += 1) {
      told = await json(this.address(before, limit), { signal });
      found.push(...told.files);
      limit -= told.files.length;
      searched += told.searched;
      before = told.before;
      if (!before || limit <= 0) break;
      this.say(`${found.length} found so far…`);
      this.show(found, before);
    }
    this.files = found;
    this.before = before;
    if (!performance.getEntriesByName("listed").length) performance.mark("listed");
    this.show(found, before);
    if (this.wanted.query) this.say(`${counted(found.length, "document")} found${before ? ", and there may be more" : ""}`);
    else if (this.wanted.failed) this.say(`${counted(found.length, "document")} failed`);
    else if (!told.complete) this.say("Looking through the folders…");
    else this.say(told.total ? `${counted(told.total, "document")}` : "No documents yet. Drop one above.");
  }

  async more() {
    const had = this.files.length;
    this.extended = true;
    try {
      await this.fetch(this.before, PAGE * 2);
    } catch (error) {
      this.say(`There is no more to be had: ${error.message}`);
    }
    byId("rows").children[had]?.querySelector("a")?.focus();
  }

  say(words) {
    if (byId("files-said").textContent !== words) put(byId("files-said"), words);
  }

  show(files, before) {
    files = files.map((file) => this.settled(file));
    const body = byId("rows");
    const shown = new Set(files.map((file) => file.id));
    for (const [id, row] of this.rows) {
      if (!shown.has(id)) {
        row.element.remove();
        this.rows.delete(id);
      }
    }
    files.forEach((file, index) => {
      let row = this.rows.get(file.id);
      const told = JSON.stringify(file);
      if (!row) this.rows.set(file.id, (row = { element: rowOf(), told: "" }));
      if (row.told !== told) {
        row.told = told;
        fill(row.element, file);
      }
      const there = body.children[index];
      if (there !== row.element) body.insertBefore(row.element, there || null);
    });
    byId("list").hidden = !files.length;
    byId("more").hidden = !before || files.length >= MAX_ROWS;
    put(byId("more"), this.wanted.query ? "Search further" : "Show more");
    if (!this.wanted.query && !this.wanted.failed) {
      this.reading(files.find((file) => file.state === "reading")?.name ?? null);
    }
  }

  /** A document as it is, or as it will be in a moment. */
  settled(file) {
    const asked = this.again.get(file.id);
    if (!asked) return file;
    if (file.changed_at === asked.failed_at && file.error && performance.now() - asked.since < AGAIN_MS) {
      return { ...file, state: "waiting", error: undefined };
    }
    this.again.delete(file.id);
    return file;
  }

  async retry(button) {
    button.disabled = true;
    const row = button.closest("tr");
    try {
      const file = await (await ask(`v1/files/${row.dataset.id}/retry`, { method: "POST" })).json();
      this.again.set(file.id, { failed_at: file.changed_at, since: performance.now() });
      fill(row, file);
      const known = this.rows.get(file.id);
      if (known) known.told = "";
      row.querySelector("a").focus();
      this.changed();
    } catch (error) {
      button.disabled = false;
      put(row.querySelector(".refused"), `${error.message}. ${error.hint || ""}`);
    }
  }
}

function rowOf() {
  return make("tr", {},
    make("th", { scope: "row", class: "name" }),
    make("td", { class: "state" }),
    make("td", { class: "number lines-count" }),
    make("td", { class: "number took" }),
    make("td", { class: "when" }, make("time")),
  );
}

/** Put a document into its row. */
function fill(row, file) {
  row.dataset.id = file.id;
  row.dataset.state = file.state;
  const [name, state, lines, took, when] = row.children;
  const link = put(make("a", { href: `#file=${file.id}`, dir: "auto" }), file.name || "(without a name)");
  const parts = [link];
  if (file.excerpt) parts.push(excerpt(file.excerpt));
  if (file.error) parts.push(why(file));
  name.replaceChildren(...parts);
  put(state, stateOf(file));
  put(lines, file.lines === undefined ? "" : linesOf(file));
  put(took, file.ocr_ms === undefined ? "" : seconds(file.ocr_ms));
  const time = when.firstElementChild;
  time.dateTime = file.changed_at;
  put(time, moment(file.changed_at));
}

function linesOf(file) {
  return file.page_count > 1 ? `${file.lines} on ${counted(file.page_count, "page")}` : String(file.lines);
}

function seconds(ms) {
  if (ms < 50) return "< 0.1 s";
  return `${(ms / 1000).toFixed(ms < 9950 ? 1 : 0)} s`;
}

export function stateOf(file) {
  if (file.state === "reading" && file.page_count > 1) return `page ${file.page} of ${file.page_count}`;
  if (file.state === "waiting" && file.place > 1) return `waits, number ${file.place}`;
  return WORDS[file.state] || file.state;
}

/** Why it failed, what to do, and a button for another try. */
export function why(file, { button = true } = {}) {
  const box = make("div", { class: "why" }, put(make("p"), sentence(file.error.message)));
  if (file.error.hint) box.append(put(make("p", { class: "hint" }), file.error.hint));
  if (button) {
    box.append(
      make("button", { type: "button", "data-retry": "" }, "Try again", make("span", { class: "hidden" }, ` to read ${file.name}`)),
      make("p", { class: "refused", role: "status" }),
    );
  }
  return box;
}

const sentence = (text) => text.charAt(0).toUpperCase() + text.slice(1) + (/[.!?)]$/.test(text) ? "" : ".");

function excerpt([before, hit, after]) {
  return make("p", { class: "excerpt", dir: "auto" },
    put(make("span"), `…${before}`), put(make("mark"), hit), put(make("span"), `${after}…`));
}
