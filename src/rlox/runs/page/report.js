"use strict";
(() => {
  const root = document.documentElement;
  const hidden = new Set();
  let curves = JSON.parse(document.getElementById("curves").textContent);
  let plots = new Map();

  const css = (name) => getComputedStyle(root).getPropertyValue(name).trim();
  const colour = (number) => css(`--g${number % 6}`);
  const fade = (hex, alpha) => hex + Math.round(alpha * 255).toString(16).padStart(2, "0");
  const idOf = (place, label) => JSON.stringify([place, label]);

  // Numbers as people write them: 12.5k, 0.034, with a true minus sign.
  const tidy = (text) => text.replace("-", "\u2212");
  function shown(value) {
    if (value == null) return "\u2013";
    const size = Math.abs(value);
    if (size >= 1e12 || (size > 0 && size < 1e-4)) return tidy(value.toExponential(2));
    return tidy(value.toLocaleString("en", size >= 1000 ? { maximumFractionDigits: 0 } : { maximumSignificantDigits: 4 }));
  }
  function ticks(u, splits, axis, space, step) {
    const top = Math.max(...splits.map(Math.abs));
    if (top >= 1e13 || (top > 0 && top < 1e-4)) return splits.map((v) => (v === 0 ? "0" : tidy(v.toExponential(1))));
    const [unit, sign] = top >= 1e9 ? [1e9, "G"] : top >= 1e6 ? [1e6, "M"] : top >= 1e4 ? [1e3, "k"] : [1, ""];
    // As many digits as tell the steps apart: steps of 0.25 need two.
    const whole = (digits) => Math.abs(((step / unit) * 10 ** digits) % 1 - 0.5) > 0.499;
    const digits = [0, 1, 2, 3, 4, 5].find(whole) ?? 6;
    return splits.map((v) => (v === 0 ? "0" : tidy((v / unit).toFixed(digits)) + sign));
  }

  // One table for each curve; what a series belongs to is kept beside it.
  function tables(chart) {
    const found = [], kinds = [];
    const add = (line, kind, [steps, ...columns]) => {
      found.push([curves.steps[steps], ...columns]);
      columns.forEach((_, i) => kinds.push({ line, kind, last: i === columns.length - 1 }));
    };
    chart.lines.forEach((line) => {
      line.bands.forEach((table) => add(line, "band", table));
      line.runs.forEach((table) => add(line, "run", table));
      if (line.middle) add(line, "middle", line.middle);
    });
    return { data: found.length ? uPlot.join(found) : [[]], kinds };
  }
  const shape = (chart) => JSON.stringify(chart.lines.map((line) => [line.label, line.number, line.bands.length, line.runs.length, !!line.middle]));

  // Points that no line reaches: those between two gaps.
  function alone(u, i) {
    const values = u.data[i], known = [];
    for (let at = 0, gap = true; at < values.length; at++) {
      if (values[at] === undefined) continue;
      if (values[at] === null) { gap = true; continue; }
      let next = at + 1;
      while (next < values.length && values[next] === undefined) next++;
      if (gap && (next >= values.length || values[next] === null)) known.push(at);
      gap = false;
    }
    return known;
  }

  function seriesOf({ line, kind }, place) {
    const show = !hidden.has(idOf(place, line.label));
    const dash = line.number >= 6 ? [7, 4] : undefined;
    if (kind === "band") return { show, stroke: "transparent", width: 0, points: { show: false } };
    const alpha = kind === "run" ? 0.4 : 1;
    const stroke = () => fade(colour(line.number), alpha);
    return { show, stroke, dash, width: kind === "run" ? 1 : 2, points: { show: true, size: 5, width: 0, fill: stroke, filter: alone } };
  }

  // All charts of a phase show the same steps, from 0 on.
  function whole(u, min, max) {
    const steps = u.data[0];
    return min == null || (min <= steps[0] && max >= steps[steps.length - 1]);
  }
  const padded = (low, high) => { const more = 0.05 * (high - low || 1); return [low - more, high + more]; };

  function draw(figure, key, zoom) {
    const chart = curves.charts[key], holder = figure.querySelector(".plot");
    const { data, kinds } = tables(chart);
    // News replace the chart and keep its plot.
    const now = () => curves.charts[key];
    const axis = { stroke: () => css("--soft"), font: "12px system-ui, sans-serif", values: ticks, border: { show: false } };
    const bands = kinds.flatMap(({ line, kind, last }, i) =>
      kind === "band" && last ? [{ series: [i + 1, i], fill: () => fade(colour(line.number), 0.16) }] : []);
    const u = new uPlot({
      width: holder.clientWidth, height: holder.clientHeight, legend: { show: false }, padding: [8, 20, 0, 0],
      cursor: { sync: { key: chart.sync }, y: false, points: { show: false }, drag: { x: true, y: false } },
      scales: {
        x: { time: false, range: (u, min, max) => (whole(u, min, max) ? [0, now().until] : [min, max]) },
        y: chart.y ? { range: () => padded(...now().y) } : {},
      },
      axes: [
        { ...axis, size: 26, gap: 4, grid: { show: false }, ticks: { stroke: () => css("--line"), width: 1, size: 4 }, border: { show: true, stroke: () => css("--line"), width: 1 } },
        { ...axis, size: 50, gap: 6, grid: { stroke: () => css("--line"), width: 1 }, ticks: { show: false } },
      ],
      series: [{}, ...kinds.map((kind) => seriesOf(kind, chart.place))],
      bands,
      hooks: { setCursor: [() => tell(key)] },
    }, data, holder);
    const old = plots.get(key);
    if (old) old.u.destroy();
    plots.set(key, { u, kinds, chart, figure, shape: shape(chart), readouts: readouts(figure, chart) });
    if (zoom) u.setScale("x", zoom);
    tell(key);
  }

  function readouts(figure, chart) {
    const row = figure.querySelector(".values");
    row.replaceChildren();
    const found = chart.lines.map((line) => {
      const button = document.createElement("button"), value = document.createElement("b");
      button.type = "button";
      button.className = `key g${line.number % 6}${line.number >= 6 ? " dashed" : ""}`;
      button.title = line.label;
      button.dataset.label = line.label;
      button.dataset.of = chart.place;
      button.setAttribute("aria-label", `${line.label}: hide or show`);
      button.append(document.createElement("i"), value);
      row.append(button);
      return value;
    });
    const at = document.createElement("span");
    row.append(at);
    press();
    return { values: found, at };
  }

  // Values under the cursor, or the last ones.
  function tell(key) {
    const plot = plots.get(key);
    if (!plot) return;
    const { u, kinds, chart, readouts: { values, at } } = plot, idx = u.cursor.idx;
    chart.lines.forEach((line, i) => {
      const series = kinds.findIndex((kind) => kind.line === line && kind.kind === "middle") + 1;
      const column = series ? u.data[series] : [];
      let where = idx ?? column.length - 1;
      while (where > 0 && column[where] === undefined) where--;
      const off = hidden.has(idOf(chart.place, line.label));
      values[i].textContent = off ? "" : shown(column[where]);
    });
    at.textContent = idx == null ? "last" : `at ${shown(u.data[0][idx])}`;
  }

  function press() {
    document.querySelectorAll("button.key").forEach((button) => {
      const place = button.dataset.of ?? button.closest(".legend").dataset.place;
      button.setAttribute("aria-pressed", String(!hidden.has(idOf(place, button.dataset.label))));
    });
  }
  function toggle(place, label) {
    const id = idOf(place, label);
    if (!hidden.delete(id)) hidden.add(id);
    press();
    plots.forEach(({ u, kinds, chart }, key) => {
      if (chart.place !== place) return;
      u.batch(() => kinds.forEach(({ line }, i) => {
        if (line.label === label) u.setSeries(i + 1, { show: !hidden.has(id) });
      }));
      tell(key);
    });
  }
  document.addEventListener("click", (event) => {
    const button = event.target.closest("button.key");
    if (button) toggle(button.dataset.of ?? button.closest(".legend").dataset.place, button.dataset.label);
  });

  function zoomOf({ u }) {
    const { min, max } = u.scales.x;
    return whole(u, min, max) ? null : { min, max };
  }
  const watchSize = new ResizeObserver((entries) => entries.forEach(({ target }) => {
    const plot = plots.get(target.parentElement.dataset.chart);
    if (plot && target.clientWidth && target.clientWidth !== plot.u.width) plot.u.setSize({ width: target.clientWidth, height: target.clientHeight });
  }));
  function drawAll() {
    const zooms = new Map([...plots].map(([key, plot]) => [key, zoomOf(plot)]));
    plots.forEach(({ u }) => u.destroy());
    plots = new Map();
    watchSize.disconnect();
    document.querySelectorAll("[data-chart]").forEach((figure) => {
      draw(figure, figure.dataset.chart, zooms.get(figure.dataset.chart));
      watchSize.observe(figure.querySelector(".plot"));
    });
    press();
  }
  const redraw = () => plots.forEach(({ u }) => u.redraw(false, true));
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", redraw);
  addEventListener("beforeprint", () => { root.classList.add("printing"); redraw(); });
  addEventListener("afterprint", () => { root.classList.remove("printing"); redraw(); });
  drawAll();
  // For tests, and for a look from the console.
  globalThis.rlox = { plots: () => plots };
  if (!root.hasAttribute("data-live")) return;

  // News of a run that goes on; what is hidden, zoomed or unfolded stays so.
  const parts = new Map([...document.querySelectorAll("[data-part]")].map((part) => [part.dataset.part, part]));
  const were = new Map();
  function replace(name, html) {
    if (were.get(name) === html) return false;
    const first = !were.has(name), part = parts.get(name);
    were.set(name, html);
    if (first && part.innerHTML.trim() === html.trim()) return false;
    const open = [...part.querySelectorAll("details")].map((details) => details.open);
    part.innerHTML = html;
    [...part.querySelectorAll("details")].forEach((details, i) => { details.open = open[i] ?? details.open; });
    return true;
  }
  function renew(news) {
    document.title = news.title;
    curves = news.curves;
    const changed = Object.entries(news.parts).filter(([name, html]) => replace(name, html)).map(([name]) => name);
    if (changed.includes("charts")) return drawAll();
    plots.forEach((plot, key) => {
      const chart = curves.charts[key], zoom = zoomOf(plot);
      if (shape(chart) !== plot.shape) return draw(plot.figure, key, zoom);
      const { data, kinds } = tables(chart);
      Object.assign(plot, { chart, kinds });
      plot.u.setData(data, !zoom);
      if (zoom) plot.u.setScale("x", zoom);
      tell(key);
    });
  }
  const status = document.getElementById("status");
  let version = null;
  async function ask() {
    try {
      const answer = await fetch("data.json", { headers: version ? { "If-None-Match": version } : {}, cache: "no-store" });
      if (answer.status === 200) {
        version = answer.headers.get("ETag");
        renew(await answer.json());
      } else if (answer.status !== 304) {
        throw new Error(await answer.text());
      }
      status.classList.remove("lost");
      status.textContent = `Live, updated ${new Date().toLocaleTimeString()}`;
    } catch (error) {
      status.classList.add("lost");
      const why = error instanceof TypeError ? "the server has stopped" : error.message.trim();
      status.textContent = `Not live: ${why}. What is shown is the last that it sent.`;
    }
    setTimeout(ask, 2000);
  }
  ask();
})();
