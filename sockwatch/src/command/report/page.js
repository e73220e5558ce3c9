// A recording, as it was read.
const data = JSON.parse(document.getElementById('data').textContent);
const now = data.after, before = data.before;
// All of the recording.
const whole = () => { const began = now.started_unix_ms / 1e3; return [began, began + Math.max(1e-3, now.lasted_ns / 1e9)]; };
// Times go on evenly; what they are called moves with the machine's clock.
placed = unix_ms => now.clock_moves.reduce((moved, [after_ns, by_ms]) => after_ns <= (unix_ms - now.started_unix_ms) * 1e6 ? moved + by_ms : moved, unix_ms);
const stamp = ns => clock(placed(now.started_unix_ms + ns / 1e6)).slice(11, 23);
const spread = (listener, name) => listener.wait ? listener.wait[name] : undefined;

// Where steps begin, and where the last one ends.
const steps = (step_ns, length, began_ns = 0) => Array.from({ length: length + 1 }, (_, index) => (now.started_unix_ms + Math.min(began_ns + index * step_ns, now.lasted_ns) / 1e6) / 1e3);
function heading() {
  const files = now.files.join(', ');
  document.title = 'sockwatch report: ' + files;
  const filter = now.filter ? ', filter ' + now.filter : '';
  by('about').textContent = `${files}: ${now.host}, kernel ${now.kernel}, ${clock(now.started_unix_ms)} UTC, ${time(now.lasted_ns)}${filter}`;
  const lines = now.warnings.slice();
  const { lost, missed, dropped } = now.diagnosis.losses;
  if (lost + missed + dropped > 0) lines.unshift(`NOT COMPLETE: ${count(lost)} events lost, ${count(missed)} missed, ${count(dropped)} dropped: all counts may be too low.`);
  const { untold_waits, untold_causes } = now.course;
  if (untold_waits > 0) lines.push(`${count(untold_waits)} waits are in no heat map: there are too many listeners.`);
  if (untold_causes > 0) lines.push(`${count(untold_causes)} broken connections are not among the causes: there are too many kinds.`);
  by('losses').hidden = lines.length === 0;
  by('losses').textContent = lines.join(' ');
  by('verdict').textContent = now.diagnosis.sentence;
  by('verdict').className = now.diagnosis.verdict;
  by('findings').replaceChildren(...now.diagnosis.findings.map((finding, index) => findingBox(finding, index === 0)));
  by('colophon').textContent = `Made by sockwatch ${data.sockwatch} from a recording of sockwatch ${now.sockwatch} (${now.source}; ${now.probes}). `
    + `${count(now.diagnosis.cost.events)} events, ${count(now.diagnosis.losses.repaired)} repaired from the kernel's own table.`;
}

let chosen = 0;
function listeners() {
  const all = now.diagnosis.listeners;
  by('listeners').hidden = all.length === 0;
  if (all.length === 0) return;
  const columns = [{ title: 'Listener' }, { title: 'Process' }, ...['Accepted', 'p50', 'p99', 'Longest', 'Deepest', 'Limit', 'Left', 'Overflows'].map(title => ({ title, number: true }))];
  const rows = () => all.map((it, index) => ({
    attributes: index === chosen ? { class: 'chosen' } : {},
    cells: [
      make('button', { type: 'button', 'aria-pressed': String(index === chosen), onclick: () => { chosen = index; listeners(); by('listeners-table').querySelectorAll('button')[index].focus(); redraw(); } }, it.local),
      it.owner ? `${it.owner.comm}/${it.owner.pid}` : '',
      count(it.accepted), time(spread(it, 'p50_ns')), time(spread(it, 'p99_ns')), time(spread(it, 'max_ns')),
      count(it.greatest_depth), count(it.limit), count(it.left_by_fin + it.left_by_rst), count(it.overflows),
    ],
  }));
  table(by('listeners-table'), columns, rows());
  by('listener-title').textContent = all[chosen].local;
}

