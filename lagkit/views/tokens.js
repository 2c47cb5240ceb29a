(() => {
  // Texts of the page are only copied as text, and everything else is a number: whoever wrote them, nothing here is run.
  const LEVELS = 255, DEEPEST = 0.7, STEPS = { ArrowLeft: [0, -1], ArrowRight: [0, 1], ArrowUp: [-1, 0], ArrowDown: [1, 0] };
  const make = (name, text = "", more = {}) => Object.assign(document.createElement(name), { textContent: text }, more);
  const bytes = (text) => Uint8Array.from(atob(text || ""), (one) => one.charCodeAt(0));
  const numbers = (text) => (text || "").split(" ").filter(Boolean).map(Number);
  const percent = (share) => (share > 0 && share < 0.0005 ? "under 0.1%" : `${(100 * share).toFixed(share < 0.0995 ? 1 : 0)}%`);
  const short = (text) => { const flat = text.replace(/\s+/g, " ").trim(); return flat.length > 32 ? `${flat.slice(0, 30)}…` : flat; };

  const read = (root) => {
    const { layers, heads, weights, shares, index, parts, queries } = root.dataset;
    const tokens = [...root.querySelectorAll(".t")];
    const it = { root, tokens, layers: +layers, heads: +heads, parts: numbers(parts), queries: numbers(queries) };
    it.names = [...root.querySelectorAll(".shares tbody th")].map((one) => one.textContent);
    it.cells = [...root.querySelectorAll(".shares td.share")];
    it.rows = (it.queries.length + 1) * it.layers * it.heads;
    it.weights = bytes(weights);
    it.shares = bytes(shares);
    it.index = index === undefined ? null : new Uint16Array(bytes(index).buffer);
    it.width = it.weights.length / it.rows;
    const whole = [it.rows, it.width, it.names.length].every((one) => Number.isInteger(one) && one > 0);
    if (!whole || it.shares.length !== it.rows * it.names.length || it.parts.length !== tokens.length) throw new Error("numbers are missing");
    return it;
  };

  // The heads that are shown: -1 stands for all.
  const shown = (it) => {
    const range = (chosen, count) => (chosen < 0 ? [...Array(count).keys()] : [chosen]);
    return range(it.layer, it.layers).flatMap((layer) => range(it.head, it.heads).map((head) => (it.query * it.layers + layer) * it.heads + head));
  };
  const square = (level) => (level / LEVELS) ** 2;
  const mean = (it, from, width, count, place) => {
    const found = new Float64Array(count), rows = shown(it);
    for (const row of rows) for (let at = 0; at < width; at++) found[place(row * width + at, at)] += square(from[row * width + at]) / rows.length;
    return found;
  };
  const share = (it, part, layer, head) => square(it.shares[((it.query * it.layers + layer) * it.heads + head) * it.names.length + part]);

  const tell = (it, weights, most) => {
    const strongest = [...weights.keys()].filter((at) => weights[at] > 0).sort((a, b) => weights[b] - weights[a]).slice(0, 5);
    const who = it.query ? `“${short(it.tokens[it.queries[it.query - 1]].textContent)}”` : `the mean of all ${it.asks} tokens`;
    const where = [it.layer < 0 ? "all layers" : `layer ${it.layer}`, it.head < 0 ? "all heads" : `head ${it.head}`].join(", ");
    const told = strongest.map((at) => `“${short(it.tokens[at].textContent)}” (${it.names[it.parts[at]]}) ${percent(weights[at])}`).join(", ");
    it.status.textContent = `From ${who}, in ${where}. Strongest: ${told}.`;
    it.most.textContent = ` ${percent(most)} of attention`;
  };

  const colour = (it) => {
    const count = it.tokens.length;
    const weights = mean(it, it.weights, it.width, count, it.index ? (at) => it.index[at] : (_, at) => at);
    const most = Math.max(...weights.filter((_, at) => !it.tokens[at].classList.contains("first"))) || 1;
    it.tokens.forEach((token, at) => {
      token.style.setProperty("--a", (DEEPEST * Math.min(1, weights[at] / most)).toFixed(3));
      token.title = percent(weights[at]);
      token.classList.toggle("chosen", it.query > 0 && at === it.queries[it.query - 1]);
    });
    const shares = mean(it, it.shares, it.names.length, it.names.length, (_, at) => at);
    it.cells.forEach((cell, part) => { cell.textContent = `${(100 * shares[part]).toFixed(1)}%`; });
    tell(it, weights, most);
  };

  const draw = (it) => {
    const style = getComputedStyle(it.root), sample = getComputedStyle(it.maps[0].canvas), ratio = window.devicePixelRatio || 1;
    let most = 0;
    for (const { part } of it.maps) for (let layer = 0; layer < it.layers; layer++) for (let head = 0; head < it.heads; head++) most = Math.max(most, share(it, part, layer, head));
    for (const { canvas, part } of it.maps) {
      const pen = canvas.getContext("2d"), { width, height } = it.cell;
      pen.setTransform(ratio, 0, 0, ratio, 0, 0);
      pen.clearRect(0, 0, canvas.width, canvas.height);
      pen.fillStyle = sample.color;
      for (let layer = 0; layer < it.layers; layer++) for (let head = 0; head < it.heads; head++) {
        pen.globalAlpha = share(it, part, layer, head) / (most || 1);
        pen.fillRect(head * width, layer * height, width, height);
      }
      pen.globalAlpha = 1;
      pen.strokeStyle = style.color;
      pen.lineWidth = 1.5;
      if (it.layer >= 0 || it.head >= 0) pen.strokeRect(Math.max(it.head, 0) * width + 0.75, Math.max(it.layer, 0) * height + 0.75, (it.head < 0 ? it.heads : 1) * width - 1.5, (it.layer < 0 ? it.layers : 1) * height - 1.5);
    }
    it.top.textContent = ` ${percent(most)} of a head's attention`;
  };

  const choose = (it, change) => {
    Object.assign(it, change);
    for (const name of ["query", "layer", "head"]) it.menus[name].value = String(it[name]);
    colour(it);
    draw(it);
  };

  const menu = (it, name, words, options) => {
    const select = make("select");
    options.forEach(([value, text]) => select.append(make("option", text, { value: String(value) })));
    select.addEventListener("change", () => choose(it, { [name]: +select.value }));
    const label = make("label", `${words} `);
    label.append(select);
    it.root.querySelector(".menus").append(label);
    return select;
  };

  const map = (it, part, few) => {
    const figure = make("figure"), canvas = make("canvas"), ratio = window.devicePixelRatio || 1;
    const room = few ? 150 : 112, fit = (count) => Math.max(3, Math.min(24, Math.floor(room / count)));
    it.cell = { width: fit(it.heads), height: fit(it.layers) };
    const wide = it.cell.width * it.heads, high = it.cell.height * it.layers;
    Object.assign(canvas, { width: wide * ratio, height: high * ratio, tabIndex: 0 });
    Object.assign(canvas.style, { width: `${wide}px`, height: `${high}px` });
    canvas.setAttribute("role", "img");
    canvas.setAttribute("aria-label", `Attention to ${it.names[part]}, by layer and head. Arrow keys choose a head.`);
    const at = (event) => {
      const box = canvas.getBoundingClientRect(), clip = (one, count) => Math.max(0, Math.min(count - 1, Math.floor(one)));
      return { layer: clip((event.clientY - box.top - 1) / it.cell.height, it.layers), head: clip((event.clientX - box.left - 1) / it.cell.width, it.heads) };
    };
    canvas.addEventListener("click", (event) => choose(it, at(event)));
    canvas.addEventListener("mousemove", (event) => { const { layer, head } = at(event); canvas.title = `layer ${layer}, head ${head}: ${percent(share(it, part, layer, head))}`; });
    canvas.addEventListener("keydown", (event) => {
      if (!STEPS[event.key]) return;
      event.preventDefault();
      event.stopPropagation();
      const step = STEPS[event.key], move = (one, by, count) => Math.max(0, Math.min(count - 1, one < 0 ? 0 : one + by));
      choose(it, { layer: move(it.layer, step[0], it.layers), head: move(it.head, step[1], it.heads) });
    });
    figure.append(make("figcaption", it.names[part], { className: "name" }), canvas);
    it.root.querySelector(".maps").append(figure);
    return { canvas, part };
  };

  const legend = (place, words, look) => {
    const line = make("div", words, { className: "note scaled" }), most = make("span");
    line.append(make("span", "", { className: `scale ${look}` }), most);
    place.append(line);
    return most;
  };

  const prepare = (root) => {
    const it = { ...read(root), query: 0, layer: -1, head: -1, menus: {} };
    it.status = root.querySelector(".status");
    it.asks = root.dataset.asks;
    const all = (words, count) => [[-1, "all"], ...[...Array(count).keys()].map((one) => [one, `${words} ${one}`])];
    const asked = it.queries.map((at, number) => [number + 1, `${number + 1}. ${short(it.tokens[at].textContent)}`]);
    it.menus.query = menu(it, "query", "From", [[0, `all ${it.asks} tokens`], ...asked]);
    it.menus.layer = menu(it, "layer", "Layer", all("layer", it.layers));
    it.menus.head = menu(it, "head", "Head", all("head", it.heads));
    it.queries.forEach((at, number) => it.tokens[at].addEventListener("click", () => choose(it, { query: number + 1 })));
    // Where attention rests when it has nowhere to go would outshine the rest.
    const rests = it.parts[it.tokens.findIndex((token) => token.classList.contains("first"))];
    const drawn = it.names.map((_, part) => part).filter((part) => part !== rests);
    it.maps = drawn.map((part) => map(it, part, drawn.length < 5));
    it.most = legend(root.querySelector(".menus"), "Colour of the text: 0 ", "faint");
    it.top = legend(root.querySelector(".maps"), "Rows are layers, columns heads: 0 ", "full");
    const dotted = rests === undefined ? "" : " Dotted: the first token, on which attention rests when it has nowhere to go.";
    root.querySelector(".hint").textContent = `Click on a cell of a map for one head, on an underlined token for what it attends to.${dotted}`;
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => draw(it));
    choose(it, {});
  };

  for (const root of document.querySelectorAll(".lagkit-tokens")) {
    if (root.dataset.ready) continue;
    root.dataset.ready = "yes";
    try { prepare(root); } catch (error) { console.warn(`A token view stays as it is: ${error.message}`); }
  }
})();
