// Everything that goes to the server and comes from it: the key, requests, uploads, and events as they happen.
import { byId, put } from "./text.js";

const KEPT_KEY = "ocr-watcher key";
// The server says something every 15 s; after this silence (ms) it is taken for lost.
const SILENCE_MS = 40_000;
// A stream without its first event after so long (ms) is held back by something on the way: then we ask instead.
const FIRST_EVENT_MS = 8_000;
const POLL_MS = 3_000;
// Streams are tried again after so many polls.
const POLLS = 20;
const MAX_PAUSE_MS = 10_000;
// A tab that nobody sees lets go of its connection after so long (ms): browsers have few for a host.
const HIDDEN_MS = 30_000;
const MAX_JOBS = 100;

/** What the server said is wrong: `code`, `message`, `hint`; without a status where it did not answer at all. */
export class ServerError extends Error {
  constructor(status, error = {}) {
    super(error.message || (status ? `the server answers ${status}` : "the server does not answer"));
    this.status = status;
    this.code = error.code || "";
    this.hint = error.hint || "";
  }
}

const headers = () => {
  const key = sessionStorage.getItem(KEPT_KEY);
  return key ? { Authorization: `Bearer ${key}` } : {};
};

export const hasKey = () => sessionStorage.getItem(KEPT_KEY) !== null;

let asking = null;

/** Ask the person for a key, once for all requests that need one. */
function askForKey() {
  if (asking) return asking;
  const dialog = byId("key-dialog");
  const input = byId("key");
  if (hasKey()) put(byId("key-said"), "The server does not know that key. It is a line of its http.api_keys_file.");
  asking = new Promise((resolve) => {
    byId("key-form").onsubmit = (event) => {
      event.preventDefault();
      if (!input.value.trim()) return;
      sessionStorage.setItem(KEPT_KEY, input.value.trim());
      input.value = "";
      dialog.close();
      asking = null;
      resolve();
    };
    // Without a key there is nothing to see, so it cannot be dismissed.
    dialog.oncancel = (event) => event.preventDefault();
    dialog.showModal();
  });
  return asking;
}

async function failure(response) {
  let error = {};
  try {
    error = (await response.json()).error || {};
  } catch {
    // a proxy's page, or nothing
  }
  return new ServerError(response.status, error);
}

/** Ask for something; asks the person for a key where that is what is missing. Throws ServerError. */
export async function ask(path, options = {}) {
  for (;;) {
    const sent = headers().Authorization;
    let response;
    try {
      response = await fetch(path, { ...options, headers: headers(), cache: "no-store" });
    } catch (error) {
      if (error.name === "AbortError") throw error;
      throw new ServerError(0);
    }
    if (response.ok) return response;
    if (response.status !== 401) throw await failure(response);
    if (sent === headers().Authorization) await askForKey();
  }
}

export const json = async (path, options) => (await ask(path, options)).json();

export const blob = async (path, options) => (await ask(path, options)).blob();

/** Send a file as a new job. `progress` is told how much of it is sent, 0 to 1; returns the job. */
export async function upload(file, progress, signal) {
  for (;;) {
    const sent = headers().Authorization;
    const [status, body] = await sendOnce(file, progress, signal);
    if (status === 202) return body;
    if (status !== 401) throw new ServerError(status, body?.error);
    if (sent === headers().Authorization) await askForKey();
  }
}

// Not by `fetch`, which does not tell how much was sent.
function sendOnce(file, progress, signal) {
  return new Promise((resolve, reject) => {
    const request = new XMLHttpRequest();
    request.open("POST", "v1/jobs?format=pdf,overlay");
    for (const [name, value] of Object.entries(headers())) request.setRequestHeader(name, value);
    request.responseType = "json";
    request.upload.onprogress = (event) => event.lengthComputable && progress(event.loaded / event.total);
    request.onload = () => resolve([request.status, request.response]);
    request.onerror = () => reject(new ServerError(0));
    request.onabort = () => reject(new DOMException("given up", "AbortError"));
    signal.addEventListener("abort", () => request.abort());
    const form = new FormData();
    form.append("file", file, file.name);
    request.send(form);
  });
}