function waits() {
  const listener = now.diagnosis.listeners[chosen] || {};
  const heat = now.course.heat.find(it => it.netns === listener.netns && it.cookie === listener.cookie)
    || { step_ns: 1e9, lengths_ns: [0], cells: [], p50_ns: [], p90_ns: [], p99_ns: [], max_ns: [] };
  const xs = steps(heat.step_ns, heat.p50_ns.length);
  const seconds = values => values.map(value => value === null ? null : Math.max(value, 1e3) / 1e9);
  const largest = heat.cells.reduce((most, cell) => Math.max(most, cell[2]), 1);
  const longest = heat.max_ns.reduce((most, value) => Math.max(most, value || 0), 1e6);
  const cells = plot => {
    const { ctx } = plot, tint = color('--heat');
    ctx.save();
    ctx.beginPath();
    ctx.rect(plot.bbox.left, plot.bbox.top, plot.bbox.width, plot.bbox.height);
    ctx.clip();
    for (const [step, length, times] of heat.cells) {
      const left = plot.valToPos(xs[step], 'x', true), right = plot.valToPos(xs[step] + heat.step_ns / 1e9, 'x', true);
      const bottom = plot.valToPos(Math.max(heat.lengths_ns[length], 1e3) / 1e9, 'y', true);
      const top = plot.valToPos(Math.max(heat.lengths_ns[length + 1] || heat.lengths_ns[length] * 1.2, 1.2e3) / 1e9, 'y', true);
      ctx.fillStyle = `rgb(${tint} / ${0.15 + 0.75 * Math.log1p(times) / Math.log1p(largest)})`;
      ctx.fillRect(left, top, Math.max(1, right - left), Math.max(1, bottom - top));
    }
    ctx.restore();
  };
  const value = (_, s) => s === null ? '--' : time(s * 1e9);
  return {
    range: whole(),
    height: 300,
    data: [xs, seconds(heat.p50_ns), seconds(heat.p90_ns), seconds(heat.p99_ns), seconds(heat.max_ns)],
    series: [line('p50', '--s2', { value }), line('p90', '--s6', { value, show: false }), line('p99', '--s1', { value }), line('longest', '--s4', { value, show: false })],
    scales: { y: { distr: 3, range: [1e-6, Math.max(1e-3, longest / 1e9 * 2)] } },
    axes: [{ values: (_, splits) => splits.map(s => s === null ? '' : time(s * 1e9)) }],
    hooks: { drawAxes: [cells] },
  };
}

function queue() {
  const course = (now.diagnosis.listeners[chosen] || { course: { step_ns: 1e9, steps: [] } }).course;
  const xs = steps(course.step_ns, course.steps.length, now.courses_began_ns[chosen]);
  const rate = name => course.steps.map(step => step[name] / (course.step_ns / 1e9));
  const per_second = (_, value) => value === null ? '--' : count(Math.round(value)) + '/s';
  return {
    range: whole(),
    data: [xs, course.steps.map(step => step.depth), course.steps.map(step => step.limit ?? null), rate('arrived'), rate('accepted')],
    series: [
      line('depth', '--s0', { fill: `rgb(${color('--heat')} / 0.15)` }), line('limit', '--s4', { dash: [6, 4] }),
      line('arrived', '--s1', { scale: 'rate', value: per_second }), line('accepted', '--s2', { scale: 'rate', value: per_second }),
    ],
    scales: { y: { range: (_, low, high) => [0, Math.max(1, high * 1.05)] }, rate: { range: (_, low, high) => [0, Math.max(1, high * 1.05)] } },
    axes: [{}, { scale: 'rate', side: 1, grid: { show: false }, values: (_, splits) => splits.map(value => count(value) + '/s') }],
  };
}

function states() {
  const { step_ns, states } = now.course.states;
  const length = states.length === 0 ? 0 : states[0][1].length;
  return {
    range: whole(),
    data: [steps(step_ns, length), ...states.map(([, values]) => values)],
    series: states.map(([name]) => line(name, stateColor(name), { value: (_, value) => value === null ? '--' : count(value) })),
    // As good as logarithmic, with room for none.
    scales: { y: { distr: 4, asinh: 1, range: (_, low, high) => [0, Math.max(1, high * 1.2)] } },
    axes: [{ values: (_, splits) => splits.map(value => value === null || value < 0 ? '' : count(value)) }],
  };
}

function connections() {
  const which = document.querySelector('input[name=which]:checked').value;
  const words = by('filter').value.toLowerCase().split(/\s+/).filter(word => word);
  const all = now.course[which];
  const text = it => [it.role, it.local, it.remote, it.owner, it.end, it.why, ...it.states.map(state => state[0])].join(' ').toLowerCase();
  const fitting = all.filter(it => { const its = text(it); return words.every(word => its.includes(word)); });
  by('shown').textContent = `${count(fitting.length)} of ${count(all.length)}`;
  const columns = [{ title: 'From (UTC)' }, { title: 'Local', class: 'ends' }, { title: 'Remote', class: 'ends' }, { title: 'Owner' }, { title: 'Wait', number: true }, { title: 'Lasted', number: true }, { title: 'States' }, { title: 'End' }];
  table(by('connections'), columns, fitting.map(it => ({
    cells: [stamp(it.from_ns), it.local, it.remote, it.owner || '', time(it.wait_ns), time(it.to_ns - it.from_ns), bar(it), it.why || it.end || ''],
  })));
}

function causes() {
  by('causes').hidden = now.course.causes.length === 0;
  const columns = [{ title: 'End' }, { title: 'Part' }, { title: 'Process' }, { title: "Server's port", number: true }, { title: 'Connections', number: true }];
  table(by('causes-table'), columns, now.course.causes.map(([it, times]) => ({
    cells: [it.end, it.role, it.process || 'none', String(it.port), count(times)],
  })));
}

