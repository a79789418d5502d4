// One document: a page's picture with boxes over it, the text beside it, downloads. Pointing at one marks the other.
import { ask, blob, hasKey, json } from "./server.js";
import { byId, counted, draw, make, moment, put } from "./text.js";
import { stateOf, why } from "./files.js";

const FORMATS = {
  txt: ["Text", ".txt"], json: ["JSON", ".json"], pdf: ["Searchable PDF", ".ocr.pdf"], hocr: ["hOCR", ".hocr"],
  alto: ["ALTO", ".alto.xml"], tsv: ["TSV", ".tsv"], overlay: ["Boxes on the page", ".overlay.jpg"],
};
const ZOOMS = [1, 1.5, 2, 3, 4];
const AGAIN_MS = 15_000;
const ENDED = new Set(["done", "failed"]);

export class Result {
  constructor() {
    this.id = null;
    this.file = null;
    this.page = null;
    this.number = 1;
    this.zoom = 0;
    this.picture = null;
    this.opening = null;
    this.marked = null;
    this.againUntil = -Infinity;
    byId("previous").addEventListener("click", () => this.turn(-1));
    byId("next").addEventListener("click", () => this.turn(1));
    byId("page").addEventListener("change", (event) => this.go(Number(event.target.value)));
    byId("larger").addEventListener("click", () => this.scale(1));
    byId("smaller").addEventListener("click", () => this.scale(-1));
    byId("boxes").addEventListener("change", (event) => byId("sheet").classList.toggle("no-boxes", !event.target.checked));
    byId("copy").addEventListener("click", () => this.copy());
    byId("downloads").addEventListener("click", (event) => this.download(event));
    byId("result-trouble").addEventListener("click", (event) => event.target.closest("[data-retry]") && this.retry(event.target));
    const lines = byId("lines");
    for (const [area, focus] of [[lines, false], [byId("sheet"), true]]) {
      area.addEventListener("pointerover", (event) => this.point(event.target, focus));
      area.addEventListener("pointerleave", () => this.mark(null));
      area.addEventListener("click", (event) => this.point(event.target, focus));
    }
    lines.addEventListener("focusin", (event) => this.point(event.target, false));
    lines.addEventListener("keydown", (event) => this.step(event));
  }

  get isOpen() {
    return this.id !== null;
  }

  /** Show a page of a document; how often the address changes, only the last one is shown. */
  async open(id, number) {
    const isOther = id !== this.id;
    this.opening?.abort();
    const opening = (this.opening = new AbortController());
    this.id = id;
    this.number = number;
    if (isOther) {
      this.forget();
      put(byId("result-title"), "…");
      put(byId("result-about"), "");
      byId("result-title").focus();
    }
    try {
      if (isOther || !ENDED.has(this.file?.state) || this.file.error) await this.describe(opening.signal);
      if (this.file.state === "done") await this.load(opening.signal);
    } catch (error) {
      if (!opening.signal.aborted) this.trouble(`${error.message}. ${error.hint || ""}`);
    }
  }

  close() {
    this.opening?.abort();
    this.id = null;
    this.forget();
  }

  forget() {
    this.file = this.page = this.marked = null;
    this.againUntil = -Infinity;
    this.release();
    byId("sheet").replaceChildren();
    byId("lines").replaceChildren();
    byId("downloads").replaceChildren();
    byId("result-trouble").hidden = true;
    byId("no-lines").hidden = true;
    byId("tools").hidden = true;
    put(byId("result-said"), "");
    this.fit(0);
  }

  release() {
    if (this.picture) URL.revokeObjectURL(this.picture);
    this.picture = null;
  }

  /** What the list knows of it, and which formats there are. */
  async describe(signal) {
    const file = (this.file = await json(`v1/files/${this.id}`, { signal }));
    const name = file.name || "(without a name)";
    put(byId("result-title"), name);
    document.title = `${name} – ocr-watcher`;
    const about = [stateOf(file)];
    if (file.state === "done") {
      about.push(counted(file.page_count, "page"), counted(file.lines, "line"));
      if (file.ocr_ms !== undefined) about.push(`read in ${(file.ocr_ms / 1000).toFixed(1)} s`);
    }
    about.push(moment(file.changed_at));
    put(byId("result-about"), about.join(" · "));
    byId("tools").hidden = file.state !== "done";
    const box = byId("result-trouble");
    box.hidden = !file.error;
    if (file.error) box.replaceChildren(why(file));
    byId("pages").hidden = !(file.page_count > 1);
    put(byId("page-count"), `of ${file.page_count ?? 1}`);
    byId("page").max = file.page_count ?? 1;
    const stem = (name.split("/").pop() || "document").slice(0, 120);
    byId("downloads").replaceChildren(
      ...Object.keys(FORMATS).filter((kind) => file.formats.includes(kind)).map((kind) => {
        const [words, suffix] = FORMATS[kind];
        return make("a", { href: `v1/files/${this.id}/result?format=${kind}`, download: stem + suffix, "data-kind": kind }, words);
      }),
    );
  }

