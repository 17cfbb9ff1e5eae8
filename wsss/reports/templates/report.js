"use strict";
(() => {
  const setup = JSON.parse(document.getElementById("setup").textContent);
  const tools = document.getElementById("tools");
  const { figures, shown, pinned, picture, element, choose, ready } = gallery;
  const picked = new Map(); // "ID cell" -> [ID, cell id, scores], selected for a table

  async function load(content) {
    content.planes = await Promise.all(content.planes.map(picture));
    for (const map of Object.values(content.maps)) map.image = await picture(map.webp);
  }

  function draw(figure) {
    paint(figure);
    colour(figure);
  }

  function paint(figure) {
    const content = shown.get(figure);
    const canvas = figure.querySelector("canvas");
    const [width, height] = [+figure.dataset.width, +figure.dataset.height];
    Object.assign(canvas, { width, height });
    const sheet = canvas.getContext("2d");
    sheet.fillRect(0, 0, width, height);
    sheet.globalCompositeOperation = "lighter";
    const layer = Object.assign(document.createElement("canvas"), { width, height });
    const pen = layer.getContext("2d");
    const chosen = [...tools.querySelectorAll("[name=channel]:checked")].map((box) => +box.value);
    for (const channel of chosen) {
      pen.globalCompositeOperation = "source-over";
      pen.drawImage(content.planes[channel], 0, 0, width, height);
      if (chosen.length > 1) { // one channel alone is plain grey
        pen.globalCompositeOperation = "multiply";
        pen.fillStyle = setup.tints[channel];
        pen.fillRect(0, 0, width, height);
      }
      sheet.drawImage(layer, 0, 0);
    }
    const map = content.maps[chosenMap()];
    if (map) {
      sheet.globalCompositeOperation = "source-over";
      sheet.drawImage(heat(map.image), 0, 0, width, height);
    }
  }

  const chosenMap = () => (tools.elements.map ? tools.elements.map.value : "");

  function heat(grey) { // from clear over red and yellow to white
    const [width, height] = [grey.naturalWidth, grey.naturalHeight];
    const out = Object.assign(document.createElement("canvas"), { width, height });
    const pen = out.getContext("2d", { willReadFrequently: true });
    pen.drawImage(grey, 0, 0);
    const pixels = pen.getImageData(0, 0, width, height);
    for (let at = 0; at < pixels.data.length; at += 4) {
      const value = pixels.data[at];
      pixels.data.set([255, Math.min(255, 2 * Math.max(0, value - 64)), Math.max(0, 2 * (value - 160)), 0.8 * value], at);
    }
    pen.putImageData(pixels, 0, 0);
    return out;
  }

  const top = (scores) => scores.indexOf(Math.max(...scores));

  function colour(figure) {
    const by = tools.elements.by.value;
    const least = 1000 * tools.elements.threshold.value;
    figure.querySelector("svg").classList.toggle("bare", !tools.elements.outlines.checked);
    for (const path of figure.querySelectorAll("path")) {
      const cell = shown.get(figure).cells[path.dataset.number];
      let k = by === "top" ? top(cell.scores) : +by;
      if (by === "truth") k = cell.truth && cell.truth.length ? cell.truth[0] : -1;
      if (k >= 0 && by !== "truth" && cell.scores[k] < least) k = -1;
      path.classList.toggle("picked", picked.has(keyOf(figure, cell)));
      path.style.stroke = k < 0 ? setup.pale : setup.classes[k].colour;
      const filled = k >= 0 && by !== "top" && by !== "truth";
      path.style.fill = filled ? setup.classes[k].colour : "";
      path.style.fillOpacity = filled ? 0.75 * cell.scores[k] / 1000 : "";
    }
  }

  const keyOf = (figure, cell) => `${figure.dataset.name} ${cell.id}`;

  function pick(figure, id) {
    const cell = shown.get(figure)?.cells.find((own) => own.id === id);
    if (!cell) return;
    if (!picked.delete(keyOf(figure, cell))) picked.set(keyOf(figure, cell), [figure.dataset.name, cell.id, cell.scores]);
    const button = document.getElementById("save");
    button.disabled = picked.size === 0;
    button.textContent = picked.size ? `save ${picked.size} selected ${picked.size > 1 ? "cells" : "cell"} as CSV` : "no cell selected";
    colour(figure);
  }

  function save() {
    const quoted = (text) => `"${(/^[=+\-@\t\r]/.test(text) ? "'" : "") + text.replaceAll('"', '""')}"`;
    const rows = [["ID", "cell_id", ...setup.classes.map((_, k) => k)].join(",")];
    for (const [name, id, scores] of picked.values()) {
      rows.push([quoted(name), id, ...scores.map((score) => score / 1000)].join(","));
    }
    const link = document.createElement("a");
    link.href = URL.createObjectURL(new Blob([rows.join("\n") + "\n"], { type: "text/csv" }));
    link.download = "selected_cells.csv";
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 1000);
  }

  function legend() {
    const used = new Set(figures.flatMap((figure) => figure.dataset.kinds.split(" ").filter(Boolean)));
    document.getElementById("legend").replaceChildren(...[...used].sort((a, b) => a - b).map((k) => {
      const line = element("li", "");
      const swatch = element("i", "", "swatch");
      swatch.style.background = setup.classes[k].colour;
      line.append(swatch, setup.classes[k].name);
      return line;
    }));
  }

  function tell(figure, id) {
    const content = shown.get(figure);
    if (!content) return;
    const place = content.cells.findIndex((cell) => cell.id === id);
    figure.querySelectorAll("path").forEach((path) => path.classList.toggle("chosen", +path.dataset.number === place));
    const box = figure.querySelector(".told");
    if (place < 0) {
      box.replaceChildren(...aboutMap(content), ...summary(content.cells));
      return;
    }
    const cell = content.cells[place];
    const facts = [`cell ${cell.id}`, `${cell.area} px²`];
    if (cell.border) facts.push("at the border");
    const lines = [element("p", facts.join(", "))];
    if (cell.truth) lines.push(element("p", "true: " + cell.truth.map((k) => setup.classes[k].name).join(", ")));
    const order = cell.scores.map((score, k) => [score, k]).sort((a, b) => b[0] - a[0]).slice(0, 5);
    box.replaceChildren(...lines, ...order.map(([score, k]) => scoreLine(score / 1000, setup.classes[k])));
  }

  function aboutMap(content) {
    const k = chosenMap();
    if (k === "") return [];
    const map = content.maps[k];
    const said = map ? `the network by itself gives the image ${(map.p / 1000).toFixed(2)}` : "none, the network sees it nowhere in the image";
    return [element("p", `map of ${setup.classes[k].name}: ${said}`)];
  }

  function summary(cells) {
    const counts = new Map();
    for (const cell of cells) counts.set(top(cell.scores), (counts.get(top(cell.scores)) || 0) + 1);
    const order = [...counts].sort((a, b) => b[1] - a[1]).slice(0, 5);
    const lines = order.map(([k, count]) => bar(setup.classes[k], count / cells.length, count));
    return [element("p", cells.length ? "top classes of its cells" : "no cells", "soft"), ...lines];
  }

  const scoreLine = (score, of) => bar(of, score, score.toFixed(3));

  function bar(of, part, value) {
    const line = element("div", "", "score");
    const share = (100 * part).toFixed(1) + "%";
    line.style.background = `linear-gradient(90deg, ${of.colour}66 ${share}, transparent ${share})`;
    line.append(element("span", of.name), element("span", value));
    return line;
  }

  function filter() {
    const wanted = tools.elements.class.value;
    const text = tools.elements.search.value.toLowerCase();
    gallery.filter((figure) => (!wanted || figure.dataset.kinds.split(" ").includes(wanted))
      && figure.dataset.name.toLowerCase().includes(text)
      && columns.every((list) => !list.value || JSON.parse(figure.dataset.carried)[list.dataset.column] === list.value));
  }

  const columns = [...tools.querySelectorAll("select.carried")];
  tools.addEventListener("submit", (event) => event.preventDefault());
  tools.elements.search.addEventListener("input", filter);
  tools.addEventListener("change", (event) => {
    if (event.target.name === "channel") ready().forEach(paint);
    else if (event.target.name === "map") ready().forEach((figure) => { paint(figure); tell(figure, pinned.get(figure)); });
    else if (event.target.name === "class" || event.target.className === "carried") filter();
    else if (event.target.name !== "search") ready().forEach(colour);
  });
  tools.elements.threshold.addEventListener("input", () => {
    document.getElementById("least").textContent = (+tools.elements.threshold.value).toFixed(2);
    ready().forEach(colour);
  });
  document.getElementById("save").addEventListener("click", save);
  document.addEventListener("click", (event) => {
    const link = event.target.closest("a.to");
    if (!link) return;
    const figure = document.querySelector(link.getAttribute("href"));
    for (const list of [tools.elements.class, tools.elements.search, ...columns]) list.value = ""; // it may be filtered out
    filter();
    choose(figure, +link.dataset.cell);
  });
  legend();
  gallery.start({ load, draw, tell, pick });
  filter();
})();
