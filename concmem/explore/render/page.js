// Steps through one interleaving. Runs once for each section; touches nothing outside of it.
(function (section) {
  "use strict";
  const data = JSON.parse(section.querySelector(".cm-data").textContent);
  const one = (selector) => section.querySelector(selector);
  const all = (selector) => [...section.querySelectorAll(selector)];
  const picture = one(".cm-picture"), slider = one(".cm-slider"), everything = one(".cm-everything");
  const rows = new Map(all(".cm-step").map((row) => [Number(row.dataset.i), row]));
  let visible = [], here = -1;

  function element(name, text, className) {
    const made = document.createElement(name);
    if (text !== undefined) made.textContent = text;
    if (className) made.className = className;
    return made;
  }

  function findVisible() {
    visible = [...rows].filter(([, row]) => !row.hidden).map(([i]) => i);
    slider.max = visible.length - 1;
    slider.value = visible.indexOf(here);
  }

  // The state after row i: values, who changed them, locks and what each CPU is at.
  function stateAt(i) {
    const values = new Map(data.objects.map((object, k) => [k, { value: object.first, by: "" }]));
    const held = data.lanes.map(() => []), doing = data.lanes.map(() => "not begun");
    for (const row of data.rows.slice(0, i + 1)) {
      for (const [lane, text] of row.doing) doing[lane] = text;
      for (const [lane, locks] of row.held) held[lane] = locks;
      if (row.object >= 0 && row.value !== null) values.set(row.object, { value: row.value, by: row.by });
    }
    return { values, held, doing };
  }

  function showCpus(state) {
    const lines = data.lanes.map((name, lane) => {
      const line = element("tr");
      const locks = element("td");
      for (const lock of state.held[lane]) {
        const chip = element("span", data.locks[lock], "cm-lock");
        chip.style.setProperty("--lock", data.colours[lock % data.colours.length]);
        locks.append(chip);
      }
      line.append(element("td", name), element("td", state.doing[lane]), locks);
      return line;
    });
    one(".cm-cpus tbody").replaceChildren(...lines);
  }

  function showValues(state, row) {
    const lines = [];
    data.objects.forEach((object, k) => {
      if (!object.shared && k !== row.object && !(everything && everything.checked)) return;
      const line = element("tr");
      const { value, by } = state.values.get(k);
      line.append(element("td", object.name), element("td", value, "cm-mono"), element("td", by));
      if (k === row.object) line.className = row.value !== null ? "cm-touched cm-changed" : "cm-touched";
      lines.push(line);
    });
    const body = one(".cm-values tbody");
    if (!body) return;
    body.replaceChildren(...lines);
    const touched = body.querySelector(".cm-touched");
    if (touched) scrollWithin(one(".cm-values .cm-scroll"), touched);
  }

  function showSource(row) {
    const site = data.sites[row.site];
    one(".cm-where").textContent = site ? site.where : "";
    one(".cm-source").replaceChildren(...(site ? site.lines : []).map(([number, text, current]) => {
      const line = element("span", undefined, current ? "cm-line" : "");
      line.append(element("i", number), text);
      return line;
    }));
    one(".cm-calls").textContent = row.calls;
  }

  function scrollWithin(box, item) {
    const top = item.getBoundingClientRect().top - box.getBoundingClientRect().top;
    const head = 48;
    if (top < head) box.scrollTop += top - head;
    else if (top + item.offsetHeight > box.clientHeight - 8) {
      box.scrollTop += top + item.offsetHeight - box.clientHeight + 40;
    }
  }

  function select(i) {
    const row = rows.get(i);
    if (!row) return;
    if (row.hidden) unfold(row.dataset.in);
    if (here >= 0) rows.get(here).removeAttribute("aria-current");
    here = i;
    row.setAttribute("aria-current", "step");
    slider.value = visible.indexOf(i);
    const about = data.rows[i];
    const text = `step ${about.number} of ${data.steps}: ${about.text}`;
    slider.setAttribute("aria-valuetext", text);
    one(".cm-step-text").textContent = text;
    const state = stateAt(i);
    showCpus(state);
    showValues(state, about);
    showSource(about);
    scrollWithin(picture, row);
  }

  function unfold(fold) {
    all(`.cm-row[data-in="${fold}"]`).forEach((row) => { row.hidden = false; });
    const button = one(`.cm-fold[data-fold="${fold}"]`);
    if (button) button.hidden = true;
    findVisible();
  }

  function move(by) {
    const at = visible.indexOf(here);
    select(visible[Math.min(visible.length - 1, Math.max(0, at + by))]);
  }

  const keys = {
    ArrowDown: () => move(1), ArrowRight: () => move(1), ArrowUp: () => move(-1), ArrowLeft: () => move(-1),
    PageDown: () => move(10), PageUp: () => move(-10), Home: () => move(-1e9), End: () => move(1e9),
  };

  function onKey(event) {
    const act = keys[event.key];
    if (!act || event.altKey || event.ctrlKey || event.metaKey) return;
    event.preventDefault();
    act();
  }

  function copy(button) {
    const code = one(".cm-replay code");
    const done = () => { button.textContent = "Copied"; setTimeout(() => { button.textContent = "Copy"; }, 1500); };
    const select = () => { getSelection().selectAllChildren(code); document.execCommand("copy"); done(); };
    if (navigator.clipboard) navigator.clipboard.writeText(code.textContent).then(done, select);
    else select();
  }

  section.addEventListener("keydown", onKey);
  if (section.dataset.page) {  // alone on its page: keys work wherever the focus is
    document.addEventListener("keydown", (event) => { if (!section.contains(event.target)) onKey(event); });
  }
  slider.addEventListener("input", () => select(visible[Number(slider.value)]));
  one(".cm-prev").addEventListener("click", () => move(-1));
  one(".cm-next").addEventListener("click", () => move(1));
  one(".cm-copy").addEventListener("click", (event) => copy(event.currentTarget));
  if (everything) everything.addEventListener("change", () => select(here));
  rows.forEach((row, i) => row.addEventListener("click", () => select(i)));
  all(".cm-fold button").forEach((button) => button.addEventListener("click", () => {
    unfold(button.parentNode.dataset.fold);
  }));
  all(".cm-ref").forEach((button) => button.addEventListener("click", () => select(Number(button.dataset.i))));
  new ResizeObserver(() => {
    picture.classList.toggle("cm-wide", picture.clientWidth - 58 >= data.lanes.length * 130);
    scrollWithin(picture, rows.get(here));
  }).observe(picture);
  findVisible();
  select(data.start);
})(document.currentScript.parentNode);
