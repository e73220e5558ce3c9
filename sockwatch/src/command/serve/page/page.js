// What happens now: how everything is comes each second; what is looked at closely is asked for when it does.
let token = sessionStorage.getItem('token') || '';
let now, listener, connection, listenerDetail, isOver = false;

async function ask(path) {
  const answer = await fetch(path, { headers: token ? { Authorization: 'Bearer ' + token } : {} });
  by('ask').hidden = answer.status !== 401;
  if (answer.ok) return answer;
  const text = await answer.text();
  let error = text;
  try { error = JSON.parse(text).error; } catch { /* words */ }
  throw Object.assign(new Error(error.trim()), { status: answer.status });
}
const read = async path => (await ask('/api/v1/' + path)).json();
function tell(text, trouble) {
  by('state').textContent = text;
  by('state').className = trouble ? 'trouble' : '';
}

// Events as they come; when they end, however they do, from the beginning.
async function follow() {
  for (;;) {
    try {
      await recall();
      const events = (await ask('/api/v1/live')).body.pipeThrough(new TextDecoderStream()).getReader();
      let rest = '';
      for (;;) {
        const { value, done } = await events.read();
        if (done) break;
        const parts = (rest + value).split('\n\n');
        rest = parts.pop();
        for (const part of parts) show(JSON.parse(part.slice(part.indexOf('data: ') + 6)));
      }
      tell('the stream has ended: asking again');
    } catch (error) {
      tell(error.message, true);
      // Who has no token has to give one first.
      const given = new Promise(resolve => again = resolve);
      const later = new Promise(resolve => setTimeout(resolve, 2000));
      await (error.status === 401 ? given : Promise.race([given, later]));
    }
  }
}
let again = () => {};
by('ask').addEventListener('submit', event => {
  event.preventDefault();
  token = by('token').value.trim();
  sessionStorage.setItem('token', token);
  again();
});

// Sockets by state: the last five minutes, and each second that comes.
const KEPT = 300;
let seconds = [], courses = new Map(stateNames.map(name => [name, []]));
async function recall() {
  const history = await read('history');
  const all = history.states[stateNames[0]].length;
  seconds = Array.from({ length: all }, (_, index) => history.until_unix_ms / 1e3 - (all - 1 - index));
  courses = new Map(stateNames.map(name => [name, history.states[name] || []]));
}
function remember() {
  const at = now.at_unix_ms / 1e3, back = seconds.at(-1) + 1 - at;
  // Somebody set the clock back: what was counted before was before.
  if (back >= 1) seconds = seconds.map(second => second - back);
  seconds.push(at);
  for (const name of stateNames) courses.get(name).push(now.states[name] || 0);
  for (const values of [seconds, ...courses.values()]) while (values.length > KEPT) values.shift();
}
function states() {
  const to = seconds.at(-1) ?? Date.now() / 1e3;
  return {
    range: [to - KEPT, to],
    data: [[...seconds, to], ...stateNames.map(name => courses.get(name))],
    series: stateNames.map(name => line(name, stateColor(name), { value: (_, value) => value === null ? '--' : count(value) })),
    // As good as logarithmic, with room for none.
    scales: { y: { distr: 4, asinh: 1, range: (_, low, high) => [0, Math.max(1, high * 1.2)] } },
    axes: [{ values: (_, splits) => splits.map(value => value === null || value < 0 ? '' : count(value)) }],
  };
}

function show(overview) {
  now = overview;
  remember();
  heading();
  listeners();
  ports();
  charts.forEach(refresh);
  if (Date.now() - looked > 1500) look();
}

function heading() {
  document.title = `${now.host}: sockwatch`;
  by('about').textContent = `${now.host}, kernel ${now.kernel}, ${now.source}, sockwatch ${now.sockwatch}`;
  by('figures').textContent = `${clock(now.at_unix_ms).slice(0, 19)} UTC, ${count(now.events_per_second)} events/s, ${count(now.ended_per_second)} connections ended/s`;
  tell('live');
  const { lost, missed, dropped } = now.losses;
  by('losses').hidden = lost + missed + dropped === 0;
  by('losses').textContent = `NOT COMPLETE: ${count(lost)} events lost, ${count(missed)} missed, ${count(dropped)} dropped: all counts may be too low.`;
  by('verdict').textContent = now.sentence;
  by('verdict').className = now.verdict;
  by('since').textContent = `seen since ${clock(now.since_unix_ms).slice(11, 19)} UTC, when somebody began to look`;
  const open = new Set([...by('findings').querySelectorAll('details[open]')].map(box => box.dataset.name));
  const first = by('findings').childElementCount === 0;
  by('findings').replaceChildren(...now.findings.map((finding, index) => {
    const name = finding.name + finding.local;
    const box = findingBox(finding, open.has(name) || first && index === 0);
    box.dataset.name = name;
    return box;
  }));
}

// A table whose first cells are buttons: the focus stays where it is while everything is drawn anew.
function choices(element, columns, rows) {
  const focused = element.contains(document.activeElement) ? document.activeElement.dataset.id : undefined;
  table(element, columns, rows);
  if (focused) element.querySelector(`button[data-id="${focused}"]`)?.focus();
}
const choice = (id, is, text, choose) => make('button', { type: 'button', 'data-id': id, 'aria-pressed': String(is), onclick: choose }, text);
const loud = (is, text) => is ? make('span', { class: 'loud' }, text) : text;