/** Tell `take` of each event in a stream: name and data. */
async function readEvents(body, take) {
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  let text = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return;
    text += value;
    const events = text.split("\n\n");
    text = events.pop();
    for (const event of events) {
      const name = /^event: (.*)$/m.exec(event)?.[1];
      const data = /^data: (.*)$/m.exec(event)?.[1];
      take(name || "beat", data ? JSON.parse(data) : null);
    }
  }
}

/**
 * What happens on the server, for as long as the page is open.
 *
 * `take` is told of every event, a snapshot first after each connection; `found` when the server answers, `lost`
 * when it does not, `asleep` when nobody is there to see it.
 */
export class Events {
  constructor({ take, found, lost, asleep }) {
    Object.assign(this, { take, found, lost, asleep });
    this.jobs = [];
    this.failures = 0;
    this.polls = 0;
    this.connection = null;
    this.wake = () => {};
    document.addEventListener("visibilitychange", () => this.looked());
    addEventListener("online", () => this.wake());
    this.looked();
  }

  /** These jobs are told of from now on. */
  watch(jobs) {
    const latest = jobs.slice(-MAX_JOBS);
    if (latest.join() === this.jobs.join()) return;
    this.jobs = latest;
    this.connection?.abort("again");
    this.wake();
  }

  /** Somebody looks at the page, or does so no more. */
  looked() {
    clearTimeout(this.hiding);
    this.isAsleep = false;
    if (!document.hidden) return this.wake();
    this.hiding = setTimeout(() => {
      this.isAsleep = true;
      this.connection?.abort("again");
    }, HIDDEN_MS);
  }

  async run() {
    for (;;) {
      if (this.isAsleep) {
        this.asleep();
        await this.pause(2 ** 31 - 1);
        continue;
      }
      const how = this.polls > 0 ? await this.poll() : await this.stream();
      if (how === "held back") this.polls = POLLS;
      if (how === "polled") {
        this.polls -= 1;
        await this.pause(POLL_MS);
      }
      if (how === "lost") {
        this.failures += 1;
        // The end of one connection is no news: a restarted server answers the next one.
        if (this.failures > 1) this.lost();
        const longest = Math.min(MAX_PAUSE_MS, 150 * 2 ** this.failures);
        await this.pause(longest * (0.75 + Math.random() / 4));
      }
    }
  }

  pause(ms) {
    return new Promise((resolve) => {
      const timer = setTimeout(resolve, ms);
      this.wake = () => {
        clearTimeout(timer);
        resolve();
      };
    });
  }

  address(path) {
    const jobs = this.jobs.map((job) => `job=${encodeURIComponent(job)}`).join("&");
    return jobs ? `${path}?${jobs}` : path;
  }

  /** One connection; returns why it ended. */
  async stream() {
    const connection = new AbortController();
    this.connection = connection;
    let timer;
    const within = (ms, why) => {
      clearTimeout(timer);
      timer = setTimeout(() => (asking ? within(ms, why) : connection.abort(why)), ms);
    };
    within(FIRST_EVENT_MS, "held back");
    try {
      const response = await ask(this.address("v1/events"), { signal: connection.signal });
      await readEvents(response.body, (name, data) => {
        within(SILENCE_MS, "lost");
        this.failures = 0;
        this.found();
        this.take(name, data);
      });
      return "lost";
    } catch (error) {
      if (connection.signal.aborted) return connection.signal.reason;
      return error.code === "too_many_listeners" ? "held back" : "lost";
    } finally {
      clearTimeout(timer);
      this.connection = null;
    }
  }

  /** The same as one answer. */
  async poll() {
    try {
      const snapshot = await json(this.address("v1/overview"), { signal: AbortSignal.timeout(FIRST_EVENT_MS) });
      this.failures = 0;
      this.found();
      this.take("snapshot", snapshot);
      return "polled";
    } catch {
      return "lost";
    }
  }
}