function changes() {
  if (!before) return;
  by('changes').hidden = false;
  by('changes-about').textContent = `Against ${before.files.join(', ')}: ${before.host}, ${clock(before.started_unix_ms)} UTC, ${time(before.lasted_ns)}. ${before.diagnosis.sentence}`;
  const rows = [];
  const row = (what, was, is, show, worse) => {
    if (was === undefined && is === undefined || was === 0 && is === 0) return;
    const change = was > 0 && is !== undefined ? is / was : undefined;
    const grade = worse === undefined || was === undefined || is === undefined || was === is ? '' : (is > was) === worse ? 'worse' : 'better';
    rows.push({ cells: [what, was === undefined ? 'none' : show(was), is === undefined ? 'none' : show(is),
      make('span', { class: grade }, change === undefined ? (was === is ? '' : grade) : `×${change < 10 ? change.toFixed(2) : count(Math.round(change))} ${grade}`)] });
  };
  const names = findings => [...new Set(findings.map(finding => finding.name))];
  const [old, fresh] = [names(before.diagnosis.findings), names(now.diagnosis.findings)];
  for (const name of [...new Set([...old, ...fresh])]) {
    const [was, is] = [old.includes(name), fresh.includes(name)];
    rows.push({ cells: ['finding ' + name, was ? 'found' : '', is ? 'found' : '', was && is ? '' : make('span', { class: is ? 'worse' : 'better' }, is ? 'new' : 'gone')] });
  }
  // One recording may be longer than the other.
  const minutes = recording => recording.lasted_ns / 60e9;
  const often = (what, was, is) => row(`${what} per minute`, was === undefined ? was : was / minutes(before),
    is === undefined ? is : is / minutes(now), value => digits(value, '/min'), true);
  const rate = (it, recording) => it && it.accepted / (recording.lasted_ns / 1e9);
  // Several sockets of one address are one place: their sums, and of their waits the worse.
  const worse = (one, two) => one && two ? Object.fromEntries(Object.keys(one).map(name => [name, Math.max(one[name], two[name])])) : one || two;
  const together = (one, two) => ({ ...one, wait: worse(one.wait, two.wait), handshake: worse(one.handshake, two.handshake),
    greatest_depth: Math.max(one.greatest_depth, two.greatest_depth),
    ...Object.fromEntries(['accepted', 'left_by_fin', 'left_by_rst', 'overflows'].map(name => [name, one[name] + two[name]])) });
  const places = recording => recording.diagnosis.listeners.reduce((map, it) => map.set(it.local, map.has(it.local) ? together(map.get(it.local), it) : it), new Map());
  const [was, is] = [places(before), places(now)];
  for (const local of new Set([...is.keys(), ...was.keys()])) {
    const [one, two] = [was.get(local), is.get(local)];
    const of = pick => [one && pick(one), two && pick(two)];
    row(`${local} accepted per second`, rate(one, before), rate(two, now), value => digits(value, '/s'));
    for (const [title, name] of [['p50', 'p50_ns'], ['p99', 'p99_ns'], ['longest', 'max_ns']]) row(`${local} wait ${title}`, ...of(it => spread(it, name)), time, true);
    row(`${local} handshake p99`, ...of(it => it.handshake ? it.handshake.p99_ns : undefined), time, true);
    often(`${local} clients that left the queue`, ...of(it => it.left_by_fin + it.left_by_rst));
    often(`${local} overflows`, ...of(it => it.overflows));
    row(`${local} greatest depth`, ...of(it => it.greatest_depth), count, true);
  }
  const ends = recording => { const sums = new Map(); for (const [it, times] of recording.course.causes) sums.set(it.end, (sums.get(it.end) || 0) + times); return sums; };
  const [broke, breaks] = [ends(before), ends(now)];
  for (const end of new Set([...broke.keys(), ...breaks.keys()])) often(`connections that ended ${end}`, broke.get(end) || 0, breaks.get(end) || 0);
  const peaks = recording => new Map(recording.course.states.states.map(([name, values]) => [name, Math.max(...values)]));
  const [low, high] = [peaks(before), peaks(now)];
  for (const state of new Set([...low.keys(), ...high.keys()])) row(`most in ${state}`, low.get(state) || 0, high.get(state) || 0, count);
  table(by('changes-table'), [{ title: '' }, { title: 'Before', number: true }, { title: 'Now', number: true }, { title: 'Change', number: true }], rows);
}

redraws.push(connections);
heading();
changes();
listeners();
if (now.diagnosis.listeners.length > 0) {
  chart(by('waits'), waits);
  chart(by('queue'), queue);
}
chart(by('states'), states);
legend();
causes();

// The address says what is shown, so that it can be passed on: report.html#which=broken&filter=nginx
const wanted = new URLSearchParams(location.hash.slice(1));
const nobody_waited = now.course.slowest.length === 0 && now.course.broken.length > 0;
if ((wanted.get('which') || (nobody_waited ? 'broken' : '')) === 'broken') document.querySelector('input[value=broken]').checked = true;
by('filter').value = wanted.get('filter') || '';
function chose() {
  connections();
  const which = document.querySelector('input[name=which]:checked').value;
  history.replaceState(null, '', '#' + new URLSearchParams({ which, filter: by('filter').value }));
}
connections();
by('filter').addEventListener('input', chose);
document.querySelectorAll('input[name=which]').forEach(input => input.addEventListener('change', chose));