function listeners() {
  const all = now.listeners;
  by('none').hidden = all.length > 0;
  if (!all.some(it => it.id === listener)) listener = all.length > 0 ? all[0].id : undefined;
  const columns = [{ title: 'Listener' }, { title: 'Process' }, ...['Queue', '', 'Oldest', 'p50', 'p99', 'In/s', 'Out/s', 'Full', 'Left'].map(title => ({ title, number: true }))];
  const slow = ns => loud(ns >= now.slow_ns, time(ns));
  choices(by('listeners'), all.length > 0 ? columns : [], all.map(it => ({
    attributes: it.id === listener ? { class: 'chosen' } : {},
    cells: [
      choice(it.id, it.id === listener, it.local, () => { listener = it.id; listenerDetail = undefined; listeners(); look(); }),
      it.owner || '',
      loud(it.depth > it.limit, `${count(it.depth)} / ${it.limit === undefined ? '?' : count(it.limit)}`),
      it.limit === undefined ? '' : make('meter', { min: 0, max: it.limit + 1, value: it.depth, high: it.limit * 0.8, optimum: 0, 'aria-label': 'how full the queue is' }),
      slow(it.oldest_ns), slow(it.wait?.p50_ns), slow(it.wait?.p99_ns),
      count(it.arrived_per_second), count(it.accepted_per_second),
      loud(it.turned_away > 0, count(it.turned_away)), loud(it.left > 0, count(it.left)),
    ],
  })));
}

function queue() {
  const course = listenerDetail ? listenerDetail.listener.course : { step_ns: 1e9, steps: [] };
  const step = course.step_ns / 1e9, to = now ? now.at_unix_ms / 1e3 : 0;
  const kept = course.steps.slice(-KEPT);
  const rate = name => kept.map(it => it[name] / step);
  const per_second = (_, value) => value === null ? '--' : count(Math.round(value)) + '/s';
  const range = (_, low, high) => [0, Math.max(1, high * 1.05)];
  return {
    range: [to - Math.min(KEPT, Math.max(30, kept.length)) * step, to],
    data: [Array.from({ length: kept.length + 1 }, (_, index) => to - (kept.length - index) * step), kept.map(it => it.depth), kept.map(it => it.limit ?? null), rate('arrived'), rate('accepted')],
    series: [
      line('depth', '--s0', { fill: `rgb(${color('--heat')} / 0.15)` }), line('limit', '--s4', { dash: [6, 4] }),
      line('arrived', '--s1', { scale: 'rate', value: per_second }), line('accepted', '--s2', { scale: 'rate', value: per_second }),
    ],
    scales: { y: { range }, rate: { range } },
    axes: [{}, { scale: 'rate', side: 1, grid: { show: false }, values: (_, splits) => splits.map(value => count(value) + '/s') }],
  };
}

const facts = (element, pairs) => element.replaceChildren(...pairs.filter(([, value]) => value !== undefined && value !== '').flatMap(([name, value]) => [make('dt', {}, name), make('dd', {}, value)]));

function detail() {
  const { listener: it, histogram } = listenerDetail;
  by('listener').hidden = false;
  by('listener-title').textContent = it.local + (it.owner ? ` ${it.owner.comm}/${it.owner.pid}` : '');
  const most = Math.max(1, ...histogram.map(octave => octave.count));
  by('histogram').replaceChildren(...histogram.map(octave => {
    const bar = make('i');
    bar.style.width = 100 * octave.count / most + '%';
    return make('div', { class: octave.from_ns >= now.slow_ns ? 'octave slow' : 'octave' }, make('span', {}, 'from ' + time(octave.from_ns)), bar, make('span', {}, count(octave.count)));
  }));
  if (histogram.length === 0) by('histogram').textContent = 'nobody was accepted';
  const spread = it => it && `p50 ${time(it.p50_ns)}, p90 ${time(it.p90_ns)}, p99 ${time(it.p99_ns)}, longest ${time(it.max_ns)}, of ${count(it.count)}`;
  facts(by('facts'), [
    ['arrived', `${count(it.arrived)}, accepted ${count(it.accepted)}`],
    ['last accept', it.since_accept_ns === undefined ? 'none was seen' : time(it.since_accept_ns) + ' ago'],
    ['waits of all', spread(it.wait)],
    ['handshakes', spread(it.handshake)],
    ['greatest depth', count(it.greatest_depth)],
    ['who accepts', it.acceptors.slice(0, 10).map(one => `${one.by.comm}/${one.by.tid} ${count(one.accepted)}`).join(', ')],
    ['accept errors', it.failures.map(one => `errno ${one.errno} ${count(one.count)} times, ${one.by.comm}/${one.by.pid}`).join(', ')],
  ]);
  charts.forEach(refresh);
}

