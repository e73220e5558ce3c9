'use strict';
// What all pages draw with. Everything foreign goes into the page as text, never as markup.
const by = id => document.getElementById(id);
const color = name => getComputedStyle(document.documentElement).getPropertyValue(name).trim();

function make(tag, attributes, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes || {})) {
    if (name === 'class') element.className = value;
    else if (name.startsWith('on')) element.addEventListener(name.slice(2), value);
    else element.setAttribute(name, value);
  }
  for (const child of children) if (child !== undefined && child !== null) element.append(child);
  return element;
}

// Numbers as people read them.
const digits = (value, unit) => (value < 10 ? value.toFixed(1) : value.toFixed(0)).replace(/\.0$/, '') + ' ' + unit;
function time(ns) {
  if (ns === undefined || ns === null) return '';
  if (ns < 0) return '-' + time(-ns);
  if (ns < 1e3) return digits(ns, 'ns');
  if (ns < 1e6) return digits(ns / 1e3, 'µs');
  if (ns < 1e9) return digits(ns / 1e6, 'ms');
  return ns < 120e9 ? digits(ns / 1e9, 's') : digits(ns / 60e9, 'min');
}
const count = value => value === undefined || value === null ? '' : value.toLocaleString('en');
const clock = unix_ms => new Date(unix_ms).toISOString().replace('T', ' ').replace('Z', '');
// What a time on an axis is called.
let placed = unix_ms => unix_ms;

function table(element, columns, rows) {
  const head = make('tr', {}, ...columns.map(column => make('th', { scope: 'col', class: column.number ? 'number' : '' }, column.title)));
  const body = rows.map(row => make('tr', row.attributes || {}, ...columns.map((column, index) =>
    make('td', { class: column.number ? 'number' : column.class || '' }, row.cells[index]))));
  element.replaceChildren(make('thead', {}, head), make('tbody', {}, ...body));
}

// Charts: each can be drawn again, in another width or other colours. Its options say all: the last of the values ends a step.
const charts = [];
function chart(holder, options) {
  const drawn = { holder, options };
  charts.push(drawn);
  draw(drawn);
}
function draw(drawn) {
  if (drawn.plot) drawn.plot.destroy();
  const { series, data, range, scales, axes, height, hooks } = drawn.options();
  drawn.range = range;
  drawn.width = drawn.holder.clientWidth;
  const axis = { stroke: color('--quiet'), grid: { stroke: color('--line'), width: 1 }, ticks: { stroke: color('--line') } };
  drawn.plot = new uPlot({
    width: Math.max(320, drawn.width || 900),
    height: height || 240,
    tzDate: unix => uPlot.tzDate(new Date(unix * 1e3), 'Etc/UTC'),
    scales: { x: { time: true, range: () => drawn.range }, ...scales },
    axes: [{ ...axis, space: 80, values: (_, splits, __, ___, step) => splits.map(unix => clock(placed(unix * 1e3)).slice(11, step < 1 ? 23 : step < 60 ? 19 : 16)) }, ...axes.map(more => ({ ...axis, size: 70, ...more }))],
    series: [{ label: 'UTC', value: (_, unix) => unix === null ? '--' : clock(placed(unix * 1e3)).slice(11, 21) }, ...series],
    hooks: hooks || {},
  }, values(data), drawn.holder);
  drawn.plot.root.setAttribute('role', 'img');
  drawn.plot.root.setAttribute('aria-label', drawn.holder.previousElementSibling.textContent);
}
const values = data => [data[0], ...data.slice(1).map(values => [...values, values.at(-1) ?? null])];
// Other values in the same chart: what points at it stays.
function refresh(drawn) {
  // It may have been drawn while its place was hidden.
  if (drawn.width !== drawn.holder.clientWidth) return draw(drawn);
  const { data, range } = drawn.options();
  drawn.range = range;
  drawn.plot.setData(values(data));
}
const redraws = [() => charts.forEach(draw)];
const redraw = () => redraws.forEach(again => again());
let pending = 0;
addEventListener('resize', () => { clearTimeout(pending); pending = setTimeout(redraw, 100); });
matchMedia('(prefers-color-scheme: dark)').addEventListener('change', redraw);

const line = (label, name, more) => ({ label, stroke: color(name), width: 1.5, points: { show: false }, paths: uPlot.paths.stepped({ align: 1 }), ...more });

// A finding that opens.
function findingBox(finding, open) {
  const list = (title, items) => items.length === 0 ? undefined : make('div', {}, make('h3', {}, title), make('ul', {}, ...items.map(item => make('li', {}, item))));
  const box = make('details', { class: 'finding' },
    make('summary', {}, make('span', { class: 'name' }, finding.name), ' ' + finding.sentence),
    make('div', {}, list('Evidence', finding.evidence), list('What it is not', finding.rules_out), list('What to change', finding.fix)));
  box.open = open;
  return box;
}

const stateNames = ['ESTABLISHED', 'TIME_WAIT', 'CLOSE_WAIT', 'FIN_WAIT1', 'FIN_WAIT2', 'SYN_RECV', 'SYN_SENT', 'LAST_ACK', 'CLOSING', 'LISTEN'];
const stateColor = state => '--s' + Math.max(0, ({ ESTABLISHED: 2, TIME_WAIT: 6, CLOSE_WAIT: 4, FIN_WAIT1: 1, FIN_WAIT2: 7, SYN_RECV: 3, SYN_SENT: 5, LAST_ACK: 8, CLOSING: 9, LISTEN: 0 })[state] ?? 9);
// A connection's states, the whole width its own time; the thin line is its time in the accept queue.
function bar(it) {
  const lasted = Math.max(1, it.to_ns - it.from_ns), place = ns => (100 * (ns - it.from_ns) / lasted).toFixed(2) + '%';
  const title = it.states.map(([state, from, to]) => `${state} ${time(to - from)}`).join(', ');
  const box = make('div', { class: 'bar', role: 'img', 'aria-label': title, title });
  const span = (from, to, css) => { const part = make('span', css); part.style.left = place(from); part.style.width = (100 * (to - from) / lasted).toFixed(2) + '%'; return part; };
  for (const [state, from, to] of it.states) { const part = span(from, to, {}); part.style.background = `var(${stateColor(state)})`; box.append(part); }
  if (it.queued_ns !== undefined && it.wait_ns > 0) box.append(span(it.queued_ns, Math.min(it.to_ns, it.queued_ns + it.wait_ns), { class: 'queue' }));
  return box;
}

function legend() {
  const swatch = state => { const box = make('span', { class: 'swatch' }); box.style.background = `var(${stateColor(state)})`; return [box, state]; };
  by('legend').replaceChildren(...stateNames.flatMap(swatch), ' The thin line is the time in the accept queue.');
}