  async load(signal) {
    const last = this.file.page_count;
    this.number = Math.min(Math.max(1, this.number || 1), last);
    byId("page").value = this.number;
    byId("previous").disabled = this.number <= 1;
    byId("next").disabled = this.number >= last;
    const at = `v1/files/${this.id}/pages/${this.number}`;
    const [page, picture] = await Promise.all([
      json(at, { signal }),
      blob(`${at}/picture`, { signal }).catch((error) => (signal.aborted ? Promise.reject(error) : null)),
    ]);
    this.page = page;
    this.release();
    this.showLines(page);
    await this.showSheet(page, picture, signal);
  }

  trouble(words) {
    byId("result-trouble").hidden = false;
    put(byId("result-trouble"), words);
    if (byId("result-title").textContent === "…") put(byId("result-title"), "It cannot be shown");
  }

  /** Something about jobs has changed. */
  async changed() {
    const isOver = ENDED.has(this.file?.state) && performance.now() > this.againUntil;
    if (this.id === null || isOver) return;
    await this.open(this.id, this.number);
  }

  async retry(button) {
    button.disabled = true;
    try {
      await ask(`v1/files/${this.id}/retry`, { method: "POST" });
      // The daemon sees that in a moment, and then the list changes.
      this.againUntil = performance.now() + AGAIN_MS;
      byId("result-trouble").hidden = true;
      put(byId("result-about"), "waits");
      byId("result-title").focus();
    } catch (error) {
      button.disabled = false;
      put(byId("result-trouble").querySelector(".refused"), `${error.message}. ${error.hint || ""}`);
    }
  }

  // -- the text ----------------------------------------------------------------------------------

  showLines(page) {
    byId("lines").replaceChildren(
      ...rowsIn(page).map((row, at) =>
        make("li", { tabindex: at ? "-1" : "0" }, ...row.map((number) => this.piece(page.lines[number], number)))),
    );
    const none = byId("no-lines");
    none.hidden = page.lines.length > 0;
    put(none, page.error ? `This page could not be read: ${page.error.message}.` : "There is no text on this page.");
  }

  piece(line, number) {
    const piece = make("span", { "data-line": number, class: "piece", dir: "auto" });
    for (const [word, [before, text]] of wordsIn(line).entries()) {
      if (before) piece.append(before);
      piece.append(put(make("span", { "data-word": word }), text));
    }
    return piece;
  }

  step(event) {
    const by = { ArrowDown: 1, ArrowUp: -1 }[event.key];
    const item = event.target.closest("li");
    if (!by || !item) return;
    const other = by > 0 ? item.nextElementSibling : item.previousElementSibling;
    if (!other) return;
    event.preventDefault();
    item.tabIndex = -1;
    other.tabIndex = 0;
    other.focus();
  }

  // -- the picture -------------------------------------------------------------------------------

  async showSheet(page, picture, signal) {
    const sheet = byId("sheet");
    const parts = [];
    let isShown = false;
    if (picture) {
      this.picture = URL.createObjectURL(picture);
      const image = make("img", { src: this.picture, alt: `Page ${this.number} of ${this.file.name}`, draggable: "false" });
      try {
        await image.decode();
        isShown = true;
        parts.push(image);
      } catch {
        // a format, or a size, that this browser does not show
      }
      if (signal.aborted) return;
    }
    sheet.classList.toggle("plain", !isShown);
    if (page.width_px) parts.push(overlay(page));
    sheet.replaceChildren(...parts);
    sheet.hidden = !parts.length;
  }

  scale(by) {
    this.fit(Math.min(Math.max(0, this.zoom + by), ZOOMS.length - 1));
  }

  fit(zoom) {
    this.zoom = zoom;
    byId("sheet").style.width = `${ZOOMS[zoom] * 100}%`;
    byId("smaller").disabled = zoom === 0;
    byId("larger").disabled = zoom === ZOOMS.length - 1;
  }

  // -- pointing ----------------------------------------------------------------------------------

  /** Mark the line and word that an element is of, in both places. */
  point(target, bringText) {
    const line = target.closest?.("[data-line]") ?? (target.matches?.("li") ? target.firstElementChild : null);
    this.mark(line ? line.dataset.line : null, target.closest?.("[data-word]")?.dataset.word, bringText);
  }

  mark(line, word, bringText = false) {
    const key = line === null ? null : `${line} ${word}`;
    if (key === this.marked) return;
    this.marked = key;
    for (const element of byId("result").querySelectorAll(".marked")) element.classList.remove("marked");
    if (line === null) return;
    for (const area of [byId("lines"), byId("sheet")]) {
      const element = area.querySelector(`[data-line="${line}"]`);
      if (!element) continue;
      element.classList.add("marked");
      if (word !== undefined) element.querySelector(`[data-word="${word}"]`)?.classList.add("marked");
      if (area === byId("lines") ? bringText : !bringText) bring(element, area.closest(".words, .picture"));
    }
  }

  // -- pages, text, downloads --------------------------------------------------------------------

  turn(by) {
    this.go(this.number + by);
  }

