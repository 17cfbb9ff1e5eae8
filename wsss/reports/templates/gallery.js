"use strict";
// What the galleries of all reports do: unpack a field when it is near the window, choose its cells, enlarge it.
// A field's content has `cells`, each with an `id` and a `path`; objects of masks are cells here.
const gallery = (() => {
  const figures = [...document.querySelectorAll(".field")];
  const shown = new Map(); // figure -> its unpacked content, only while it is near the window
  const pinned = new Map(); // figure -> id of the cell that was chosen; kept when the figure scrolls away
  const SVG = "http://www.w3.org/2000/svg";
  const STEPS = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 };
  let page; // what the page itself does: load(content), draw(figure), tell(figure, id), pick(figure, id)

  async function unpack(figure) {
    const text = atob(figure.querySelector(".packed").textContent);
    const bytes = Uint8Array.from(text, (letter) => letter.charCodeAt(0));
    const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
    return new Response(stream).json();
  }

  async function picture(base64) {
    const image = new Image();
    image.src = "data:image/webp;base64," + base64;
    await image.decode();
    return image;
  }

  async function show(figure) {
    if (shown.has(figure)) return;
    shown.set(figure, null); // it is being unpacked
    const content = await unpack(figure);
    await page.load(content);
    if (shown.get(figure) !== null) return; // scrolled away meanwhile, or unpacked twice
    shown.set(figure, content);
    content.cells.forEach((cell, number) => figure.querySelector("svg").append(outline(cell, number)));
    page.draw(figure);
    page.tell(figure, pinned.get(figure));
  }

  function hide(figure) {
    shown.delete(figure);
    figure.querySelector("svg").replaceChildren();
    figure.querySelector("canvas").width = 0; // gives the memory back
  }

  function outline(cell, number) {
    const path = document.createElementNS(SVG, "path");
    path.setAttribute("d", cell.path);
    path.setAttribute("fill-rule", "evenodd");
    path.dataset.number = number;
    return path;
  }

  function element(kind, text, name) {
    const out = document.createElement(kind);
    out.textContent = text; // never as HTML
    if (name) out.className = name;
    return out;
  }

  function choose(figure, id) {
    if (id === undefined) pinned.delete(figure);
    else pinned.set(figure, id);
    page.tell(figure, id);
  }

  const idAt = (figure, target) =>
    target.dataset.number === undefined ? undefined : shown.get(figure).cells[target.dataset.number].id;

  function step(figure, by) {
    const content = shown.get(figure);
    if (!content || !content.cells.length) return;
    const count = content.cells.length;
    const at = content.cells.findIndex((cell) => cell.id === pinned.get(figure));
    choose(figure, content.cells[at < 0 ? (by > 0 ? 0 : count - 1) : (at + by + count) % count].id);
  }

  function listen(figure) {
    const svg = figure.querySelector("svg");
    svg.addEventListener("click", (event) => (event.shiftKey ? page.pick : choose)(figure, idAt(figure, event.target)));
    svg.addEventListener("pointerover", (event) => page.tell(figure, idAt(figure, event.target) ?? pinned.get(figure)));
    svg.addEventListener("pointerleave", () => page.tell(figure, pinned.get(figure)));
    svg.addEventListener("keydown", (event) => {
      if (event.key === "Escape") choose(figure, undefined);
      else if (event.key === " ") page.pick(figure, pinned.get(figure));
      else if (event.key in STEPS) step(figure, STEPS[event.key]);
      else return;
      event.preventDefault();
    });
    const button = figure.querySelector(".enlarge");
    button.addEventListener("click", () => {
      const large = figure.classList.toggle("large");
      button.setAttribute("aria-pressed", large);
      button.textContent = large ? "reduce" : "enlarge";
    });
  }

  function start(does) {
    page = does;
    const { gain } = document.getElementById("tools").elements;
    gain.addEventListener("input", () => document.querySelector(".fields").style.setProperty("--gain", gain.value));
    const watch = new IntersectionObserver((entries) => {
      for (const entry of entries) (entry.isIntersecting ? show : hide)(entry.target);
    }, { rootMargin: "600px" });
    figures.forEach((figure) => { listen(figure); watch.observe(figure); });
  }

  // Hide the figures for which `fits` is false, and say how many are left.
  function filter(fits) {
    let count = 0;
    for (const figure of figures) {
      figure.hidden = !fits(figure);
      count += !figure.hidden;
    }
    document.getElementById("matches").textContent = count === figures.length ? "" : `${count} of ${figures.length}`;
  }

  const ready = () => [...shown].filter(([, content]) => content).map(([figure]) => figure);
  return { figures, shown, pinned, picture, element, choose, start, filter, ready };
})();
