// What the daemon does at this moment: the state line, the document in hand, figures, and the memory curve.
import { Curve } from "./curve.js";
import { json } from "./server.js";
import { byId, counted, duration, mib, moment, put } from "./text.js";

export class Now {
  constructor() {
    this.curve = new Curve();
    this.status = null;
    this.lostAt = null;
    this.isAsleep = false;
    this.readingName = null;
    // What the server's clock is ahead of ours (s).
    this.ahead_s = 0;
    for (const button of document.querySelectorAll("[data-span]")) {
      button.addEventListener("click", () => this.choose(button));
    }
    setInterval(() => this.tick(), 1000);
  }

  choose(button) {
    for (const other of document.querySelectorAll("[data-span]")) {
      other.setAttribute("aria-pressed", String(other === button));
    }
    this.curve.span_s = Number(button.dataset.span);
    this.remember();
  }

  /** Fetch what the memory was. */
  async remember() {
    try {
      this.curve.set(await json(`v1/memory?span_s=${this.curve.span_s}`));
    } catch {
      // the banner says it
    }
  }

  snapshot(told) {
    this.ahead_s = told.now - Date.now() / 1000;
    put(byId("versions"), `ocr-watcher ${told.server}`);
    this.take(told.status);
  }

  take(status) {
    const before = this.status;
    this.status = status;
    this.curve.limit(status.soft_limit_mb, status.rss_limit_mb);
    const started = status.started_at && before?.started_at !== status.started_at;
    if (before && started) this.remember();
    else if (status.rss_mb !== null && status.updated_at) this.curve.add(Date.parse(status.updated_at) / 1000, status.rss_mb);
    const { queue, since_start: ended } = status;
    const waiting = queue ? queue.size + queue.settling : null;
    put(byId("queued"), waiting === null ? "–" : waiting.toLocaleString("en"));
    put(byId("done"), ended ? ended.done.toLocaleString("en") : "–");
    put(byId("failed"), ended ? ended.failed.toLocaleString("en") : "–");
    byId("failed").classList.toggle("bad", Boolean(ended?.failed));
    put(byId("memory"), status.rss_mb === null ? "–" : mib(status.rss_mb));
    this.show();
  }

  /** The name of the document in hand, where the list knows it. */
  reading(name) {
    this.readingName = name;
    this.show();
  }

  found() {
    if (this.lostAt === null && !this.isAsleep) return;
    this.lostAt = null;
    this.isAsleep = false;
    this.show();
  }

  /** Nobody has looked for a while, so nothing was asked for: what is shown is old until the server answers. */
  sleep() {
    this.isAsleep = true;
    this.show();
  }

  lost() {
    if (this.lostAt !== null) return;
    this.lostAt = new Date();
    this.show();
  }

  show() {
    const { status, lostAt } = this;
    const trouble = byId("trouble");
    const words = lostAt
      ? `The server has not answered since ${moment(lostAt)}. What is shown may be out of date. Trying again…`
      : status && this.trouble(status);
    trouble.hidden = !words;
    if (words && trouble.textContent !== words) put(trouble, words);
    document.body.classList.toggle("stale", lostAt !== null || this.isAsleep);
    const state = lostAt ? "server lost" : this.isAsleep ? "catching up…" : !status ? "Connecting…" : status.running ? (status.in_hand ? "reading" : "ready") : "daemon away";
    const line = byId("state");
    if (line.textContent !== state) put(line, state);
    line.dataset.state = lostAt || (status && !status.running) ? "bad" : status && !this.isAsleep ? "good" : "";
    this.tick();
  }

  trouble(status) {
    if (!status.running) {
      const left = status.last_exit ? ` It was last heard of at ${moment(status.updated_at || status.last_exit.at)}.` : "";
      return `The daemon that reads the documents is not running. They wait until it is back.${left}`;
    }
    if (status.inboxes_hung?.length) {
      return `An inbox does not answer: ${status.inboxes_hung.join(", ")}. Its documents are not listed; all others are read.`;
    }
    return status.problem ? `${status.problem.message}. ${status.problem.hint}` : "";
  }

  tick() {
    const { status } = this;
    if (!status || document.hidden) return;
    const inHand = status.in_hand;
    let words = "Nothing is in hand.";
    if (!status.running) words = "The daemon is not running.";
    else if (inHand) {
      const name = inHand.path || this.readingName || "a document that came by HTTP";
      const page = inHand.pages > 1 ? `, page ${inHand.page} of ${inHand.pages}` : "";
      const took = Math.max(0, Date.now() / 1000 + this.ahead_s - Date.parse(inHand.since) / 1000);
      words = `Reading ${name}${page}, since ${duration(took)}`;
    } else if (status.queue && status.queue.size + status.queue.settling > 0) {
      words = `${counted(status.queue.size + status.queue.settling, "document")} will be read next.`;
    }
    if (byId("in-hand").textContent !== words) put(byId("in-hand"), words);
    const now_s = Date.now() / 1000 + this.ahead_s;
    if (this.lostAt === null && !this.isAsleep && now_s - this.curve.now_s > this.curve.step_s) this.curve.pass(now_s);
  }
}