function ports() {
  by('ports').hidden = now.ports.length === 0;
  const columns = [{ title: 'From' }, { title: 'To' }, { title: 'Taken', number: true }, { title: '', number: true }, { title: 'Of these TIME_WAIT', number: true }, { title: 'Taken/s', number: true }, { title: 'None left in', number: true }, { title: 'Failed', number: true }];
  table(by('ports-table'), columns, now.ports.map(it => ({
    cells: [
      it.source, it.remote, `${count(it.open + it.time_wait)} of ${count(it.capacity)}`,
      make('meter', { min: 0, max: it.capacity, value: it.open + it.time_wait, high: it.capacity * 0.6, optimum: 0, 'aria-label': 'how many ports are taken' }),
      count(it.time_wait), count(Math.round(it.per_second)), loud(it.exhausted_in_ns !== undefined, time(it.exhausted_in_ns)), loud(it.failed > 0, count(it.failed)),
    ],
  })));
}

// What is looked at closely. One question after the other: who is slow to answer is not asked again.
let asking = false, looked = 0;
async function look() {
  if (asking || !now) return;
  looked = Date.now();
  asking = true;
  try {
    await Promise.all([lookAtListener(), lookAtConnections(), lookAtConnection()]);
  } catch (error) {
    tell(error.message, true);
  }
  asking = false;
}

async function lookAtListener() {
  const id = listener;
  by('listener').hidden = id === undefined;
  if (id === undefined) return;
  const told = await read('listeners/' + id).catch(gone);
  if (told && id === listener) { listenerDetail = told; detail(); }
}

// What has gone by now is no trouble.
const gone = error => { if (error.status !== 404) throw error; };

async function lookAtConnections() {
  const filter = by('filter').value, sort = by('sort').value;
  const order = ['age', 'wait'].includes(sort) ? 'desc' : 'asc';
  const told = await read('connections?' + new URLSearchParams({ filter, sort, order })).catch(error => {
    if (error.status !== 400) throw error;
    by('shown').textContent = error.message;
  });
  if (!told || by('filter').value !== filter) return;
  const first = told.connections.length < told.fitting ? `, the first ${count(told.connections.length)}` : '';
  by('shown').textContent = `${count(told.fitting)} of ${count(told.all)}${first}`;
  const columns = [{ title: 'State' }, { title: 'Local', class: 'ends' }, { title: 'Remote', class: 'ends' }, { title: 'Age', number: true }, { title: 'Wait', number: true }, { title: 'Process' }];
  choices(by('connections'), columns, told.connections.map(it => ({
    attributes: it.id === connection ? { class: 'chosen' } : {},
    cells: [
      choice(it.id, it.id === connection, it.state, () => { connection = it.id; isOver = false; by('connection').hidden = true; asking = false; look(); }),
      it.local, it.remote, (it.age_is_lower_bound ? '>' : '') + time(it.age_ns), time(it.wait_ns),
      it.standing === 'held' ? it.owner || '' : [it.standing, it.owner].filter(Boolean).join(' '),
    ],
  })));
}

async function lookAtConnection() {
  if (connection === undefined || isOver) return;
  const asked = connection;
  const it = await read('connections/' + asked).catch(gone);
  if (asked !== connection) return;
  // What was seen of it stays; nothing more will come.
  isOver = !it || it.ended;
  if (!it) return;
  by('connection').hidden = false;
  by('connection-title').textContent = `${it.local} ${it.remote}`;
  const whole = Math.max(1, ...it.states.map(stay => stay.lasted_ns || 0));
  const stay = one => {
    const bar = make('span'), box = make('div', { class: 'bar' }, bar);
    bar.style.width = 100 * (one.lasted_ns ?? whole) / whole + '%';
    bar.style.background = `var(${stateColor(one.state)})`;
    return [one.state + ' ' + (one.lasted_ns === undefined ? 'since before' : time(one.lasted_ns)), box];
  };
  facts(by('timeline'), [
    ['part', { active: 'connected from here', passive: 'accepted here', unknown: 'was there before' }[it.role] || it.role],
    ['opened by', it.opener], ['accepted by', it.acceptor], ['closed by', it.closer],
    ['handshake', time(it.handshake_ns)], ['in the queue', time(it.wait_ns)],
    ['retransmits', it.retransmits > 0 ? count(it.retransmits) : ''],
    ['RSTs', it.resets_sent + it.resets_received > 0 ? `sent ${it.resets_sent}, received ${it.resets_received}` : ''],
    ['ended', it.why], ['its time is over in', time(it.expires_ns)],
    ...it.states.map(stay),
  ]);
}

// Each request counts against a rate: who types is waited for.
let typed = 0;
by('filter').addEventListener('input', () => {
  clearTimeout(typed);
  typed = setTimeout(() => { asking = false; look(); }, 300);
});
by('sort').addEventListener('change', () => { asking = false; look(); });
// The address says what is looked for, so that it can be passed on: /#filter=CLOSE_WAIT
by('filter').value = new URLSearchParams(location.hash.slice(1)).get('filter') || '';
by('filter').addEventListener('change', () => history.replaceState(null, '', '#' + new URLSearchParams({ filter: by('filter').value })));
chart(by('states'), states);
chart(by('queue'), queue);
follow();
