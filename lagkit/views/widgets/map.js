// A map of logs: a click chooses one, a line drawn around some keeps them alone. Texts are set as text: none is run.
const WIDE = 640, HIGH = 400, EDGE = 18, CLICK = 4;
const SHAPES = { right: "M-4,0a4,4 0 1,0 8,0a4,4 0 1,0 -8,0", wrong: "M-4,-4L4,4M-4,4L4,-4", "not judged": "M0,-5L5,0L0,5L-5,0Z" };
const svg = (name, more = {}) => {
  const made = document.createElementNS("http://www.w3.org/2000/svg", name);
  for (const [key, value] of Object.entries(more)) made.setAttribute(key, value);
  return made;
};
const inside = ([x, y], line) => {
  let within = false;
  for (let i = 0, j = line.length - 1; i < line.length; j = i++) {
    const [a, b] = line[i], [c, d] = line[j];
    if (b > y !== d > y && x < ((c - a) * (y - b)) / (d - b) + a) within = !within;
  }
  return within;
};

function render({ model, el }) {
  el.classList.add("lagkit-map");
  const title = document.createElement("div"), legend = document.createElement("div"), told = document.createElement("div");
  const view = svg("svg", { viewBox: `0 0 ${WIDE} ${HIGH}`, role: "img" }), all = svg("g"), line = svg("polyline", { class: "lasso" });
  const ring = svg("circle", { class: "ring", r: 10 });
  [title.className, legend.className, told.className] = ["title", "legend", "told"];
  view.append(all, ring, line);
  el.append(title, view, legend, told);

  let spots = new Map(), drawn = null, zoom = { by: 1, x: 0, y: 0 };
  const send = (name, value) => { model.set(name, value); model.save_changes(); };
  const at = (event) => {
    const point = new DOMPoint(event.clientX, event.clientY).matrixTransform(view.getScreenCTM().inverse());
    return [point.x, point.y];
  };
  const place = () => {
    for (const spot of spots.values()) {
      spot.now = [(spot.x - zoom.x) * zoom.by, (spot.y - zoom.y) * zoom.by];
      spot.mark.setAttribute("transform", `translate(${spot.now[0].toFixed(1)},${spot.now[1].toFixed(1)})`);
    }
    const chosen = spots.get(model.get("chosen"));
    ring.style.display = chosen ? "" : "none";
    if (chosen) [ring.cx.baseVal.value, ring.cy.baseVal.value] = chosen.now;
  };
  const tell = (id) => { told.textContent = spots.get(id)?.words ?? ""; };
  const mark = () => {
    const found = new Set(model.get("found")), chosen = model.get("chosen");
    for (const [id, spot] of spots) {
      spot.mark.classList.toggle("away", !found.has(id));
      spot.mark.classList.toggle("chosen", id === chosen);
    }
    place();
    tell(chosen);
  };
  const draw = () => {
    const points = model.get("points"), xs = points.map((one) => one[1]), ys = points.map((one) => one[2]), inks = model.get("inks");
    const least = (values) => values.reduce((a, b) => Math.min(a, b), Infinity), most = (values) => values.reduce((a, b) => Math.max(a, b), -Infinity);
    const [left, low] = [least(xs), least(ys)], [width, height] = [most(xs) - left || 1, most(ys) - low || 1];
    spots = new Map(points.map(([id, x, y, kind, words]) => {
      const look = svg("path", { d: SHAPES[kind], class: `point ${kind === "wrong" ? "line" : "full"}` }), name = svg("title");
      look.style.setProperty("--ink", inks[kind]);
      look.dataset.id = id;
      name.textContent = words;
      look.append(name);
      return [id, { mark: look, words, x: EDGE + ((x - left) / width) * (WIDE - 2 * EDGE), y: HIGH - EDGE - ((y - low) / height) * (HIGH - 2 * EDGE) }];
    }));
    all.replaceChildren(...[...spots.values()].map((spot) => spot.mark));
    title.textContent = model.get("title");
    view.setAttribute("aria-label", model.get("title"));
    legend.replaceChildren(...Object.keys(SHAPES).filter((kind) => points.some((one) => one[3] === kind)).map((kind) => {
      const entry = document.createElement("span"), key = svg("svg", { viewBox: "-6 -6 12 12", width: 12, height: 12 });
      const look = svg("path", { d: SHAPES[kind], class: kind === "wrong" ? "line" : "full" });
      look.style.setProperty("--ink", inks[kind]);
      key.append(look);
      entry.append(key, ` ${kind} (${points.filter((one) => one[3] === kind).length.toLocaleString("en")})`);
      return entry;
    }));
    mark();
  };
  // The nearest point within reach of a finger.
  const nearest = ([x, y]) => {
    let best = null, least = 12 ** 2;
    for (const [id, spot] of spots) {
      const far = (spot.now[0] - x) ** 2 + (spot.now[1] - y) ** 2;
      if (far < least && !spot.mark.classList.contains("away")) [best, least] = [id, far];
    }
    return best;
  };
  const draws = () => drawn && Math.max(...drawn.map(([x, y]) => Math.hypot(x - drawn[0][0], y - drawn[0][1]))) > CLICK;
  view.addEventListener("pointerdown", (event) => {
    if (event.button) return;
    drawn = [at(event)];
    view.setPointerCapture(event.pointerId);
    event.preventDefault();
  });
  view.addEventListener("pointermove", (event) => {
    if (!drawn) return tell(nearest(at(event)) ?? model.get("chosen"));
    drawn.push(at(event));
    line.setAttribute("points", draws() ? drawn.join(" ") : "");
  });
  view.addEventListener("pointerup", () => {
    if (!drawn) return;
    const around = draws() ? drawn : null, first = drawn[0];
    drawn = null;
    line.setAttribute("points", "");
    if (around) {
      const ids = [...spots].filter(([, spot]) => !spot.mark.classList.contains("away") && inside(spot.now, around)).map(([id]) => id);
      if (ids.length) send("lasso", ids);
    } else {
      const id = nearest(first);
      if (id !== null) send("chosen", id);
    }
  });
  view.addEventListener("pointercancel", () => { drawn = null; line.setAttribute("points", ""); });
  view.addEventListener("pointerleave", () => drawn || tell(model.get("chosen")));
  view.addEventListener("wheel", (event) => {
    if (!event.ctrlKey && !event.metaKey) return;  // the page scrolls
    event.preventDefault();
    const [x, y] = at(event), by = Math.max(1, Math.min(40, zoom.by * Math.exp(-event.deltaY / 300)));
    zoom = by === 1 ? { by, x: 0, y: 0 } : { by, x: zoom.x + x / zoom.by - x / by, y: zoom.y + y / zoom.by - y / by };
    place();
  }, { passive: false });
  view.addEventListener("dblclick", () => { zoom = { by: 1, x: 0, y: 0 }; place(); });
  for (const name of ["points", "title"]) model.on(`change:${name}`, draw);
  for (const name of ["found", "chosen"]) model.on(`change:${name}`, mark);
  draw();
}

export default { render };
