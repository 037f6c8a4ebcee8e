"use strict";
// Follows a run: asks for news, and draws what has come. All text goes in as text, never as markup.
(() => {
  const SVG = "http://www.w3.org/2000/svg";
  const at = (id) => document.getElementById(id);
  const pause = 1000; // milliseconds between two questions
  let run = null;

  const made = (tag, text = "", kind = "") => {
    const element = document.createElement(tag);
    element.textContent = text;
    if (kind) element.className = kind;
    return element;
  };

  const drawn = (tag, attributes) => {
    const element = document.createElementNS(SVG, tag);
    for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
    return element;
  };

  // The points of a line are the steps and bytes themselves; this maps them onto the unit square.
  const place = () => {
    const first = run.steps[0] ?? 0;
    const width = Math.max((run.steps.at(-1) ?? 1) - first, 1);
    const top = 1.08 * run.top;
    return { first, width, top, matrix: `matrix(${1 / width} 0 0 ${-1 / top} ${-first / width} 1)` };
  };

  const drawChart = () => {
    const { first, width, top, matrix } = place();
    const across = (bytes) => drawn("path", { d: `M${first} ${bytes}H${first + width}`, transform: matrix });
    at("grid").replaceChildren(...run.ticks.map(([bytes]) => across(bytes)));
    at("limit").replaceChildren(...(run.budget ? [across(run.budget)] : []));
    at("lines").replaceChildren(
      ...run.lines.map(({ name, colour, values }) => {
        const known = values.map((value, i) => [run.steps[i], value]).filter(([, value]) => value !== null);
        const points = known.map((pair) => pair.join(",")).join(" ");
        return drawn("polyline", { points, class: colour, transform: matrix, "data-name": name });
      }),
    );
    at("ticks").replaceChildren(
      ...run.ticks.map(([bytes, text]) => {
        const tick = made("span", text);
        tick.style.top = `${100 * (1 - bytes / top)}%`;
        return tick;
      }),
    );
    at("range").textContent = run.steps.length
      ? `Steps ${run.steps[0].toLocaleString("en")} to ${run.steps.at(-1).toLocaleString("en")}`
      : "No step yet";
  };

  const drawLegend = () => {
    const entries = run.lines.map(({ name, colour }) => {
      const entry = made("li");
      const stroke = drawn("svg", { width: 26, height: 10 });
      stroke.append(drawn("path", { d: "M0 5H22", class: colour, "stroke-width": 2.5 }));
      entry.append(stroke, name);
      return entry;
    });
    if (run.budget) entries.push(made("li", `dashed: the budget, ${run.budget_text}`));
    at("legend").replaceChildren(...entries);
  };

  const drawParts = () => {
    at("parts-card").hidden = !run.parts.length;
    at("parts-title").textContent = run.parts_title;
    const most = Math.max(...run.parts.map(({ nbytes }) => nbytes), 1);
    at("parts").replaceChildren(
      ...run.parts.map(({ name, colour, nbytes, text }) => {
        const row = made("tr");
        const number = made("td", text, "n strong");
        number.dataset.bytes = nbytes;
        const fill = made("i", "", "fill");
        fill.style.width = `${(100 * nbytes) / most}%`;
        fill.style.background = `var(--${colour})`;
        const bar = made("td");
        bar.append(fill);
        row.append(made("th", name), number, bar);
        return row;
      }),
    );
  };

  const drawFindings = () => {
    at("findings-card").hidden = !run.findings.length;
    at("findings").replaceChildren(
      ...run.findings.map(({ id, evidence, notes }) => {
        const item = made("li");
        const body = made("div");
        const first = made("p");
        first.append(made("strong", id, "id"), evidence);
        body.append(first, ...notes.map(([name, value]) => made("p", `${name}: ${value}`, "under")));
        item.append(body);
        return item;
      }),
    );
  };

  const draw = () => {
    document.title = `${run.name} · enxuto`;
    for (const id of ["name", "state", "peak"]) at(id).textContent = run[id];
    drawChart();
    drawLegend();
    drawParts();
    drawFindings();
    at("summary").replaceChildren(...run.summary.flatMap(([name, value]) => [made("dt", name), made("dd", value)]));
    document.documentElement.dataset.version = run.version;
  };

  const say = (text, live) => {
    at("link").textContent = text;
    at("dot").classList.toggle("live", live);
  };

  const ask = async () => {
    try {
      const answer = await fetch(`run.json?have=${encodeURIComponent(run?.version ?? "")}`);
      if (answer.status === 200) {
        run = await answer.json();
        draw();
      } else if (answer.status !== 204) {
        throw new Error(answer.statusText);
      }
      say(run.ended ? "the run has ended" : "following", !run.ended);
    } catch {
      say("the server does not answer; these are the last figures", false);
    }
    setTimeout(ask, pause);
  };

  const point = (event) => {
    if (!run?.steps.length) return;
    const box = at("plot").getBoundingClientRect();
    const { first, width } = place();
    const wanted = first + (width * (event.clientX - box.left)) / box.width;
    const near = run.steps.reduce((best, step, i) => (Math.abs(step - wanted) < Math.abs(run.steps[best] - wanted) ? i : best), 0);
    const x = (run.steps[near] - first) / width;
    const told = run.lines.filter(({ values }) => values[near] !== null).map(({ name, texts }) => `${texts[near]}  ${name}`);
    at("cursor").style.left = `${100 * x}%`;
    at("tip").style.left = x < 0.6 ? `calc(${100 * x}% + 10px)` : "auto";
    at("tip").style.right = x < 0.6 ? "auto" : `calc(${100 * (1 - x)}% + 10px)`;
    at("tip").textContent = [`step ${run.steps[near].toLocaleString("en")}`, ...told].join("\n");
    at("cursor").hidden = at("tip").hidden = false;
  };
  at("plot").addEventListener("pointermove", point);
  at("plot").addEventListener("pointerleave", () => { at("cursor").hidden = at("tip").hidden = true; });
  ask();
})();
