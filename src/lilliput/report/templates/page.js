// Draws the charts in the colours of page.css, again whenever those or the width change, and sorts tables.
(() => {
  "use strict";

  const WIDE = 620; // below this many pixels bars lie on their side, so that the names of layers stay readable
  const PAPER = 690; // width of a printed page

  const style = () => {
    const css = getComputedStyle(document.documentElement);
    const names = ["page", "surface", "ink", "muted", "line", "before", "after", "good", "bad"];
    const colours = Object.fromEntries(names.map((name) => [name, css.getPropertyValue("--" + name).trim()]));
    return { ...colours, font: getComputedStyle(document.body).fontFamily };
  };

  const layout = (c, width, height) => ({
    width, height, autosize: false, showlegend: false, dragmode: false, hovermode: "closest",
    paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)",
    margin: { l: 8, r: 10, t: 12, b: 8, pad: 4 },
    font: { family: c.font, size: 12, color: c.muted },
    hoverlabel: { bgcolor: c.surface, bordercolor: c.line, align: "left", font: { family: c.font, size: width < WIDE ? 11.5 : 13, color: c.ink } },
  });

  const axis = (c, more) => ({
    fixedrange: true, automargin: true, gridcolor: c.line, zeroline: false, linecolor: c.line, tickcolor: c.line,
    tickfont: { size: 11 }, ...more,
  });
  const amounts = (c, unit, more) => axis(c, { tickformat: "~s", ticksuffix: unit, rangemode: "tozero", nticks: 6, ...more });
  const names = (c, labels, more) => axis(c, { showgrid: false, tickvals: labels.map((_, i) => i), ticktext: labels, ...more });
  const title = (text) => ({ text, font: { size: 12 }, standoff: 12 });
  const hover = (texts) => ({ customdata: texts, hovertemplate: "%{customdata}<extra></extra>" });

  const KINDS = {
    // Two values a label, the one after in front of the one before; the pointer's text belongs to an unseen third bar.
    bars(data, c, width) {
      const wide = width >= WIDE, count = data.labels.length, places = data.labels.map((_, i) => i);
      const along = (values) => (wide ? { x: places, y: values } : { x: values, y: places, orientation: "h" });
      const bar = (values, color, size) => ({ type: "bar", ...along(values), width: size, marker: { color }, hoverinfo: "skip" });
      const tallest = places.map((i) => Math.max(data.before[i] ?? 0, data.after[i] ?? 0));
      const every = wide ? Math.ceil((14 * count) / (width - 60)) : 1;
      const ends = [-0.7, count - 0.3];
      const base = layout(c, width, wide ? 400 : 60 + 17 * count);
      const label = names(c, data.labels, {
        tickvals: places.filter((i) => i % every === 0), ticktext: data.labels.filter((_, i) => i % every === 0),
        tickangle: wide ? (count > 8 ? -60 : 0) : 0, tickfont: { size: 10.5 }, range: wide ? ends : ends.slice().reverse(),
      });
      const value = amounts(c, data.unit, wide ? {} : { side: "top" });
      return {
        traces: [
          bar(data.before, c.before, 0.82), bar(data.after, c.after, 0.42),
          { ...bar(tallest, "rgba(0,0,0,0)", 0.98), ...hover(data.hover), hoverinfo: undefined },
        ],
        layout: { ...base, barmode: "overlay", hovermode: wide ? "x" : "y", ...(wide ? { xaxis: label, yaxis: value } : { xaxis: value, yaxis: label }) },
      };
    },

    // A dot before, a dot after, and the way between them.
    dumbbells(data, c, width) {
      const places = data.labels.map((_, i) => i);
      const way = (color, wanted) => {
        const chosen = places.filter((i) => Math.sign(data.after[i] - data.before[i]) === wanted);
        return {
          x: chosen.flatMap((i) => [data.before[i], data.after[i], null]), y: chosen.flatMap((i) => [i, i, null]),
          mode: "lines", line: { color, width: 3 }, hoverinfo: "skip",
        };
      };
      const dots = (x, color) => ({ x, y: places, mode: "markers", marker: { color, size: 11 }, cliponaxis: false });
      return {
        traces: [
          way(c.bad, -1), way(c.good, 1),
          { ...dots(data.before, c.before), hoverinfo: "skip" }, { ...dots(data.after, c.after), ...hover(data.hover) },
        ],
        layout: {
          ...layout(c, width, 64 + 26 * places.length), hovermode: "y",
          xaxis: axis(c, { ticksuffix: " " + data.unit, nticks: width < WIDE ? 5 : 8 }),
          yaxis: names(c, data.labels, { range: [places.length - 0.4, -0.6], tickfont: { size: 12, color: c.ink } }),
        },
      };
    },

    // Curves over epochs, with a dotted line where a step of the recipe begins.
    lines(data, c, width) {
      const few = data.x.length <= 40;
      return {
        traces: data.lines.map((line) => ({
          x: data.x, y: line.y, name: line.name, mode: few ? "lines+markers" : "lines",
          line: { color: line.role === "before" ? c.muted : c.after, width: 2, dash: line.role === "before" ? "dot" : "solid" },
          marker: { size: 5 }, hovertemplate: "%{y:.4~g}" + data.unit + " " + line.name + "<extra></extra>",
        })),
        layout: {
          ...layout(c, width, 300), hovermode: "x unified", margin: { l: 8, r: 10, t: 22, b: 8, pad: 4 },
          xaxis: axis(c, { title: title(data.x_title ?? "epoch"), showgrid: false, tickformat: "d", nticks: 8, dtick: data.x.length < 9 ? 1 : undefined }),
          yaxis: axis(c, { ticksuffix: data.unit, nticks: 6 }),
          shapes: data.marks.map((m) => ({ type: "line", x0: m.x, x1: m.x, y0: 0, y1: 1, yref: "paper", line: { color: c.line, width: 1 } })),
          annotations: data.marks.map((m) => ({ x: m.x, y: 1, yref: "paper", text: m.text, xanchor: "left", yanchor: "bottom", showarrow: false, font: { size: 10, color: c.muted } })),
        },
      };
    },

    // Candidates; those of a group look alike, and budgets are lines.
    points(data, c, width, others) {
      const looks = others ?? {
        misses: { symbol: "circle-open", size: 9, color: c.muted, line: { width: 2 } },
        unknown: { symbol: "circle-open", size: 9, color: c.muted, line: { width: 2 } },
        meets: { symbol: "circle", size: 10, color: c.after },
        chosen: { symbol: "diamond", size: 15, color: c.after, line: { width: 2, color: c.page } },
      };
      const of = (group, values) => values.filter((_, i) => data.group[i] === group);
      const across = (l) => (l.axis === "x" ? { x0: l.at, x1: l.at, y0: 0, y1: 1, yref: "paper" } : { y0: l.at, y1: l.at, x0: 0, x1: 1, xref: "paper" });
      const name = (l) => (l.axis === "x"
        ? { x: l.at, y: 0, yref: "paper", xanchor: "left", yanchor: "bottom", textangle: -90 }
        : { y: l.at, x: 1, xref: "paper", xanchor: "right", yanchor: "bottom" });
      return {
        traces: Object.keys(looks).map((group) => ({
          x: of(group, data.x), y: of(group, data.y), mode: "markers", marker: looks[group], ...hover(of(group, data.hover)), cliponaxis: false,
        })),
        layout: {
          ...layout(c, width, width < WIDE ? 330 : 400),
          xaxis: amounts(c, data.unit ?? "B", { title: title(data.x_title) }),
          yaxis: axis(c, { title: title(data.y_title), rangemode: "tozero", nticks: 7 }),
          shapes: data.lines.map((l) => ({ type: "line", ...across(l), line: { color: c.good, width: 1.5, dash: "dash" } })),
          annotations: data.lines.map((l) => ({ ...name(l), text: l.text, showarrow: false, font: { size: 11, color: c.good } })),
        },
      };
    },

    // Accuracy against a cost: the front as steps, what it leaves behind faint, budgets as lines.
    front(data, c, width) {
      const looks = {
        dominated: { symbol: "circle", size: 8, color: c.before, opacity: 0.5 },
        baseline: { symbol: "square", size: 10, color: c.muted },
        misses: { symbol: "circle-open", size: 9, color: c.muted, line: { width: 2 } },
        meets: { symbol: "circle", size: 10, color: c.after },
        chosen: { symbol: "diamond", size: 15, color: c.after, line: { width: 2, color: c.page } },
      };
      const { traces, layout: base } = KINDS.points(data, c, width, looks);
      const lines = data.lines.filter((l) => l.axis === "y").map((l) => l.at), all = [...data.y, ...lines];
      const low = Math.min(...all), high = Math.max(...all), room = 0.08 * (high - low || 1);
      const line = { ...data.line, mode: "lines", line: { color: c.after, width: 2, shape: "hv" }, opacity: 0.7, hoverinfo: "skip" };
      return {
        traces: [line, ...traces],
        layout: { ...base, yaxis: axis(c, { title: title(data.y_title), nticks: 7, ticksuffix: " %", range: [low - room, high + room] }) },
      };
    },

    // Networks as blobs whose area is their parameters, one colour a family; the reader's own carry their names.
    blobs(data, c, width) {
      const largest = Math.max(...data.size), families = [...new Set(data.group)];
      const of = (family, values) => values.filter((_, i) => data.group[i] === family);
      const area = { sizemode: "area", sizeref: (2 * largest) / (width < WIDE ? 45 : 80) ** 2 };
      const look = (family, i) => (family === data.own
        ? { color: c.bad, opacity: 1, line: { width: 1, color: c.page } }
        : { color: `hsl(${(i * 137.5) % 360} 60% 50%)`, opacity: 0.55, line: { width: 1, color: c.page } });
      return {
        traces: families.map((family, i) => ({
          name: family, x: of(family, data.x), y: of(family, data.y), mode: family === data.own ? "markers+text" : "markers",
          text: of(family, data.text), textfont: { color: c.bad }, textposition: of(family, data.text).map((_, k) => (k % 2 ? "bottom center" : "top center")),
          marker: { ...area, size: of(family, data.size), ...look(family, i) }, ...hover(of(family, data.hover)),
        })),
        layout: {
          ...layout(c, width, width < WIDE ? 620 : 640), showlegend: true,
          legend: { orientation: "h", y: -0.16, itemsizing: "constant", font: { size: 11.5, color: c.ink } },
          xaxis: axis(c, { type: data.log ? "log" : "linear", title: title(data.x_title), tickformat: "~s", ...(data.log ? { dtick: "D2" } : { nticks: 8 }) }),
          yaxis: axis(c, { title: title(data.y_title), nticks: 9 }),
        },
      };
    },
  };

  // What the arrow keys go through: the points that have a text for the pointer, or those of curves with all their values.
  const plain = (html) => new DOMParser().parseFromString(html.replaceAll("<br>", ", "), "text/html").body.textContent;
  const points = (chart) => {
    const data = chart.choices[chart.chosen];
    if (data.lines?.[0]?.y) {
      const text = (i) => `${data.x[i]}: ` + data.lines.map((line) => `${line.name} ${line.y[i]?.toPrecision(4) ?? "—"}${data.unit}`).join(", ");
      return data.x.flatMap((x, i) => (x === null ? [] : [{ curveNumber: 0, pointNumber: i, text: text(i) }]));
    }
    return chart.plot.data.flatMap((trace, curveNumber) =>
      (trace.customdata ?? []).map((html, pointNumber) => ({ curveNumber, pointNumber, text: plain(html) })));
  };
  const read = (chart, step) => {
    const all = points(chart);
    chart.at = Math.min(Math.max((chart.at ?? -1) + step, 0), all.length - 1);
    Plotly.Fx.hover(chart.plot, [all[chart.at]]);
    chart.said.textContent = `${chart.at + 1} of ${all.length}: ${all[chart.at].text}`;
  };
  const STEPS = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1, Home: -Infinity, End: Infinity };

  const charts = [...document.querySelectorAll(".chart")].map((figure) => ({
    plot: figure.querySelector(".plot"),
    buttons: [...figure.querySelectorAll(".choices button")],
    choices: JSON.parse(figure.querySelector("script").textContent),
    said: figure.querySelector(".unseen"),
    chosen: 0,
    at: undefined,
    width: 0,
  }));

  const draw = (chart, width = chart.plot.clientWidth) => {
    if (!width) return; // inside something folded
    chart.width = width;
    const { traces, layout } = KINDS[chart.plot.dataset.kind](chart.choices[chart.chosen], style(), width);
    Plotly.react(chart.plot, traces, layout, { displayModeBar: false, doubleClick: false });
  };
  const drawAll = (width) => charts.forEach((chart) => draw(chart, width));

  for (const chart of charts) {
    chart.buttons.forEach((button, index) => button.addEventListener("click", () => {
      chart.chosen = index;
      chart.at = undefined;
      chart.buttons.forEach((b, i) => b.setAttribute("aria-pressed", String(i === index)));
      draw(chart);
    }));
    chart.plot.addEventListener("keydown", (event) => {
      if (!(event.key in STEPS) || event.ctrlKey || event.altKey || event.metaKey) return;
      event.preventDefault();
      read(chart, STEPS[event.key]);
    });
    chart.plot.addEventListener("blur", () => Plotly.Fx.unhover(chart.plot));
    draw(chart);
    new ResizeObserver(() => {
      if (chart.plot.clientWidth !== chart.width) requestAnimationFrame(() => draw(chart));
    }).observe(chart.plot);
  }
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => drawAll());

  // Paper is white and narrower than most screens.
  addEventListener("beforeprint", () => {
    document.documentElement.dataset.print = "";
    drawAll(PAPER);
  });
  addEventListener("afterprint", () => {
    delete document.documentElement.dataset.print;
    drawAll();
  });

  // A click on a head sorts: text from A, numbers from the largest, a second click the other way; what is missing stays last.
  const compare = (a, b, numeric, sign) => {
    if (a === undefined || b === undefined) return (a === undefined) - (b === undefined);
    return sign * (numeric ? a - b : a.localeCompare(b, "en", { numeric: true }));
  };
  for (const head of document.querySelectorAll("table.sortable thead th")) {
    head.addEventListener("click", () => {
      const table = head.closest("table"), numeric = head.classList.contains("number");
      const first = numeric ? "descending" : "ascending", second = numeric ? "ascending" : "descending";
      const order = head.getAttribute("aria-sort") === first ? second : first;
      table.querySelectorAll("th[aria-sort]").forEach((th) => th.removeAttribute("aria-sort"));
      head.setAttribute("aria-sort", order);
      const key = (row) => row.cells[head.cellIndex].dataset.key, sign = order === "ascending" ? 1 : -1;
      const rows = [...table.tBodies[0].rows].sort((a, b) => compare(key(a), key(b), numeric, sign));
      table.tBodies[0].append(...rows);
    });
  }
})();
