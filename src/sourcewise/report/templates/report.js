(() => {
  "use strict";
  const all = (selector, root = document) => [...root.querySelectorAll(selector)];
  const read = (id) => JSON.parse(document.getElementById(id).textContent);
  document.documentElement.classList.add("js");

  // Figures: each is what Python drew, plus a theme, an order of columns and the names that the reader searches for.
  const themes = read("themes");
  const dark = matchMedia("(prefers-color-scheme: dark)");
  let printing = false;
  let wanted = null; // null, or the set of lower-case names that are searched for
  const theme = () => themes[dark.matches && !printing ? "dark" : "light"];
  const found = (names) => (wanted ? names.flatMap((name, i) => (wanted.has(name.toLowerCase()) ? [i] : [])) : []);
  const pick = (list, order) => order.map((i) => list[i]);

  function heatmap({ data, layout }, colours, original) {
    const { meta } = layout;
    const order = original ? meta.original : meta.groups.map((_, i) => i);
    for (const trace of data) {
      trace.x = pick(trace.x, order);
      trace.z = trace.z.map((row) => pick(row, order));
      if (trace.customdata) trace.customdata = trace.customdata.map((row) => pick(row, order));
      trace.colorscale = trace.meta === "missing" ? [[0, colours.missing], [1, colours.missing]] : colours.scale;
      if (trace.colorbar) trace.colorbar.tickcolor = colours.soft;
    }
    const rectangle = (axis, other, i) => ({
      type: "rect", [`${axis}ref`]: axis, [`${axis}0`]: i - 0.5, [`${axis}1`]: i + 0.5,
      [`${other}ref`]: "paper", [`${other}0`]: 0, [`${other}1`]: 1, line: { color: colours.text, width: 1.75 },
    });
    const columns = found(pick(meta.groups, order)), rows = found(meta.classes);
    layout.shapes = columns.length + rows.length > 60 ? [] :
      [...columns.map((i) => rectangle("x", "y", i)), ...rows.map((i) => rectangle("y", "x", i))];
  }

  function bars({ data: [trace], layout }, colours) {
    const { meta } = layout;
    const total = meta.groups.length, hits = found(meta.groups);
    let shown = meta.groups.map((_, i) => i);
    if (total > 2 * meta.ends) {
      shown = hits.length ? hits.slice(0, 2 * meta.ends) : shown.filter((i) => i < meta.ends || i >= total - meta.ends);
    } else {
      layout.shapes = hits.map((i) => ({
        type: "rect", xref: "paper", x0: 0, x1: 1, yref: "y", y0: i - 0.5, y1: i + 0.5,
        layer: "below", fillcolor: colours.text, opacity: 0.09, line: { width: 0 },
      }));
    }
    trace.y = pick(meta.labels, shown);
    trace.x = pick(meta.influence, shown);
    trace.customdata = shown.map((i) => [meta.interval[i], meta.qvalue[i]]);
    trace.error_x.array = pick(meta.interval, shown);
    trace.error_x.color = colours.soft;
    trace.marker.color = trace.x.map((x) => (x >= 0 ? colours.helps : colours.hurts));
    trace.marker.opacity = shown.map((i) => (meta.qvalue[i] !== null && meta.qvalue[i] <= meta.fdr ? 1 : meta.muted));
    layout.height = 18 * Math.max(shown.length, 4) + 70;
  }

  function lines({ data }, colours) {
    const to = Object.fromEntries(Object.entries(themes.light).map(([name, colour]) => [colour, colours[name]]));
    for (const trace of data) {
      for (const part of [trace.line, trace.marker, trace.error_x, trace.error_y]) if (part?.color) part.color = to[part.color];
      if (trace.fillcolor) trace.fillcolor = to[trace.fillcolor];
    }
  }

  const kinds = { heatmap, bars, lines };
  const config = { responsive: true, displaylogo: false };
  const buttons = [["toImage"], ["zoom2d", "pan2d", "resetScale2d"]];
  const touch = matchMedia("(pointer: coarse)").matches;

  function draw(plot) {
    const figure = read(`${plot.id}-data`);
    const { layout } = figure;
    const colours = theme();
    layout.font.color = colours.text;
    layout.hoverlabel = { ...layout.hoverlabel, bgcolor: colours.surface, bordercolor: colours.soft, font: { ...layout.hoverlabel?.font, color: colours.text } };
    layout.modebar = { color: colours.grid, activecolor: colours.soft, bgcolor: "rgba(0,0,0,0)" };
    for (const axis of [layout.xaxis, layout.yaxis]) {
      Object.assign(axis ?? {}, { gridcolor: colours.grid, zerolinecolor: colours.soft, linecolor: colours.grid });
    }
    kinds[layout.meta?.kind]?.(figure, colours, plot.dataset.order === "original");
    if (touch) layout.dragmode = false;
    if (printing) Object.assign(layout, { width: 690, height: 0.78 * layout.height });
    plot.style.height = `${layout.height}px`;
    plot.dataset.drawn = "";
    const modeBarButtons = layout.dragmode === false ? buttons.slice(0, 1) : buttons;
    return Plotly.react(plot, figure.data, layout, { ...config, modeBarButtons });
  }
  // The first figure is drawn at once, the others one by one when the browser has nothing else to do.
  const idle = window.requestIdleCallback ?? setTimeout;
  function drawVisible() {
    const [plot] = all(".plot:not([data-drawn])").filter((plot) => !plot.closest("[hidden]"));
    if (plot) {
      draw(plot);
      idle(drawVisible);
    } else {
      document.documentElement.dataset.ready ??= Math.round(performance.now());
    }
  }
  const redraw = () => Promise.all(all(".plot[data-drawn]").map(draw));

  all(".choice input").forEach((input) => input.addEventListener("change", () => {
    const plot = document.getElementById(input.dataset.figure);
    plot.dataset.order = input.value;
    draw(plot);
  }));
  dark.addEventListener("change", redraw);

  // Targets as tabs; without script, and on paper, they follow one another.
  const tabs = all("[role=tab]");
  const panel = (tab) => document.getElementById(tab.getAttribute("aria-controls"));
  function select(chosen) {
    for (const tab of tabs) {
      tab.setAttribute("aria-selected", tab === chosen);
      tab.tabIndex = tab === chosen ? 0 : -1;
      panel(tab).hidden = tab !== chosen;
    }
    drawVisible();
  }
  tabs.forEach((tab, i) => {
    tab.addEventListener("click", () => select(tab));
    tab.addEventListener("keydown", (event) => {
      const to = { ArrowRight: i + 1, ArrowLeft: i - 1, Home: 0, End: -1 }[event.key];
      if (to === undefined) return;
      event.preventDefault();
      const next = tabs.at(to % tabs.length);
      next.focus();
      select(next);
    });
  });
  let chosen = null;
  let closed = [];
  addEventListener("beforeprint", () => {
    closed = all("details:not([open])");
    closed.forEach((details) => { details.open = true; });
    printing = true;
    chosen = tabs.find((tab) => tab.getAttribute("aria-selected") === "true");
    tabs.forEach((tab) => { panel(tab).hidden = false; });
    all(".plot").forEach(draw);
  });
  addEventListener("afterprint", () => {
    printing = false;
    closed.forEach((details) => { details.open = false; });
    if (chosen) select(chosen);
    redraw();
  });

  // Tables: long ones keep most of their rows as text, out of the page, until they are asked for.
  const tables = all("table[data-searchable]").map((table) => {
    const body = table.tBodies[0];
    const foot = document.querySelector(`.table-foot[data-table="${CSS.escape(table.id)}"]`);
    return {
      kind: table.dataset.searchable, total: Number(table.dataset.rows), body, few: [...body.rows], rest: table.querySelector("script"),
      foot, text: foot.querySelector("span"), button: foot.querySelector("button"), open: false,
    };
  });
  const count = (n) => n.toLocaleString("en");
  function rows(table) {
    if (!table.rows) {
      const template = document.createElement("template");
      template.innerHTML = table.rest?.textContent ?? "";
      table.rows = [...table.few, ...all("tr", template.content)];
    }
    return table.rows;
  }
  function show(table, hits) {
    const { body, few, total, text, button, foot, open } = table;
    const shown = hits ?? (open ? rows(table) : few);
    body.replaceChildren(...shown);
    text.textContent = `${count(shown.length)} of ${count(total)} rows ${hits ? "are about a match or name one" : "shown"}.`;
    button.textContent = open ? "Show fewer" : `Show all ${count(total)}`;
    button.hidden = Boolean(hits) || total === few.length;
    foot.hidden = button.hidden && !hits;
  }
  for (const table of tables) {
    if (table.rest) show(table);
    table.button.addEventListener("click", () => {
      table.open = !table.open;
      show(table);
    });
  }

  // Search: rows that are about a match, or name one, stay; figures mark it. A name typed in full means only itself.
  const search = document.getElementById("search");
  const status = document.getElementById("search-status");
  let index = null;
  const lower = (element) => element.textContent.toLowerCase();
  function readNames() {
    const names = { group: new Set(), class: new Set() };
    for (const table of tables) {
      table.entries = rows(table).map((row) => ({
        row,
        name: lower(row.querySelector("th")),
        effects: all(".effects .name", row).map((element) => ({ element, name: lower(element) })),
      }));
      table.entries.forEach(({ name }) => names[table.kind].add(name));
    }
    return names;
  }

  function find() {
    index ??= readNames();
    const query = search.value.trim().toLowerCase();
    const known = [...index.group, ...index.class];
    const exact = known.includes(query);
    wanted = query ? new Set(known.filter((name) => (exact ? name === query : name.includes(query)))) : null;
    for (const table of tables) {
      const hits = table.entries.filter(({ name, effects }) => {
        let hit = Boolean(wanted?.has(name));
        for (const effect of effects) {
          const named = Boolean(wanted?.has(effect.name));
          effect.element.classList.toggle("found", named);
          hit ||= named;
        }
        return hit;
      });
      show(table, wanted && hits.map(({ row }) => row));
    }
    const matching = (kind, one, many) => {
      const n = [...index[kind]].filter((name) => wanted?.has(name)).length;
      return n ? [`${count(n)} ${n === 1 ? one : many}`] : [];
    };
    const parts = [...matching("group", "group", "groups"), ...matching("class", "class", "classes")];
    status.textContent = wanted ? parts.join(", ") || "Nothing matches" : "";
    redraw();
  }
  let timer = 0;
  search.addEventListener("input", () => {
    clearTimeout(timer);
    timer = setTimeout(find, 120);
  });
  addEventListener("keydown", (event) => {
    if (event.key === "/" && !/^(INPUT|TEXTAREA)$/.test(document.activeElement.tagName)) {
      event.preventDefault();
      search.focus();
    } else if (event.key === "Escape" && document.activeElement === search) {
      search.value = "";
      find();
    }
  });

  all(".copy").forEach((button) => button.addEventListener("click", async () => {
    await navigator.clipboard.writeText(button.parentElement.querySelector("code").textContent);
    button.textContent = "Copied";
    setTimeout(() => { button.textContent = "Copy"; }, 1500);
  }));

  if (tabs.length) select(tabs[0]);
  else drawVisible();
})();
