// Draws the matrix and answers questions about its cells. Everything that comes from manifests goes into the page as
// text, never as markup.
"use strict";
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const $ = (id) => document.getElementById(id);
  /** Of each mark, by number: allowed, denied, and three ways of both. */
  const LOOKS = ["reach", "deny", "part", "part", "part"];
  const [ALLOWED, DENIED] = [0, 1];

  /** An element: `make("td.first", {title: "…"}, child, "text")`. */
  function make(kind, attributes = {}, ...children) {
    const [tag, ...classes] = kind.split(".");
    const element = document.createElement(tag);
    if (classes.length) element.className = classes.join(" ");
    for (const [name, value] of Object.entries(attributes)) {
      if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
      else if (value !== undefined && value !== false) element.setAttribute(name, value === true ? "" : value);
    }
    element.append(...children.filter((child) => child !== undefined && child !== null));
    return element;
  }

  const plural = (count, what) => `${count} ${what}${count === 1 ? "" : "s"}`;
  const seconds = (ms) => `${(ms / 1000).toFixed(2)} s`;
  const swatch = (mark, extra = {}) => make(`span.mark.${LOOKS[mark]}`, extra, data.marks[mark]);
  const unique = (list) => [...new Set(list)];

  // ---- What is known -------------------------------------------------------------------------------------------------

  const namespaces = unique(data.pods.map((pod) => pod.namespace));
  const podsByEnd = new Map(data.pods.map((pod) => [`${pod.namespace}/${pod.name}`, pod]));
  const probes = data.probes.map(([from, to, ip, cause, miss]) => ({
    from: data.ends[from], to: data.ends[to], ip: data.ips[ip], allowed: data.causes[cause].allowed, cause, miss,
  }));
  const labels = (pod) => Object.entries(pod.labels).map(([key, value]) => `${key}=${value}`);

  /** Without the namespace where there is only one. */
  function fullName(party) {
    return party.namespace === null || namespaces.length === 1 ? party.name : `${party.namespace}/${party.name}`;
  }
  const zoneOf = (party) => party.namespace ?? "nodes and outside";

  for (const view of data.views) {
    view.at = new Map();
    for (const [row, column, mark, indices] of view.cells) {
      view.at.set(row * view.columns.length + column, { row, column, mark, probes: indices.map((index) => probes[index]) });
    }
    const words = (parts) => parts.filter(Boolean).join(" ").toLowerCase();
    const seen = (cells, end) =>
      unique(cells.flatMap((cell) => cell.probes.map((probe) => probe[end])))
        .flatMap((end) => [end, ...(podsByEnd.has(end) ? labels(podsByEnd.get(end)) : [])]);
    const all = [...view.at.values()];
    view.rows.forEach((row, index) => {
      row.text = words([fullName(row), zoneOf(row), ...seen(all.filter((cell) => cell.row === index), "from")]);
    });
    view.columns.forEach((column, index) => {
      const cells = all.filter((cell) => cell.column === index);
      column.text = words([fullName(column), zoneOf(column), `:${column.port}`, ...seen(cells, "to")]);
      const counts = [0, 0, 0, 0, 0];
      for (const cell of cells) counts[cell.mark] += 1;
      column.common = counts.indexOf(Math.max(...counts));
    });
  }

  /** `chosen` is the cell whose cause is shown; `causes` are those whose cells alone stand out. */
  const state = { view: data.views[0], chosen: null, causes: null };

  // ---- The head ------------------------------------------------------------------------------------------------------

  $("subject").textContent = data.subject;
  const denied = probes.filter((probe) => !probe.allowed && probe.from !== probe.to).length;
  const counted = probes.filter((probe) => probe.from !== probe.to).length;
  const wrongs = data.differences?.length ?? 0;
  const facts = [
    [data.pods.length, data.pods.length === 1 ? "pod" : "pods"],
    [data.nodes.length, data.nodes.length === 1 ? "node" : "nodes"],
    [Object.keys(data.policies).length, Object.keys(data.policies).length === 1 ? "policy" : "policies"],
    [counted - denied, "probes passed"],
    [denied, "probes denied"],
    ...(data.differences === null ? [] : [[wrongs || "✓", wrongs ? "not as expected" : "as expected"]]),
  ];
  $("facts").append(...facts.map(([count, what]) => make("li", {}, make("b", {}, String(count)), what)));
  $("foot").textContent =
    `Measured by weir sandbox ${data.version}: up in ${seconds(data.timings.up_ms)}, ` +
    `${plural(probes.length + data.services.length, "probe")} in ${seconds(data.timings.probe_ms)}. ` +
    "Every verdict is what became of a real connection, and every cause is what the kernel said; " +
    "only the nearest miss is read from the policies.";

  // ---- The matrix ----------------------------------------------------------------------------------------------------

  const grid = $("grid");
  /** Of the table as it stands: visible rows and columns, and each td by row and column. */
  let drawn = { rows: [], columns: [], cells: new Map(), heads: new Map() };

  function selection() {
    const view = state.view;
    const terms = (id) => $(id).value.toLowerCase().split(/\s+/).filter(Boolean);
    const matches = (party, wanted) => wanted.every((term) => party.text.includes(term));
    const [from, to] = [terms("from"), terms("to")];
    let rows = view.rows.map((_, index) => index).filter((index) => matches(view.rows[index], from));
    let columns = view.columns.map((_, index) => index).filter((index) => matches(view.columns[index], to));
    if ($("differing").checked) {
      const differs = (row, column) => {
        const cell = view.at.get(row * view.columns.length + column);
        return cell !== undefined && cell.mark !== view.columns[column].common;
      };
      const kept = rows.filter((row) => columns.some((column) => differs(row, column)));
      columns = columns.filter((column) => rows.some((row) => differs(row, column)));
      rows = kept;
    }
    return { rows, columns };
  }

  /** Differences from what was expected, by whom they speak of. */
  const unexpected = new Map((data.differences ?? []).map((difference) => [difference.what, difference]));
  const plainName = (party) => (party.namespace === null ? party.name : `${party.namespace}/${party.name}`);
  const difference = ({ row, column }) => {
    const [from, to] = [state.view.rows[row], state.view.columns[column]];
    const port = to.port.includes("/") ? to.port : `${to.port}/TCP`;
    return unexpected.get(`${plainName(from)} → ${plainName(to)}:${port}`);
  };

  /** Neighbours of the same namespace: `[[zone, [index…]]…]`. */
  function zones(indices, parties) {
    const found = [];
    for (const index of indices) {
      const zone = zoneOf(parties[index]);
      if (found.at(-1)?.[0] === zone) found.at(-1)[1].push(index);
      else found.push([zone, [index]]);
    }
    return found;
  }

  function draw() {
    const view = state.view;
    const { rows, columns } = selection();
    drawn = { rows, columns, cells: new Map(), heads: new Map() };
    const columnZones = zones(columns, view.columns);
    const first = new Set(columnZones.map(([, indices]) => indices[0]));
    const border = (column) => (first.has(column) ? ".first" : "");

    const top = make("tr.zones", {}, make("th.corner", { rowspan: 2, scope: "col" }, "from ↓  to →"));
    for (const [zone, indices] of columnZones) {
      top.append(make("th.zone", { colspan: indices.length, scope: "colgroup" }, make("span", {}, zone)));
    }
    const heads = make("tr.heads");
    for (const column of columns) {
      const { name, port } = view.columns[column];
      const title = `${fullName(view.columns[column])}:${port}`;
      const head = make(`th.end${border(column)}`, { scope: "col", title },
        make("span", {}, name, make("span.port", {}, `:${port}`)));
      drawn.heads.set(`c${column}`, head);
      heads.append(head);
    }

    const bodies = zones(rows, view.rows).map(([zone, indices]) => {
      const body = make("tbody", {}, make("tr", {},
        make("th.rowzone", { scope: "rowgroup" }, zone),
        ...columnZones.map(([, group]) => make("td.fill.first", { colspan: group.length }))));
      for (const row of indices) body.append(drawRow(view, row, columns, border));
      return body;
    });
    grid.replaceChildren(make("thead", {}, top, heads), ...bodies);

    const empty = rows.length === 0 || columns.length === 0;
    grid.hidden = empty;
    $("nothing").hidden = !empty;
    const all = [view.rows.length, view.columns.length];
    $("shown").textContent = rows.length === all[0] && columns.length === all[1]
      ? `${all[0]} × ${all[1]}`
      : `${rows.length} of ${all[0]} × ${columns.length} of ${all[1]}`;
    const start = drawn.cells.get(key(state.chosen)) ?? drawn.cells.values().next().value;
    if (start) start.tabIndex = 0;
    grid.style.setProperty("--head", `${grid.tHead.offsetHeight}px`);
    mark();
  }

  function drawRow(view, row, columns, border) {
    const party = view.rows[row];
    const head = make("th", { scope: "row", title: fullName(party) }, party.name,
      party.size > 1 ? make("span.times", {}, ` ×${party.size}`) : undefined);
    drawn.heads.set(`r${row}`, head);
    const line = make("tr", {}, head);
    for (const column of columns) {
      const cell = view.at.get(row * view.columns.length + column);
      if (cell === undefined) {
        line.append(make(`td${border(column)}`, {}, make("span.mark.none", { "aria-label": "not probed" }, "·")));
        continue;
      }
      const to = view.columns[column];
      const common = $("differing").checked && cell.mark === to.common;
      const wrong = difference(cell) !== undefined;
      const field = make(`td${border(column)}${common ? ".common" : ""}${wrong ? ".wrong" : ""}`, {
        tabindex: -1,
        "aria-label": `${wrong ? "not as expected, " : ""}${data.meanings[cell.mark]}: ${fullName(party)} to ${fullName(to)} port ${to.port}`,
        "aria-selected": "false",
      }, swatch(cell.mark, { "aria-hidden": "true" }));
      field.cell = cell;
      drawn.cells.set(key(cell), field);
      line.append(field);
    }
    return line;
  }

  const key = (cell) => (cell ? `${cell.row} ${cell.column}` : "");

  /** Shows in the drawn table what is chosen, without drawing it anew. */
  function mark() {
    for (const field of drawn.cells.values()) {
      field.setAttribute("aria-selected", String(field.cell === state.chosen));
      field.classList.toggle("picked",
        state.causes !== null && field.cell.probes.some((probe) => state.causes.has(probe.cause)));
    }
    grid.classList.toggle("dimmed", state.causes !== null);
    for (const button of document.querySelectorAll("#causes button, #why button.linklike")) {
      button.setAttribute("aria-pressed", String(button.causes === state.causes));
    }
    for (const head of drawn.heads.values()) head.classList.remove("lit");
    if (state.chosen) light(state.chosen);
  }

  function light(cell) {
    drawn.heads.get(`r${cell.row}`)?.classList.add("lit");
    drawn.heads.get(`c${cell.column}`)?.classList.add("lit");
  }

  grid.addEventListener("click", (event) => {
    const field = event.target.closest("td[tabindex]");
    if (field) choose(field.cell);
  });
  grid.addEventListener("mouseover", (event) => {
    const field = event.target.closest("td[tabindex]");
    for (const head of drawn.heads.values()) head.classList.remove("lit");
    const cell = field?.cell ?? state.chosen;
    if (cell) light(cell);
  });
  grid.addEventListener("mouseleave", mark);
  grid.addEventListener("keydown", (event) => {
    const cell = event.target.cell;
    if (!cell || event.altKey || event.metaKey) return;
    if (event.key === "Enter" || event.key === " ") {
      choose(cell);
      $("why").focus();
    } else {
      const target = neighbour(cell, event.key, event.ctrlKey);
      if (!target) return;
      focusCell(target);
    }
    event.preventDefault();
  });

  /** The next cell that was probed in the direction of the key. */
  function neighbour(cell, pressed, far) {
    const { rows, columns, cells } = drawn;
    let [row, column] = [rows.indexOf(cell.row), columns.indexOf(cell.column)];
    const at = (row, column) => cells.get(`${rows[row]} ${columns[column]}`);
    const steps = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] };
    if (pressed in steps) {
      const [down, right] = steps[pressed];
      do [row, column] = [row + down, column + right];
      while (row in rows && column in columns && !at(row, column));
      return at(row, column);
    }
    if (pressed !== "Home" && pressed !== "End") return undefined;
    const fields = [...cells.values()];
    const line = far ? fields : fields.filter((field) => field.cell.row === cell.row);
    return pressed === "Home" ? line[0] : line.at(-1);
  }

  function focusCell(field) {
    for (const other of grid.querySelectorAll('td[tabindex="0"]')) other.tabIndex = -1;
    field.tabIndex = 0;
    field.focus();
    field.scrollIntoView({ block: "nearest", inline: "nearest" });
  }

  // ---- The cause -----------------------------------------------------------------------------------------------------

  const why = $("why");
  const denialList = denials();

  function choose(cell) {
    state.chosen = cell;
    state.causes = null;
    const field = drawn.cells.get(key(cell));
    if (field) {
      for (const other of grid.querySelectorAll('td[tabindex="0"]')) other.tabIndex = -1;
      field.tabIndex = 0;
    }
    mark();
    explain(cell);
    history.replaceState(null, "", `#${encodeURIComponent(address(cell))}`);
  }

  function close() {
    const field = drawn.cells.get(key(state.chosen));
    state.chosen = null;
    state.causes = null;
    mark();
    overview();
    history.replaceState(null, "", "#");
    field?.focus();
  }

  /** What a link to a cell says: `shop/web > shop/db:5432`. */
  function address(cell) {
    const [row, column] = [state.view.rows[cell.row], state.view.columns[cell.column]];
    return `${fullName(row)} > ${fullName(column)}:${column.port}`;
  }

  /** Nothing is chosen: how to use the page, and every cause. */
  function overview() {
    why.classList.remove("chosen");
    why.replaceChildren(
      make("h2", {}, "Why?"),
      make("p.hint", {}, "Click a cell to see what decided it, for each address family, and what would have let it through."),
      denied ? make("h3", {}, "Denials by cause: click to see where") : make("p", {}, "Nothing was denied."),
      causeTable(),
    );
    why.scrollTop = 0;
  }

  function explain(cell) {
    const [row, column] = [state.view.rows[cell.row], state.view.columns[cell.column]];
    const answers = new Map();
    for (const probe of cell.probes) {
      const alike = `${probe.cause} ${probe.miss}`;
      if (!answers.has(alike)) answers.set(alike, []);
      answers.get(alike).push(probe);
    }
    // What was denied is why people click.
    const sorted = [...answers.values()].sort(([a], [b]) => Number(a.allowed) - Number(b.allowed));
    why.classList.add("chosen");
    const wrong = difference(cell);
    why.replaceChildren(
      make("button.button.close", { type: "button", "aria-label": "Close", onclick: close }, "×"),
      make("h2", {}, fullName(row), make("span.arrow", {}, " → "), fullName(column)),
      make("p.sub", {}, `port ${column.port}${column.port.includes("/") ? "" : "/TCP"} · ${data.meanings[cell.mark]}`),
      ...(wrong ? [make("p.expected", {}, make("b", {}, "Not as expected"), `${wrong.words.split(": ")[0]} (${wrong.at})`)] : []),
      ...sorted.map(answer),
      make("h3", {}, "Who they are"),
      make("div.ends", {}, who(cell, "from"), who(cell, "to")),
    );
    why.scrollTop = 0;
  }

  /** Probes that went alike, for the same reason. */
  function answer(list) {
    const [cause, nearest] = [data.causes[list[0].cause], data.misses[list[0].miss]];
    const families = unique(list.map((probe) => (probe.ip.includes(":") ? "IPv6" : "IPv4"))).sort().join(" and ");
    const by = cause.by;
    const rows = [["Why", cause.why]];
    if (by?.direction) rows.push(["Direction", by.direction === "ingress" ? "into the destination (ingress)" : "out of the source (egress)"]);
    if (by?.policies.length) rows.push([by.policies.length === 1 ? "Policy" : "Policies", by.policies.join(", ")]);
    if (by?.rule) rows.push(["Rule", make("code", {}, by.rule)]);
    rows.push(["Kernel", by ? make("code", {}, by.reason) : "nothing was reported"]);
    const names = unique([...(by?.policies ?? []), ...(nearest ? [nearest.policy] : [])]);
    return make("section.answer", {},
      make("header", {}, swatch(cause.allowed ? ALLOWED : DENIED, { "aria-hidden": "true" }),
        make("b", {}, cause.allowed ? "Allowed" : "Denied"),
        make("span.sub", {}, `${families} · ${plural(list.length, "probe")}`)),
      make("div.body", {},
        nearest ? miss(nearest) : undefined,
        make("dl", {}, ...rows.flatMap(([term, value]) => [make("dt", {}, term), make("dd", {}, value)])),
        ...names.filter((name) => name in data.policies).map((name) =>
          policyText(name, data.policies[name])),
        make("details", {}, make("summary", {}, `Probes (${list.length})`), probeTable(list))));
  }

  const policyText = (name, { at, yaml }) => make("details", {},
    make("summary", {}, `Policy ${name}${at ? ` · ${at}` : ""}`), make("pre", { tabindex: 0 }, yaml));

  const miss = (nearest) => make("div.miss", {},
    make("b", {}, "Nearest miss"), nearest.sentence,
    make("div.sub", {}, `${nearest.rule} of ${nearest.policy}${nearest.at ? ` (${nearest.at})` : ""}`));

  function table(heads, rows) {
    return make("table.list", {},
      make("thead", {}, make("tr", {}, ...heads.map((head) => make("th", { scope: "col" }, head)))),
      make("tbody", {}, ...rows.map((row) => make("tr", {}, ...row.map((value) => make("td", {}, value))))));
  }

  const probeTable = (list) =>
    table(["from", "to", "address"], list.map((probe) => [probe.from, probe.to, make("code", {}, probe.ip)]));

  function who(cell, end) {
    const ends = unique(cell.probes.map((probe) => probe[end]));
    const pods = ends.map((name) => podsByEnd.get(name)).filter(Boolean);
    const box = make("div", {}, make("b", {}, end === "from" ? "From" : "To"));
    if (pods.length === 0) {
      box.append(make("p", {}, ends.join(", ")));
      return box;
    }
    const common = labels(pods[0]).filter((label) => pods.every((pod) => labels(pod).includes(label)));
    box.append(
      make("p", {}, unique(pods.map((pod) => pod.workload)).join(", ")),
      make("ul.labels", { "aria-label": "labels" }, ...common.map((label) => make("li.mono", {}, label))),
      make("details", {}, make("summary", {}, plural(pods.length, "pod")),
        ...pods.map((pod) => make("p", {}, make("b", {}, pod.name), ` on ${pod.node} `, make("code", {}, pod.ips.join(" "))))));
    return box;
  }

  /** The causes of denials that read alike, the most frequent first: `[[words, {count, causes}]…]`. */
  function denials() {
    const found = new Map();
    for (const probe of probes.filter((probe) => !probe.allowed && probe.from !== probe.to)) {
      const { words } = data.causes[probe.cause];
      if (!found.has(words)) found.set(words, { count: 0, causes: new Set() });
      found.get(words).count += 1;
      found.get(words).causes.add(probe.cause);
    }
    return [...found].sort(([, a], [, b]) => b.count - a.count);
  }

  const causeTable = () => make("table.list", {}, make("tbody", {}, ...denialList.map(([words, { count, causes }]) => {
    const button = make("button.linklike", { type: "button", "aria-pressed": "false", onclick: () => pick(causes) }, words);
    button.causes = causes;
    return make("tr", {}, make("td", {}, button), make("td.number", {}, plural(count, "probe")));
  })));

  /** Lets only the cells stand out that have one of these causes; once more, and all do again. */
  function pick(causes) {
    state.causes = state.causes === causes ? null : causes;
    mark();
  }

  // ---- Services and warnings -----------------------------------------------------------------------------------------

  function services() {
    const byService = new Map();
    for (const probe of data.services) {
      const name = `${fullName(probe)}:${probe.port}${probe.protocol === "TCP" ? "" : `/${probe.protocol}`}`;
      if (!byService.has(name)) byService.set(name, []);
      byService.get(name).push(probe);
    }
    const rows = [...byService].map(([name, list]) => {
      const answered = unique(list.filter((probe) => probe.verdict === "allowed").map((probe) => probe.from));
      const backends = unique(list.map((probe) => probe.backend).filter(Boolean)).sort();
      return [make("b", {}, name), make("code", {}, unique(list.map((probe) => probe.ip)).join(" ")), backends.join(", ") || "nobody",
        `${answered.length} of ${unique(list.map((probe) => probe.from)).length} pods`];
    });
    $("services").hidden = rows.length === 0;
    $("services").append(table(["Service", "addresses", "answered by", "reached by"], rows));
  }

  $("unexpected").hidden = wrongs === 0;
  if (wrongs) {
    $("unexpected").append(table(["who", "what", "where it is expected"],
      data.differences.map(({ what, words, at }) => [make("b", {}, what), words, make("code", {}, at)])));
  }
  $("causes").hidden = denialList.length === 0;
  $("causes").append(causeTable());
  $("warnings").hidden = data.warnings.length === 0;
  $("warnings").append(make("ul", {}, ...data.warnings.map((warning) => make("li", {}, warning))));
  services();

  /** About as many pixels as a landscape page is wide. */
  const PAPER = 1000;
  addEventListener("beforeprint", () => grid.style.setProperty("--fit", Math.min(1, PAPER / grid.offsetWidth)));

  // ---- Controls ------------------------------------------------------------------------------------------------------

  const used = unique(data.views[0].cells.map(([, , mark]) => mark)).sort();
  $("legend").append(
    ...used.map((mark) => make("li", {}, swatch(mark, { "aria-hidden": "true" }), data.meanings[mark])),
    make("li", {}, make("span.mark.none", { "aria-hidden": "true" }, "·"), "itself, or not probed"));

  if (data.views.length > 1) {
    for (const view of data.views) {
      const input = make("input", { type: "radio", name: "view", value: view.name, onchange: () => look(view) });
      input.checked = view === state.view;
      $("views").append(make("label", {}, input, make("span", {}, view.name === "pod" ? "Pods" : "Workloads")));
    }
  } else $("views").hidden = true;

  function look(view) {
    state.view = view;
    state.chosen = null;
    state.causes = null;
    overview();
    draw();
  }

  for (const id of ["from", "to", "differing"]) $(id).addEventListener("input", draw);
  $("tools").addEventListener("submit", (event) => event.preventDefault());
  $("clear").addEventListener("click", () => {
    $("tools").reset();
    for (const input of document.querySelectorAll('input[name="view"]')) input.checked = input.value === state.view.name;
    draw();
    $("from").focus();
  });
  document.addEventListener("keydown", (event) => {
    if (event.key === "Escape" && state.chosen) close();
    else if (event.key === "/" && !event.target.matches("input")) {
      event.preventDefault();
      $("from").focus();
    }
  });

  const preference = matchMedia("(prefers-color-scheme: dark)");
  const theme = $("theme");
  const isDark = () => (document.documentElement.dataset.theme ?? (preference.matches ? "dark" : "light")) === "dark";
  const showTheme = () => theme.setAttribute("aria-pressed", String(isDark()));
  theme.addEventListener("click", () => {
    document.documentElement.dataset.theme = isDark() ? "light" : "dark";
    showTheme();
  });
  preference.addEventListener("change", showTheme);
  showTheme();

  overview();
  draw();
  const linked = decodeURIComponent(location.hash.slice(1));
  for (const cell of linked ? state.view.at.values() : []) {
    if (address(cell) === linked) choose(cell);
  }
})();
