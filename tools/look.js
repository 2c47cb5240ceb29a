(highest) => {
  const faults = [], texts = [];
  const words = (node) => node.textContent.trim().replace(/\s+/g, " ");
  const box = (node) => node.getBoundingClientRect();
  const seen = (node) => { const one = box(node); return one.width > 0 && one.height > 0 && words(node) && getComputedStyle(node).visibility !== "hidden"; };
  const shared = (a, b) => Math.max(0, Math.min(a.right, b.right) - Math.max(a.left, b.left)) * Math.max(0, Math.min(a.bottom, b.bottom) - Math.max(a.top, b.top));
  const area = (one) => one.width * one.height;

  // Contrast as WCAG has it, between a colour and the first opaque one beneath.
  const canvas = document.createElement("canvas").getContext("2d", { willReadFrequently: true }), known = new Map();
  const rgba = (text) => {
    if (!known.has(text)) {
      canvas.clearRect(0, 0, 1, 1);
      canvas.fillStyle = "#0000";
      canvas.fillStyle = text;
      canvas.fillRect(0, 0, 1, 1);
      known.set(text, [...canvas.getImageData(0, 0, 1, 1).data]);
    }
    return known.get(text);
  };
  const bright = (colour) => colour.slice(0, 3).map((one) => one / 255).map((one) => (one <= 0.04045 ? one / 12.92 : ((one + 0.055) / 1.055) ** 2.4)).reduce((sum, one, at) => sum + one * [0.2126, 0.7152, 0.0722][at], 0);
  const contrast = (a, b) => { const [low, high] = [bright(rgba(a)), bright(rgba(b))].sort((x, y) => x - y); return (high + 0.05) / (low + 0.05); };
  const beneath = (node) => { for (let one = node; one; one = one.parentElement) { const colour = getComputedStyle(one).backgroundColor; if (rgba(colour)[3] > 200) return colour; } return matchMedia("(prefers-color-scheme: dark)").matches ? "#111111" : "#ffffff"; };
  const low = (what, front, back) => { const found = contrast(front, back); if (found < 2.95) faults.push(`contrast ${found.toFixed(1)}: ${what}`); };

  const names = [...document.querySelectorAll(".plotly-graph-div")].map((one, at) => [one, `figure ${at + 1}`]);
  for (const [one, name] of names) {
    const layout = one._fullLayout, svg = one.querySelector(".main-svg");
    if (!layout || !svg) { faults.push(`${name} is not drawn`); continue; }
    const page = box(svg);
    if (!(layout.title.subtitle && layout.title.subtitle.text)) faults.push(`${name} has no caption`);
    if (!one.closest("[role=img][aria-label]")) faults.push(`${name} has no words in its place`);
    if (!/<img[^>]* src="data:image\/png;base64,./.test((one.closest("[role=img]") || one).innerHTML)) faults.push(`${name} has no picture`);
    if (page.height > highest) faults.push(`${name} is ${Math.round(page.height)} pixels high`);

    const labels = [...one.querySelectorAll("text")].filter(seen).filter((node) => !node.closest(".hoverlayer, .modebar"));
    const turned = (node) => { for (let at = node; at && at !== one; at = at.parentNode) { const found = /rotate\((-?[\d.]+)/.exec((at.getAttribute && at.getAttribute("transform")) || ""); if (found && Math.abs(parseFloat(found[1])) % 90 > 1) return true; } return false; };
    const drawn = labels.map((node) => ({ node, at: box(node), told: words(node), turned: turned(node) }));
    for (const { at, told, turned } of drawn) {
      texts.push(told);
      if (at.left < page.left - 2 || at.right > page.right + 2 || at.top < page.top - 2 || at.bottom > page.bottom + 2) faults.push(`${name}: “${told}” is cut`);
      if (turned) continue;
      for (const other of drawn) if (other.at !== at && !other.turned && (other.at.top > at.top || (other.at.top === at.top && other.at.left > at.left)) && shared(at, other.at) > 0.15 * Math.min(area(at), area(other.at))) faults.push(`${name}: “${told}” overlaps “${other.told}”`);
    }
    const legend = one.querySelector(".legend .bg, .legend");
    if (legend) for (const { node, at, told } of drawn) if (node.closest(".xaxislayer-above, .yaxislayer-above, .xtick, .ytick, .g-xtitle, .g-ytitle") && shared(at, box(legend)) > 0.2 * area(at)) faults.push(`${name}: “${told}” is behind the legend`);

    for (const { node, told } of drawn.slice(0, 200)) {
      if (node.closest(".heatmaplayer, .hm")) continue;
      low(`${name}, “${told}”`, getComputedStyle(node).fill, layout.paper_bgcolor);
    }
    const inked = {};
    for (const trace of one._fullData) {
      if (trace.type === "heatmap" || trace.visible !== true) continue;
      const [line, marker] = [trace.line && trace.line.color, trace.marker && trace.marker.color];
      if (typeof line === "string" && (trace.mode || "").includes("lines") && trace.line.width) inked[line] = trace.name;
      if (typeof marker === "string" && (trace.type !== "scatter" || trace.mode.includes("markers"))) inked[marker] = trace.name;
    }
    for (const [colour, told] of Object.entries(inked)) if (rgba(colour)[3] > 100) low(`${name}, ${told}`, colour, layout.plot_bgcolor);

    const plots = Object.values(layout._plots || {});
    const marks = plots.flatMap(({ plot }) => [...plot.node().querySelectorAll("path, image")]).map(box).filter((at) => at.width + at.height > 0);
    const inside = (at) => plots.some(({ xaxis, yaxis }) => at.right >= page.left + xaxis._offset && at.left <= page.left + xaxis._offset + xaxis._length && at.bottom >= page.top + yaxis._offset && at.top <= page.top + yaxis._offset + yaxis._length);
    if (marks.filter(inside).length < marks.length / 2) faults.push(`${name} shows less than half of its marks`);

    // Boxes of one category stand around its tick.
    for (const plot of plots) {
      const boxes = [...plot.plot.node().querySelectorAll("path.box")].map(box), axis = plot.xaxis;
      const ticks = (axis._vals || []).filter((tick) => tick.text).map((tick) => ({ told: tick.text.replace(/<[^>]*>/g, "").trim(), at: axis.c2p(tick.x) }));
      if (!boxes.length || !ticks.length || axis._vals.some((tick) => tick.minor)) continue;
      const step = ticks.length > 1 ? Math.abs(ticks[1].at - ticks[0].at) : axis._length;
      const aside = new Map();
      for (const one of boxes) {
        const middle = (one.left + one.right) / 2 - page.left - axis._offset;
        const near = ticks.reduce((best, tick) => (Math.abs(tick.at - middle) < Math.abs(best.at - middle) ? tick : best));
        aside.set(near, [...(aside.get(near) || []), middle - near.at]);
      }
      for (const [tick, all] of aside) if (Math.abs(all.reduce((a, b) => a + b) / all.length) > 0.1 * step) faults.push(`${name}: boxes stand beside “${tick.told}”`);
    }
  }

  const outputs = [...document.querySelectorAll(".jp-OutputArea-output")].filter((one) => !one.querySelector(".plotly-graph-div"));
  for (const one of outputs) {
    const parts = [...one.querySelectorAll("td, th, li, p, caption, pre")].filter((part) => !part.querySelector("td, li, p, pre"));
    for (const part of parts) { const told = words(part); if (told) texts.push(told.slice(0, 4000)); }
  }
  const prose = [...document.querySelectorAll("h1, h2, h3, p, li, td, th, caption, pre, code, a")].filter((part) => seen(part) && !part.closest(".plotly-graph-div"));
  const told = new Set();
  for (const part of prose) {
    const style = getComputedStyle(part), back = beneath(part), key = `${style.color} on ${back}`;
    if (!told.has(key)) { told.add(key); low(`${part.tagName.toLowerCase()} “${words(part).slice(0, 40)}”, ${key}`, style.color, back); }
  }
  return { faults, texts: [...new Set(texts)] };
}
