"use strict";
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const root = document.documentElement;
  const charts = []; // [element, colours => ECharts option], drawn again when the theme changes
  const PALETTES = {
    light: ["#2f6fde", "#e08a1e", "#1f9d6b", "#c43d7a", "#7b5bd6", "#0f9bb0", "#b5651d", "#6b7a10", "#8a94a6"],
    dark: ["#6ea2ff", "#f4b04f", "#4fd1a0", "#f07fb0", "#b39bff", "#4fd6e8", "#e0a070", "#c3d05a", "#8f9bb0"],
  };

  const FONT = 'system-ui, -apple-system, "Segoe UI", Roboto, "Noto Sans", sans-serif'; // charts measure text by it

  // ---- text ----
  const number = (value, digits = 0) =>
    value === null || value === undefined ? "-" : value.toLocaleString("en", { minimumFractionDigits: digits, maximumFractionDigits: digits });
  const percent = (value) => (value === null || value === undefined ? "-" : `${number(100 * value, value < 0.1 ? 1 : 0)} %`);
  const figure = (value) => number(value, Math.abs(value) >= 10 ? 1 : 4);
  const bytes = (value) => (value >= 1e6 ? `${number(value / 1e6, 1)} MB` : `${number(value / 1e3, 0)} kB`);
  const duration = (seconds) =>
    seconds >= 5400 ? `${number(seconds / 3600, 1)} h` : seconds >= 90 ? `${number(seconds / 60, 1)} min` : `${number(seconds, 1)} s`;

  // ---- elements ----
  function element(tag, attributes = {}, ...children) {
    const made = document.createElement(tag);
    for (const [name, value] of Object.entries(attributes)) {
      if (name === "onclick") made.addEventListener("click", value);
      else made.setAttribute(name, value);
    }
    made.append(...children.filter((child) => child !== null));
    return made;
  }
  function table(header, rows, textColumns = [0]) {
    const cell = (tag, content, column) =>
      element(tag, { ...(tag === "th" ? { scope: "col" } : {}), ...(textColumns.includes(column) ? { class: "text" } : {}) }, content);
    return element("div", { class: "scroll", tabindex: "0" },
      element("table", {},
        element("thead", {}, element("tr", {}, ...header.map((name, column) => cell("th", name, column)))),
        element("tbody", {}, ...rows.map((row) => element("tr", {}, ...row.map((content, column) => cell("td", content, column)))))));
  }
  function withInterval(part) {
    if (!part) return "-";
    const [value, low, high] = part;
    return element("span", {}, figure(value), element("span", { class: "half" }, ` ± ${figure((high - low) / 2)}`));
  }
  function chart(label, option, className = "", height = null) {
    const holder = element("div", { class: `chart ${className}`, role: "img", "aria-label": label, ...(height ? { style: `height: ${height}px` } : {}) });
    charts.push([holder, option]);
    return holder;
  }
  const tile = (label, value, note = "") =>
    element("div", { class: "tile" }, element("div", { class: "label" }, label), element("div", { class: "value" }, value), element("div", { class: "note" }, note));

  const main = document.getElementById("main");
  const contents = element("div");
  document.getElementById("contents").append(contents);
  function section(id, title, about, ...children) {
    contents.append(element("a", { href: `#${id}` }, title));
    main.append(element("section", { id, ...(id === "examples" ? { class: "long" } : {}) }, element("h2", {}, title), element("p", {}, about), ...children));
  }

  // ---- charts ----
  function colours() {
    const style = getComputedStyle(root);
    const of = (name) => style.getPropertyValue(name).trim();
    return { ink: of("--ink"), soft: of("--soft"), line: of("--line"), card: of("--card"), accent: of("--accent"), palette: PALETTES[root.dataset.theme] };
  }
  function base(c, extra = {}) {
    return {
      color: c.palette, animation: false, aria: { enabled: true }, textStyle: { color: c.ink, fontFamily: FONT },
      tooltip: { confine: true, backgroundColor: c.card, borderColor: c.line, textStyle: { color: c.ink } },
      grid: { left: 8, right: 18, top: 40, bottom: 8, containLabel: true },
      legend: { type: "scroll", top: 0, textStyle: { color: c.ink }, pageTextStyle: { color: c.soft }, pageIconColor: c.accent, pageIconInactiveColor: c.line },
      ...extra,
    };
  }
  const axis = (c, extra = {}) => ({
    axisLine: { lineStyle: { color: c.line } }, axisLabel: { color: c.soft, hideOverlap: true, ...(extra.axisLabel || {}) },
    splitLine: { lineStyle: { color: c.line } }, nameTextStyle: { color: c.soft }, ...Object.fromEntries(Object.entries(extra).filter(([key]) => key !== "axisLabel")),
  });
  // Bars with the lines of their intervals; `series` is name to [[value, low, high] or null of each category]. Lying
  // bars leave room for long names.
  function bars(c, categories, series, { lying = false, note = () => "" } = {}) {
    const names = Object.keys(series);
    const [along, across] = lying ? [1, 0] : [0, 1]; // of a pixel's coordinates: along the categories, and their values
    const shown = names.flatMap((name, order) => [
      { name, type: "bar", data: series[name].map((part) => (part ? part[0] : null)), barMaxWidth: 34, itemStyle: { color: c.palette[order % c.palette.length], borderRadius: lying ? [0, 3, 3, 0] : [3, 3, 0, 0] } },
      {
        name, type: "custom", z: 5, silent: true, encode: lying ? { y: 0, x: [1, 2] } : { x: 0, y: [1, 2] },
        data: series[name].map((part, place) => (part ? [place, part[1], part[2]] : null)).filter(Boolean),
        renderItem: (params, api) => {
          const layout = api.barLayout({ count: names.length, barMaxWidth: 34 })[order];
          const at = (value) => api.coord(lying ? [value, api.value(0)] : [api.value(0), value]);
          const middle = at(api.value(1))[along] + layout.offsetCenter;
          const [low, high] = [at(api.value(1))[across], at(api.value(2))[across]];
          const style = { stroke: c.ink, lineWidth: 1.2, fill: "none" };
          const line = (from, fromMiddle, to, toMiddle) => ({
            type: "line", style, shape: lying ? { x1: from, y1: fromMiddle, x2: to, y2: toMiddle } : { x1: fromMiddle, y1: from, x2: toMiddle, y2: to },
          });
          const end = (place) => line(place, middle - 4, place, middle + 4);
          return { type: "group", children: [line(low, middle, high, middle), end(low), end(high)] };
        },
      },
    ]);
    const ofCategories = axis(c, { type: "category", data: categories, inverse: lying, axisTick: { show: false }, axisLabel: { interval: 0, hideOverlap: false, fontSize: 11, lineHeight: 14 } });
    const ofValues = axis(c, { type: "value" });
    return base(c, {
      legend: { ...base(c).legend, data: names },
      tooltip: {
        ...base(c).tooltip, trigger: "axis", axisPointer: { type: "shadow" },
        formatter: (found) => {
          const place = found[0].dataIndex;
          const lines = names.map((name) => (series[name][place] ? `${escaped(name)}: ${figure(series[name][place][0])} [${figure(series[name][place][1])}, ${figure(series[name][place][2])}]` : ""));
          return [`<b>${escaped(String(categories[place]))}</b> ${note(place)}`, ...lines.filter(Boolean)].join("<br>");
        },
      },
      ...(lying ? { grid: { ...base(c).grid, left: 26 } } : {}), // names are drawn wider than they are measured
      xAxis: lying ? ofValues : ofCategories, yAxis: lying ? ofCategories : ofValues, series: shown,
    });
  }
  const escaped = (text) => text.replace(/[&<>"]/g, (letter) => ({ "&": "&amp;", "<": "&lt;", ">": "&gt;", '"': "&quot;" }[letter]));
  function heatmap(c, matrix, names, { high, short = null, toolTip }) {
    const cells = matrix.flatMap((row, y) => row.map((value, x) => [x, y, value])).filter((cell) => cell[2] !== null);
    const label = { fontSize: 10, interval: 0, formatter: short || ((name) => name) };
    return base(c, {
      legend: { show: false }, grid: { left: 8, right: 8, top: 8, bottom: 8, containLabel: true },
      tooltip: { ...base(c).tooltip, formatter: ({ value }) => toolTip(value[0], value[1], value[2]) },
      xAxis: axis(c, { type: "category", data: names.x, splitLine: { show: false }, axisTick: { show: false }, axisLabel: { ...label, rotate: short ? 60 : 0 } }),
      yAxis: axis(c, { type: "category", data: names.y, inverse: true, splitLine: { show: false }, axisTick: { show: false }, axisLabel: label }),
      visualMap: { show: false, min: 0, max: high, inRange: { color: root.dataset.theme === "dark" ? ["#1a202b", "#274b8f", "#6ea2ff", "#e9f1ff"] : ["#ffffff", "#c9dcfb", "#5b8fe8", "#173f8f"] } },
      series: [{ type: "heatmap", data: cells, itemStyle: { borderColor: c.line, borderWidth: 0.5 } }],
    });
  }
  function draw() {
    const c = colours();
    for (const [holder, option] of charts) {
      const old = echarts.getInstanceByDom(holder);
      if (old) old.dispose();
      echarts.init(holder, null, { renderer: "svg" }).setOption(option(c));
    }
  }

  // ---- theme ----
  const wished = window.matchMedia("(prefers-color-scheme: dark)");
  root.dataset.theme = wished.matches ? "dark" : "light";
  const themeButton = element("button", { id: "theme", onclick: () => { setTheme(root.dataset.theme === "dark" ? "light" : "dark"); } });
  function setTheme(theme) {
    root.dataset.theme = theme;
    themeButton.textContent = theme === "dark" ? "Light" : "Dark";
    themeButton.setAttribute("aria-label", `Switch to the ${theme === "dark" ? "light" : "dark"} theme`);
    draw();
  }
  wished.addEventListener("change", () => setTheme(wished.matches ? "dark" : "light"));
  let theme = null;
  window.addEventListener("beforeprint", () => { theme = root.dataset.theme; setTheme("light"); });
  window.addEventListener("afterprint", () => setTheme(theme));
  let resizing = 0;
  window.addEventListener("resize", () => {
    clearTimeout(resizing);
    resizing = setTimeout(() => charts.forEach(([holder]) => echarts.getInstanceByDom(holder)?.resize()), 100);
  });

  // ---- the parts of a run ----
  function ofRun() {
    const { training, quality, split } = data;
    const models = Object.keys(quality.figures);
    const [mine, floor] = [quality.figures[models[0]], quality.figures.poprec];
    const leading = ["ndcg@10", "hr@10", "auc", "gauc"].filter((name) => mine[name]);
    const tiles = leading.slice(0, 2).map((name) => {
      const half = (mine[name][2] - mine[name][1]) / 2;
      const times = floor && floor[name] && floor[name][0] > 0 && models[0] !== "poprec" ? `${number(mine[name][0] / floor[name][0], 1)} × popularity` : "";
      return tile(`${name.toUpperCase()} (${split})`, figure(mine[name][0]), `± ${figure(half)}${times ? `, ${times}` : ""}`);
    });
    const best = training.metrics.best;
    tiles.push(tile("Best epoch", best ? `${best.epoch} of ${training.metrics.epochs}` : "-", `${duration(training.metrics.seconds)} in all`));
    tiles.push(tile("Parameters", number(training.metrics.parameters), `best model ${bytes(training.sizes["best model, bytes"])}`));
    tiles.push(tile("Held-out events", number(quality.targets), `of ${number(data.dataset.analysis.sizes.items)} items`));
    main.append(element("div", { class: "tiles" }, ...tiles));

    const changed = Object.entries(training.changed);
    const copy = element("button", { onclick: () => navigator.clipboard?.writeText(training.command).then(() => { copy.textContent = "Copied"; }) }, "Copy");
    section("what", "What was trained", `${training.model} on ${training.dataset}. This command repeats it:`,
      element("pre", {}, training.command), copy,
      element("div", { class: "pair" },
        element("div", {}, element("h3", {}, "Options that are not the defaults"),
          changed.length ? table(["option", "value"], changed.map(([name, value]) => [name, String(value)])) : element("p", { class: "empty" }, "None: all options are the defaults.")),
        element("div", {}, element("h3", {}, "Made with"),
          table(["", ""], [["dataset fingerprint", data.dataset.fingerprint.slice(0, 16)], ...Object.entries(training.versions)]))));

    const atTen = Object.keys(mine).filter((name) => /^(hr|ndcg|mrr)@10$/.test(name) || /^(auc|gauc)$/.test(name));
    const byName = (name) => name.replace(/@.*/, "");
    const inOrder = [...new Set(Object.keys(mine).map(byName))];
    const figures = Object.keys(mine).sort((a, b) => inOrder.indexOf(byName(a)) - inOrder.indexOf(byName(b))); // stable: cut-offs ascend
    section("quality", "Figures", `${number(quality.targets)} events of the split ${split}, protocol ${data.protocol}; 95 % intervals of a bootstrap of users.` +
      (quality.impossible ? ` ${number(quality.impossible)} targets repeat an item of their history and count as misses.` : ""),
      chart(`Figures of ${models.join(", ")}`, (c) => bars(c, atTen.map((name) => name.toUpperCase()), Object.fromEntries(models.map((name) => [name, atTen.map((f) => quality.figures[name][f] || null)])))),
      table(["", ...models], figures.map((name) => [name, ...models.map((model) => withInterval(quality.figures[model][name]))])));

    if (training.epochs.length > 1) curves(training);
    if (data.segments && data.segments.length) segments(models);
    if (data.attention) attention();
    if (data.map) itemMap();
    if (data.examples && data.examples.length) examples();
  }

  function curves({ epochs, metrics }) {
    const names = [...new Set(epochs.flatMap((epoch) => Object.keys(epoch)))].filter((name) => name.startsWith("val_"));
    const line = (name, place) => ({
      name: name.replace("val_", "validation "), type: "line", showSymbol: epochs.length < 60, symbolSize: 5, connectNulls: true, itemStyle: { color: null },
      data: epochs.map((epoch) => [epoch.epoch, epoch[name] ?? null]),
      ...(place === 0 && metrics.best ? { markLine: { silent: true, symbol: "none", label: { formatter: "best", color: "inherit" }, data: [{ xAxis: metrics.best.epoch }] } } : {}),
    });
    const option = (series) => (c) => base(c, {
      tooltip: { ...base(c).tooltip, trigger: "axis", valueFormatter: (value) => figure(value) },
      grid: { ...base(c).grid, bottom: 22 },
      xAxis: axis(c, { type: "value", minInterval: 1, min: epochs[0].epoch, max: epochs[epochs.length - 1].epoch, name: "epoch", nameLocation: "middle", nameGap: 26, splitLine: { show: false } }),
      yAxis: axis(c, { type: "value", scale: true }),
      series: series.map((one, order) => ({ ...one, itemStyle: { color: c.palette[order] }, lineStyle: { color: c.palette[order], width: 2 } })),
    });
    const charted = [chart("Training loss by epoch", option([line("loss", 0)]))];
    if (names.length) charted.push(chart("Validation figures by epoch", option(names.map(line))));
    const rates = epochs.filter((epoch) => epoch.training_seconds);
    section("curves", "Learning curves", "The loss on training sequences, and the figures on validation events; the line marks the epoch whose model was kept.",
      element("div", { class: "pair" }, ...charted),
      rates.length ? element("p", {}, `An epoch took ${duration(rates.reduce((sum, epoch) => sum + epoch.training_seconds, 0) / rates.length)} of training on average, and ${duration(metrics.seconds)} passed in all; ` +
        `the figures of this page took ${duration(data.seconds_of_evaluation)}.` + (metrics.peak_memory_bytes ? ` Memory was ${number(metrics.peak_memory_bytes / 1e9, 1)} GB at most.` : "")) : null);
  }

  function segments(models) {
    const panels = data.segments.map(({ by, names, counts, figures }) =>
      element("div", {}, element("h3", {}, `By ${by}`),
        chart(`NDCG@10 by ${by}`, (c) => bars(c, names.map((name, place) => `${name} (${number(counts[place])})`), figures, { lying: true, note: () => "events" }),
          "", 80 + names.length * (16 + 12 * models.length))));
    section("segments", "For whom it is good", "NDCG@10 in segments of the held-out events, with the number of events in brackets and 95 % intervals. Head, middle and tail are items that make a third of the training events each.",
      element("div", { class: "pair" }, ...panels));
  }

  function attention() {
    const { mean, one } = data.attention;
    const ages = mean[0][0].map((_, place) => String(place + 1));
    const grid = (layers, names, toolTip, short) => {
      const high = Math.max(...layers.flat(3).filter((value) => value !== null));
      return element("div", { class: "pair" }, ...layers.flatMap((heads, layer) => heads.map((matrix, head) =>
        element("div", {}, element("h3", {}, `Block ${layer + 1}${heads.length > 1 ? `, head ${head + 1}` : ""}`),
          chart(`Attention of block ${layer + 1}, head ${head + 1}`, (c) => heatmap(c, matrix, names, { high, toolTip, short }), "heat")))));
    };
    const cut = (name) => (name.length > 14 ? `${name.slice(0, 13)}…` : name);
    section("attention", "What attends to what", "How much of each event (column) goes into the state of another (row), averaged over histories, as in Figure 4 of the SASRec paper. 1 is the newest event.",
      grid(mean, { x: ages, y: ages }, (x, y, value) => `event ${y + 1} takes ${percent(value)} of event ${x + 1} (1 is the newest)`, null),
      ...(one ? [element("h3", {}, "One history, by names"), element("p", {}, "The newest event is the last row."),
        grid(one.layers, { x: one.names, y: one.names }, (x, y, value) => `<b>${escaped(one.names[y])}</b> takes ${percent(value)} of <b>${escaped(one.names[x])}</b>`, cut)] : []));
  }

  function itemMap() {
    const { points, groups, by, explained, of } = data.map;
    const most = Math.max(...points.map((point) => point[4]), 1);
    section("map", "A map of the items", `The ${number(points.length)} most popular of ${number(of)} items, where the first two principal components (PCA) of the model's item vectors put them; they hold ${percent(explained)} of the variance. Colours: ${by}. Scroll or pinch to zoom, drag to move, point to read names.`,
      chart("Map of the items", (c) => base(c, {
        tooltip: { ...base(c).tooltip, formatter: ({ data: point }) => `<b>${escaped(point[2])}</b><br>${escaped(point[3])}<br>${number(point[4])} training events` },
        xAxis: axis(c, { type: "value", scale: true, axisLabel: { show: false }, axisTick: { show: false } }),
        yAxis: axis(c, { type: "value", scale: true, axisLabel: { show: false }, axisTick: { show: false } }),
        dataZoom: [{ type: "inside", xAxisIndex: 0 }, { type: "inside", yAxisIndex: 0 }],
        series: groups.map((group, order) => ({
          name: group, type: "scatter", itemStyle: { color: c.palette[order % c.palette.length], opacity: 0.75 },
          symbolSize: (point) => 4 + 10 * Math.sqrt(point[4] / most), data: points.filter((point) => point[3] === group),
        })),
      }), "tall"));
  }

  function itemLine(card, rank = null, came = false) {
    return element("li", { class: `item${came ? " came" : ""}`, title: `${card.id}: ${number(card.events)} training events` },
      rank === null ? null : element("span", { class: "rank" }, String(rank)),
      card.picture ? element("img", { src: card.picture, alt: "" }) : null,
      element("span", { class: "name" }, card.name), card.group ? element("span", { class: "group" }, card.group) : null);
  }
  function examples() {
    const shown = data.examples.map((example) => {
      const left = example.events - example.history.length;
      return element("div", { class: "example" },
        element("h3", {}, example.kind),
        element("div", {}, element("h4", {}, left > 0 ? `History, the newest last (${number(left)} older events not shown)` : "History, the newest last"),
          element("ol", {}, ...example.history.map((card) => itemLine(card))),
          element("h4", {}, `What came next${example.rank ? `: rank ${example.rank}` : ": not among the first twenty"}`),
          element("ul", {}, itemLine(example.came, null, true))),
        element("div", {}, element("h4", {}, "Recommended"),
          element("ol", {}, ...example.recommended.map((card, place) => itemLine(card, place + 1, card.id === example.came.id)))));
    });
    section("examples", "Examples", "Histories of the held-out events, chosen to be telling: hits, the rarest items first; near misses; surprises; new items.", ...shown);
  }

  // ---- a search ----
  function ofSearch() {
    const { trials, importances, command } = data;
    const options = Object.keys(trials[0].options);
    const best = trials.find((trial) => trial.state === "complete");
    const count = (state) => trials.filter((trial) => trial.state === state).length;
    main.append(element("div", { class: "tiles" },
      tile("Best validation figure", figure(best.figure), best.name), tile("Trials", number(trials.length), `${count("complete")} complete, ${count("stopped")} stopped early`),
      tile("Training in all", duration(trials.reduce((sum, trial) => sum + trial.seconds, 0)))));
    section("what", "The best configuration", "This command trains it:", element("pre", {}, command));
    if (Object.keys(importances).length) {
      const names = Object.keys(importances);
      section("importance", "What matters", "How much of the differences between the trials each option explains (fANOVA).",
        chart("Importance of the options", (c) => base(c, {
          legend: { show: false }, grid: { ...base(c).grid, left: 26, top: 8 }, tooltip: { ...base(c).tooltip, valueFormatter: percent },
          xAxis: axis(c, { type: "value" }), yAxis: axis(c, { type: "category", data: names, inverse: true, axisTick: { show: false } }),
          series: [{ type: "bar", barMaxWidth: 26, itemStyle: { color: c.palette[0], borderRadius: [0, 3, 3, 0] }, data: names.map((name) => importances[name]) }],
        }), "", 60 + 36 * names.length));
    }
    const found = trials.filter((trial) => trial.figure !== null);
    const panels = options.map((option) => {
      const values = found.map((trial) => trial.options[option]);
      const isNumber = values.every((value) => typeof value === "number");
      const isWide = isNumber && Math.min(...values) > 0 && Math.max(...values) / Math.min(...values) > 20;
      return element("div", {}, element("h3", {}, option), chart(`Validation figure by ${option}`, (c) => base(c, {
        tooltip: { ...base(c).tooltip, formatter: ({ data: point }) => `${escaped(String(point[2]))}<br>${escaped(option)} = ${escaped(String(point[0]))}<br>${figure(point[1])}` },
        xAxis: axis(c, { type: isNumber ? (isWide ? "log" : "value") : "category", scale: true }), yAxis: axis(c, { type: "value", scale: true }),
        series: ["complete", "stopped"].map((state) => ({
          name: state, type: "scatter", symbolSize: 9, itemStyle: { opacity: 0.8 },
          data: found.filter((trial) => trial.state === state).map((trial) => [isNumber ? trial.options[option] : String(trial.options[option]), trial.figure, trial.name]),
        })),
      })));
    });
    section("options", "The figure by each option", "A point is a trial.", element("div", { class: "pair" }, ...panels));
    section("trials", "All trials", "The best first.",
      table(["trial", "figure", "epochs", "state", ...options], trials.map((trial) => [trial.name, trial.figure === null ? "-" : figure(trial.figure), number(trial.epochs), trial.state,
        ...options.map((option) => (typeof trial.options[option] === "number" ? String(Number(trial.options[option].toPrecision(4))) : String(trial.options[option])))])));
  }

  // ---- the dataset ----
  function ofDataset() {
    const dataset = data.dataset;
    const { sizes, lengths, popularity, audits, order } = dataset.analysis;
    if (data.kind === "dataset") {
      main.append(element("div", { class: "tiles" },
        tile("Training sequences", number(sizes.sequences)), tile("Items", number(sizes.items)), tile("Training events", number(sizes.events), `density ${percent(sizes.density)}`),
        tile("Events a sequence", number(lengths.mean, 1), lengths.p50 ? `median ${number(lengths.p50)}` : ""), tile("Gini of popularity", number(popularity.gini, 2), `the top 1 % of the items have ${percent(popularity["share_of_top_1%"])}`)));
    }
    const bar = (rows, color = 0) => (c) => base(c, {
      legend: { show: false }, grid: { ...base(c).grid, top: 16 }, tooltip: { ...base(c).tooltip, trigger: "axis", axisPointer: { type: "shadow" } },
      xAxis: axis(c, { type: "category", data: rows.map((row) => row[0]), axisTick: { show: false } }), yAxis: axis(c, { type: "value" }),
      series: [{ type: "bar", data: rows.map((row) => row[1]), barCategoryGap: "12%", itemStyle: { color: c.palette[color] } }],
    });
    const day = (seconds) => new Date(1000 * seconds).toISOString().slice(0, 10);
    const panels = [
      element("div", {}, element("h3", {}, "Sequences by their length in events"), chart("Sequences by length", bar(dataset.lengths))),
      element("div", {}, element("h3", {}, "Training events of each item, by its rank"), chart("Popularity of items", (c) => base(c, {
        legend: { show: false }, grid: { ...base(c).grid, top: 16 }, tooltip: { ...base(c).tooltip, trigger: "axis", formatter: ([found]) => `item of rank ${number(found.value[0])}: ${number(found.value[1])} events` },
        xAxis: axis(c, { type: "log" }), yAxis: axis(c, { type: "log" }),
        series: [{ type: "line", showSymbol: false, lineStyle: { color: c.palette[1], width: 2 }, areaStyle: { color: c.palette[1], opacity: 0.15 }, data: dataset.popularity }],
      }))),
    ];
    if (dataset.time) panels.push(element("div", {}, element("h3", {}, "Training events over time"), chart("Events over time", bar(dataset.time.map(([start, count]) => [day(start), count]), 2))));
    const orders = ["pairs", "triples"].filter((name) => order[name]).map((name) => [name, order[name].frequent, order[name].frequent_shuffled]);
    panels.push(element("div", {}, element("h3", {}, "Frequent neighbours, in true and in shuffled order"), chart("Frequent neighbours", (c) => base(c, {
      tooltip: { ...base(c).tooltip, trigger: "axis", axisPointer: { type: "shadow" } },
      xAxis: axis(c, { type: "category", data: orders.map((row) => row[0]), axisTick: { show: false } }), yAxis: axis(c, { type: "value" }),
      series: [["true order", 1], ["shuffled", 2]].map(([name, column]) => ({ name, type: "bar", barMaxWidth: 48, data: orders.map((row) => Math.round(row[column])) })),
    })), element("p", {}, `Pairs and triples of neighbours that ${number(order.min_support)} sequences or more have. Where shuffling leaves most of them, the order says little.`)));

    const facts = [
      ["training sequences", number(sizes.sequences)], ["items", number(sizes.items)], ["training events", number(sizes.events)], ["density", percent(sizes.density)],
      ...Object.entries(lengths).map(([name, value]) => [`length, ${name}`, number(value, name === "mean" ? 1 : 0)]),
      ["Gini of the items' events", number(popularity.gini, 2)], ["events of the top 1 % of the items", percent(popularity["share_of_top_1%"])], ["events of the top 10 %", percent(popularity["share_of_top_10%"])],
      ...(audits.ties ? [["events that share their time with a neighbour", number(audits.ties.events_sharing_a_time_with_a_neighbour)]] : []),
      ...(audits.repeats ? [["events of an item seen before in the sequence", number(audits.repeats.repeated_events)]] : []),
      ["items without training events", number(audits.items_without_training_events)],
      ...Object.entries(audits.targets_before_training_ends || {}).map(([name, share]) => [`${name} targets before training ends`, percent(share)]),
    ];
    const steps = dataset.steps.map((step) => [step.step, number(step.users ?? step.sequences), number(step.items), number(step.events)]);
    const rejected = dataset.rejected.map(([kind, reason, lines]) => [reason, kind, number(lines)]);
    section("dataset", data.kind === "dataset" ? "What is in it" : "The dataset", dataset.path,
      element("div", { class: "pair" }, ...panels),
      element("div", { class: "pair" },
        element("div", {}, element("h3", {}, "Figures"), table(["", ""], facts)),
        element("div", {}, element("h3", {}, "What is left after each step"), table(["step", "users", "items", "events"], steps),
          element("h3", {}, "Rejected lines"), rejected.length ? table(["reason", "file", "lines"], rejected, [0, 1]) : element("p", { class: "empty" }, "None."))));
  }

  const about = { run: () => `${data.training.model}, trained on ${data.training.dataset}`, dataset: () => "a dataset for sequential recommendation", search: () => "a search for the best configuration" }[data.kind]();
  document.getElementById("header").append(element("div", {}, element("h1", {}, data.title), element("p", {}, about)), themeButton);
  if (data.kind === "run") ofRun();
  if (data.kind === "search") ofSearch();
  else ofDataset();
  document.getElementById("footer").append(element("p", {}, `Made by seqrec_tf. Charts: Apache ECharts (Apache License 2.0).`));
  setTheme(root.dataset.theme);
})();
