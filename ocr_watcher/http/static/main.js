// Puts the parts of the page together: what the server tells goes to each, and the address says what is shown.
import { Drop } from "./drop.js";
import { Files } from "./files.js";
import { Now } from "./now.js";
import { Result } from "./result.js";
import { Events } from "./server.js";
import { byId } from "./text.js";

const now = new Now();
const result = new Result();
const drop = new Drop({
  watch: (jobs) => events.watch(jobs),
  open: (id) => !result.isOpen && (location.hash = `file=${id}`),
  changed: () => files.changed(),
});
const files = new Files({ reading: (name) => now.reading(name), jobs: () => drop.jobs() });

const events = new Events({
  take(name, data) {
    if (name === "snapshot") {
      now.snapshot(data);
      now.remember();
      drop.limit(data.max_body_mb);
      for (const job of data.jobs) drop.told(job);
      files.changed();
      result.changed();
    } else if (name === "status") {
      now.take(data);
      files.changed();
    } else if (name === "files") {
      files.changed();
      result.changed();
    } else if (name === "job") {
      drop.told(data);
    }
  },
  found: () => now.found(),
  lost: () => now.lost(),
  asleep: () => now.sleep(),
});

let cameFrom = null;

function show() {
  const asked = new URLSearchParams(location.hash.slice(1));
  const id = asked.get("file");
  const wasOpen = result.isOpen;
  byId("home").hidden = Boolean(id);
  byId("result").hidden = !id;
  if (id) {
    if (!wasOpen) cameFrom = id;
    result.open(id, Number(asked.get("page") || 1));
    if (!wasOpen) scrollTo(0, 0);
    return;
  }
  result.close();
  document.title = "ocr-watcher";
  if (!wasOpen) return;
  // Back to where one was.
  const row = [...byId("rows").children].find((one) => one.dataset.id === cameFrom);
  (row?.querySelector("a") ?? byId("main")).focus();
}

byId("skip").addEventListener("click", (event) => {
  event.preventDefault(); // the address says which document is shown
  byId("main").focus();
});
addEventListener("hashchange", show);
show();
events.run();