  go(number) {
    if (!Number.isInteger(number) || number < 1 || number > this.file.page_count) {
      byId("page").value = this.number;
      return;
    }
    location.hash = `file=${this.id}&page=${number}`;
  }

  async copy() {
    const text = this.page?.text ?? "";
    try {
      await navigator.clipboard.writeText(text);
    } catch {
      // only pages of this machine, or by HTTPS, may write to the clipboard in that way
      const area = make("textarea");
      area.value = text;
      document.body.append(area);
      area.select();
      document.execCommand("copy");
      area.remove();
      byId("copy").focus();
    }
    put(byId("result-said"), "The text of the page was copied.");
    put(byId("copy"), "Copied");
    setTimeout(() => put(byId("copy"), "Copy text"), 2000);
  }

  async download(event) {
    const link = event.target.closest("a[data-kind]");
    // A link cannot send a key.
    if (!link || !hasKey()) return;
    event.preventDefault();
    try {
      const address = URL.createObjectURL(await blob(link.getAttribute("href")));
      make("a", { href: address, download: link.download }).click();
      setTimeout(() => URL.revokeObjectURL(address), 60_000);
    } catch (error) {
      this.trouble(error.message);
    }
  }
}

/** Scroll an area, and nothing else, so that an element is seen in it. */
function bring(element, area) {
  const [inner, outer] = [element.getBoundingClientRect(), area.getBoundingClientRect()];
  const over = inner.top - outer.top;
  const under = inner.bottom - outer.bottom;
  if (over < 0 || under > 0) area.scrollTop += over - (outer.height - inner.height) / 2;
}

/** The lines of a page by rows, as its text has them: a row is a line of text, with tabs between its pieces. */
function rowsIn(page) {
  const rows = [];
  let at = 0;
  for (const row of page.text.split("\n")) {
    const pieces = row.split("\t");
    if (!pieces.every((text, number) => page.lines[at + number]?.text === text)) break;
    rows.push(pieces.map((_, number) => at + number));
    at += pieces.length;
  }
  for (; at < page.lines.length; at += 1) rows.push([at]);
  return rows;
}

/** The words of a line: what stands before each, its text, and its box where that is known. */
function wordsIn(line) {
  const found = [];
  let at = 0;
  for (const word of line.words ?? []) {
    const begin = line.text.indexOf(word.text, at);
    if (begin < 0) break;
    found.push([line.text.slice(at, begin), word.text, word.box]);
    at = begin + word.text.length;
  }
  if (!found.length) {
    for (const match of line.text.matchAll(/\S+/g)) {
      found.push([line.text.slice(at, match.index), match[0], null, match.index]);
      at = match.index + match[0].length;
    }
  } else if (at < line.text.length) found.push(["", line.text.slice(at), null, at]);
  return found;
}

/** Boxes and words of a page, in its own pixels. The words are there to be pointed at and selected. */
function overlay(page) {
  const lines = page.lines.map((line, number) => {
    const [start, end] = line.polygon;
    const turn = Math.atan2(end[1] - start[1], end[0] - start[0]);
    return draw("g", { "data-line": number },
      draw("polygon", { points: line.polygon.map((point) => point.join()).join(" ") }),
      ...wordsIn(line).map(([, text, box, at], word) => {
        const place = box ? inBox(box, turn) : inLine(line, at, text.length, turn);
        const element = draw("text", {
          "data-word": word, x: -place.length / 2, y: place.height * 0.32, "font-size": place.height,
          textLength: Math.max(1, place.length), lengthAdjust: "spacingAndGlyphs",
          transform: `translate(${place.x.toFixed(1)} ${place.y.toFixed(1)}) rotate(${((turn * 180) / Math.PI).toFixed(2)})`,
        });
        element.textContent = text;
        return element;
      }),
    );
  });
  return draw("svg", { viewBox: `0 0 ${page.width_px} ${page.height_px}`, "aria-hidden": "true" }, ...lines);
}

/** Middle, length along the text and height of an upright box around text that runs at an angle. */
function inBox([left, top, right, bottom], turn) {
  const [cos, sin] = [Math.abs(Math.cos(turn)), Math.abs(Math.sin(turn))];
  const [width, height] = [right - left, bottom - top];
  return {
    x: (left + right) / 2,
    y: (top + bottom) / 2,
    length: width * cos + height * sin,
    height: Math.max(1, (width * sin + height * cos) * 0.8),
  };
}

/** The same of a part of a line, as if all its characters were of one width. */
function inLine(line, at, characters, turn) {
  const [start, end] = line.polygon;
  const foot = line.polygon.at(-1);
  const span = Math.hypot(end[0] - start[0], end[1] - start[1]);
  const height = Math.hypot(foot[0] - start[0], foot[1] - start[1]);
  const share = span / line.text.length;
  const along = (at + characters / 2) * share;
  return {
    x: start[0] + along * Math.cos(turn) + (foot[0] - start[0]) / 2,
    y: start[1] + along * Math.sin(turn) + (foot[1] - start[1]) / 2,
    length: characters * share,
    height: Math.max(1, height * 0.8),
  };
}
