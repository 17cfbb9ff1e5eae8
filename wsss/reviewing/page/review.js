"use strict";
(() => {
  const byId = (id) => document.getElementById(id);
  const SVG = "http://www.w3.org/2000/svg";
  const KEYS = [..."1234567890qwertyuipasdfgjklzxbnm"]; // without c, h, o and v, which change the view
  const CHANNEL_KEYS = "Shift + 1, 2, ...";
  const EVERY = 5; // answers between two looks at the figures
  const VIEW_NAMES = { near: "cell", far: "surroundings", field: "whole field" };

  let setup, counts, current = null, since = 0, several = false, chosen = new Set(), busy = false, figuresAt = -EVERY;
  let view = "near";
  const loaded = new Map(); // "row view" -> promise of what is shown of a cell

  function element(kind, text, name) {
    const out = document.createElement(kind);
    if (text !== undefined) out.textContent = text; // never as HTML
    if (name) out.className = name;
    return out;
  }

  async function ask(path, body) {
    const request = body === undefined ? {} : {
      method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(body),
    };
    let response;
    try {
      response = await fetch(path, request);
    } catch {
      throw new Error("The server does not answer. Nothing that was saved is lost: start wsss review again and open the address that it prints.");
    }
    const content = await response.json();
    if (!response.ok) throw new Error(content.error || `the server says ${response.status}`);
    return content;
  }

  const withTrouble = (work) => async (...words) => {
    try {
      const out = await work(...words);
      byId("trouble").hidden = true;
      return out;
    } catch (error) {
      byId("trouble").textContent = error.message;
      byId("trouble").hidden = false;
    }
  };

  // Pictures of a cell

  function load(row) {
    const key = `${row} ${view}`;
    if (!loaded.has(key)) {
      loaded.set(key, fetchCell(row, view));
      if (loaded.size > 12) loaded.delete(loaded.keys().next().value);
    }
    return loaded.get(key);
  }

  async function fetchCell(row, which) {
    const where = `row=${row}&view=${which}`;
    const planes = setup.channels.map((_, channel) => pixels(`plane?${where}&channel=${channel}`));
    const cell = await ask(`cell?${where}`);
    cell.planes = await Promise.all(planes);
    return cell;
  }

  async function pixels(address) { // of a grey picture, one byte a pixel
    const response = await fetch(address);
    if (!response.ok) throw new Error((await response.json()).error);
    const picture = await createImageBitmap(await response.blob(), { colorSpaceConversion: "none" });
    const sheet = Object.assign(document.createElement("canvas"), { width: picture.width, height: picture.height });
    const pen = sheet.getContext("2d", { willReadFrequently: true });
    pen.drawImage(picture, 0, 0);
    const { data } = pen.getImageData(0, 0, picture.width, picture.height);
    const grey = new Uint8Array(data.length / 4);
    for (let at = 0; at < grey.length; at += 1) grey[at] = data[4 * at];
    return grey;
  }

  function limits(cell, channel) { // grey levels of black and of full brightness
    const contrast = byId("contrast").value;
    if (contrast === "full") return [0, 255];
    if (contrast === "field") return cell.ranges[channel];
    const counted = new Uint32Array(256);
    for (const value of cell.planes[channel]) counted[value] += 1;
    const level = (share) => {
      let left = share * cell.planes[channel].length, at = 0;
      while (at < 255 && (left -= counted[at]) > 0) at += 1;
      return at;
    };
    const low = level(0.02);
    return [low, Math.max(low + 12, level(0.998))];
  }

  function paint() {
    if (!current) return;
    const [height, width] = current.size;
    const canvas = byId("canvas");
    Object.assign(canvas, { width, height });
    const pen = canvas.getContext("2d");
    const out = pen.createImageData(width, height);
    const shown = [...byId("channels").querySelectorAll("input:checked")].map((box) => +box.value);
    const gain = 2 ** +byId("brightness").value;
    const sums = new Float32Array(3 * width * height);
    for (const channel of shown) {
      const [low, high] = limits(current, channel);
      const curve = Float32Array.from({ length: 256 }, (_, value) => 255 * Math.min(1, gain * Math.max(0, (value - low) / (high - low)) ** 0.8));
      const tint = shown.length > 1 ? setup.channels[channel].rgb : [1, 1, 1]; // one channel alone is plain grey
      const plane = current.planes[channel];
      for (let at = 0; at < plane.length; at += 1) {
        const value = curve[plane[at]];
        for (let part = 0; part < 3; part += 1) sums[3 * at + part] += value * tint[part];
      }
    }
    for (let at = 0; at < width * height; at += 1) {
      out.data.set([sums[3 * at], sums[3 * at + 1], sums[3 * at + 2], 255], 4 * at);
    }
    pen.putImageData(out, 0, 0);
    fit();
  }

  function fit() { // the picture as large as its frame allows
    if (!current) return;
    const [height, width] = current.size;
    const { clientWidth, clientHeight } = byId("frame");
    const scale = Math.min(clientWidth / width, clientHeight / height);
    Object.assign(byId("picture").style, { width: `${scale * width}px`, height: `${scale * height}px` });
  }

  function outline() {
    const lines = byId("lines");
    lines.replaceChildren();
    if (!current || !byId("outline").checked) return;
    lines.setAttribute("viewBox", `0 0 ${current.size[1]} ${current.size[0]}`);
    const add = (path, name) => {
      const line = document.createElementNS(SVG, "path");
      line.setAttribute("d", path);
      if (name) line.classList.add(name);
      lines.append(line);
    };
    if (view !== "near") for (const path of current.others) add(path, "other");
    add(current.path);
  }

  function hint() {
    const box = byId("hinted");
    box.hidden = !byId("hints").checked || !current;
    if (box.hidden) return;
    const names = (ids) => ids.map((k) => setup.classes[k].name).join(", ") || "none of the classes";
    const order = current.scores.map((score, k) => [score, k]).sort((a, b) => b[0] - a[0]).slice(0, 4);
    const lines = [element("p", "Scores: " + order.map(([score, k]) => `${setup.classes[k].name} ${score.toFixed(2)}`).join(" · "))];
    lines.push(element("p", "Image labels: " + (current.labels ? names(current.labels) : "unknown")));
    const carried = Object.entries(current.carried).map(([name, text]) => `${name} ${text}`);
    if (carried.length) lines.push(element("p", `Label table: ${carried.join(" · ")}`));
    box.replaceChildren(...lines);
  }

  function redraw() {
    paint();
    outline();
    hint();
  }

  async function show(row) {
    const cell = await load(row);
    const fresh = !current || current.row !== row;
    current = cell;
    byId("caption").textContent = `cell ${cell.cell} of ${cell.image}`;
    if (!cell.path) byId("caption").textContent += " · too small to be outlined";
    redraw();
    if (fresh) since = performance.now();
  }

  // Asking and answering

  const asked = () => ({ strategy: byId("strategy").value, class: byId("class-label").hidden ? null : +byId("class").value });

  async function next() {
    const { strategy, class: id } = asked();
    const { rows } = await ask(`next?strategy=${strategy}${id === null ? "" : `&class=${id}`}`);
    await showFirst(rows);
  }

  async function showFirst(rows) {
    setSeveral(false);
    byId("empty").hidden = rows.length > 0;
    byId("picture").hidden = rows.length === 0;
    if (!rows.length) {
      current = null;
      byId("empty").textContent = "Every cell has an answer.";
      byId("caption").textContent = "";
      return;
    }
    await show(rows[0]);
    rows.slice(1).forEach((row) => load(row).catch(() => {})); // while you look at the first; trouble is told when it is shown
  }

  const answer = withTrouble(async (labels) => {
    if (!current || busy) return;
    busy = true;
    try {
      const seconds = (performance.now() - since) / 1000;
      const done = await ask("answer", { ...asked(), row: current.row, labels, seconds, hints: byId("hints").checked });
      tell(done);
      flash(labels);
      await showFirst(done.rows);
      if (counts.answered - figuresAt >= EVERY) withTrouble(worth)(); // in the background
    } finally {
      busy = false;
    }
  });

  const undo = withTrouble(async () => {
    if (busy) return;
    busy = true;
    try {
      const done = await ask("undo", {});
      tell(done, done.row === null ? "nothing to take back" : "taken back");
      figuresAt = Math.min(figuresAt, counts.answered);
      setSeveral(false);
      byId("empty").hidden = true;
      byId("picture").hidden = false;
      if (done.row !== null) await show(done.row);
      else await next();
    } finally {
      busy = false;
    }
  });

  function flash(labels) {
    for (const k of labels) {
      const button = byId("classes").children[k];
      button.classList.add("flash");
      setTimeout(() => button.classList.remove("flash"), 250);
    }
  }

  function tell(now, said = "saved") {
    counts = now;
    const unclear = now.unclear ? `, ${now.unclear} of them "cannot tell"` : "";
    byId("saved").textContent = `${now.answered.toLocaleString("en")} of ${now.cells.toLocaleString("en")} cells answered${unclear} · ${said}`;
    now.per_class.forEach((count, k) => { byId("classes").children[k].querySelector("small").textContent = count || ""; });
  }

  function press(k, add) {
    if (!several && !add) {
      answer([k]);
      return;
    }
    setSeveral(true);
    if (!chosen.delete(k)) chosen.add(k);
    showChosen();
  }

  function setSeveral(on) {
    several = on;
    if (!on) chosen = new Set();
    showChosen();
  }

  function showChosen() {
    byId("several").setAttribute("aria-pressed", several);
    byId("enter").disabled = !several || chosen.size === 0;
    byId("question").textContent = several ? "Choose all classes of this cell, then press Enter" : "What does this cell show?";
    [...byId("classes").children].forEach((button, k) => button.setAttribute("aria-pressed", chosen.has(k)));
  }

  // What the labels are worth

  async function worth() {
    figuresAt = counts.answered;
    const record = await ask("figures");
    const { figures } = record;
    byId("figures").querySelector("tbody").replaceChildren(...figures.classes
      .filter((row) => row.positives || row.precision.count)
      .map((row) => {
        const line = element("tr");
        const head = element("th");
        head.scope = "row";
        const dot = element("span", "", "dot");
        dot.style.background = setup.classes[row.class_id].colour;
        head.append(dot, ` ${row.name}`);
        line.append(head, element("td", row.positives), ...["precision", "recall", "ap"].map((name) => interval(row[name])));
        return line;
      }));
    const mean = figures.mean_ap;
    const known = mean.value !== null;
    byId("figures").hidden = figures.count === 0;
    byId("reached").style.width = known ? `${100 * Math.min(1, (0.05 / mean.half_width) ** 2)}%` : "0";
    const more = known && mean.more ? `about ${mean.more.toLocaleString("en")} more answers until it is known to ±.05` : "known to ±.05";
    byId("progress").textContent = known
      ? `Mean average precision ${mean.value.toFixed(2)} (${mean.low.toFixed(2)} to ${mean.high.toFixed(2)}), ${more}.`
      : "Average precision is shown for classes with 5 answered cells or more.";
    const right = figures.top_right;
    const hidden = record.elsewhere ? ` ${record.elsewhere} answers do not count: their cells are not in these predictions, or have changed since.` : "";
    byId("note").textContent = figures.count
      ? `The highest score is right for ${Math.round(100 * right.value)} % of all cells (${Math.round(100 * right.low)} to ${Math.round(100 * right.high)} %). `
        + `Precision and recall count scores from ${setup.threshold} on. 95 % intervals for all ${record.cells.toLocaleString("en")} cells; how cells were chosen is accounted for.${hidden}`
      : "Figures appear after the first answers.";
  }

  function interval(figure) {
    const cell = element("td");
    if (figure.value === null) {
      cell.textContent = "–";
      return cell;
    }
    const range = element("span", "", "range");
    const [bar, mark] = [element("i"), element("b")];
    Object.assign(bar.style, { left: `${100 * figure.low}%`, width: `${100 * (figure.high - figure.low)}%` });
    mark.style.left = `${100 * figure.value}%`;
    range.append(bar, mark);
    cell.append(range, figure.value.toFixed(2));
    cell.title = `${figure.low.toFixed(2)} to ${figure.high.toFixed(2)}, from ${figure.count} cells`
      + (figure.more ? `; about ${figure.more} more answers to ±.05` : "");
    return cell;
  }

  // The page itself

  function label(kind, name, value, text, checked) {
    const out = element("label");
    const box = Object.assign(document.createElement("input"), { type: kind, name, value, checked });
    out.append(box, text);
    return out;
  }

  function build() {
    document.title = byId("title").textContent = setup.title;
    byId("table").title = `also written to ${setup.folder}`;
    setup.classes.forEach(({ name, colour }, k) => {
      const button = Object.assign(element("button"), { type: "button" });
      const dot = element("span", "", "dot");
      dot.style.background = colour;
      dot.style.flex = "none";
      button.append(element("kbd", KEYS[k] || " "), dot, element("span", name), element("small"));
      button.addEventListener("click", (event) => press(k, event.shiftKey));
      byId("classes").append(button);
      byId("class").append(Object.assign(element("option", name), { value: k }));
    });
    setup.channels.forEach((channel, k) => {
      channel.rgb = [1, 3, 5].map((at) => parseInt(channel.colour.slice(at, at + 2), 16) / 255);
      const dot = element("span", "", "dot");
      const most = Math.max(...channel.rgb); // faint tints as bright as the others
      dot.style.background = `rgb(${channel.rgb.map((part) => (255 * part) / most)})`;
      const box = label("checkbox", "channel", k, channel.name, channel.on);
      box.insertBefore(dot, box.lastChild);
      box.title = `Key: Shift + ${k + 1}; double click: this one alone`;
      box.addEventListener("dblclick", () => {
        for (const other of byId("channels").querySelectorAll("input")) other.checked = +other.value === k;
        redraw();
      });
      byId("channels").append(box);
    });
    for (const name of setup.views) byId("views").append(label("radio", "view", name, VIEW_NAMES[name], name === view));
    for (const { key, title } of setup.strategies) byId("strategy").append(Object.assign(element("option", title), { value: key }));
    const keys = [
      ["1 2 3 ...", "the class beside which the key stands"], ["Space", "several classes, then Enter"], ["-", "cannot tell"],
      ["Backspace", "undo, as often as you like"], ["v", "view: cell, surroundings, whole field"], ["c", "contrast"],
      [CHANNEL_KEYS, "channel on or off"], ["o", "outline"], ["h", "scores, image labels and what else the label table says"], ["?", "this help"],
    ];
    for (const [key, text] of keys) {
      const name = element("dt");
      name.append(element("kbd", key));
      byId("keys").append(name, element("dd", text));
    }
  }

  function strategyChanged() {
    const { about, by_class: byClass } = setup.strategies.find((own) => own.key === byId("strategy").value);
    byId("about").textContent = about;
    byId("class-label").hidden = !byClass;
  }

  const changeView = withTrouble(async (name) => {
    view = name;
    document.querySelector(`[name=view][value=${name}]`).checked = true;
    if (current) await show(current.row);
  });

  function toggle(id) {
    byId(id).checked = !byId(id).checked;
    redraw();
  }

  function key(event) {
    if (event.ctrlKey || event.metaKey || event.altKey || byId("help").open) return;
    const at = document.activeElement;
    if (at && (at.tagName === "SELECT" || (at.type === "range" && event.key.startsWith("Arrow")))) return;
    const digit = event.shiftKey && /^Digit([1-9])$/.exec(event.code);
    const box = digit && byId("channels").querySelectorAll("input")[digit[1] - 1];
    const k = event.key.length === 1 ? KEYS.indexOf(event.key.toLowerCase()) : -1;
    const other = {
      " ": () => setSeveral(!several), Enter: () => chosen.size && answer([...chosen]), "-": () => answer([]),
      Backspace: undo, Escape: () => setSeveral(false), o: () => toggle("outline"), h: () => toggle("hints"),
      c: () => { const list = byId("contrast"); list.selectedIndex = (list.selectedIndex + 1) % list.length; redraw(); },
      v: () => changeView(setup.views[(setup.views.indexOf(view) + 1) % setup.views.length]),
      "?": () => byId("help").showModal(),
    }[event.key];
    if (box) {
      box.checked = !box.checked;
      redraw();
    } else if (other) {
      other();
    } else if (k >= 0 && k < setup.classes.length && !event.repeat) {
      press(k, false);
    } else {
      return;
    }
    event.preventDefault();
  }

  async function start() {
    setup = await ask("setup");
    build();
    tell(setup.counts, setup.counts.answered ? "going on where you stopped" : "press ? for the keys");
    strategyChanged();
    byId("strategy").addEventListener("change", withTrouble(async () => { strategyChanged(); byId("strategy").blur(); await next(); }));
    byId("class").addEventListener("change", withTrouble(async () => { byId("class").blur(); await next(); }));
    byId("views").addEventListener("change", (event) => changeView(event.target.value));
    for (const id of ["channels", "contrast", "outline", "hints"]) byId(id).addEventListener("change", redraw);
    byId("contrast").addEventListener("change", () => byId("contrast").blur());
    byId("brightness").addEventListener("input", paint);
    byId("tools").addEventListener("submit", (event) => event.preventDefault());
    byId("several").addEventListener("click", () => setSeveral(!several));
    byId("enter").addEventListener("click", () => answer([...chosen]));
    byId("unclear").addEventListener("click", () => answer([]));
    byId("undo").addEventListener("click", undo);
    byId("help-button").addEventListener("click", () => byId("help").showModal());
    byId("done").addEventListener("click", withTrouble(async () => {
      const { folder, answered } = await ask("done", {});
      document.querySelector("header").hidden = true;
      document.querySelector("main").replaceChildren(element("p", `${answered} answers and cells_truth.csv are in ${folder}. You may close this page.`, "bye"));
      removeEventListener("keydown", key);
    }));
    addEventListener("keydown", key);
    addEventListener("resize", fit);
    await next();
    await worth();
    document.body.dataset.ready = "yes";
  }

  withTrouble(start)();
})();
