// Documents on their way in: chosen, dropped or pasted, sent one after the other, and watched until they are read.
import { upload } from "./server.js";
import { byId, make, put } from "./text.js";
import { stateOf, why } from "./files.js";

// What is over stays in the list of uploads until there are so many newer ones.
const MAX_SHOWN = 20;
const ENDED = new Set(["done", "failed", "gone"]);
const KEPT_JOBS = "ocr-watcher jobs";

export class Drop {
  constructor({ watch, open, changed }) {
    Object.assign(this, { watch, open, changed });
    this.pending = new Map();
    this.queue = [];
    this.isSending = false;
    this.max_mb = Infinity;
    // Where documents are not listed for all, this tab still knows its own.
    this.known = JSON.parse(sessionStorage.getItem(KEPT_JOBS) || "[]");
    byId("chosen").addEventListener("change", (event) => {
      this.take([...event.target.files]);
      event.target.value = "";
    });
    const zone = byId("drop");
    let depth = 0;
    const over = (more) => {
      depth = Math.max(0, depth + more);
      zone.classList.toggle("over", depth > 0);
    };
    addEventListener("dragenter", (event) => hasFiles(event) && (event.preventDefault(), over(1)));
    addEventListener("dragleave", (event) => hasFiles(event) && over(-1));
    addEventListener("dragover", (event) => hasFiles(event) && event.preventDefault());
    addEventListener("drop", (event) => {
      if (!hasFiles(event)) return;
      event.preventDefault();
      over(-Infinity);
      this.take([...event.dataTransfer.files]);
    });
    addEventListener("paste", (event) => {
      const files = [...event.clipboardData.files];
      if (!files.length) return;
      event.preventDefault();
      this.take(files);
    });
  }

  limit(max_body_mb) {
    this.max_mb = max_body_mb;
    put(byId("drop-limits"), `Images, PDF, TIFF, HEIC, JPEG 2000; up to ${max_body_mb.toLocaleString("en")} MiB each.`);
  }

  /** Ids of jobs that this tab has sent. */
  jobs() {
    return this.known;
  }

  take(files) {
    const alone = files.length === 1 && !this.pending.size && !this.isSending;
    for (const file of files) {
      const item = { file, alone, element: itemOf(file.name), giveUp: new AbortController() };
      byId("uploads").prepend(item.element);
      item.element.querySelector(".give-up").addEventListener("click", () => item.giveUp.abort());
      if (file.size > this.max_mb * 2 ** 20) this.end(item, `More than ${this.max_mb} MiB.`, "bad");
      else this.queue.push(item);
    }
    this.tidy();
    this.sendAll();
  }

  async sendAll() {
    if (this.isSending) return;
    this.isSending = true;
    while (this.queue.length) await this.send(this.queue.shift());
    this.isSending = false;
  }

  async send(item) {
    const bar = item.element.querySelector("progress");
    for (;;) {
      try {
        if (item.giveUp.signal.aborted) throw new DOMException("given up", "AbortError");
        this.say(item, "is sent");
        const job = await upload(item.file, (part) => (bar.value = part), item.giveUp.signal);
        item.file = null;
        bar.removeAttribute("value");
        item.element.querySelector(".give-up").remove();
        this.pending.set(job.id, item);
        this.known = [...this.known, job.id].slice(-100);
        sessionStorage.setItem(KEPT_JOBS, JSON.stringify(this.known));
        this.watch([...this.pending.keys()]);
        this.told(job);
        this.changed();
        return;
      } catch (error) {
        if (error.name === "AbortError") return this.end(item, "Given up.", "bad");
        // The server has its hands full, or is away for a moment.
        if (error.status === 429 || error.status === 503 || error.status === 0) {
          this.say(item, `waits: ${error.message}`);
          await new Promise((resolve) => {
            setTimeout(resolve, 2000);
            item.giveUp.signal.addEventListener("abort", resolve);
          });
          continue;
        }
        return this.end(item, `${error.message}. ${error.hint || ""}`, "bad");
      }
    }
  }

  /** How a job stands. */
  told(job) {
    const item = this.pending.get(job.id);
    if (!item) return;
    if (!ENDED.has(job.status)) {
      const bar = item.element.querySelector("progress");
      if (job.pages > 1) bar.value = (job.page - 1) / job.pages;
      this.say(item, stateOf({ state: job.status, page: job.page, page_count: job.pages, place: job.place }));
      return;
    }
    this.pending.delete(job.id);
    this.watch([...this.pending.keys()]);
    this.changed();
    const link = put(make("a", { href: `#file=${job.id}`, dir: "auto" }), item.element.querySelector(".name").textContent);
    item.element.querySelector(".name").replaceChildren(link);
    if (job.status === "done") {
      this.end(item, "done", "good");
      if (item.alone) this.open(job.id);
    } else if (job.error) {
      this.end(item, "failed", "bad");
      item.element.append(why({ error: job.error, name: "" }, { button: false }));
    } else {
      this.end(item, "is not there any more", "bad");
    }
  }

  say(item, words) {
    put(item.element.querySelector(".said"), words);
  }

  end(item, words, how) {
    this.say(item, words);
    item.element.classList.add(how);
    item.element.querySelector("progress")?.remove();
    item.element.querySelector(".give-up")?.remove();
    item.file = null;
    put(byId("drop-said"), `${item.element.querySelector(".name").textContent}: ${words}`);
  }

  tidy() {
    const over = [...byId("uploads").querySelectorAll(".good, .bad")].slice(MAX_SHOWN);
    for (const element of over) element.remove();
  }
}

const hasFiles = (event) => event.dataTransfer?.types.includes("Files");

function itemOf(name) {
  const shown = name || "pasted picture";
  return make("li", {},
    put(make("span", { class: "name", dir: "auto" }), shown),
    make("span", { class: "said" }, "waits for its turn"),
    make("progress", { max: "1", value: "0", "aria-label": `Progress of ${shown}` }),
    make("button", { type: "button", class: "give-up" }, "Give up", make("span", { class: "hidden" }, ` sending ${shown}`)),
  );
}
