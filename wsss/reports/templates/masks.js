"use strict";
(() => {
  const setup = JSON.parse(document.getElementById("setup").textContent);
  const tools = document.getElementById("tools");
  const { figures, shown, picture, element, ready } = gallery;

  async function load(content) {
    content.picture = await picture(content.picture);
  }

  function draw(figure) {
    const canvas = figure.querySelector("canvas");
    Object.assign(canvas, { width: +figure.dataset.width, height: +figure.dataset.height });
    canvas.getContext("2d").drawImage(shown.get(figure).picture, 0, 0, canvas.width, canvas.height);
    colour(figure);
  }

  function colour(figure) {
    const wanted = new Set([...tools.querySelectorAll("[name=fate]:checked")].map((box) => box.value));
    const truths = tools.elements.truths?.checked;
    for (const path of figure.querySelectorAll("path")) {
      const cell = shown.get(figure).cells[path.dataset.number];
      path.style.stroke = setup.colours[cell.fate];
      path.classList.toggle("true", Boolean(cell.true));
      path.style.display = wanted.has(cell.fate) && (truths || !cell.true || cell.fate !== "hit") ? "" : "none";
    }
  }

  function tell(figure, id) {
    const cells = shown.get(figure)?.cells;
    if (!cells) return;
    figure.querySelectorAll("path").forEach((path) => path.classList.toggle("chosen", +path.dataset.number === id));
    figure.querySelector(".told").replaceChildren(...(id === undefined ? [] : about(cells[id])));
  }

  function about(cell) {
    const kind = setup.separated ? "object" : "mask";
    if (cell.true === undefined) return [element("p", `${kind} ${cell.number}, ${cell.area} px²`)];
    const [own, other] = cell.true ? ["true", "found"] : ["found", "true"];
    const facts = `${own} ${kind} ${cell.number}, ${cell.area} px²: ${cell.fate}`;
    const best = cell.partner ? `best IoU ${cell.iou.toFixed(2)}, with the ${other} ${kind} ${cell.partner}` : `no ${other} ${kind} there`;
    return [element("p", facts), element("p", best, "soft")];
  }

  function filter() {
    const [wanted, text] = [tools.elements.with.value, tools.elements.search.value.toLowerCase()];
    const fits = ({ kinds, count }) =>
      !wanted || (wanted === "nothing" ? count === "0" : kinds.split(" ").includes(wanted));
    gallery.filter((figure) => fits(figure.dataset) && figure.dataset.name.toLowerCase().includes(text));
  }

  function sort() {
    const [, back, key] = /^(-?)(.*)$/.exec(tools.elements.sorted.value);
    const compare = key === "name" ? (a, b) => (a.name < b.name ? -1 : 1) : (a, b) => a[key] - b[key] || a.place - b.place;
    const order = [...figures].sort((a, b) => (back ? -1 : 1) * compare(a.dataset, b.dataset));
    document.querySelector(".fields").append(...order);
  }

  tools.addEventListener("submit", (event) => event.preventDefault());
  tools.elements.search.addEventListener("input", filter);
  tools.addEventListener("change", ({ target }) => {
    if (target.name === "sorted") sort();
    else if (target.name === "with") filter();
    else if (target.name !== "search") ready().forEach(colour);
  });
  document.addEventListener("click", (event) => {
    if (!event.target.closest("a.to")) return;
    tools.elements.with.value = tools.elements.search.value = ""; // the image may be filtered out
    filter();
  });
  gallery.start({ load, draw, tell, pick() {} });
})();
