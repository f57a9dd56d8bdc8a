"use strict";
// The two tables and the choice of a generation. Every text becomes a text node; no markup is ever made from a string.
(() => {
  const PAGE = 20;

  function el(tag, kind, ...children) {
    const node = document.createElement(tag);
    if (kind) node.className = kind;
    for (const child of children) if (child !== null && child !== undefined) node.append(child);
    return node;
  }

  function svg(tag, attributes, ...children) {
    const node = document.createElementNS("http://www.w3.org/2000/svg", tag);
    for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
    node.append(...children);
    return node;
  }

  const plain = (name) => name.replaceAll("red_team", "red-team").replaceAll("_", " ");
  const number = (value) => value.toLocaleString("en-US");
  const percent = (value) => `${Math.round(100 * value)}\u00a0%`;

  // segments are [-1 gone | 0 same | 1 new, text]; `without` leaves one side out
  function marked(segments, without) {
    const parts = document.createDocumentFragment();
    for (const [change, text] of segments) {
      if (change === without) continue;
      parts.append(change === 0 ? text : el(change < 0 ? "del" : "ins", "", text));
    }
    return parts;
  }

  const side = (segments, without) => segments.filter(([c]) => c !== without).map(([, t]) => t).join("");
  const said = (content) => el("p", "said", content);
  const titled = (title, ...nodes) => el("div", "", el("h4", "", title), ...nodes);
  const cutNote = (cut) => (cut ? " · cut off" : "");

  function dialogue(turns) {
    if (!turns.length) return said("(prompt not in this generation's list)");
    if (turns.length === 1) return said(turns[0][1]);
    return el("div", "", ...turns.map(([role, text]) => el("div", "turn", el("span", "chip", role), said(text))));
  }

  function promptCell(row, toggle) {
    const last = row.turns.length ? row.turns[row.turns.length - 1][1] : "(unknown prompt)";
    const chips = el("div", "chips");
    if (row.kind) chips.append(el("span", "chip kind", plain(row.kind)));
    if (row.category) chips.append(el("span", "chip", plain(row.category)));
    if (row.sample) chips.append(el("span", "chip", `sample ${row.sample + 1}`));
    if (row.dropped && row.dropped.length) chips.append(el("span", "chip warn", "left out"));
    const open = el("button", "open", el("span", "clamp", last));
    open.type = "button";
    open.setAttribute("aria-expanded", "false");
    open.addEventListener("click", (event) => { event.stopPropagation(); toggle(); });
    return [chips, open];
  }

  function winCell(value) {
    if (value === null || value === undefined) return el("span", "win none", "abstained");
    const tone = value > 0.5 ? "up" : value < 0.5 ? "down" : "even";
    const from = Math.min(0.5, value) * 100;
    return el("span", `win ${tone}`, value.toFixed(2), svg("svg", { viewBox: "0 0 100 6", "aria-hidden": "true", preserveAspectRatio: "none" },
      svg("rect", { class: "back", width: 100, height: 6 }), svg("rect", { x: from, width: Math.max(1.5, Math.abs(value - 0.5) * 100), height: 6 })));
  }

  const tables = {
    chains(data) {
      return {
        rows: data.chains,
        text: (row) => [...row.turns.map(([, t]) => t), row.draft, row.category, ...row.dropped,
          ...row.rounds.flatMap((r) => [r.principle, r.critique, side(r.changes, -1)])].join("\n"),
        shows: [
          ["All chains", () => true],
          ["Revised", (row) => row.rounds.some((r) => r.revised)],
          ["Not revised", (row) => !row.rounds.some((r) => r.revised)],
          ["Unchanged by revision", (row) => row.changed === 0],
          ["Something left out", (row) => row.dropped.length > 0],
        ],
        sorts: [["Most changed", (row) => -(row.changed ?? -1)], ["Least changed", (row) => row.changed ?? 2]],
        columns: [
          { name: "Prompt", cell: promptCell },
          { name: "Draft", cell: (row) => [el("div", "clamp", row.changes.length ? marked(row.changes, 1) : row.draft)] },
          { name: "Last revision", cell: (row) => [el("div", "clamp", row.changes.length ? marked(row.changes, -1) : "–")] },
          { name: "Changed", small: true, sort: "Most changed", cell: (row) => [row.changed === null ? "–" : percent(row.changed)] },
        ],
        detail: chainDetail,
      };
    },
    evals(data) {
      const measures = data.measures.length ? data.measures : [...new Set(data.evals.flatMap((r) => Object.keys(r.wins)))].map((name) => ({ name }));
      const scores = [...new Set(data.evals.flatMap((row) => Object.keys(row.scores)))];
      const won = (row, name) => row.wins[name] ?? null;
      return {
        rows: data.evals,
        text: (row) => [...row.turns.map(([, t]) => t), row.category, row.parent, row.candidate].join("\n"),
        shows: [
          ["All answers", () => true],
          ["Same answer from both", (row) => row.parent === row.candidate],
          ...measures.flatMap(({ name }) => [
            [`${plain(name)}: successor wins`, (row) => won(row, name) > 0.5],
            [`${plain(name)}: parent wins`, (row) => won(row, name) !== null && won(row, name) < 0.5],
            [`${plain(name)}: abstained`, (row) => won(row, name) === null],
          ]),
          ...scores.map((name) => [`${plain(name)}: the two differ`, (row) => row.scores[name] && row.scores[name][0] !== row.scores[name][1]]),
        ],
        sorts: measures.flatMap(({ name }) => [
          [`Best on ${plain(name)}`, (row) => -(won(row, name) ?? -1)],
          [`Worst on ${plain(name)}`, (row) => won(row, name) ?? 2],
        ]),
        columns: [
          { name: "Prompt", cell: promptCell },
          { name: "Parent's answer", cell: (row) => [el("div", "clamp", row.parent)] },
          { name: "Successor's answer", cell: (row) => [el("div", "clamp", row.candidate)] },
          ...measures.slice(0, 4).map(({ name, trained }) => ({
            name: plain(name) + (trained ? " *" : ""), small: true, sort: `Best on ${plain(name)}`, cell: (row) => [winCell(won(row, name))],
          })),
        ],
        note: measures.some((m) => m.trained) ? "* The successor was trained against this measure." : "",
        detail: (row) => evalDetail(row, measures),
      };
    },
  };

  function chainDetail(row) {
    const box = el("div", "", titled("Prompt", dialogue(row.turns)));
    for (const reason of row.dropped) box.append(el("p", "chip warn", `Left out: ${reason}`));
    if (!row.rounds.some((round) => round.revised)) box.append(titled(`Draft${cutNote(row.cut)}`, said(row.draft)));
    let before = `Draft${cutNote(row.cut)}`;
    row.rounds.forEach((round) => {
      const part = el("div", "round", round.critique
        ? titled(`Critique ${round.number} · ${round.principle}${cutNote(round.critiqueCut)}`, said(round.critique))
        : titled(`Revised at once · ${round.principle}`));
      if (round.revised) {
        const after = `Revision ${round.number}${cutNote(round.cut)}`;
        part.append(el("div", "both", titled(before, said(marked(round.changes, 1))), titled(after, said(marked(round.changes, -1)))));
        before = after;
      } else {
        part.append(el("p", "muted", "No revision followed."));
      }
      box.append(part);
    });
    return box;
  }

  function evalDetail(row, measures) {
    const facts = measures.map(({ name }) => {
      const value = row.wins[name];
      return `${plain(name)}: ${value === null || value === undefined ? "abstained" : value.toFixed(3)}`;
    });
    const scores = Object.entries(row.scores).map(([name, [candidate, parent]]) =>
      `${plain(name)}: parent ${Number(parent.toPrecision(4))}, successor ${Number(candidate.toPrecision(4))}`);
    return el("div", "", titled("Prompt", dialogue(row.turns)),
      el("div", "both", titled("Parent", said(row.parent)), titled("Successor", said(row.candidate))),
      titled("Probability that the successor's answer is better", said(facts.join("\n") || "–")),
      scores.length ? titled("Measures of the single answers", said(scores.join("\n"))) : null);
  }

  function choice(label, options, changed) {
    const select = el("select");
    select.setAttribute("aria-label", label);
    options.forEach(([name], index) => { const option = el("option", "", name); option.value = index; select.append(option); });
    select.addEventListener("change", changed);
    return select;
  }

  function distinct(rows, field, all) {
    const values = [...new Set(rows.map((row) => row[field]).filter(Boolean))].sort();
    return [[all, () => true], ...values.map((value) => [plain(value), (row) => row[field] === value])];
  }

  function browser(host, table) {
    const haystack = new Map();
    const kinds = distinct(table.rows, "kind", "All kinds");
    const categories = distinct(table.rows, "category", "All categories");
    const sorts = [["In order", null], ...table.sorts];
    let page = 0;
    let found = table.rows;
    const search = el("input");
    search.type = "search";
    search.placeholder = "Search the texts";
    search.setAttribute("aria-label", "Search the texts");
    const again = () => { page = 0; choose(); };
    const kind = choice("Kind of prompt", kinds, again);
    const category = choice("Category", categories, again);
    const show = choice("Which rows", table.shows, again);
    const order = choice("Order", sorts, again);
    const count = el("span", "count");
    count.setAttribute("role", "status");
    const tools = el("div", "tools", search, kinds.length > 2 ? kind : null, categories.length > 2 ? category : null, show, order, count);
    const head = el("tr");
    const body = el("tbody");
    const pager = el("div", "pager");
    table.columns.forEach((column) => {
      const cell = el("th", column.small ? "small" : "");
      cell.scope = "col";
      const at = sorts.findIndex(([name]) => name === column.sort);
      if (at > 0) {
        const button = el("button", "", column.name);
        button.type = "button";
        button.title = "Sort; press again to turn round";
        button.addEventListener("click", () => { order.value = Number(order.value) === at ? at + 1 : at; again(); });
        cell.append(button);
        cell.dataset.sort = at;
      } else cell.append(column.name);
      head.append(cell);
    });

    function choose() {
      const words = search.value.toLowerCase().split(/\s+/).filter(Boolean);
      const tests = [kinds[kind.value][1], categories[category.value][1], table.shows[show.value][1]];
      found = table.rows.filter((row) => {
        if (!tests.every((test) => test(row))) return false;
        if (!words.length) return true;
        if (!haystack.has(row)) haystack.set(row, table.text(row).toLowerCase());
        return words.every((word) => haystack.get(row).includes(word));
      });
      const by = sorts[order.value][1];
      if (by) found = found.map((row) => [by(row), row]).sort((a, b) => a[0] - b[0]).map(([, row]) => row);
      head.querySelectorAll("[data-sort]").forEach((cell) => {
        const turned = Number(order.value) - Number(cell.dataset.sort);
        if (turned === 0 || turned === 1) cell.setAttribute("aria-sort", turned ? "ascending" : "descending");
        else cell.removeAttribute("aria-sort");
      });
      draw();
    }

    function draw() {
      const pages = Math.max(1, Math.ceil(found.length / PAGE));
      page = Math.min(page, pages - 1);
      count.textContent = found.length === table.rows.length ? `${number(table.rows.length)} rows` : `${number(found.length)} of ${number(table.rows.length)} rows`;
      body.replaceChildren(...found.slice(page * PAGE, (page + 1) * PAGE).map(rowNode));
      if (!found.length) {
        const cell = el("td", "empty", "Nothing matches.");
        cell.colSpan = table.columns.length;
        body.append(el("tr", "", cell));
      }
      const turn = (label, step) => {
        const button = el("button", "", label);
        button.type = "button";
        button.disabled = page + step < 0 || page + step >= pages;
        button.addEventListener("click", () => { page += step; draw(); host.scrollIntoView({ block: "start" }); });
        return button;
      };
      pager.replaceChildren(turn("Previous", -1), `${page + 1} of ${pages}`, turn("Next", 1));
      pager.hidden = pages < 2;
    }

    function rowNode(row) {
      const node = el("tr", "row");
      let detail = null;
      const toggle = () => {
        if (detail) { detail.remove(); detail = null; }
        else {
          const cell = el("td", "", table.detail(row));
          cell.colSpan = table.columns.length;
          detail = el("tr", "detail", cell);
          node.after(detail);
        }
        node.querySelector(".open").setAttribute("aria-expanded", String(Boolean(detail)));
      };
      table.columns.forEach((column, index) => {
        const cell = el("td", column.small ? "small" : "", ...column.cell(row, toggle));
        if (index) cell.dataset.label = column.name;
        node.append(cell);
      });
      node.addEventListener("click", () => { if (!String(getSelection())) toggle(); });
      return node;
    }

    let typing = 0;
    search.addEventListener("input", () => { clearTimeout(typing); typing = setTimeout(again, 120); });
    host.replaceChildren(tools, el("table", "rows", el("thead", "", head), body), pager, table.note ? el("p", "muted", table.note) : "");
    choose();
  }

  function fill(section) {
    const hosts = [...section.querySelectorAll(".browser")].filter((host) => !host.dataset.ready);
    if (!hosts.length) return;
    const data = JSON.parse(document.getElementById(`data-${section.dataset.generation}`).textContent);
    for (const host of hosts) {
      host.dataset.ready = "yes";
      browser(host, tables[host.dataset.table](data));
    }
  }

  function choose(number) {
    for (const section of document.querySelectorAll(".generation[data-generation]")) {
      const shown = section.dataset.generation === number;
      section.hidden = !shown;
      for (const part of section.querySelectorAll("[data-anchor]")) {
        if (shown) part.id = part.dataset.anchor;
        else part.removeAttribute("id");
      }
      if (shown) fill(section);
    }
    for (const button of document.querySelectorAll("[data-show]")) button.setAttribute("aria-pressed", String(button.dataset.show === number));
  }

  for (const button of document.querySelectorAll("[data-show]")) button.addEventListener("click", () => choose(button.dataset.show));
  const newest = document.querySelector(".generation[data-generation]");
  if (newest) choose(newest.dataset.generation);
})();
